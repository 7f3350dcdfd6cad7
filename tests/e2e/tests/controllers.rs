//! `kill -9` of the server in the middle of rollouts and Jobs: controllers go on where they were, and make nothing twice.
use anyhow::Context;
use e2e::Cluster;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const REPLICAS: usize = 20;
const COMPLETIONS: usize = 12;
const KILLS: usize = 4;
/// Restart, some work, and the next kill.
const BETWEEN: Duration = Duration::from_secs(4);

/// Every pod ever seen: its uid, and what it was made for.
type Seen = Arc<Mutex<BTreeMap<String, Pod>>>;

const WORK: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 20
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: web, image: "eyot.dev/demo:1"}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: count}
spec:
  completions: 12
  parallelism: 3
  completionMode: Indexed
  template:
    metadata: {labels: {app: count}}
    spec:
      restartPolicy: Never
      containers: [{name: count, image: "eyot.dev/demo:1", command: [sleep, "2"]}]
"#;

/// The longest that a client's watch waits before it begins anew, and some more.
const CATCH_UP: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_made_twice() -> anyhow::Result<()> {
    let cluster = Cluster::start(9)?;
    let seen = Seen::default();
    let pods: Api<Pod> = Api::namespaced(cluster.client().await?, "default");
    let watching = tokio::spawn(remember(pods.clone(), seen.clone()));
    let manifest = cluster.dir().join("work.yaml");
    std::fs::write(&manifest, WORK)?;
    cluster.kubectl(&["apply", "-f", &manifest.to_string_lossy()])?;
    for _ in 0..KILLS {
        cluster.kill()?;
        tokio::time::sleep(BETWEEN).await;
    }
    cluster.wait_until_ready()?;
    cluster.kubectl(&["rollout", "status", "deployment", "web", "--timeout=120s"])?;
    cluster.kubectl(&["wait", "job/count", "--for=condition=complete", "--timeout=120s"])?;
    // What is made too much would be made by now.
    tokio::time::sleep(BETWEEN).await;
    // With each kill the watch waited longer before it began anew.
    let there: Vec<String> = pods.list(&ListParams::default()).await?.into_iter().filter_map(|pod| pod.uid()).collect();
    let all_seen = async {
        while !there.iter().all(|uid| seen.lock().contains_key(uid)) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(CATCH_UP, all_seen).await.context("the watch did not show all pods that a list has")?;
    watching.abort();

    let made = |app: &str| -> Vec<Pod> {
        seen.lock().values().filter(|pod| pod.labels().get("app").is_some_and(|a| a == app)).cloned().collect()
    };
    assert_eq!(made("web").len(), REPLICAS, "{:?}", made("web").iter().map(ResourceExt::name_any).collect::<Vec<_>>());
    // A start that the kill cuts off fails in containerd, and its pod is rightly replaced; no other may be.
    let (cut_off, whole): (Vec<_>, Vec<_>) = made("count").into_iter().partition(was_cut_off);
    let index = |pod: &Pod| pod.annotations()["batch.kubernetes.io/job-completion-index"].parse().unwrap_or(usize::MAX);
    let mut indexes: Vec<usize> = whole.iter().map(index).collect();
    indexes.sort_unstable();
    assert_eq!(indexes, (0..COMPLETIONS).collect::<Vec<_>>(), "each index has one pod, besides {}", cut_off.len());
    let counted = cluster.kubectl(&["get", "job", "count", "-o", "jsonpath={.status.succeeded}"])?;
    assert_eq!(counted, COMPLETIONS.to_string());
    Ok(())
}

/// Whether the runtime never got the container to run.
fn was_cut_off(pod: &Pod) -> bool {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let mut reasons = statuses.filter_map(|status| status.state.as_ref()?.terminated.as_ref()?.reason.as_deref());
    reasons.any(|reason| reason == "StartError")
}

/// Follows the pods across restarts of the server.
async fn remember(pods: Api<Pod>, seen: Seen) {
    let mut changes = std::pin::pin!(watcher(pods, watcher::Config::default()).default_backoff());
    while let Some(change) = changes.next().await {
        if let Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) = change {
            seen.lock().insert(pod.uid().unwrap_or_default(), pod);
        }
    }
}
