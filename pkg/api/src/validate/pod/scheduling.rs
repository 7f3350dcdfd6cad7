//! Where a pod may run: affinity, spreading, tolerations; and a node's taints.
use super::super::field::{Errors, Path, Tree};
use super::super::{names, selector};
use serde_json::Value;
use std::collections::BTreeSet;

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub fn affinity(errors: &mut Errors, path: &Path<'_>, affinity: &Value) {
    let (node, at) = (&affinity["nodeAffinity"], path.child("nodeAffinity"));
    if node.has(REQUIRED) {
        selector::node_selector(errors, &at.child(REQUIRED), &node[REQUIRED]);
    }
    let preferred = at.child(PREFERRED);
    for (i, term) in node.list(PREFERRED).iter().enumerate() {
        let at = preferred.index(i);
        weight(errors, &at, term);
        selector::node_selector_term(errors, &at.child("preference"), &term["preference"], false);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        pod_affinity(errors, &path.child(kind), &affinity[kind]);
    }
}

fn weight(errors: &mut Errors, at: &Path<'_>, term: &Value) {
    let weight = term.int("weight").unwrap_or(0);
    if !(1..=100).contains(&weight) {
        errors.invalid(&at.child("weight"), weight, "must be in the range 1-100");
    }
}

fn pod_affinity(errors: &mut Errors, path: &Path<'_>, of: &Value) {
    let required = path.child(REQUIRED);
    for (i, term) in of.list(REQUIRED).iter().enumerate() {
        pod_term(errors, &required.index(i), term);
    }
    let preferred = path.child(PREFERRED);
    for (i, term) in of.list(PREFERRED).iter().enumerate() {
        let at = preferred.index(i);
        weight(errors, &at, term);
        pod_term(errors, &at.child("podAffinityTerm"), &term["podAffinityTerm"]);
    }
}

fn pod_term(errors: &mut Errors, path: &Path<'_>, term: &Value) {
    for name in ["labelSelector", "namespaceSelector"] {
        selector::label_selector(errors, &path.child(name), &term[name]);
    }
    for namespace in term.texts("namespaces") {
        errors.each(&path.child("namespace"), namespace, names::dns_label(namespace));
    }
    let key = term.text("topologyKey");
    if key.is_empty() {
        errors.required(&path.child("topologyKey"), "can not be empty");
    }
    errors.each(&path.child("topologyKey"), key, names::qualified_name(key));
}

pub fn topology_spread(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    let all = spec.list("topologySpreadConstraints");
    for (i, constraint) in all.iter().enumerate() {
        let at = path.index(i);
        let (key, when) = (constraint.text("topologyKey"), constraint.text("whenUnsatisfiable"));
        positive(errors, &at.child("maxSkew"), constraint.int("maxSkew").unwrap_or(0));
        if key.is_empty() {
            errors.required(&at.child("topologyKey"), "can not be empty");
        }
        if !["DoNotSchedule", "ScheduleAnyway"].contains(&when) {
            errors.unsupported(&at.child("whenUnsatisfiable"), when, &["DoNotSchedule", "ScheduleAnyway"]);
        }
        let same = |other: &Value| other.text("topologyKey") == key && other.text("whenUnsatisfiable") == when;
        if all[i + 1..].iter().any(same) {
            errors.duplicate(&at.child("{topologyKey, whenUnsatisfiable}"), format!("{{{key}, {when}}}"));
        }
        if let Some(domains) = constraint.int("minDomains") {
            positive(errors, &at.child("minDomains"), domains);
            if when != "DoNotSchedule" {
                let text = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {when}");
                errors.invalid(&at.child("minDomains"), domains, text);
            }
        }
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            errors.maybe_one_of(&at.child(policy), constraint.text(policy), &["Honor", "Ignore"]);
        }
        selector::label_selector(errors, &at.child("labelSelector"), &constraint["labelSelector"]);
    }
}

fn positive(errors: &mut Errors, path: &Path<'_>, value: i64) {
    if value <= 0 {
        errors.invalid(path, value, "must be greater than zero");
    }
}

pub fn tolerations(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    for (i, toleration) in spec.list("tolerations").iter().enumerate() {
        let at = path.index(i);
        let [key, operator, value, effect] = ["key", "operator", "value", "effect"].map(|name| toleration.text(name));
        if !key.is_empty() {
            errors.each(&at.child("key"), key, names::qualified_name(key));
        } else if operator != "Exists" {
            let text = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.invalid(&at.child("operator"), operator, text);
        }
        if toleration.has("tolerationSeconds") && effect != "NoExecute" {
            errors.invalid(&at.child("effect"), effect, "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        match operator {
            "Equal" | "" => {
                let wrong = names::label_value(value);
                if !wrong.is_empty() {
                    errors.invalid(&at.child("operator"), value, wrong.join(";"));
                }
            }
            "Exists" if !value.is_empty() => {
                errors.invalid(&at.child("operator"), value, "value must be empty when `operator` is 'Exists'");
            }
            "Exists" => {}
            "Lt" | "Gt" => errors.unsupported(&at.child("operator"), operator, &["Equal", "Exists", "Lt", "Gt"]),
            _ => errors.unsupported(&at.child("operator"), operator, &["Equal", "Exists"]),
        }
        errors.maybe_one_of(&at.child("effect"), effect, EFFECTS);
    }
}

/// A node's taints.
pub fn taints(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    let mut seen = BTreeSet::new();
    for (i, taint) in spec.list("taints").iter().enumerate() {
        let at = path.index(i);
        let [key, value, effect] = ["key", "value", "effect"].map(|name| taint.text(name));
        errors.each(&at.child("key"), key, names::qualified_name(key));
        let wrong = names::label_value(value);
        if !wrong.is_empty() {
            errors.invalid(&at.child("value"), value, wrong.join(";"));
        }
        errors.one_of(&at.child("effect"), effect, EFFECTS);
        if !seen.insert((key, effect)) {
            errors.duplicate_as(&at, "core.Taint", taint, "taints must be unique by key and effect pair");
        }
    }
}

pub fn preemption_policy(errors: &mut Errors, path: &Path<'_>, policy: &str) {
    errors.one_of(path, policy, &["PreemptLowerPriority", "Never"]);
}
