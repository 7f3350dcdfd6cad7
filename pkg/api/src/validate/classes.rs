//! Kinds with few rules of their own: events, classes and drivers, network ranges, flow control.
use super::field::{Errors, NOT_NEGATIVE, Path, Tree};
use super::{ip, names};
use crate::quantity::Quantity;
use serde_json::Value;

/// An event is where its object is; those of cluster-wide objects are in `default`.
pub fn event(errors: &mut Errors, object: &Value) {
    let (namespace, involved) = (object["metadata"].text("namespace"), object["involvedObject"].text("namespace"));
    let fits = match involved {
        "" => matches!(namespace, "" | "default"),
        involved => involved == namespace,
    };
    if !fits {
        let path = Path::field("involvedObject");
        errors.invalid(&path.child("namespace"), involved, "does not match event.namespace");
    }
}

pub fn runtime_class(errors: &mut Errors, object: &Value) {
    let (path, handler) = (Path::field("handler"), object.text("handler"));
    match handler {
        "" => errors.required(&path, ""),
        handler => errors.each(&path, handler, names::dns_label(handler)),
    }
}

pub fn ingress_class(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    let (at, controller) = (path.child("controller"), spec.text("controller"));
    if controller.is_empty() {
        errors.required(&at, "");
    } else if !is_prefixed_path(controller) {
        errors.invalid(&at, controller, "must be a domain-prefixed path (such as \"acme.io/foo\")");
    }
    if !spec.has("parameters") {
        return;
    }
    let (at, of) = (path.child("parameters"), &spec["parameters"]);
    for name in ["kind", "name"].iter().filter(|name| of.text(name).is_empty()) {
        errors.required(&at.child(name), "");
    }
    let given = !of.text("namespace").is_empty();
    match of.text("scope") {
        "Namespace" if !given => {
            errors.required(&at.child("namespace"), "`parameters.scope` is set to 'Namespace'");
        }
        "Cluster" if given => {
            errors.forbidden(&at.child("namespace"), "`parameters.scope` is set to 'Cluster'");
        }
        "Namespace" | "Cluster" => {}
        other => errors.one_of(&at.child("scope"), other, &["Cluster", "Namespace"]),
    }
}

fn is_prefixed_path(text: &str) -> bool {
    let path = |path: &str| !path.is_empty() && path.chars().all(|c| c.is_ascii_alphanumeric() || "/-_.~".contains(c));
    text.split_once('/').is_some_and(|(domain, rest)| names::dns_subdomain(domain).is_empty() && path(rest))
}

pub fn service_cidr(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    let at = path.child("cidrs");
    if spec.count("cidrs") == 0 {
        return errors.required(&at, "at least one CIDR required");
    }
    if spec.count("cidrs") > 2 {
        errors.invalid(&at, spec["cidrs"].clone(), "may only hold up to 2 values");
    }
    for (i, network) in spec.texts("cidrs").enumerate() {
        ip::network(errors, &at.index(i), network);
    }
}

pub fn csi_driver(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    let policies = &["File", "None", "ReadWriteOnceWithFSType"];
    errors.maybe_one_of(&path.child("fsGroupPolicy"), spec.text("fsGroupPolicy"), policies);
    let modes = &["Persistent", "Ephemeral"];
    for mode in spec.texts("volumeLifecycleModes").filter(|mode| !modes.contains(mode)) {
        errors.unsupported(&path.child("volumeLifecycleModes"), mode, modes);
    }
}

pub fn csi_node(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    let drivers = path.child("drivers");
    for (i, driver) in spec.list("drivers").iter().enumerate() {
        let at = drivers.index(i);
        for name in ["name", "nodeID"].iter().filter(|name| driver.text(name).is_empty()) {
            errors.required(&at.child(name), "");
        }
    }
}

pub fn csi_storage_capacity(errors: &mut Errors, object: &Value) {
    let class = object.text("storageClassName");
    errors.each(&Path::field("storageClassName"), class, names::dns_subdomain(class));
    for name in ["capacity", "maximumVolumeSize"].iter().filter(|name| object.has(name)) {
        if Quantity::from_json(&object[*name]).is_ok_and(|amount| amount.is_negative()) {
            errors.invalid(&Path::field(name), object[*name].clone(), NOT_NEGATIVE);
        }
    }
}

pub fn flow_schema(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    if spec["priorityLevelConfiguration"].text("name").is_empty() {
        let at = path.child("priorityLevelConfiguration");
        errors.required(&at.child("name"), "must reference a priority level");
    }
    let method = spec["distinguisherMethod"].text("type");
    if spec.has("distinguisherMethod") && !["ByNamespace", "ByUser"].contains(&method) {
        let at = path.child("distinguisherMethod");
        let shown = serde_json::json!({ "Type": method });
        errors.unsupported(&at.child("type"), shown, &["ByNamespace", "ByUser"]);
    }
}

pub fn priority_level(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    let limited = path.child("limited");
    match spec.text("type") {
        "Exempt" if spec.has("limited") => errors.forbidden(&limited, "must be nil if the type is not Limited"),
        "Exempt" => {}
        "Limited" if !spec.has("limited") => {
            errors.required(&limited, "must not be empty when type is Limited");
        }
        "Limited" => {
            let (at, ty) = (limited.child("limitResponse"), spec["limited"]["limitResponse"].text("type"));
            errors.one_of(&at.child("type"), ty, &["Queue", "Reject"]);
        }
        other => errors.unsupported(&path.child("type"), other, &["Exempt", "Limited"]),
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
    fn an_event_is_where_its_object_is() {
        let of = |namespace: &str, involved: &str| {
            let object = json!({"metadata": {"namespace": namespace}, "involvedObject": {"namespace": involved}});
            found(|errors| event(errors, &object))
        };
        assert_eq!(of("a", "a"), [""; 0]);
        assert_eq!(of("default", ""), [""; 0]);
        assert_eq!(of("a", "b"), ["involvedObject.namespace: Invalid value: \"b\": does not match event.namespace"]);
        assert_eq!(of("a", "").len(), 1);
    }

    #[test]
    fn classes_name_what_runs_them() {
        let spec = Path::field("spec");
        let class = |of: Value| found(|errors| ingress_class(errors, &spec, &of));
        assert_eq!(class(json!({"controller": "example.com/c"})), [""; 0]);
        assert_eq!(class(json!({})), ["spec.controller: Required value"]);
        let text = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        assert_eq!(class(json!({"controller": "c d"})), [format!("spec.controller: Invalid value: \"c d\": {text}")]);
        assert_eq!(found(|errors| runtime_class(errors, &json!({}))), ["handler: Required value"]);
    }

    #[test]
    fn levels_are_limited_or_exempt() {
        let spec = Path::field("spec");
        let level = |of: Value| found(|errors| priority_level(errors, &spec, &of));
        assert_eq!(
            level(json!({"type": "Limited"})),
            ["spec.limited: Required value: must not be empty when type is Limited"]
        );
        assert_eq!(level(json!({"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}})), [""; 0]);
        assert_eq!(level(json!({"type": "Open"})).len(), 1);
    }
}
