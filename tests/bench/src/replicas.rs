//! A Deployment scaled from nothing to many pods, on nodes that exist only as objects: what controllers and scheduler
//! do a second, without any container.
use crate::Figures;
use crate::simulated::Nodes;
use anyhow::{Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;
use std::time::{Duration, Instant};

/// Pods that one such node takes.
const PODS_A_NODE: usize = 250;
/// Not done by then fails the measurement.
const PATIENCE: Duration = Duration::from_secs(600);
const POLL: Duration = Duration::from_millis(50);
const NAME: &str = "bench-replicas";

pub async fn measure(figures: &mut Figures, client: &kube::Client, namespace: &str, replicas: usize) -> Result<()> {
    let room = json!({"cpu": "1000", "memory": "4Ti", "pods": PODS_A_NODE.to_string()});
    let nodes = replicas.div_ceil(PODS_A_NODE) + 1;
    let nodes = Nodes::make(client, "bench", nodes, ("bench", "replicas"), room).await?;
    let result = scale(figures, client, namespace, replicas).await;
    nodes.remove().await?;
    result
}

async fn scale(figures: &mut Figures, client: &kube::Client, namespace: &str, replicas: usize) -> Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let labels = json!({"app": NAME});
    let container = json!({"name": "main", "image": "bench.invalid/none", "resources": {"requests": {"cpu": "10m", "memory": "10Mi"}}});
    // On these nodes alone: a real one would run them.
    let template = json!({"metadata": {"labels": labels}, "spec": {"nodeSelector": {"bench": "replicas"}, "containers": [container]}});
    let deployment = json!({"metadata": {"name": NAME}, "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": template}});
    deployments.create(&PostParams::default(), &serde_json::from_value(deployment)?).await?;

    let begun = Instant::now();
    resize(&deployments, replicas).await?;
    until(begun, || async {
        Ok(deployments.get(NAME).await?.status.and_then(|s| s.replicas) == Some(replicas as i32))
    })
    .await?;
    figures.insert(format!("Deployment 0 -> {replicas}, made s"), begun.elapsed().as_secs_f64());
    // Bound pods, counted without their bodies.
    let unbound = ListParams::default().labels(&format!("app={NAME}")).fields("spec.nodeName=").limit(1);
    until(begun, || async { Ok(pods.list_metadata(&unbound).await?.items.is_empty()) }).await?;
    figures.insert(format!("Deployment 0 -> {replicas}, bound s"), begun.elapsed().as_secs_f64());

    let begun = Instant::now();
    resize(&deployments, 0).await?;
    until(begun, || async { Ok(deployments.get(NAME).await?.status.and_then(|s| s.replicas).unwrap_or(0) == 0) })
        .await?;
    figures.insert(format!("Deployment {replicas} -> 0 s"), begun.elapsed().as_secs_f64());
    // Nobody ends containers there.
    pods.delete_collection(&DeleteParams::default().grace_period(0), &ListParams::default()).await?;
    deployments.delete(NAME, &DeleteParams::default()).await?;
    Ok(())
}

async fn resize(deployments: &Api<Deployment>, replicas: usize) -> Result<()> {
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    deployments.patch(NAME, &PatchParams::default(), &patch).await?;
    Ok(())
}

async fn until<F: Future<Output = Result<bool>>>(begun: Instant, done: impl Fn() -> F) -> Result<()> {
    while !done().await? {
        ensure!(begun.elapsed() < PATIENCE, "not done within {PATIENCE:?}");
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}
