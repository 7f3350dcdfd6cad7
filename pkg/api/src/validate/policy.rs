//! PodDisruptionBudgets.
use super::apps::{int_or_percent, not_above_whole};
use super::field::{Errors, Path, Tree};
use super::selector;
use serde_json::Value;

pub fn disruption_budget(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    if spec.has("minAvailable") && spec.has("maxUnavailable") {
        let text = "minAvailable and maxUnavailable cannot be both set";
        errors.invalid_as(path, "policy.PodDisruptionBudgetSpec", spec, text);
    }
    for name in ["minAvailable", "maxUnavailable"].iter().filter(|name| spec.has(name)) {
        int_or_percent(errors, &path.child(name), &spec[*name]);
        not_above_whole(errors, &path.child(name), &spec[*name]);
    }
    selector::label_selector(errors, &path.child("selector"), &spec["selector"]);
    let eviction = spec.text("unhealthyPodEvictionPolicy");
    let policies = &["AlwaysAllow", "IfHealthyBudget"];
    errors.maybe_one_of(&path.child("unhealthyPodEvictionPolicy"), eviction, policies);
}
