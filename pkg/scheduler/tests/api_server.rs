//! The scheduler against a real API server that has no other scheduler: objects in, bindings, conditions and
//! events out. `EYOT_TEST_KUBECONFIG` names the server; without it the tests say so and pass.
use client::Informers;
use eyot_scheduler::{Options, Service};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Past this the server or the scheduler is broken.
const PATIENCE: Duration = Duration::from_secs(30);

async fn client() -> Option<Client> {
    let Ok(path) = std::env::var("EYOT_TEST_KUBECONFIG") else {
        eprintln!("skipped: EYOT_TEST_KUBECONFIG names no API server without a scheduler");
        return None;
    };
    let kubeconfig = Kubeconfig::read_from(path).expect("a kubeconfig");
    let config =
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("a configuration");
    Some(Client::try_from(config).expect("a client"))
}

/// A running scheduler with nodes and a namespace of its own; everything goes when it is dropped by `stop`.
struct Bed {
    client: Client,
    /// Also the scheduler's name and the prefix of its nodes, so that tests do not meet.
    name: String,
    nodes: Vec<String>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    running: tokio::task::JoinHandle<()>,
}

impl Bed {
    async fn new(client: Client, what: &str, nodes: usize, allocatable: Value) -> Self {
        let name = format!("sched-{what}-{}", std::process::id());
        let namespace = json!({"metadata": {"name": name}});
        let namespaces = Api::<Namespace>::all(client.clone());
        namespaces.create(&PostParams::default(), &from(namespace)).await.expect("a namespace");
        let mut bed = Self {
            client: client.clone(),
            name: name.clone(),
            nodes: Vec::new(),
            shutdown: CancellationToken::new(),
            tasks: TaskTracker::new(),
            running: tokio::spawn(async {}),
        };
        for i in 0..nodes {
            bed.add_node(&format!("{name}-{i}"), allocatable.clone()).await;
        }
        let informers = Informers::new(client.clone(), bed.tasks.clone(), bed.shutdown.clone());
        let service = Service::new(Options { client, informers, name, ownership: client::home::alone() });
        bed.running = tokio::spawn(service.run(bed.shutdown.clone()));
        bed
    }

    async fn add_node(&mut self, name: &str, allocatable: Value) {
        let nodes = Api::<Node>::all(self.client.clone());
        let node = json!({"metadata": {"name": name, "labels": {"bed": self.name}}});
        nodes.create(&PostParams::default(), &from(node)).await.expect("a node");
        let status = json!({"status": {"allocatable": allocatable, "capacity": allocatable}});
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.expect("its status");
        self.nodes.push(name.to_owned());
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// A pod that can only go to this bed's nodes.
    async fn pod(&self, name: &str, requests: Value) {
        self.pod_of_class(name, requests, None).await;
    }

    async fn pod_of_class(&self, name: &str, requests: Value, class: Option<&str>) {
        let pod = json!({"metadata": {"name": name}, "spec": {"schedulerName": self.name, "nodeSelector": {"bed": self.name},
            "priorityClassName": class,
            "containers": [{"name": "c", "image": "none", "resources": {"requests": requests}}]}});
        self.pods().create(&PostParams::default(), &from(pod)).await.expect("a pod");
    }

    async fn wait_for(&self, what: &str, name: &str, holds: impl Fn(&Pod) -> bool) -> Pod {
        let started = Instant::now();
        loop {
            let pod = self.pods().get(name).await.expect("the pod");
            if holds(&pod) {
                return pod;
            }
            assert!(started.elapsed() < PATIENCE, "{name} never came to be {what}: {:?}", pod.status);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn node_of(&self, name: &str) -> String {
        let pod = self.wait_for("bound", name, |pod| node_name(pod).is_some()).await;
        node_name(&pod).unwrap_or_default().to_owned()
    }

    async fn stop(mut self) {
        self.shutdown.cancel();
        (&mut self.running).await.expect("the scheduler ends well");
        self.tasks.close();
        self.tasks.wait().await;
        let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        self.pods().delete_collection(&now, &ListParams::default()).await.expect("pods go");
        for node in &self.nodes {
            Api::<Node>::all(self.client.clone()).delete(node, &now).await.expect("a node goes");
        }
        Api::<Namespace>::all(self.client.clone()).delete(&self.name, &now).await.expect("the namespace goes");
    }
}

fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a well-formed object")
}

fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

fn unschedulable(pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False")?;
    assert_eq!(condition.reason.as_deref(), Some("Unschedulable"));
    condition.message.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn binds_and_says_why_not() {
    let Some(client) = client().await else { return };
    let mut bed = Bed::new(client.clone(), "why", 1, json!({"cpu": "2", "memory": "4Gi", "pods": "10"})).await;
    bed.pod("fits", json!({"cpu": "1500m"})).await;
    assert_eq!(bed.node_of("fits").await, bed.nodes[0]);

    bed.pod("waits", json!({"cpu": "1"})).await;
    let pod = bed.wait_for("rejected", "waits", |pod| unschedulable(pod).is_some()).await;
    let message = unschedulable(&pod).unwrap_or_default();
    assert!(message.contains("1 Insufficient cpu"), "{message}");
    assert!(message.contains(" preemption: 0/"), "{message}");

    let second = format!("{}-more", bed.name);
    bed.add_node(&second, json!({"cpu": "2", "memory": "4Gi", "pods": "10"})).await;
    assert_eq!(bed.node_of("waits").await, second);

    let events = Api::<Event>::namespaced(client, &bed.name);
    let started = Instant::now();
    loop {
        let all = events.list(&ListParams::default()).await.expect("events").items;
        let has = |reason: &str, pod: &str| {
            let about = |e: &Event| e.regarding.as_ref().and_then(|r| r.name.as_deref()) == Some(pod);
            all.iter().any(|e| e.reason.as_deref() == Some(reason) && about(e))
        };
        if has("Scheduled", "fits") && has("FailedScheduling", "waits") && has("Scheduled", "waits") {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "events are missing: {all:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_critical_pod_gets_its_room() {
    let Some(client) = client().await else { return };
    let bed = Bed::new(client, "preempt", 1, json!({"cpu": "2", "memory": "4Gi", "pods": "10"})).await;
    bed.pod("low", json!({"cpu": "1500m"})).await;
    assert_eq!(bed.node_of("low").await, bed.nodes[0]);
    bed.pod_of_class("critical", json!({"cpu": "1"}), Some("system-cluster-critical")).await;

    let victim = bed.wait_for("ended", "low", |pod| pod.metadata.deletion_timestamp.is_some()).await;
    let conditions = victim.status.and_then(|status| status.conditions).unwrap_or_default();
    let disrupted = conditions.iter().find(|c| c.type_ == "DisruptionTarget").expect("it says why");
    assert_eq!(disrupted.reason.as_deref(), Some("PreemptionByScheduler"));
    let nominated = |pod: &Pod| pod.status.as_ref().and_then(|status| status.nominated_node_name.clone());
    let waiting = bed.wait_for("nominated", "critical", |pod| nominated(pod).is_some()).await;
    assert_eq!((nominated(&waiting).as_deref(), node_name(&waiting)), (Some(&*bed.nodes[0]), None));

    // Its node does not exist, so nobody else says that it is gone.
    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    bed.pods().delete("low", &now).await.expect("it goes");
    assert_eq!(bed.node_of("critical").await, bed.nodes[0]);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_fits_exactly() {
    let Some(client) = client().await else { return };
    const NODES: usize = 10;
    const PODS_A_NODE: usize = 20;
    let bed = Bed::new(client, "burst", NODES, json!({"cpu": "2", "memory": "4Gi", "pods": "110"})).await;
    let started = Instant::now();
    for i in 0..NODES * PODS_A_NODE + 1 {
        bed.pod(&format!("p{i}"), json!({"cpu": "100m"})).await;
    }
    let created = started.elapsed();
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    loop {
        counts.clear();
        for pod in bed.pods().list(&ListParams::default()).await.expect("pods").items {
            if let Some(node) = node_name(&pod) {
                *counts.entry(node.to_owned()).or_default() += 1;
            }
        }
        if counts.values().sum::<usize>() == NODES * PODS_A_NODE {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "bound so far: {counts:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    eprintln!("{} pods created in {created:?}, all bound after {:?}", NODES * PODS_A_NODE + 1, started.elapsed());
    assert!(counts.values().all(|pods| *pods == PODS_A_NODE), "no node is overbooked: {counts:?}");
    bed.stop().await;
}
