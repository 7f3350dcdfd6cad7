//! What a budget allows, by the rules of `policy/v1`.
use crate::action::{Action, Note};
use crate::{amount, owned, pods};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long an eviction that was granted may take to delete its pod.
const DELETION: SignedDuration = SignedDuration::from_secs(120);
const ALLOWED: &str = "DisruptionAllowed";

/// A budget's status, and when time alone changes it.
#[derive(Debug)]
pub(super) struct Counted {
    pub status: PodDisruptionBudgetStatus,
    pub look_again: Option<Duration>,
}

/// Whether the number of pods that should be there counts, rather than of those that are.
pub(super) fn needs_scale(budget: &PodDisruptionBudget) -> bool {
    budget.spec.as_ref().is_some_and(|spec| {
        spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_)))
    })
}

fn desired_healthy(budget: &PodDisruptionBudget, expected: i32) -> i32 {
    let spec = budget.spec.as_ref();
    let (min, max) = (spec.and_then(|s| s.min_available.as_ref()), spec.and_then(|s| s.max_unavailable.as_ref()));
    match (max, min) {
        (Some(max), _) => (expected - amount::scaled(Some(max), expected, true)).max(0),
        (None, Some(min)) => amount::scaled(Some(min), expected, true),
        (None, None) => 0,
    }
}

/// # Errors
/// When the budget's numbers can't be told.
pub(super) fn status(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    expected: i32,
    now: Timestamp,
) -> Result<Counted, String> {
    let old = budget.status.clone().unwrap_or_default();
    let leaving = |pod: &Pod| Some((pod.name_any(), old.disrupted_pods.as_ref()?.get(&pod.name_any())?.0));
    let granted: BTreeMap<String, Timestamp> = (pods.iter().filter(|pod| !pods::is_terminating(pod)))
        .filter_map(|pod| leaving(pod))
        .filter(|(_, at)| *at + DELETION >= now)
        .collect();
    let healthy = pods.iter().filter(|pod| !pods::is_terminating(pod) && pods::is_ready(pod));
    let current = healthy.filter(|pod| !granted.contains_key(&pod.name_any())).count() as i32;
    let desired = desired_healthy(budget, expected);
    let allowed = if expected > 0 { (current - desired).max(0) } else { 0 };
    let next = granted.values().map(|at| (*at + DELETION).duration_since(now)).min();
    let (truth, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let status = PodDisruptionBudgetStatus {
        current_healthy: Some(current),
        desired_healthy: Some(desired),
        expected_pods: Some(expected),
        disruptions_allowed: Some(allowed),
        disrupted_pods: Some(granted.into_iter().map(|(name, at)| (name, Time(at))).collect::<BTreeMap<_, _>>())
            .filter(|granted| !granted.is_empty()),
        observed_generation: budget.metadata.generation,
        conditions: condition(old.conditions, truth, reason, "", budget.metadata.generation, now),
    };
    let look_again = next.map(|left| Duration::try_from(left).unwrap_or_default() + Duration::from_secs(1));
    Ok(Counted { status, look_again })
}

/// What can't be counted allows nothing.
pub(super) fn failed(budget: &PodDisruptionBudget, why: &str, now: Timestamp) -> PodDisruptionBudgetStatus {
    let old = budget.status.clone().unwrap_or_default();
    let generation = old.observed_generation;
    let conditions = condition(old.conditions.clone(), "False", "SyncFailed", why, generation, now);
    PodDisruptionBudgetStatus { disruptions_allowed: Some(0), conditions, ..old }
}

fn condition(
    old: Option<Vec<Condition>>,
    status: &str,
    reason: &str,
    message: &str,
    generation: Option<i64>,
    now: Timestamp,
) -> Option<Vec<Condition>> {
    let mut all = old.unwrap_or_default();
    let before = all.iter().find(|condition| condition.type_ == ALLOWED && condition.status == status);
    let last_transition_time = before.map_or(Time(now), |before| before.last_transition_time.clone());
    let new = Condition {
        type_: ALLOWED.into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        observed_generation: generation,
        last_transition_time,
    };
    match all.iter_mut().find(|condition| condition.type_ == ALLOWED) {
        Some(current) => *current = new,
        None => all.push(new),
    }
    Some(all)
}

/// What its author should know of a budget.
pub(super) fn notes(budget: &PodDisruptionBudget, pods: &[Arc<Pod>]) -> Vec<Action> {
    let about = client::reference(budget);
    let note = |warning, reason, message: String| Action::Tell(Note { about: about.clone(), warning, reason, message });
    if pods.is_empty() {
        return vec![note(false, "NoPods", "No matching pods found".into())];
    }
    if needs_scale(budget) && pods.iter().any(|pod| owned::controller_of(&**pod).is_none()) {
        let message = "Some of the selected pods are unmanaged, so how many there should be can't be told. Set \
            .spec.minAvailable to an integer to account for them."
            .to_owned();
        return vec![note(true, "UnmanagedPods", message)];
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn budget(spec: Value, disrupted: Value) -> PodDisruptionBudget {
        serde_json::from_value(json!({"metadata": {"name": "b", "namespace": "ns", "generation": 2}, "spec": spec,
            "status": {"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 9, "expectedPods": 0, "disruptedPods": disrupted}}))
        .unwrap()
    }

    fn pods(ready: usize, unready: usize) -> Vec<Arc<Pod>> {
        let pod = |n: usize| {
            let ready = if n < ready { "True" } else { "False" };
            serde_json::from_value(json!({"metadata": {"name": format!("p{n}"), "namespace": "ns"},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}}))
            .unwrap()
        };
        (0..ready + unready).map(|n| Arc::new(pod(n))).collect()
    }

    fn counts(spec: Value, pods: &[Arc<Pod>], expected: i32) -> (i32, i32, i32) {
        let status = status(&budget(spec, json!({})), pods, expected, now()).unwrap().status;
        assert_eq!(status.observed_generation, Some(2));
        let n = |n: Option<i32>| n.unwrap();
        (n(status.current_healthy), n(status.desired_healthy), n(status.disruptions_allowed))
    }

    #[test]
    fn numbers_and_shares_of_pods() {
        assert_eq!(counts(json!({"minAvailable": 2}), &pods(3, 1), 4), (3, 2, 1));
        assert_eq!(counts(json!({"minAvailable": 5}), &pods(3, 0), 3), (3, 5, 0));
        assert_eq!(counts(json!({"maxUnavailable": 1}), &pods(3, 1), 4), (3, 3, 0));
        assert_eq!(counts(json!({"maxUnavailable": "30%"}), &pods(10, 0), 10), (10, 7, 3));
        assert_eq!(counts(json!({"minAvailable": "34%"}), &pods(10, 0), 10), (10, 4, 6));
        assert_eq!(counts(json!({"minAvailable": 0}), &pods(0, 0), 0), (0, 0, 0), "no pods, nothing to disrupt");
    }

    #[test]
    fn granted_evictions_count_until_they_are_overdue() {
        let at = |seconds: i64| Timestamp::from_second(1_800_000_000 - seconds).unwrap();
        let disrupted = json!({"p0": at(10), "p1": at(121), "gone": at(1)});
        let counted = status(&budget(json!({"minAvailable": 1}), disrupted), &pods(3, 0), 3, now()).unwrap();
        assert_eq!((counted.status.current_healthy, counted.status.disruptions_allowed), (Some(2), Some(1)));
        assert_eq!(counted.status.disrupted_pods.unwrap().into_keys().collect::<Vec<_>>(), ["p0"]);
        assert_eq!(counted.look_again, Some(Duration::from_secs(111)));
    }

    #[test]
    fn what_can_not_be_counted_allows_nothing() {
        let status = failed(&budget(json!({"maxUnavailable": 1}), json!({})), "no scale", now());
        assert_eq!(status.disruptions_allowed, Some(0));
        let condition = &status.conditions.unwrap()[0];
        assert_eq!((&*condition.reason, &*condition.message), ("SyncFailed", "no scale"));
    }
}
