//! Takes back `DisruptionTarget` from pods that were to be disrupted and are still there.
use crate::action::{Action, Patch, Target, Told};
use crate::error::Error;
use crate::execute::Run;
use crate::pods;
use crate::runner::{Reconciler, Watches, key_of};
use client::Reflector;
use client::informers::Key;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use serde_json::json;
use std::time::Duration;

/// How long the announced disruption may take.
const TIMEOUT: SignedDuration = SignedDuration::from_secs(120);
const CONDITION: &str = "DisruptionTarget";

pub(crate) struct StaleDisruptions {
    pub(crate) pods: Reflector<Pod>,
}

/// How long the condition may still stand; `None` when it needs no care. A kubelet's own stands until the pod is gone.
fn time_left(pod: &Pod, now: Timestamp) -> Option<SignedDuration> {
    if !pods::is_active(pod) {
        return None;
    }
    let condition = pods::condition(pod, CONDITION).filter(|condition| condition.status == "True")?;
    if condition.reason.as_deref() == Some("TerminationByKubelet") {
        return None;
    }
    let since = condition.last_transition_time.as_ref().map_or(now, |time| time.0);
    Some((since + TIMEOUT).duration_since(now))
}

impl Reconciler for StaleDisruptions {
    const NAME: &'static str = "disruption-controller";
    const WORKERS: usize = 1;

    fn watch(&self, watches: &mut Watches) {
        watches.primary::<Pod>();
        watches.on::<Pod>(|change| match time_left(change.new, Timestamp::now()).is_some() && !change.deleted {
            true => vec![key_of(change.new)],
            false => Vec::new(),
        });
    }

    async fn reconcile(&self, (namespace, name): Key, run: &mut Run) -> Result<(), Error> {
        let Some(pod) = self.pods.get(&namespace, &name) else { return Ok(()) };
        let now = Timestamp::now();
        match time_left(&pod, now) {
            None => Ok(()),
            Some(left) if left.is_positive() => {
                run.again(Duration::try_from(left).unwrap_or_default());
                Ok(())
            }
            Some(_) => {
                let condition = json!({"type": CONDITION, "status": "False", "reason": null, "message": null,
                    "lastTransitionTime": Time(now)});
                let body = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]}});
                let (target, patch, told) = (Target::of(&*pod), Patch::Strategic(body), Told::nothing());
                run.all(vec![Action::Patch { target, patch, subresource: Some("status"), told }]).await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_living_pods_condition_becomes_stale() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let pod = |phase: &str, reason: &str| -> Pod {
            let condition =
                json!({"type": CONDITION, "status": "True", "reason": reason, "lastTransitionTime": at(1000)});
            serde_json::from_value(json!({"status": {"phase": phase, "conditions": [condition]}})).unwrap()
        };
        let left = |pod: &Pod, second| time_left(pod, at(second)).map(|left| left.as_secs());
        assert_eq!(left(&pod("Running", "EvictionByEvictionAPI"), 1020), Some(100));
        assert_eq!(left(&pod("Running", "EvictionByEvictionAPI"), 1121), Some(-1));
        assert_eq!(left(&pod("Failed", "EvictionByEvictionAPI"), 1121), None);
        assert_eq!(left(&pod("Running", "TerminationByKubelet"), 1121), None);
    }
}
