//! Taints and tolerations, by the rules of `core/v1`.
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, Taint};

pub use client::taints::{tolerates, tolerations};

/// When NoExecute taints drive a pod from its node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Eviction {
    Never,
    At(Timestamp),
}

/// Taint-based eviction: a taint that isn't tolerated counts at once, `tolerationSeconds` from when it was added.
pub fn eviction(pod: &Pod, taints: &[Taint], now: Timestamp) -> Eviction {
    let mut due: Option<Timestamp> = None;
    for taint in taints.iter().filter(|taint| taint.effect == "NoExecute") {
        let added = taint.time_added.as_ref().map_or(now, |time| time.0);
        let covering = tolerations(pod).iter().filter(|toleration| tolerates(toleration, taint));
        let mut covered = false;
        for toleration in covering {
            covered = true;
            if let Some(seconds) = toleration.toleration_seconds {
                let at = added + SignedDuration::from_secs(seconds.clamp(0, 10 * 365 * 86_400));
                due = Some(due.map_or(at, |earlier| earlier.min(at)));
            }
        }
        if !covered {
            return Eviction::At(now);
        }
    }
    due.map_or(Eviction::Never, Eviction::At)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(tolerations: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"spec": {"containers": [], "tolerations": tolerations}})).unwrap()
    }

    #[test]
    fn eviction_waits_as_long_as_tolerated() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let taint: Taint =
            serde_json::from_value(json!({"key": "node.kubernetes.io/unreachable", "effect": "NoExecute",
            "timeAdded": at(1000)}))
            .unwrap();
        let taints = [taint];
        assert_eq!(eviction(&pod(json!([])), &taints, at(1001)), Eviction::At(at(1001)));
        let usual = json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]);
        assert_eq!(eviction(&pod(usual), &taints, at(1001)), Eviction::At(at(1300)));
        assert_eq!(eviction(&pod(json!([{"operator": "Exists"}])), &taints, at(1001)), Eviction::Never);
        let equal = json!([{"key": "node.kubernetes.io/unreachable", "value": "x"}]);
        assert_eq!(eviction(&pod(equal), &taints, at(1001)), Eviction::At(at(1001)), "another value");
        assert_eq!(eviction(&pod(json!([])), &[], at(1001)), Eviction::Never);
    }
}
