//! PodDisruptionBudgets and HorizontalPodAutoscalers.
use super::apps::{int_or_percent, not_above_whole};
use super::field::{Errors, Path, Tree};
use super::{names, selector};
use serde_json::Value;

pub fn disruption_budget(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    if spec.has("minAvailable") && spec.has("maxUnavailable") {
        let text = "minAvailable and maxUnavailable cannot be both set";
        errors.invalid(path, spec.clone(), text);
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

pub fn autoscaler(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    if let Some(least) = spec.int("minReplicas") {
        if least < 1 {
            errors.invalid(&path.child("minReplicas"), least, "must be greater than or equal to 1");
        }
        let outside = |metric: &Value| ["Object", "External"].contains(&metric.text("type"));
        if least == 0 && !spec.list("metrics").iter().any(outside) {
            let text = "must specify at least one Object or External metric to support scaling to zero replicas";
            errors.forbidden(&path.child("metrics"), text);
        }
    }
    let most = spec.int("maxReplicas").unwrap_or(0);
    if most == 0 {
        errors.required(&path.child("maxReplicas"), "must be set and greater than 0");
    } else if most < 0 {
        errors.invalid(&path.child("maxReplicas"), most, "must be greater than or equal to 1");
    }
    if spec.int("minReplicas").is_some_and(|least| most < least) {
        errors.invalid(&path.child("maxReplicas"), most, "must be greater than or equal to `minReplicas`");
    }
    let (target, at) = (&spec["scaleTargetRef"], path.child("scaleTargetRef"));
    for name in ["kind", "name"] {
        match target.text(name) {
            "" => errors.required(&at.child(name), ""),
            text => errors.each(&at.child(name), text, names::path_segment(text)),
        }
    }
    let version = target.text("apiVersion");
    let core_kinds = ["ReplicationController", "Pod", "Node", "Service"];
    if version.is_empty() || (version == "v1" && !core_kinds.contains(&target.text("kind"))) {
        errors.invalid(&at.child("apiVersion"), version, "apiVersion must specify API group");
    }
}
