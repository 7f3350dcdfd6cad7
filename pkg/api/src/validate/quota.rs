//! ResourceQuotas and LimitRanges.
use super::field::{Errors, Path, Tree};
use super::{names, pod};
use crate::quantity::Quantity;
use serde_json::Value;
use std::collections::BTreeSet;

const TYPES: &[&str] = &["Container", "PersistentVolumeClaim", "Pod"];

pub fn resource_quota(errors: &mut Errors, object: &Value) {
    for (part, name) in [("spec", "hard"), ("status", "hard"), ("status", "used")] {
        let part_path = Path::field(part);
        let path = part_path.child(name);
        for (resource, amount) in object[part].entries(name) {
            let at = path.key(resource);
            pod::resources::quota_resource(errors, &at, resource);
            pod::resources::quantity(errors, &at, resource, amount);
        }
    }
}

pub fn limit_range(errors: &mut Errors, object: &Value) {
    let spec = Path::field("spec");
    let path = spec.child("limits");
    let mut seen = BTreeSet::new();
    for (i, limit) in object["spec"].list("limits").iter().enumerate() {
        let (at, ty) = (path.index(i), limit.text("type"));
        errors.each(&at.child("type"), ty, names::qualified_name(ty));
        if !ty.contains('/') && !TYPES.contains(&ty) {
            errors.invalid(&at.child("type"), ty, "must be a standard limit type or fully qualified");
        }
        if !seen.insert(ty) {
            errors.duplicate(&at.child("type"), ty);
        }
        if ty == "Pod" {
            for name in ["default", "defaultRequest"].iter().filter(|name| limit.count(name) > 0) {
                errors.forbidden(&at.child(name), "may not be specified when `type` is 'Pod'");
            }
        }
        ordered(errors, &at, limit);
    }
}

/// min <= defaultRequest <= default <= max, for each resource.
fn ordered(errors: &mut Errors, at: &Path<'_>, limit: &Value) {
    const ORDER: &[&str] = &["min", "defaultRequest", "default", "max"];
    let resources: BTreeSet<&str> = ORDER.iter().flat_map(|name| limit.entries(name)).map(|(key, _)| key).collect();
    for resource in resources {
        let given = |name: &&&str| limit[**name].has(resource);
        let present: Vec<&&str> = ORDER.iter().filter(given).collect();
        for (i, low) in present.iter().enumerate() {
            for high in &present[i + 1..] {
                let text = |name: &str| limit[name].text(resource).to_owned();
                let (a, b) = (text(low), text(high));
                let (Ok(x), Ok(y)) = (Quantity::parse(&a), Quantity::parse(&b)) else { continue };
                if x > y {
                    let why = match (**low, **high) {
                        ("defaultRequest", "default") => {
                            format!("default request value {a} is greater than default limit value {b}")
                        }
                        (low, high) => format!("{} value {a} is greater than {} value {b}", words(low), words(high)),
                    };
                    let field = if **low == "min" && **high == "max" {
                        "min"
                    } else if **low == "min" {
                        high
                    } else {
                        low
                    };
                    // Upstream shows the other value where "default" is wrong.
                    let shown = match (field, **low, **high) {
                        ("default", low, "default") => limit[low][resource].clone(),
                        ("default", _, high) => limit[high][resource].clone(),
                        _ => limit[field][resource].clone(),
                    };
                    errors.invalid(&at.child(field).key(resource), shown, why);
                }
            }
        }
    }
}

fn words(name: &str) -> &str {
    match name {
        "defaultRequest" => "default request",
        other => other,
    }
}
