//! Removes pods that nobody will: finished ones past the threshold, those of nodes that are gone, and those that were
//! deleted before they had a node.
use crate::action::{Action, Patch, Target, Told};
use crate::error::Error;
use crate::execute::Run;
use crate::pods;
use crate::runner::{Reconciler, Watches};
use client::Reflector;
use client::informers::Key;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Api, ResourceExt};
use parking_lot::Mutex;
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// Finished pods that are kept; upstream's default.
const TERMINATED: usize = 12_500;
/// How often everything is looked at.
const PERIOD: Duration = Duration::from_secs(20);
/// How long a node has to be missing before its pods go.
const QUARANTINE: SignedDuration = SignedDuration::from_secs(40);

pub(crate) struct PodGc {
    pods: Reflector<Pod>,
    nodes: Reflector<Node>,
    /// Nodes that pods name and nobody knows, and since when. Bounded by the number of pods.
    missing: Mutex<HashMap<String, Timestamp>>,
}

impl PodGc {
    pub(crate) fn new(pods: Reflector<Pod>, nodes: Reflector<Node>) -> Self {
        Self { pods, nodes, missing: Mutex::default() }
    }

    /// Nodes that have been missing for long enough.
    fn overdue(&self, pods: &[Arc<Pod>], now: Timestamp) -> Vec<String> {
        let named: HashSet<&str> =
            pods.iter().map(|pod| pods::node_name(pod)).filter(|name| !name.is_empty()).collect();
        let unknown: HashSet<&str> = named.into_iter().filter(|name| self.nodes.get("", name).is_none()).collect();
        let mut missing = self.missing.lock();
        missing.retain(|name, _| unknown.contains(name.as_str()));
        for name in unknown {
            missing.entry(name.to_owned()).or_insert(now);
        }
        missing
            .iter()
            .filter(|(_, since)| now.duration_since(**since) >= QUARANTINE)
            .map(|(name, _)| name.clone())
            .collect()
    }
}

/// What goes. `gone` are nodes that the API itself says are not there.
fn plan(pods: &[Arc<Pod>], gone: &HashSet<String>, threshold: usize, now: Timestamp) -> Vec<Action> {
    let mut finished: Vec<&Arc<Pod>> =
        pods.iter().filter(|pod| pods::is_finished(pod) && !pods::is_terminating(pod)).collect();
    finished.sort_by_key(|pod| (pod.metadata.creation_timestamp.as_ref().map(|time| time.0), pod.name_any()));
    let surplus = finished.len().saturating_sub(threshold);
    let mut actions: Vec<Action> = finished.iter().take(surplus).map(|pod| delete(pod)).collect();
    for pod in pods {
        if gone.contains(pods::node_name(pod)) {
            actions.extend(fail(pod, now));
            actions.push(delete(pod));
        } else if pods::is_terminating(pod) && pods::node_name(pod).is_empty() {
            actions.push(delete(pod));
        }
    }
    actions
}

fn delete(pod: &Pod) -> Action {
    Action::Delete { target: Target::of(pod), grace_s: Some(0), told: Told::nothing() }
}

/// A pod that can't run any more is over, so that its Job or set replaces it.
fn fail(pod: &Pod, now: Timestamp) -> Option<Action> {
    if pods::is_finished(pod) {
        return None;
    }
    let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
        "message": "PodGC: node no longer exists", "lastTransitionTime": Time(now)});
    let status = json!({"phase": "Failed", "conditions": [condition]});
    let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": status}));
    Some(Action::Patch { target: Target::of(pod), patch, subresource: Some("status"), told: Told::nothing() })
}

impl Reconciler for PodGc {
    const NAME: &'static str = "pod-garbage-collector";
    const WORKERS: usize = 1;

    fn watch(&self, watches: &mut Watches) {
        watches.everywhere();
        watches.on_change::<Pod>(|_, queue| queue.add_after(Key::default(), PERIOD));
        watches.on_change::<Node>(|_, queue| queue.add_after(Key::default(), PERIOD));
    }

    async fn reconcile(&self, _: Key, run: &mut Run) -> Result<(), Error> {
        run.again(PERIOD);
        // Pods of other sites, and of their nodes, are theirs to remove.
        let (pods, now) = (self.pods.select("", |pod| run.owns(pod)), Timestamp::now());
        let nodes: Api<Node> = Api::all(run.client().clone());
        let mut gone = HashSet::new();
        for name in self.overdue(&pods, now) {
            let live = nodes.get_metadata_opt(&name).await;
            let live = live.map_err(|source| Error::Api { verb: "get", what: format!("Node {name}"), source })?;
            if live.is_none() {
                gone.insert(name);
            }
        }
        run.all(plan(&pods, &gone, TERMINATED, now)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, phase: &str, node: &str, deleting: bool) -> Arc<Pod> {
        let deleted = deleting.then_some("2026-01-01T00:00:00Z");
        Arc::new(
            serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "ns", "uid": name, "deletionTimestamp": deleted,
                "creationTimestamp": format!("2026-01-01T00:00:0{}Z", &name[1..])},
            "spec": {"nodeName": node, "containers": []}, "status": {"phase": phase}}))
            .unwrap(),
        )
    }

    #[test]
    fn only_what_nobody_else_removes_goes() {
        let pods = [
            pod("p1", "Running", "here", false),
            pod("p2", "Running", "gone", false),
            pod("p3", "Pending", "", true),
            pod("p4", "Pending", "", false),
            pod("p5", "Succeeded", "here", false),
            pod("p6", "Failed", "here", false),
            pod("p7", "Running", "here", true),
        ];
        let gone = HashSet::from(["gone".to_owned()]);
        let what = |action: &Action| match action {
            Action::Delete { target, grace_s: Some(0), .. } => format!("delete {}", target.name),
            Action::Patch { target, subresource: Some("status"), .. } => format!("fail {}", target.name),
            other => panic!("{other:?}"),
        };
        let names =
            |threshold| plan(&pods, &gone, threshold, Timestamp::UNIX_EPOCH).iter().map(what).collect::<Vec<_>>();
        assert_eq!(names(10), ["fail p2", "delete p2", "delete p3"]);
        assert_eq!(names(1), ["delete p5", "fail p2", "delete p2", "delete p3"], "the oldest finished pod goes first");
    }
}
