//! As many pods as asked for, and what is told about them.
use crate::action::{self, Action, Told};
use crate::pods;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::ResourceExt;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// Pods made or deleted in one go; the rest follows at once in the next.
pub(crate) const BURST: usize = 500;
/// The condition that says that pods can't be made or deleted.
const REPLICA_FAILURE: &str = "ReplicaFailure";

/// A ReplicaSet, or a ReplicationController in its clothes.
pub(crate) struct Desired {
    pub set: ReplicaSet,
    pub about: ObjectReference,
    pub owner: OwnerReference,
}

/// What the cache shows of a set's pods.
pub(crate) struct Observed {
    pub active: Vec<Arc<Pod>>,
    pub terminating: usize,
    /// Active pods of all sets that the same owner manages.
    pub related: Vec<Arc<Pod>>,
    /// uids of those whose home is another site than the set's.
    pub foreign: HashSet<String>,
}

pub(crate) fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

fn min_ready_s(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or_default()
}

/// Creates what is missing, deletes what is too much.
pub(crate) fn scale(desired: &Desired, observed: &Observed, now: Timestamp) -> Vec<Action> {
    if desired.set.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let (have, want) = (observed.active.len(), usize::try_from(replicas(&desired.set)).unwrap_or_default());
    if have < want {
        return (have..want.min(have + BURST)).filter_map(|_| new_pod(desired)).collect();
    }
    let mut order = observed.active.clone();
    let foreign = |pod: &Pod| pod.uid().is_some_and(|uid| observed.foreign.contains(&uid));
    pods::deletion_order(&mut order, &observed.related, foreign, now);
    let surplus = order.iter().take((have - want).min(BURST));
    surplus.map(|pod| action::delete(&**pod, Told::pod_deleted(&desired.about))).collect()
}

fn new_pod(desired: &Desired) -> Option<Action> {
    let set = &desired.set;
    let template = set.spec.as_ref()?.template.as_ref()?;
    let namespace = set.namespace().unwrap_or_default();
    let pod = pods::from_template(template, &namespace, &set.name_any(), desired.owner.clone());
    Some(action::create(&pod, Told::pod_created(&desired.about)))
}

/// The status, with `failure` for what went wrong in scaling.
pub(crate) fn status(
    desired: &Desired,
    observed: &Observed,
    failure: Option<&str>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let set = &desired.set;
    let old = set.status.clone().unwrap_or_default();
    let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
    let wanted = template.and_then(|t| t.metadata.as_ref()).and_then(|meta| meta.labels.clone()).unwrap_or_default();
    let labelled = |pod: &Pod| wanted.iter().all(|(key, value)| pod.labels().get(key) == Some(value));
    let count = |which: &dyn Fn(&Pod) -> bool| {
        Some(observed.active.iter().filter(|pod| which(pod)).count() as i32).filter(|count| *count > 0)
    };
    ReplicaSetStatus {
        replicas: observed.active.len() as i32,
        fully_labeled_replicas: count(&labelled),
        ready_replicas: count(&pods::is_ready),
        available_replicas: count(&|pod| pods::is_available(pod, min_ready_s(set), now)),
        terminating_replicas: Some(observed.terminating as i32),
        observed_generation: set.metadata.generation,
        conditions: conditions(desired, observed, failure, old.conditions, now),
    }
}

fn conditions(
    desired: &Desired,
    observed: &Observed,
    failure: Option<&str>,
    old: Option<Vec<ReplicaSetCondition>>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let mut conditions = old.unwrap_or_default();
    match failure {
        None => conditions.retain(|condition| condition.type_ != REPLICA_FAILURE),
        Some(message) if !conditions.iter().any(|condition| condition.type_ == REPLICA_FAILURE) => {
            let short = (observed.active.len() as i32) < replicas(&desired.set);
            conditions.push(ReplicaSetCondition {
                type_: REPLICA_FAILURE.into(),
                status: "True".into(),
                reason: Some(if short { "FailedCreate" } else { "FailedDelete" }.into()),
                message: Some(message.into()),
                last_transition_time: Some(Time(now)),
            });
        }
        Some(_) => {}
    }
    Some(conditions).filter(|conditions| !conditions.is_empty())
}

/// When a ready pod becomes an available one, if that is still to come.
pub(crate) fn look_again(desired: &Desired, observed: &Observed, now: Timestamp) -> Option<Duration> {
    pods::next_available(&observed.active, min_ready_s(&desired.set), now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owned;
    use proptest::prelude::*;
    use serde_json::json;

    pub(crate) fn desired(replicas: i32) -> Desired {
        let set: ReplicaSet = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "set", "generation": 3},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": {
                "metadata": {"labels": {"app": "web", "more": "yes"}}, "spec": {"containers": [{"name": "c"}]}}},
        }))
        .unwrap();
        Desired { about: client::reference(&set), owner: owned::reference_to(&set), set }
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn pod(n: usize, node: &str, ready: bool) -> Arc<Pod> {
        Arc::new(serde_json::from_value(json!({
            "metadata": {"name": format!("web-{n}"), "namespace": "ns", "uid": n.to_string(), "labels": {"app": "web"},
                "creationTimestamp": Timestamp::from_second(1_799_990_000 + n as i64).unwrap()},
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": if node.is_empty() { "Pending" } else { "Running" }, "conditions": [{
                "type": "Ready", "status": if ready { "True" } else { "False" },
                "lastTransitionTime": Timestamp::from_second(1_799_999_995).unwrap()}]},
        })).unwrap())
    }

    fn observed(active: Vec<Arc<Pod>>) -> Observed {
        Observed { related: active.clone(), active, terminating: 0, foreign: HashSet::new() }
    }

    fn deleted(actions: &[Action]) -> Vec<&str> {
        fn name(action: &Action) -> &str {
            match action {
                Action::Delete { target, .. } => &target.name,
                other => panic!("{other:?}"),
            }
        }
        actions.iter().map(name).collect()
    }

    #[test]
    fn new_pods_carry_template_owner_and_prefix() {
        let actions = scale(&desired(2), &observed(vec![]), now());
        let [Action::Create { object, told, .. }, Action::Create { .. }] = &actions[..] else { panic!("{actions:?}") };
        assert_eq!(object["metadata"]["generateName"], "web-");
        assert_eq!(object["metadata"]["labels"], json!({"app": "web", "more": "yes"}));
        let owner = &object["metadata"]["ownerReferences"][0];
        assert_eq!((&owner["controller"], &owner["blockOwnerDeletion"]), (&json!(true), &json!(true)));
        assert_eq!(told.done.as_ref().unwrap().reason, "SuccessfulCreate");
    }

    #[test]
    fn unscheduled_then_unready_then_crowded_pods_go_first() {
        let pods = vec![pod(0, "a", true), pod(1, "a", true), pod(2, "b", true), pod(3, "b", false), pod(4, "", false)];
        let deleted = |want| deleted(&scale(&desired(want), &observed(pods.clone()), now())).join(" ");
        assert_eq!(deleted(4), "web-4");
        assert_eq!(deleted(3), "web-4 web-3");
        assert_eq!(deleted(2), "web-4 web-3 web-0");
    }

    #[test]
    fn after_healing_surplus_replacements_of_other_sites_go_first() {
        let pods: Vec<_> = (0..4).map(|n| pod(n, &format!("n{n}"), true)).collect();
        let foreign = HashSet::from(["1".to_owned(), "2".to_owned()]);
        let healed = Observed { foreign: foreign.clone(), ..observed(pods.clone()) };
        let gone = scale(&desired(2), &healed, now());
        assert_eq!(deleted(&gone).into_iter().collect::<HashSet<_>>(), HashSet::from(["web-1", "web-2"]));
        let mut worse = pods;
        worse[0] = pod(0, "n0", false);
        let gone = scale(&desired(3), &Observed { foreign, ..observed(worse) }, now());
        assert_eq!(deleted(&gone), ["web-0"], "but not before a pod that does not serve");
    }

    #[test]
    fn status_counts_and_reports_failure_once() {
        let mut desired = desired(3);
        let observed = observed(vec![pod(0, "a", true), pod(1, "a", false)]);
        let counted = status(&desired, &observed, Some("no quota"), now());
        assert_eq!((counted.replicas, counted.ready_replicas, counted.fully_labeled_replicas), (2, Some(1), None));
        assert_eq!(counted.observed_generation, Some(3));
        let condition = &counted.conditions.as_ref().unwrap()[0];
        assert_eq!(
            (condition.reason.as_deref(), condition.message.as_deref()),
            (Some("FailedCreate"), Some("no quota"))
        );
        desired.set.status = Some(counted);
        assert!(status(&desired, &observed, None, now()).conditions.is_none(), "success clears it");
    }

    #[test]
    fn a_pod_is_available_only_after_min_ready_seconds() {
        let mut desired = desired(1);
        desired.set.spec.as_mut().unwrap().min_ready_seconds = Some(10);
        let observed = observed(vec![pod(0, "a", true)]);
        assert_eq!(status(&desired, &observed, None, now()).available_replicas, None);
        let again = look_again(&desired, &observed, now()).unwrap();
        assert!(again.as_secs() == 5, "{again:?}");
        let later = now() + jiff::SignedDuration::from_secs(5);
        assert_eq!(status(&desired, &observed, None, later).available_replicas, Some(1));
    }

    proptest! {
        #[test]
        fn scaling_reaches_the_number_and_stops(want in 0i32..40, nodes in prop::collection::vec(0usize..4, 0..40)) {
            let desired = desired(want);
            let node = |n: &usize| ["", "a", "b", "c"][*n];
            let pods: Vec<_> = nodes.iter().enumerate().map(|(n, on)| pod(n, node(on), n % 2 == 0)).collect();
            let have = pods.len() as i32;
            let actions = scale(&desired, &observed(pods.clone()), now());
            prop_assert_eq!(actions.len() as i32, (want - have).abs());
            if want < have {
                let unscheduled = pods.iter().filter(|pod| pods::node_name(pod).is_empty()).count();
                let gone = deleted(&actions);
                let gone_unscheduled = pods.iter().filter(|pod| {
                    pods::node_name(pod).is_empty() && gone.contains(&&*pod.name_any())
                }).count();
                prop_assert_eq!(gone_unscheduled, unscheduled.min(gone.len()), "no scheduled pod goes before an unscheduled one");
                let unique: std::collections::BTreeSet<_> = gone.iter().collect();
                prop_assert_eq!(unique.len(), gone.len());
            }
        }
    }
}
