//! How fast pods are created and bound on nodes that exist in the API alone.
use crate::Figures;
use crate::measure::{PATIENCE, object};
use crate::simulated::Nodes;
use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use serde_json::json;
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Clients that create pods.
const CLIENTS: usize = 64;
/// The label that the nodes and pods of this run have.
const LABEL: &str = "bench.eyot.dev/run";

/// By pod, when something happened to it.
type Times = HashMap<String, Instant>;

/// Makes `nodes` nodes, measures how long `pods` pods take to get one each, and removes the nodes.
pub async fn run(
    figures: &mut Figures,
    client: &kube::Client,
    namespace: &str,
    nodes: usize,
    pods: usize,
) -> Result<()> {
    let room = json!({"cpu": "32", "memory": "64Gi", "pods": "110"});
    let made = Nodes::make(client, namespace, nodes, (LABEL, namespace), room).await?;
    let measured = measure(figures, client, namespace, nodes, pods).await;
    made.remove().await?;
    measured
}

async fn measure(
    figures: &mut Figures,
    client: &kube::Client,
    namespace: &str,
    nodes: usize,
    count: usize,
) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let (watches, watching) = oneshot::channel();
    let bound = tokio::spawn(follow(pods.clone(), namespace.to_owned(), count, watches));
    watching.await.ok();
    let created: Mutex<Times> = Mutex::default();
    let start = Instant::now();
    let creating = stream::iter(0..count).map(|n| pod(&pods, namespace, n, &created)).buffer_unordered(CLIENTS);
    creating.try_collect::<Vec<()>>().await?;
    let made = start.elapsed();
    let bound = bound.await??;
    let took = bound.values().max().map_or(made, |last| last.saturating_duration_since(start));
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

/// When each of `count` pods was first seen on a node. As an informer does: a watch that ends is opened again where it
/// was, and what the server has no history of is listed. `watches` is told once nothing can be missed.
async fn follow(pods: Api<Pod>, run: String, count: usize, watches: oneshot::Sender<()>) -> Result<Times> {
    let config = watcher::Config::default().labels(&format!("{LABEL}={run}"));
    let mut events = watcher::watcher(pods, config).default_backoff().boxed();
    let (mut bound, mut watches) = (Times::new(), Some(watches));
    while bound.len() < count {
        let event = tokio::time::timeout(PATIENCE, events.next()).await.context("no pod was bound for a while")?;
        match event.context("the watcher ended")? {
            Ok(Event::Apply(pod) | Event::InitApply(pod)) => {
                if pod.spec.is_some_and(|spec| spec.node_name.is_some()) {
                    bound.entry(pod.metadata.name.unwrap_or_default()).or_insert_with(Instant::now);
                }
            }
            Ok(Event::InitDone) => drop(watches.take().map(|watches| watches.send(()))),
            Ok(Event::Init | Event::Delete(_)) => {}
            Err(error) => eprintln!("the pods are watched again: {error}"),
        }
    }
    Ok(bound)
}

async fn pod(pods: &Api<Pod>, run: &str, n: usize, created: &Mutex<Times>) -> Result<()> {
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
