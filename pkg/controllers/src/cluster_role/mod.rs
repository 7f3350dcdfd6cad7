//! ClusterRoles that are the sum of others: `aggregationRule`.
use crate::action::{self, Action};
use crate::error::Error;
use crate::execute::Run;
use crate::owned;
use crate::runner::{Reconciler, Watches, key_of};
use client::Reflector;
use client::informers::Key;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::ResourceExt;
use serde_json::json;
use std::sync::Arc;

pub(crate) struct Aggregation {
    pub(crate) roles: Reflector<ClusterRole>,
}

/// The rules of all roles that are selected, in order of their names, each rule once.
fn sum(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Result<Option<Vec<PolicyRule>>, Error> {
    let Some(selectors) = role.aggregation_rule.as_ref().and_then(|rule| rule.cluster_role_selectors.as_ref()) else {
        return Ok(None);
    };
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in selectors {
        let selector = owned::selector(role, selector)?;
        let parts = all.iter().filter(|part| part.name_any() != role.name_any() && selector.matches(part.labels()));
        for rule in parts.flat_map(|part| part.rules.iter().flatten()) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    Ok(Some(rules))
}

fn plan(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Result<Option<Action>, Error> {
    let rules = sum(role, all)?.filter(|rules| role.rules.as_deref().unwrap_or_default() != rules);
    Ok(rules.map(|rules| {
        let metadata = json!({"uid": role.uid(), "resourceVersion": role.resource_version()});
        action::patch(role, json!({"metadata": metadata, "rules": rules}))
    }))
}

impl Reconciler for Aggregation {
    const NAME: &'static str = "clusterrole-aggregation-controller";
    const WORKERS: usize = 1;

    fn watch(&self, watches: &mut Watches) {
        watches.primary::<ClusterRole>();
        let roles = self.roles.clone();
        watches.on::<ClusterRole>(move |_| {
            let sums = roles.select("", |role| role.aggregation_rule.is_some());
            sums.iter().map(|role| key_of(&**role)).collect()
        });
    }

    async fn reconcile(&self, (_, name): Key, run: &mut Run) -> Result<(), Error> {
        let Some(role) = self.roles.get("", &name) else { return Ok(()) };
        run.all(plan(&role, &self.roles.list())?.into_iter().collect()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_holds_each_selected_rule_once_and_then_rests() {
        let role = |name: &str, labels: serde_json::Value, verbs: &[&str]| -> Arc<ClusterRole> {
            let rule = json!({"apiGroups": [""], "resources": ["pods"], "verbs": verbs});
            let metadata = json!({"name": name, "labels": labels});
            Arc::new(serde_json::from_value(json!({"metadata": metadata, "rules": [rule]})).unwrap())
        };
        let add = json!({"add": "yes"});
        let mut sum = (*role("sum", add.clone(), &["list"])).clone();
        let selectors = json!({"clusterRoleSelectors": [{"matchLabels": add}]});
        sum.aggregation_rule = serde_json::from_value(selectors).unwrap();
        let parts = [
            Arc::new(sum.clone()),
            role("a", add.clone(), &["get"]),
            role("b", add, &["get"]),
            role("c", json!({}), &["delete"]),
        ];
        let Some(Action::Patch { patch: action::Patch::Merge(patch), .. }) = plan(&sum, &parts).unwrap() else {
            panic!("the sum is out of date")
        };
        let expected = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]);
        assert_eq!(patch["rules"], expected, "not its own rules, and not those of others");
        sum.rules = serde_json::from_value(expected).unwrap();
        assert_eq!(plan(&sum, &parts).unwrap(), None);
        assert_eq!(plan(&parts[3], &parts).unwrap(), None, "a role of its own rules stays");
    }
}
