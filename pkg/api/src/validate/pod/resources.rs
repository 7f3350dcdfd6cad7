//! Resource names and amounts.
use super::super::field::{Errors, NOT_NEGATIVE, Path, Tree};
use super::super::names;
use crate::quantity::Quantity;
use serde_json::Value;

const CONTAINER: &[&str] = &["cpu", "memory", "ephemeral-storage"];
const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];
/// Resources that are counted, not measured.
const WHOLE: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

/// Whether a quota knows the resource by itself.
pub fn is_standard_quota(name: &str) -> bool {
    STANDARD.contains(&name) && !["ephemeral-storage", "storage"].contains(&name) || name == "ephemeral-storage"
}

fn is_huge(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// `kubernetes.io/…` names and those without a domain.
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn is_whole(name: &str) -> bool {
    WHOLE.contains(&name) || !is_native(name)
}

/// `limits` and `requests` of a container.
pub fn requirements(errors: &mut Errors, path: &Path<'_>, of: &Value) {
    if of.is_null() {
        return;
    }
    let (limits, requests) = (path.child("limits"), path.child("requests"));
    for (name, amount) in of.entries("limits") {
        one(errors, &limits.key(name), name, amount);
    }
    for (name, amount) in of.entries("requests") {
        one(errors, &requests.key(name), name, amount);
        let overcommit = is_native(name) && !is_huge(name);
        match of["limits"].get(name) {
            Some(limit) => request_fits(errors, &requests, name, amount, limit, overcommit),
            None if overcommit => {}
            None => errors.required(&limits, "Limit must be set for non overcommitable resources"),
        }
    }
    let names = || of.entries("limits").chain(of.entries("requests")).map(|(name, _)| name);
    if names().any(is_huge) && !names().any(|name| name == "cpu" || name == "memory") {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
}

fn request_fits(errors: &mut Errors, path: &Path<'_>, name: &str, amount: &Value, limit: &Value, overcommit: bool) {
    let (Ok(request), Ok(bound)) = (Quantity::from_json(amount), Quantity::from_json(limit)) else { return };
    let limit = limit.as_str().unwrap_or_default();
    if request != bound && !overcommit {
        errors.invalid(path, amount.clone(), format!("must be equal to {name} limit of {limit}"));
    } else if request > bound {
        errors.invalid(path, amount.clone(), format!("must be less than or equal to {name} limit of {limit}"));
    }
}

fn one(errors: &mut Errors, path: &Path<'_>, name: &str, amount: &Value) {
    container_resource(errors, path, name);
    quantity(errors, path, name, amount);
}

fn container_resource(errors: &mut Errors, path: &Path<'_>, name: &str) {
    let wrong = names::qualified_name(name);
    let well_formed = wrong.is_empty();
    errors.each(path, name, wrong);
    if name.contains('/') {
        let extended = !is_native(name) && !name.starts_with("requests.");
        if !is_native(name) && !extended {
            errors.invalid(path, name, "doesn't follow extended resource name standard");
        }
        return;
    }
    if well_formed && !STANDARD.contains(&name) && !is_huge(name) {
        errors.invalid(path, name, "must be a standard resource type or fully qualified");
    }
    if !CONTAINER.contains(&name) && !is_huge(name) {
        errors.invalid(path, name, "must be a standard resource for containers");
    }
}

/// What a ResourceQuota may count.
pub fn quota_resource(errors: &mut Errors, path: &Path<'_>, name: &str) {
    let wrong = names::qualified_name(name);
    let huge = is_huge(name) || name.starts_with("requests.hugepages-");
    let counted = name.starts_with("count/") || name.contains(".storageclass.storage.k8s.io/");
    if wrong.is_empty() && !name.contains('/') && !STANDARD.contains(&name) && !huge && !counted {
        errors.invalid(path, name, "must be a standard resource type or fully qualified");
    }
    errors.each(path, name, wrong);
    if !name.contains('/') && (!STANDARD.contains(&name) || name == "storage") && !huge {
        errors.invalid(path, name, "must be a standard resource for quota");
    }
}

/// An amount of a resource: not negative, and whole where it is counted.
pub fn quantity(errors: &mut Errors, path: &Path<'_>, name: &str, amount: &Value) {
    let Ok(parsed) = Quantity::from_json(amount) else { return };
    if parsed.is_negative() {
        errors.invalid(path, amount.clone(), NOT_NEGATIVE);
    }
    if is_whole(name) && parsed.milli_value() % 1000 != 0 {
        errors.invalid(path, amount.clone(), "must be an integer");
    }
}

/// A map of amounts without rules for its names.
pub fn quantities(errors: &mut Errors, path: &Path<'_>, of: &Value, name: &str) {
    for (resource, amount) in of.entries(name) {
        quantity(errors, &path.key(resource), resource, amount);
    }
}

/// More than nothing.
pub fn positive(errors: &mut Errors, path: &Path<'_>, amount: &Value) {
    if Quantity::from_json(amount).is_ok_and(|parsed| parsed.is_negative() || parsed.is_zero()) {
        errors.invalid(path, amount.clone(), "must be greater than zero");
    }
}
