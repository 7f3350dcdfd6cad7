//! What a pod costs in memory: pods as Deployments make them, bound to nodes that are only objects and said to run.
use crate::measure::{PREPARE, object};
use crate::{Figures, resident_mib};
use anyhow::Result;
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::time::Duration;

/// Pods on one node.
const PODS_A_NODE: usize = 100;
/// For caches to follow and garbage to be collected, before memory is read.
const REST: Duration = Duration::from_secs(20);
const LABEL: &str = "bench.eyot.dev/memory";

/// Notes by how much the processes have grown for each of `count` pods.
pub async fn measure(
    figures: &mut Figures,
    client: &kube::Client,
    namespace: &str,
    pids: &str,
    count: usize,
) -> Result<()> {
    let (nodes, pods): (Api<Node>, Api<Pod>) = (Api::all(client.clone()), Api::namespaced(client.clone(), namespace));
    for n in 0..count.div_ceil(PODS_A_NODE) {
        node(&nodes, namespace, n).await?;
    }
    tokio::time::sleep(REST).await;
    let before = resident_mib(pids)?;
    let made: Vec<Result<()>> =
        stream::iter(0..count).map(|n| running(&pods, namespace, n)).buffer_unordered(PREPARE).collect().await;
    made.into_iter().collect::<Result<Vec<()>>>()?;
    tokio::time::sleep(REST).await;
    let grown = (resident_mib(pids)? - before) * 1024.0 / count as f64;
    figures.insert(format!("memory a pod, {count} pods KiB"), grown);
    pods.delete_collection(&DeleteParams::default().grace_period(0), &ListParams::default().labels(LABEL)).await?;
    nodes.delete_collection(&DeleteParams::default(), &ListParams::default().labels(LABEL)).await?;
    Ok(())
}

async fn node(nodes: &Api<Node>, run: &str, n: usize) -> Result<()> {
    let name = node_name(run, n);
    nodes.create(&PostParams::default(), &object(json!({"metadata": {"name": name, "labels": {LABEL: ""}}}))?).await?;
    let room = json!({"cpu": "64", "memory": "256Gi", "pods": "110"});
    let ready = json!([{"type": "Ready", "status": "True", "reason": "Simulated", "message": "simulated"}]);
    let status = json!({"status": {"capacity": room, "allocatable": room, "conditions": ready}});
    nodes.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await?;
    Ok(())
}

fn node_name(run: &str, n: usize) -> String {
    format!("{run}-memory-{n}")
}

async fn running(pods: &Api<Pod>, run: &str, n: usize) -> Result<()> {
    let name = format!("memory-7d9c6b8f5d-{n}");
    pods.create(&PostParams::default(), &object(pod(&name, &node_name(run, n / PODS_A_NODE)))?).await?;
    pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(status(&name, n))).await?;
    Ok(())
}

/// Two containers with what is usual: environment, probe, resources, mounts.
fn pod(name: &str, node: &str) -> Value {
    let container = |container: &str| {
        json!({
            "name": container, "image": format!("registry.example.com/team/{container}:v1.2.3"),
            "ports": [{"name": "http", "containerPort": 8080}],
            "env": [
                {"name": "LOG_LEVEL", "value": "info"},
                {"name": "DATABASE_URL", "value": "postgres://database.team.svc.cluster.local:5432/app"},
                {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            ],
            "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
            "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}},
            "volumeMounts": [{"name": "config", "mountPath": "/etc/app"}],
        })
    };
    json!({
        "metadata": {"name": name, "labels": {LABEL: "", "app": "memory", "pod-template-hash": "7d9c6b8f5d"},
            "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "8080"}},
        // Nobody answers for these nodes.
        "spec": {"nodeName": node, "tolerations": [{"operator": "Exists"}], "terminationGracePeriodSeconds": 0,
            "containers": [container("app"), container("proxy")],
            "volumes": [{"name": "config", "configMap": {"name": "memory", "optional": true}}]},
    })
}

fn status(name: &str, n: usize) -> Value {
    let address = format!("10.{}.{}.{}", 100 + n / 62_500, n / 250 % 250, n % 250 + 1);
    let since = "2026-01-02T03:04:05Z";
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": since});
    let conditions =
        ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"].map(condition);
    let container = |container: &str| {
        json!({
            "name": container, "image": format!("registry.example.com/team/{container}:v1.2.3"),
            "imageID": "registry.example.com/team/app@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
            "containerID": format!("containerd://{name}0123456789abcdef0123456789abcdef0123456789"),
            "ready": true, "started": true, "restartCount": 0, "state": {"running": {"startedAt": since}},
        })
    };
    json!({"status": {
        "phase": "Running", "hostIP": "192.0.2.1", "hostIPs": [{"ip": "192.0.2.1"}], "podIP": address, "podIPs": [{"ip": address}],
        "startTime": since, "qosClass": "Burstable", "containerStatuses": [container("app"), container("proxy")],
        "conditions": conditions,
    }})
}
