//! What controllers ask of pods.
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::ResourceExt;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

pub fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

pub fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Neither over nor on its way out.
pub fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !is_terminating(pod)
}

pub fn node_name(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

pub fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == type_)
}

pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

/// Since when the pod is ready, if it is.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|ready| ready.status == "True")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

/// Ready for at least `min_ready_s`.
pub fn is_available(pod: &Pod, min_ready_s: i32, now: Timestamp) -> bool {
    if !is_ready(pod) {
        return false;
    }
    let long_enough = |since: Timestamp| since + SignedDuration::from_secs(min_ready_s.into()) <= now;
    min_ready_s == 0 || ready_since(pod).is_some_and(long_enough)
}

/// When the next of these pods becomes available, if one is ready but not yet for long enough.
pub fn next_available<'a>(
    pods: impl IntoIterator<Item = &'a Arc<Pod>>,
    min_ready_s: i32,
    now: Timestamp,
) -> Option<Duration> {
    let waiting = pods.into_iter().filter(|pod| is_ready(pod) && !is_available(pod, min_ready_s, now));
    let left = waiting.filter_map(|pod| {
        let due = ready_since(pod)? + SignedDuration::from_secs(min_ready_s.into());
        Duration::try_from(due.duration_since(now)).ok()
    });
    left.min().map(|left| left + Duration::from_millis(10))
}

/// A pod made from a template for its owner; the server gives it a name that begins with `prefix`.
pub fn from_template(template: &PodTemplateSpec, namespace: &str, prefix: &str, owner: OwnerReference) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    let metadata = ObjectMeta {
        generate_name: Some(format!("{prefix}-")),
        namespace: Some(namespace.to_owned()),
        labels: meta.labels,
        annotations: meta.annotations,
        finalizers: meta.finalizers,
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    };
    Pod { metadata, spec: template.spec.clone(), status: None }
}

/// The pods that scaling down removes first come first: upstream's ActivePodsWithRanks. `related` are the pods of all
/// sets of the same owner: of pods that share a node with many of them, some go first. So do those that are `foreign`,
/// replacements that another site made while this one was out of its reach, before any pod that serves as well.
pub fn deletion_order(pods: &mut [Arc<Pod>], related: &[Arc<Pod>], foreign: impl Fn(&Pod) -> bool, now: Timestamp) {
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    for pod in related.iter().filter(|pod| is_active(pod)) {
        *on_node.entry(node_name(pod)).or_default() += 1;
    }
    let rank = |pod: &Pod| on_node.get(node_name(pod)).copied().unwrap_or_default();
    let rank = |pod: &Pod| (foreign(pod), rank(pod));
    pods.sort_by(|a, b| goes_before(a, b, rank(a), rank(b), now));
}

/// Ranks: whether a pod is foreign, and how crowded its node is.
fn goes_before(a: &Pod, b: &Pod, rank_a: (bool, usize), rank_b: (bool, usize), now: Timestamp) -> Ordering {
    let assigned = |pod: &Pod| !node_name(pod).is_empty();
    let phase_order = |pod: &Pod| match phase(pod) {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    assigned(a)
        .cmp(&assigned(b))
        .then_with(|| phase_order(a).cmp(&phase_order(b)))
        .then_with(|| is_ready(a).cmp(&is_ready(b)))
        .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
        .then_with(|| rank_b.cmp(&rank_a))
        .then_with(|| younger_first(ready_since(a), ready_since(b), now))
        .then_with(|| max_restarts(b).cmp(&max_restarts(a)))
        .then_with(|| younger_first(created(a), created(b), now))
        .then_with(|| a.uid().cmp(&b.uid()))
}

/// `controller.kubernetes.io/pod-deletion-cost`.
fn deletion_cost(pod: &Pod) -> i32 {
    let cost = pod.annotations().get("controller.kubernetes.io/pod-deletion-cost");
    cost.and_then(|cost| cost.parse().ok()).unwrap_or_default()
}

fn max_restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|status| status.restart_count).max().unwrap_or_default()
}

fn created(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.creation_timestamp.as_ref().map(|time| time.0)
}

/// Ages count by their order of magnitude, so that of pods of about the same age any may go (KEP-2185).
fn younger_first(a: Option<Timestamp>, b: Option<Timestamp>, now: Timestamp) -> Ordering {
    let magnitude = |time: Timestamp| now.duration_since(time).as_secs().max(1).ilog2();
    match (a, b) {
        (Some(a), Some(b)) if a != b => magnitude(a).cmp(&magnitude(b)),
        _ => Ordering::Equal,
    }
}
