//! From a pod's creation to its running container, one at a time and many at once.
use crate::{Figures, percentiles};
use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, PostParams, WatchEvent, WatchParams};
use serde_json::json;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Pods measured one after another.
const SINGLE: usize = 20;
/// Pods created at the same moment.
const AT_ONCE: usize = 30;
/// A pod that doesn't run by then fails the measurement.
const PATIENCE: Duration = Duration::from_secs(120);

/// When each pod was first seen running.
type Running = HashMap<String, Instant>;

pub async fn measure(figures: &mut Figures, client: &kube::Client, namespace: &str, image: &str) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let (sender, mut running) = watch::channel(Running::new());
    let watching = tokio::spawn(follow(pods.clone(), sender));
    let mut times = Vec::new();
    for n in 0..SINGLE {
        let name = format!("single-{n}");
        let begun = Instant::now();
        create(&pods, &name, image).await?;
        times.push(seen(&mut running, std::slice::from_ref(&name)).await?[0] - begun);
        pods.delete(&name, &DeleteParams::default().grace_period(0)).await?;
    }
    percentiles(figures, "1 pod to Running", times);

    let names: Vec<String> = (0..AT_ONCE).map(|n| format!("many-{n}")).collect();
    let begun = Instant::now();
    futures::future::try_join_all(names.iter().map(|name| create(&pods, name, image))).await?;
    let times: Vec<Duration> = seen(&mut running, &names).await?.into_iter().map(|at| at - begun).collect();
    let last = times.iter().max().copied().unwrap_or_default();
    figures.insert(format!("{AT_ONCE} pods to Running, all s"), last.as_secs_f64());
    percentiles(figures, &format!("{AT_ONCE} pods to Running, each"), times);
    let begun = Instant::now();
    pods.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
    while !pods.list_metadata(&ListParams::default()).await?.items.is_empty() {
        ensure!(begun.elapsed() < PATIENCE, "pods were not gone within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    figures.insert(format!("{AT_ONCE} pods deleted s"), begun.elapsed().as_secs_f64());
    watching.abort();
    Ok(())
}

async fn create(pods: &Api<Pod>, name: &str, image: &str) -> Result<()> {
    let pod = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "main", "image": image}]},
    }))?;
    pods.create(&PostParams::default(), &pod).await?;
    Ok(())
}

async fn follow(pods: Api<Pod>, running: watch::Sender<Running>) -> Result<()> {
    let mut changes = pods.watch(&WatchParams::default(), "0").await?.boxed();
    while let Some(change) = changes.try_next().await? {
        let (WatchEvent::Added(pod) | WatchEvent::Modified(pod)) = change else { continue };
        let is_running = pod.status.and_then(|status| status.phase).as_deref() == Some("Running");
        if let Some(name) = pod.metadata.name.filter(|_| is_running) {
            running.send_modify(|seen| {
                seen.entry(name).or_insert_with(Instant::now);
            });
        }
    }
    Ok(())
}

/// When each of these was running.
async fn seen(running: &mut watch::Receiver<Running>, names: &[String]) -> Result<Vec<Instant>> {
    let all = running.wait_for(|seen| names.iter().all(|name| seen.contains_key(name)));
    let seen = tokio::time::timeout(PATIENCE, all).await.context("pods did not run in time")??;
    Ok(names.iter().filter_map(|name| seen.get(name).copied()).collect())
}
