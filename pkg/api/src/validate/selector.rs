//! Label selectors and node selectors.
use super::field::{Errors, Path, Tree};
use super::{meta, names};
use crate::selector::LabelSelector;
use serde_json::Value;

/// A `metav1.LabelSelector`; absent is fine.
pub fn label_selector(errors: &mut Errors, path: &Path<'_>, selector: &Value) {
    meta::labels(errors, &path.child("matchLabels"), selector, "matchLabels");
    let expressions = path.child("matchExpressions");
    for (i, requirement) in selector.list("matchExpressions").iter().enumerate() {
        let at = expressions.index(i);
        operator_values(errors, &at, requirement, &[]);
        errors.each(&at.child("key"), requirement.text("key"), names::qualified_name(requirement.text("key")));
        values(errors, &at.child("values"), requirement);
    }
}

/// `In` wants values, `Exists` none; `single` operators want exactly one.
fn operator_values(errors: &mut Errors, at: &Path<'_>, requirement: &Value, single: &[&str]) {
    let (operator, count) = (requirement.text("operator"), requirement.count("values"));
    match operator {
        "In" | "NotIn" if count == 0 => {
            errors.required(&at.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if count > 0 => {
            errors.forbidden(&at.child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        _ if single.contains(&operator) => {
            if count != 1 {
                errors.required(&at.child("values"), "must be specified single value when `operator` is 'Lt' or 'Gt'");
            }
        }
        _ => errors.invalid(&at.child("operator"), operator, "not a valid selector operator"),
    }
}

fn values(errors: &mut Errors, path: &Path<'_>, requirement: &Value) {
    for (i, value) in requirement.texts("values").enumerate() {
        errors.each(&path.index(i), value, names::label_value(value));
    }
}

/// Whose selector it is: upstream's checks differ in a few words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// ReplicaSets, too.
    Deployment,
    StatefulSet,
    DaemonSet,
}

/// A workload's selector: required, not empty, and it must match the template's labels.
pub fn workload_selector(errors: &mut Errors, path: &Path<'_>, spec: &Value, of: Workload) {
    let selector = &spec["selector"];
    if !spec.has("selector") {
        // A DaemonSet's selects nothing, and so not the template.
        if of != Workload::DaemonSet {
            errors.required(&path.child("selector"), "");
        }
        return errors.invalid(
            &path.child("template").child("metadata").child("labels"),
            template_labels(spec),
            MISMATCH,
        );
    }
    label_selector(errors, &path.child("selector"), selector);
    if selector.count("matchLabels") + selector.count("matchExpressions") == 0 {
        let kind = match of {
            Workload::Deployment => "deployment",
            Workload::StatefulSet => "statefulset",
            Workload::DaemonSet => "daemonset",
        };
        errors.invalid(&path.child("selector"), selector.clone(), format!("empty selector is invalid for {kind}"));
    }
    match LabelSelector::from_json(selector) {
        Err(_) => match of {
            Workload::Deployment => {
                errors.invalid(&path.child("selector"), selector.clone(), "invalid label selector");
            }
            Workload::StatefulSet => errors.invalid(&path.child("selector"), selector.clone(), ""),
            Workload::DaemonSet => {}
        },
        Ok(parsed) if parsed.is_everything() => {}
        Ok(parsed) => matches_template(errors, path, spec, &parsed),
    }
}

const MISMATCH: &str = "`selector` does not match template `labels`";

pub fn matches_template(errors: &mut Errors, path: &Path<'_>, spec: &Value, selector: &LabelSelector) {
    let labels = template_labels(spec);
    if !selector.matches(&labels) {
        errors.invalid(&path.child("template").child("metadata").child("labels"), labels, MISMATCH);
    }
}

fn template_labels(spec: &Value) -> Value {
    spec["template"]["metadata"]["labels"].clone()
}

/// A `NodeSelector`: what required node affinity and volumes hold.
pub fn node_selector(errors: &mut Errors, path: &Path<'_>, selector: &Value) {
    let path = path.child("nodeSelectorTerms");
    let terms = selector.list("nodeSelectorTerms");
    if terms.is_empty() {
        errors.required(&path, "must have at least one node selector term");
    }
    for (i, term) in terms.iter().enumerate() {
        node_selector_term(errors, &path.index(i), term, true);
    }
}

pub fn node_selector_term(errors: &mut Errors, path: &Path<'_>, term: &Value, strict_values: bool) {
    for (i, requirement) in term.list("matchExpressions").iter().enumerate() {
        let list = path.child("matchExpressions");
        let at = list.index(i);
        operator_values(errors, &at, requirement, &["Gt", "Lt"]);
        errors.each(&at.child("key"), requirement.text("key"), names::qualified_name(requirement.text("key")));
        if strict_values {
            values(errors, &at.child("values"), requirement);
        }
    }
    for (i, requirement) in term.list("matchFields").iter().enumerate() {
        let list = path.child("matchFields");
        node_field(errors, &list.index(i), requirement);
    }
}

fn node_field(errors: &mut Errors, at: &Path<'_>, requirement: &Value) {
    match requirement.text("operator") {
        "In" | "NotIn" if requirement.count("values") == 1 => {}
        "In" | "NotIn" => {
            let text = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errors.required(&at.child("values"), text);
        }
        operator => errors.invalid(&at.child("operator"), operator, "not a valid selector operator"),
    }
    if requirement.text("key") != "metadata.name" {
        return errors.invalid(&at.child("key"), requirement.text("key"), "not a valid field selector key");
    }
    for (i, value) in requirement.texts("values").enumerate() {
        errors.each(&at.child("values").index(i), value, names::dns_subdomain(value));
    }
}
