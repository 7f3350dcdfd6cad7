//! ResourceQuotas and LimitRanges.
use super::field::{Errors, Path, Tree};
use super::{names, pod};
use crate::quantity::Quantity;
use serde_json::Value;
use std::collections::BTreeSet;

const TYPES: &[&str] = &["Container", "PersistentVolumeClaim", "Pod"];

const SCOPES: &[&str] = &[
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];
const COMPUTE: &[&str] = &["pods", "cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];

/// Whether a scope can narrow down what is counted of a resource.
fn scope_fits(scope: &str, resource: &str) -> bool {
    match scope {
        "Terminating" | "NotTerminating" | "NotBestEffort" | "PriorityClass" | "CrossNamespacePodAffinity" => {
            COMPUTE.contains(&resource)
        }
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => ["persistentvolumeclaims", "requests.storage"].contains(&resource),
        _ => true,
    }
}

fn scopes(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    let (path, shown) = (path.child("scopes"), &spec["scopes"]);
    for scope in spec.texts("scopes") {
        if !SCOPES.contains(&scope) {
            errors.invalid(&path, shown.clone(), "unsupported scope");
        }
        for _ in unfit(spec, scope) {
            errors.invalid(&path, shown.clone(), "unsupported scope applied to resource");
        }
    }
    conflicts(errors, &path, shown, &spec.texts("scopes").collect());
}

fn unfit<'a>(spec: &'a Value, scope: &'a str) -> impl Iterator<Item = &'a str> {
    let names = spec.entries("hard").map(|(name, _)| name);
    names.filter(move |name| pod::resources::is_standard_quota(name) && !scope_fits(scope, name))
}

fn conflicts(errors: &mut Errors, path: &Path<'_>, shown: &Value, scopes: &BTreeSet<&str>) {
    for pair in [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]] {
        if pair.iter().all(|scope| scopes.contains(scope)) {
            errors.invalid(path, shown.clone(), "conflicting scopes");
        }
    }
}

const EXISTS_ONLY: &str = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, \
                           ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, \
                           ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";

fn scope_selector(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    let (path, selector) = (path.child("scopeSelector"), &spec["scopeSelector"]);
    let path = path.child("matchExpressions");
    for requirement in selector.list("matchExpressions") {
        let [scope, operator] = ["scopeName", "operator"].map(|name| requirement.text(name));
        if !SCOPES.contains(&scope) {
            errors.invalid(&path.child("scopeName"), scope, "unsupported scope");
        }
        for _ in unfit(spec, scope) {
            errors.invalid(&path, selector.clone(), "unsupported scope applied to resource");
        }
        let flags = !["PriorityClass", "VolumeAttributesClass"].contains(&scope) && SCOPES.contains(&scope);
        if flags && operator != "Exists" {
            errors.invalid(&path.child("operator"), operator, EXISTS_ONLY);
        }
        match (operator, requirement.count("values")) {
            ("In" | "NotIn", 0) => {
                let text = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                errors.required(&path.child("values"), text);
            }
            ("Exists" | "DoesNotExist", 1..) => {
                let text = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                errors.invalid(&path.child("values"), requirement["values"].clone(), text);
            }
            ("In" | "NotIn" | "Exists" | "DoesNotExist", _) => {}
            _ => errors.invalid(&path.child("operator"), operator, "not a valid selector operator"),
        }
    }
    let all = selector.list("matchExpressions").iter().map(|requirement| requirement.text("scopeName")).collect();
    conflicts(errors, &path, &spec["scopes"], &all);
}

pub fn resource_quota(errors: &mut Errors, object: &Value) {
    scopes(errors, &Path::field("spec"), &object["spec"]);
    scope_selector(errors, &Path::field("spec"), &object["spec"]);
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
        if !ty.is_empty() && !ty.contains('/') && !TYPES.contains(&ty) {
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
    // In upstream's order.
    const PAIRS: &[(&str, &str)] = &[
        ("min", "max"),
        ("min", "defaultRequest"),
        ("defaultRequest", "max"),
        ("defaultRequest", "default"),
        ("min", "default"),
        ("default", "max"),
    ];
    let resources: BTreeSet<&str> = ORDER.iter().flat_map(|name| limit.entries(name)).map(|(key, _)| key).collect();
    for resource in resources {
        for (low, high) in PAIRS.iter().filter(|(low, high)| limit[*low].has(resource) && limit[*high].has(resource)) {
            pair(errors, at, limit, resource, (low, high));
        }
    }
}

fn pair(errors: &mut Errors, at: &Path<'_>, limit: &Value, resource: &str, (low, high): (&str, &str)) {
    let text = |name: &str| limit[name].text(resource).to_owned();
    let (a, b) = (text(low), text(high));
    let (Ok(x), Ok(y)) = (Quantity::parse(&a), Quantity::parse(&b)) else { return };
    if x <= y {
        return;
    }
    let why = match (low, high) {
        ("defaultRequest", "default") => {
            format!("default request value {a} is greater than default limit value {b}")
        }
        (low, high) => format!("{} value {a} is greater than {} value {b}", words(low), words(high)),
    };
    let field = if low == "min" && high != "max" { high } else { low };
    // Upstream shows the other value where "default" is wrong.
    let shown = match (field, low, high) {
        ("default", low, "default") => limit[low][resource].clone(),
        ("default", _, high) => limit[high][resource].clone(),
        _ => limit[field][resource].clone(),
    };
    errors.invalid(&at.child(field).key(resource), shown, why);
}

fn words(name: &str) -> &str {
    match name {
        "defaultRequest" => "default request",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(check: impl Fn(&mut Errors)) -> Vec<String> {
        let mut errors = Errors::default();
        check(&mut errors);
        errors.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn scopes_fit_what_they_narrow_down_and_each_other() {
        let quota = |spec: Value| found(|errors| resource_quota(errors, &json!({"spec": spec})));
        assert_eq!(quota(json!({"hard": {"pods": "1"}, "scopes": ["BestEffort"]})), [""; 0]);
        assert_eq!(
            quota(json!({"hard": {"cpu": "1"}, "scopes": ["BestEffort"]})),
            ["spec.scopes: Invalid value: [\"BestEffort\"]: unsupported scope applied to resource"]
        );
        assert!(quota(json!({"scopes": ["Terminating", "NotTerminating"]}))[0].ends_with("conflicting scopes"));
        let selector = json!({"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In"}]});
        let found = quota(json!({"scopeSelector": selector}));
        assert!(found[0].starts_with("spec.scopeSelector.matchExpressions.values: Required value"), "{found:?}");
    }

    #[test]
    fn limits_are_in_order() {
        let item = json!({"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}, "default": {"cpu": "1"}});
        let found = found(|errors| limit_range(errors, &json!({"spec": {"limits": [item]}})));
        assert_eq!(
            found,
            [
                "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
                "spec.limits[0].default[cpu]: Invalid value: \"2\": min value 2 is greater than default value 1"
            ]
        );
    }
}
