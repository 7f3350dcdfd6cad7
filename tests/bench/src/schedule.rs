//! How fast pods are created and bound on nodes that exist in the API alone.
use crate::Figures;
use crate::measure::{PATIENCE, PREPARE, object};
use anyhow::{Context, Result};
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use serde_json::json;
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Clients that create pods.
const CLIENTS: usize = 64;
/// The label that the nodes of this run have.
const LABEL: &str = "bench.eyot.dev/run";

/// Makes `nodes` nodes, measures how long `pods` pods take to get one each, and removes the nodes.
pub async fn run(
    figures: &mut Figures,
    client: &kube::Client,
    namespace: &str,
    nodes: usize,
    pods: usize,
) -> Result<()> {
    let all: Api<Node> = Api::all(client.clone());
    let made: Vec<Result<()>> =
        stream::iter(0..nodes).map(|n| node(&all, namespace, n)).buffer_unordered(PREPARE).collect().await;
    let measured = match made.into_iter().collect::<Result<Vec<()>>>() {
        Ok(_) => measure(figures, client, namespace, nodes, pods).await,
        Err(error) => Err(error),
    };
    let ours = ListParams::default().labels(&format!("{LABEL}={namespace}"));
    all.delete_collection(&DeleteParams::default(), &ours).await?;
    measured
}

async fn node(nodes: &Api<Node>, run: &str, n: usize) -> Result<()> {
    let name = format!("{run}-{n}");
    let zone = format!("zone-{}", n % 3);
    let labels = json!({LABEL: run, "kubernetes.io/hostname": name, "topology.kubernetes.io/zone": zone});
    nodes.create(&PostParams::default(), &object(json!({"metadata": {"name": name, "labels": labels}}))?).await?;
    let room = json!({"cpu": "32", "memory": "64Gi", "pods": "110"});
    let ready = json!([{"type": "Ready", "status": "True", "reason": "Simulated", "message": "simulated"}]);
    let status = json!({"status": {"capacity": room, "allocatable": room, "conditions": ready}});
    nodes.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await?;
    Ok(())
}

async fn measure(
    figures: &mut Figures,
    client: &kube::Client,
    namespace: &str,
    nodes: usize,
    count: usize,
) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let from = pods.list(&ListParams::default().limit(1)).await?.metadata.resource_version.context("a version")?;
    let params = WatchParams::default().labels(&format!("{LABEL}={namespace}"));
    let mut events = pods.watch(&params, &from).await?.boxed();
    let created: Mutex<HashMap<String, Instant>> = Mutex::default();
    let start = Instant::now();
    let create = stream::iter(0..count).map(|n| pod(&pods, namespace, n, &created)).buffer_unordered(CLIENTS);
    let creating = async {
        let made: Vec<Result<()>> = create.collect().await;
        made.into_iter().collect::<Result<Vec<()>>>()?;
        anyhow::Ok(start.elapsed())
    };
    let watching = async {
        let mut bound: HashMap<String, Instant> = HashMap::new();
        while bound.len() < count {
            let event = tokio::time::timeout(PATIENCE, events.next()).await.context("no pod was bound for a while")?;
            let (WatchEvent::Modified(pod) | WatchEvent::Added(pod)) = event.context("the watch ended")?? else {
                continue;
            };
            if pod.spec.is_some_and(|spec| spec.node_name.is_some()) {
                bound.entry(pod.metadata.name.unwrap_or_default()).or_insert_with(Instant::now);
            }
        }
        anyhow::Ok(bound)
    };
    let (made, bound) = tokio::join!(creating, watching);
    let (made, bound) = (made?, bound?);
    let took = start.elapsed();
    let created = created.into_inner().unwrap_or_default();
    let mut waits: Vec<Duration> =
        bound.iter().filter_map(|(name, at)| Some(at.saturating_duration_since(*created.get(name)?))).collect();
    waits.sort();
    let percentile = |share: usize| waits.get(waits.len() * share / 100).map_or(0.0, |w| w.as_secs_f64() * 1000.0);
    figures.insert(format!("created, of {count} pods/s"), count as f64 / made.as_secs_f64());
    figures.insert(format!("created and bound, {nodes} nodes pods/s"), count as f64 / took.as_secs_f64());
    figures.insert("created to bound p50 ms".into(), percentile(50));
    figures.insert("created to bound p99 ms".into(), percentile(99));
    Ok(())
}

async fn pod(pods: &Api<Pod>, run: &str, n: usize, created: &Mutex<HashMap<String, Instant>>) -> Result<()> {
    let name = format!("scheduled-{n}");
    let requests = json!({"cpu": "100m", "memory": "64Mi"});
    let spec = json!({
        "nodeSelector": {LABEL: run}, "tolerations": [{"operator": "Exists"}], "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "none", "resources": {"requests": requests}}],
    });
    if let Ok(mut created) = created.lock() {
        created.insert(name.clone(), Instant::now());
    }
    let pod = object(json!({"metadata": {"name": name, "labels": {LABEL: run}}, "spec": spec}))?;
    pods.create(&PostParams::default(), &pod).await?;
    Ok(())
}
