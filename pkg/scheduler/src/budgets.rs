//! PodDisruptionBudgets as preemption sees them: which of several pods they would rather keep.
use crate::pod::PodInfo;
use api::selector::LabelSelector;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

#[derive(Debug)]
struct Budget {
    selector: LabelSelector,
    allowed: i32,
    /// Pods whose eviction was granted but not seen yet; they are counted already.
    disrupted: HashSet<String>,
}

/// All budgets by namespace and name.
#[derive(Debug, Default)]
pub struct Budgets {
    all: BTreeMap<(Box<str>, Box<str>), Budget>,
}

impl Budgets {
    pub fn set(&mut self, budget: &PodDisruptionBudget) {
        let written = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let status = budget.status.as_ref();
        let disrupted = status.and_then(|status| status.disrupted_pods.as_ref());
        let entry = Budget {
            selector: written.map_or_else(LabelSelector::nothing, crate::affinity::plain_selector),
            allowed: status.and_then(|status| status.disruptions_allowed).unwrap_or_default(),
            disrupted: disrupted.into_iter().flat_map(BTreeMap::keys).cloned().collect(),
        };
        self.all.insert(key(budget), entry);
    }

    pub fn remove(&mut self, budget: &PodDisruptionBudget) {
        self.all.remove(&key(budget));
    }

    pub fn clear(&mut self) {
        self.all.clear();
    }

    /// Parts pods into those whose end would break a budget and the rest; the order within is kept, and the first
    /// ones use a budget up.
    pub fn protected(&self, pods: &[Arc<PodInfo>]) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
        let mut left: Vec<i32> = self.all.values().map(|budget| budget.allowed).collect();
        pods.iter().cloned().partition(|pod| {
            let mut violated = false;
            for (((namespace, _), budget), allowed) in self.all.iter().zip(&mut left) {
                if **namespace == *pod.namespace && budget.covers(pod) {
                    *allowed -= 1;
                    violated |= *allowed < 0;
                }
            }
            violated
        })
    }
}

impl Budget {
    /// A budget with an empty selector covers nothing here, nor does any cover a pod without labels.
    fn covers(&self, pod: &PodInfo) -> bool {
        !pod.labels().is_empty()
            && !self.selector.is_everything()
            && self.selector.matches(pod.labels())
            && !self.disrupted.contains(&*pod.name)
    }
}

fn key(budget: &PodDisruptionBudget) -> (Box<str>, Box<str>) {
    let text = |text: &Option<String>| text.as_deref().unwrap_or_default().into();
    (text(&budget.metadata.namespace), text(&budget.metadata.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;
    use serde_json::json;

    #[test]
    fn a_budget_is_used_up() {
        let mut budgets = Budgets::default();
        let budget = |selector| {
            serde_json::from_value(
                json!({"metadata": {"namespace": "default", "name": "b"}, "spec": {"selector": selector},
                "status": {"disruptionsAllowed": 1, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0,
                    "disruptedPods": {"a": "2026-01-01T00:00:00Z"}}}),
            )
            .unwrap()
        };
        let labels = json!({"metadata": {"labels": {"app": "web"}}});
        let pods: Vec<_> = ["a", "b", "c"].map(|name| pod(name, json!({}), labels.clone())).into();
        budgets.set(&budget(json!({"matchLabels": {"app": "web"}})));
        let (kept, free) = budgets.protected(&pods);
        let names = |pods: &[Arc<PodInfo>]| pods.iter().map(|pod| pod.name.to_string()).collect::<Vec<_>>();
        assert_eq!((names(&kept), names(&free)), (vec!["c".into()], vec!["a".into(), "b".into()]));
        budgets.set(&budget(json!({})));
        assert!(budgets.protected(&pods).0.is_empty(), "an empty selector covers nothing");
    }
}
