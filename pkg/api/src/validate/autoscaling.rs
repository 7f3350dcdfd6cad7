//! HorizontalPodAutoscalers: whom they scale, by which metrics, how fast.
use super::field::{Errors, NOT_NEGATIVE, Path, Tree};
use super::names;
use crate::quantity::Quantity;
use serde_json::Value;

pub fn autoscaler(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    if let Some(least) = spec.int("minReplicas").filter(|least| *least < 1) {
        errors.invalid(&path.child("minReplicas"), least, "must be greater than or equal to 1");
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
    let at = path.child("scaleTargetRef");
    let target = &spec["scaleTargetRef"];
    reference(errors, &at, target);
    let version = target.text("apiVersion");
    let core_kinds = ["ReplicationController", "Pod", "Node", "Service"];
    if version.is_empty() || (version == "v1" && !core_kinds.contains(&target.text("kind"))) {
        errors.invalid(&at.child("apiVersion"), version, "apiVersion must specify API group");
    }
    metrics(errors, &path.child("metrics"), spec);
    if let Some(percent) = spec.int("targetCPUUtilizationPercentage").filter(|percent| *percent < 1) {
        // In v1; upstream looks at the metric that it stands for.
        let at = path.child("metrics[0].resource.target.averageUtilization");
        errors.invalid(&at, percent, "must be greater than 0");
    }
    let behavior = path.child("behavior");
    for name in ["scaleUp", "scaleDown"].iter().filter(|name| spec["behavior"].has(name)) {
        scaling_rules(errors, &behavior.child(name), &spec["behavior"][*name]);
    }
}

fn reference(errors: &mut Errors, path: &Path<'_>, target: &Value) {
    for name in ["kind", "name"] {
        match target.text(name) {
            "" => errors.required(&path.child(name), ""),
            text => errors.each(&path.child(name), text, names::path_segment(text)),
        }
    }
}

/// The names of a metric's sources by its type, in the order in which upstream looks at them.
const SOURCES: &[(&str, &str)] = &[
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];
const METRIC_TYPES: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];

fn metrics(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    for (i, of) in spec.list("metrics").iter().enumerate() {
        metric(errors, &path.index(i), of);
    }
    let outside = |metric: &Value| ["Object", "External"].contains(&metric.text("type"));
    if spec.int("minReplicas") == Some(0) && !spec.list("metrics").iter().any(outside) {
        let text = "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.forbidden(path, text);
    }
}

fn metric(errors: &mut Errors, path: &Path<'_>, metric: &Value) {
    let ty = metric.text("type");
    if ty.is_empty() {
        errors.required(&path.child("type"), "must specify a metric source type");
    }
    if !METRIC_TYPES.contains(&ty) {
        errors.unsupported(&path.child("type"), ty, METRIC_TYPES);
    }
    let mut present = SOURCES.iter().map(|(_, name)| *name).filter(|name| metric.has(name));
    if let Some(first) = present.next() {
        source(errors, &path.child(first), first, &metric[first]);
    }
    let expected = SOURCES.iter().find(|(of, _)| *of == ty).map(|(_, name)| *name);
    match expected {
        Some(name) if !metric.has(name) => {
            errors.required(&path.child(name), "must populate information for the given metric source");
        }
        Some(_) => {}
        None => errors.unsupported(&path.child("type"), ty, METRIC_TYPES),
    }
    let all: Vec<&str> = SOURCES.iter().map(|(_, name)| *name).filter(|name| metric.has(name)).collect();
    for name in all.iter().filter(|name| all.len() > 1 && Some(**name) != expected) {
        errors.forbidden(&path.child(name), "must populate the given metric source only");
    }
}

fn source(errors: &mut Errors, path: &Path<'_>, kind: &str, of: &Value) {
    let (at, goal) = (path.child("target"), &of["target"]);
    match kind {
        "object" => {
            reference(errors, &path.child("describedObject"), &of["describedObject"]);
            identifier(errors, &path.child("metric"), &of["metric"]);
        }
        "external" | "pods" => identifier(errors, &path.child("metric"), &of["metric"]),
        _ => {
            if of.text("name").is_empty() {
                errors.required(&path.child("name"), "must specify a resource name");
            }
            match of.text("container") {
                "" if kind == "containerResource" => {
                    errors.required(&path.child("container"), "must specify a container");
                }
                "" => {}
                name => errors.each(&path.child("container"), name, names::dns_label(name)),
            }
        }
    }
    target(errors, &at, goal);
    let (value, average) = (goal.has("value"), goal.has("averageValue"));
    match kind {
        "object" if !value && !average => {
            errors.required(&at.child("averageValue"), "must set either a target value or averageValue");
        }
        "external" if !value && !average => {
            let text = "must set either a target value for metric or a per-pod target";
            errors.required(&at.child("averageValue"), text);
        }
        "external" if value && average => {
            let text = "may not set both a target value for metric and a per-pod target";
            errors.forbidden(&at.child("value"), text);
        }
        "pods" if !average => {
            errors.required(&at.child("averageValue"), "must specify a positive target averageValue");
        }
        "resource" | "containerResource" => resource_target(errors, &at, goal),
        _ => {}
    }
}

fn resource_target(errors: &mut Errors, path: &Path<'_>, target: &Value) {
    match (target.has("averageUtilization"), target.has("averageValue")) {
        (false, false) => {
            let text = "must set either a target raw value or a target utilization";
            errors.required(&path.child("averageUtilization"), text);
        }
        (true, true) => {
            let text = "may not set both a target raw value and a target utilization";
            errors.forbidden(&path.child("averageValue"), text);
        }
        _ => {}
    }
}

fn identifier(errors: &mut Errors, path: &Path<'_>, metric: &Value) {
    match metric.text("name") {
        "" => errors.required(&path.child("name"), "must specify a metric name"),
        name => errors.each(&path.child("name"), name, names::path_segment(name)),
    }
}

fn target(errors: &mut Errors, path: &Path<'_>, target: &Value) {
    let ty = target.text("type");
    if ty.is_empty() {
        errors.required(&path.child("type"), "must specify a metric target type");
    }
    if !["Utilization", "Value", "AverageValue"].contains(&ty) {
        errors.invalid(&path.child("type"), ty, "must be either Utilization, Value, or AverageValue");
    }
    for name in ["value", "averageValue"].iter().filter(|name| target.has(name)) {
        let amount = Quantity::from_json(&target[*name]).unwrap_or(Quantity::ZERO);
        if amount.is_zero() || amount.is_negative() {
            errors.invalid(&path.child(name), target[*name].clone(), "must be positive");
        }
    }
    if let Some(percent) = target.int("averageUtilization").filter(|percent| *percent < 1) {
        errors.invalid(&path.child("averageUtilization"), percent, "must be greater than 0");
    }
}

const MAX_STABILIZATION_SECONDS: i64 = 3600;
const MAX_PERIOD_SECONDS: i64 = 1800;

fn scaling_rules(errors: &mut Errors, path: &Path<'_>, rules: &Value) {
    let at = path.child("stabilizationWindowSeconds");
    match rules.int("stabilizationWindowSeconds") {
        Some(seconds) if seconds < 0 => errors.invalid(&at, seconds, "must be greater than or equal to zero"),
        Some(seconds) if seconds > MAX_STABILIZATION_SECONDS => {
            errors.invalid(&at, seconds, format!("must be less than or equal to {MAX_STABILIZATION_SECONDS}"));
        }
        _ => {}
    }
    let select = rules.text("selectPolicy");
    if rules.has("selectPolicy") && !["Disabled", "Max", "Min"].contains(&select) {
        errors.unsupported(&path.child("selectPolicy"), select, &["Disabled", "Max", "Min"]);
    }
    let policies = path.child("policies");
    if rules.count("policies") == 0 {
        errors.required(&policies, "must specify at least one Policy");
    }
    for (i, policy) in rules.list("policies").iter().enumerate() {
        scaling_policy(errors, &policies.index(i), policy);
    }
    if Quantity::from_json(&rules["tolerance"]).is_ok_and(|amount| amount.is_negative()) {
        errors.invalid(&path.child("tolerance"), rules["tolerance"].clone(), NOT_NEGATIVE);
    }
}

fn scaling_policy(errors: &mut Errors, path: &Path<'_>, policy: &Value) {
    let ty = policy.text("type");
    if !["Percent", "Pods"].contains(&ty) {
        errors.unsupported(&path.child("type"), ty, &["Percent", "Pods"]);
    }
    for name in ["value", "periodSeconds"] {
        let value = policy.int(name).unwrap_or(0);
        if value <= 0 {
            errors.invalid(&path.child(name), value, "must be greater than zero");
        }
    }
    if let Some(seconds) = policy.int("periodSeconds").filter(|seconds| *seconds > MAX_PERIOD_SECONDS) {
        let text = format!("must be less than or equal to {MAX_PERIOD_SECONDS}");
        errors.invalid(&path.child("periodSeconds"), seconds, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(spec: Value) -> Vec<String> {
        let mut errors = Errors::default();
        autoscaler(&mut errors, &Path::field("spec"), &spec);
        errors.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_metric_has_the_source_of_its_type_and_a_target() {
        let spec = |metric: Value| {
            let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"});
            found(json!({"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 2, "metrics": [metric]}))
        };
        let text = "must populate information for the given metric source";
        assert_eq!(spec(json!({"type": "Resource"})), [format!("spec.metrics[0].resource: Required value: {text}")]);
        let resource = |target: Value| json!({"type": "Resource", "resource": {"name": "cpu", "target": target}});
        assert_eq!(spec(resource(json!({"type": "Utilization", "averageUtilization": 50}))), [""; 0]);
        assert_eq!(
            spec(resource(json!({"type": "Utilization", "averageUtilization": 0}))),
            ["spec.metrics[0].resource.target.averageUtilization: Invalid value: 0: must be greater than 0"]
        );
    }

    #[test]
    fn rules_of_scaling_need_a_policy() {
        let mut errors = Errors::default();
        scaling_rules(&mut errors, &Path::field("scaleUp"), &json!({"policies": [{"type": "Pods", "value": 0}]}));
        let found: Vec<String> = errors.0.iter().map(|error| error.field.clone()).collect();
        assert_eq!(found, ["scaleUp.policies[0].value", "scaleUp.policies[0].periodSeconds"]);
    }
}
