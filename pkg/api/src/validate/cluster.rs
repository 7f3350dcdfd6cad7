//! Nodes, namespaces, leases, priority classes.
use super::field::{Errors, Path, Tree};
use super::pod::{self, preemption_policy};
use super::{ip, names};
use serde_json::Value;

const MAX_USER_PRIORITY: i64 = 1_000_000_000;
const SYSTEM_PREFIX: &str = "system-";
/// Names and values of the priority classes that every cluster has.
const SYSTEM_CLASSES: &[(&str, i64)] =
    &[("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

pub fn node(errors: &mut Errors, object: &Value) {
    // Upstream's path for taints begins with metadata.
    pod::taints(errors, &Path::field("metadata").child("taints"), &object["spec"]);
    let status = Path::field("status");
    for name in ["capacity", "allocatable"] {
        for (resource, amount) in object["status"].entries(name) {
            pod::resources::quantity(errors, &status.child(name).child(resource), resource, amount);
        }
    }
    let (spec, list) = (Path::field("spec"), object["spec"].list("podCIDRs"));
    for (i, network) in object["spec"].texts("podCIDRs").enumerate() {
        ip::network(errors, &spec.child("podCIDRs").index(i), network);
    }
    if list.len() > 2 {
        let text = "may specify no more than one CIDR for each IP family";
        errors.invalid(&spec.child("podCIDRs"), list.to_vec(), text);
    }
}

pub fn node_update(errors: &mut Errors, new: &Value, old: &Value) {
    let (path, new, old) = (Path::field("spec"), &new["spec"], &old["spec"]);
    if old.count("podCIDRs") > 0 && old["podCIDRs"] != new["podCIDRs"] {
        let text = "node updates may not change podCIDR except from \"\" to valid";
        errors.forbidden(&path.child("podCIDRs"), text);
    }
    if !old.text("providerID").is_empty() && old["providerID"] != new["providerID"] {
        let text = "node updates may not change providerID except from \"\" to valid";
        errors.forbidden(&path.child("providerID"), text);
    }
}

pub fn namespace(errors: &mut Errors, object: &Value) {
    let spec = Path::field("spec");
    let path = spec.child("finalizers");
    for name in object["spec"].texts("finalizers") {
        errors.each(&path, name, names::qualified_name(name));
        if !name.contains('/') && name != "kubernetes" {
            errors.invalid(&path, name, "name is neither a standard finalizer name nor is it fully qualified");
        }
    }
}

pub fn lease(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    if let Some(seconds) = spec.int("leaseDurationSeconds").filter(|seconds| *seconds <= 0) {
        errors.invalid(&path.child("leaseDurationSeconds"), seconds, "must be greater than 0");
    }
    errors.none_negative(path, spec, &["leaseTransitions"]);
    if !spec.text("preferredHolder").is_empty() && spec.text("strategy").is_empty() {
        errors.forbidden(&path.child("preferredHolder"), "may only be specified if `strategy` is defined");
    }
}

pub fn priority_class(errors: &mut Errors, object: &Value) {
    let name = object["metadata"].text("name");
    let value = object.int("value").unwrap_or(0);
    if name.starts_with(SYSTEM_PREFIX) {
        if let Err(why) = system_class(name, value, object.flag("globalDefault")) {
            let text =
                format!("priority class names with 'system-' prefix are reserved for system use only. error: {why}");
            errors.forbidden(&Path::field("metadata").child("name"), text);
        }
    } else if value > MAX_USER_PRIORITY {
        let text = format!("maximum allowed value of a user defined priority is {MAX_USER_PRIORITY}");
        errors.forbidden(&Path::field("value"), text);
    }
    if object.has("preemptionPolicy") {
        preemption_policy(errors, &Path::field("preemptionPolicy"), object.text("preemptionPolicy"));
    }
}

fn system_class(name: &str, value: i64, global_default: bool) -> Result<(), String> {
    match SYSTEM_CLASSES.iter().find(|(known, _)| *known == name) {
        None => Err(format!("{name} is not a known system priority class")),
        Some((_, known)) if *known != value => Err(format!("value of {name} PriorityClass must be {known}")),
        Some(_) if global_default => Err(format!("globalDefault of {name} PriorityClass must be false")),
        Some(_) => Ok(()),
    }
}

pub fn priority_class_update(errors: &mut Errors, new: &Value, old: &Value) {
    if new["value"] != old["value"] {
        errors.forbidden(&Path::field("value"), "may not be changed in an update.");
    }
    errors.immutable(&Path::field("preemptionPolicy"), &new["preemptionPolicy"], &old["preemptionPolicy"]);
}
