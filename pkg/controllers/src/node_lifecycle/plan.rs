//! Which nodes are silent, what they are tainted with, and which pods that drives away.
use crate::action::{self, Action, Note, Patch, Target, Told};
use crate::pods;
use crate::taints::{self, Eviction};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// How long a node may be silent before it counts as unreachable.
pub(super) const GRACE: SignedDuration = SignedDuration::from_secs(40);
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Condition types and statuses that keep new pods away, and the taint that says so.
const BY_CONDITION: &[(&str, &str, &str)] = &[
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that a node posts, and that become unknown when it doesn't.
const POSTED: &[&str] = &["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// When a node was last heard of, by this server's clock.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Heard {
    sign: Option<Timestamp>,
    pub at: Timestamp,
}

/// The last sign of life: a renewed lease or a heartbeat in the status.
fn sign(node: &Node, lease: Option<&Lease>) -> Option<Timestamp> {
    let renewed = lease.and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref()).map(|time| time.0);
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let beats = conditions.filter(|c| c.reason.as_deref() != Some("NodeStatusUnknown"));
    renewed.into_iter().chain(beats.filter_map(|c| c.last_heartbeat_time.as_ref().map(|time| time.0))).max()
}

/// A changed sign of life counts from now on: the node's clock may differ from ours.
pub(super) fn hear(before: Option<&Heard>, node: &Node, lease: Option<&Lease>, now: Timestamp) -> Heard {
    let sign = sign(node, lease);
    match before {
        Some(before) if before.sign == sign => before.clone(),
        _ => Heard { sign, at: now },
    }
}

fn condition<'a>(node: &'a Node, type_: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == type_)
}

pub(super) fn readiness(node: &Node) -> &str {
    condition(node, "Ready").map_or("Unknown", |ready| &ready.status)
}

/// Ready and without a taint that drives pods away: nothing about its pods has to change.
pub(super) fn is_calm(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    readiness(node) == "True" && taints.iter().all(|taint| taint.effect != "NoExecute")
}

/// Marks a silent node's conditions as unknown.
pub(super) fn conditions(node: &Node, heard: &Heard, now: Timestamp) -> Option<Action> {
    if now.duration_since(heard.at) <= GRACE {
        return None;
    }
    let stale = POSTED.iter().filter(|type_| condition(node, type_).is_none_or(|c| c.status != "Unknown"));
    let unknown: Vec<NodeCondition> = stale
        .map(|type_| {
            let current = condition(node, type_);
            let (reason, message) = match current {
                Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
                None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
            };
            NodeCondition {
                type_: (*type_).to_owned(),
                status: "Unknown".into(),
                reason: Some(reason.into()),
                message: Some(message.into()),
                last_heartbeat_time: current.and_then(|c| c.last_heartbeat_time.clone()),
                last_transition_time: Some(Time(now)),
            }
        })
        .collect();
    if unknown.is_empty() {
        return None;
    }
    let told = Told::done(
        &client::reference(node),
        "NodeNotReady",
        format!("Node {} status is now: NodeNotReady", node.name_any()),
    );
    // By merge key, so that conditions written meanwhile by others stay.
    let patch = Patch::Strategic(json!({"metadata": {"uid": node.metadata.uid}, "status": {"conditions": unknown}}));
    Some(Action::Patch { target: Target::of(node), patch, subresource: Some("status"), told })
}

/// The taints that follow from a node's conditions. `evicting` is false while no node at all is ready: then the fault is
/// more likely ours than theirs.
pub(super) fn taints(node: &Node, evicting: bool, now: Timestamp) -> Option<Action> {
    let spec = node.spec.clone().unwrap_or_default();
    let current = spec.taints.unwrap_or_default();
    let ours = |taint: &Taint| match &*taint.effect {
        "NoSchedule" => taint.key == UNSCHEDULABLE || BY_CONDITION.iter().any(|(_, _, key)| *key == taint.key),
        "NoExecute" => taint.key == NOT_READY || taint.key == UNREACHABLE,
        _ => false,
    };
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    for (type_, status, key) in BY_CONDITION {
        if condition(node, type_).is_some_and(|condition| condition.status == *status) {
            wanted.push((*key, "NoSchedule"));
            let kept = || current.iter().any(|taint| taint.key == *key && taint.effect == "NoExecute");
            if *type_ == "Ready" && (evicting || kept()) {
                wanted.push((*key, "NoExecute"));
            }
        }
    }
    if spec.unschedulable == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let is = |taint: &Taint, (key, effect): &(&str, &str)| taint.key == *key && taint.effect == *effect;
    let mut next: Vec<Taint> =
        current.iter().filter(|taint| !ours(taint) || wanted.iter().any(|w| is(taint, w))).cloned().collect();
    for (key, effect) in wanted.iter().filter(|w| !current.iter().any(|taint| is(taint, w))) {
        let time_added = Some(Time(now));
        next.push(Taint { key: (*key).to_owned(), effect: (*effect).to_owned(), time_added, value: None });
    }
    if next == current {
        return None;
    }
    // The list is replaced whole: only on the copy it was made from.
    let metadata = json!({"uid": node.metadata.uid, "resourceVersion": node.metadata.resource_version});
    Some(action::patch(node, json!({"metadata": metadata, "spec": {"taints": next}})))
}

/// Pods of a node that isn't ready are not ready either: Services leave them out.
pub(super) fn mark_unready(pods: &[Arc<Pod>], now: Timestamp) -> Vec<Action> {
    let ready = pods.iter().filter(|pod| pods::is_ready(pod) && !pods::is_finished(pod));
    let mark = |pod: &Arc<Pod>| {
        let condition = json!({"type": "Ready", "status": "False", "lastTransitionTime": Time(now)});
        let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]}}));
        let note = Note {
            about: client::reference(&**pod),
            warning: true,
            reason: "NodeNotReady",
            message: "Node is not ready".into(),
        };
        let told = Told { done: Some(note), failed: None };
        Action::Patch { target: Target::of(&**pod), patch, subresource: Some("status"), told }
    };
    ready.map(mark).collect()
}

/// Deletes pods that tolerate the node's NoExecute taints no longer; the others' time is told.
pub(super) fn evict(node: &Node, pods: &[Arc<Pod>], now: Timestamp) -> Vec<Action> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let mut actions = Vec::new();
    for pod in pods.iter().filter(|pod| !pods::is_terminating(pod)) {
        match taints::eviction(pod, taints, now) {
            Eviction::Never => {}
            Eviction::At(at) if at > now => {
                actions.push(Action::Again(Duration::try_from(at.duration_since(now)).unwrap_or_default()));
            }
            Eviction::At(_) => actions.extend(delete(pod, now)),
        }
    }
    actions
}

fn delete(pod: &Pod, now: Timestamp) -> [Action; 2] {
    let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
        "message": "Taint manager: deleting due to NoExecute taint", "lastTransitionTime": Time(now)});
    let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]}}));
    let message = format!("Marking for deletion Pod {}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
    let told = Told::done(&client::reference(pod), "TaintManagerEviction", message);
    let target = Target::of(pod);
    [Action::Patch { target, patch, subresource: Some("status"), told }, action::delete(pod, Told::nothing())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn node(ready: &str, taints: Value) -> Node {
        serde_json::from_value(json!({"metadata": {"name": "a", "uid": "n"}, "spec": {"taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": ready, "lastHeartbeatTime": at(0)}]}}))
        .unwrap()
    }

    fn keys(action: Option<Action>) -> Vec<String> {
        let Some(Action::Patch { patch: Patch::Merge(patch), .. }) = action else { return Vec::new() };
        let taints = patch["spec"]["taints"].as_array().unwrap();
        let text = |taint: &Value| format!("{}:{}", taint["key"].as_str().unwrap(), taint["effect"].as_str().unwrap());
        taints.iter().map(text).collect()
    }

    #[test]
    fn a_node_is_unreachable_forty_seconds_after_its_last_sign() {
        let node = node("True", json!([]));
        let heard = hear(None, &node, None, at(5));
        assert_eq!(heard.at, at(5), "what the node's clock says doesn't matter");
        assert_eq!(conditions(&node, &heard, at(45)), None);
        let Some(Action::Patch { patch: Patch::Strategic(patch), .. }) = conditions(&node, &heard, at(46)) else {
            panic!("it is silent")
        };
        let types: Vec<_> =
            patch["status"]["conditions"].as_array().unwrap().iter().map(|c| c["type"].clone()).collect();
        assert_eq!(types, ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"]);
        let lease: Lease =
            serde_json::from_value(json!({"spec": {"renewTime": "2027-01-15T08:00:10.000000Z"}})).unwrap();
        assert_eq!(hear(Some(&heard), &node, Some(&lease), at(44)).at, at(44), "a renewed lease is a sign");
        assert_eq!(hear(Some(&heard), &node, None, at(44)).at, at(5), "no news is none");
    }

    #[test]
    fn taints_follow_conditions_and_leave_others_alone() {
        let mine = json!([{"key": "mine", "effect": "NoExecute"}]);
        assert_eq!(taints(&node("True", mine.clone()), true, at(0)), None);
        let unreachable =
            ["mine:NoExecute", "node.kubernetes.io/unreachable:NoSchedule", "node.kubernetes.io/unreachable:NoExecute"];
        assert_eq!(keys(taints(&node("Unknown", mine.clone()), true, at(0))), unreachable);
        assert_eq!(
            keys(taints(&node("Unknown", mine), false, at(0))),
            unreachable[..2],
            "no node is ready: nothing is evicted"
        );
        let stale = json!([{"key": NOT_READY, "effect": "NoExecute"}, {"key": NOT_READY, "effect": "NoSchedule"}]);
        let cleared = taints(&node("True", stale), true, at(0));
        assert!(cleared.is_some() && keys(cleared).is_empty());
    }

    #[test]
    fn pods_are_evicted_when_their_toleration_ends() {
        let node = node("Unknown", json!([{"key": UNREACHABLE, "effect": "NoExecute", "timeAdded": at(0)}]));
        let pod = |seconds: i64| {
            Arc::new(
                serde_json::from_value::<Pod>(
                    json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {"containers": [],
                "tolerations": [{"key": UNREACHABLE, "operator": "Exists", "tolerationSeconds": seconds}]}}),
                )
                .unwrap(),
            )
        };
        let actions = evict(&node, &[pod(10), pod(300)], at(20));
        assert!(
            matches!(&actions[..], [Action::Patch { .. }, Action::Delete { .. }, Action::Again(left)] if left.as_secs() == 280)
        );
    }
}
