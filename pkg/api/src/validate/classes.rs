//! Kinds with few rules of their own: classes and drivers, network ranges, flow control.
use super::field::{Errors, NOT_NEGATIVE, Path, Tree};
use super::{ip, names};
use crate::quantity::Quantity;
use serde_json::Value;

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
        errors.invalid(&at, controller, PREFIXED_PATH);
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

/// Upstream's text of a name that is no domain and path.
pub(super) const PREFIXED_PATH: &str = "must be a domain-prefixed path (such as \"acme.io/foo\")";

pub(super) fn is_prefixed_path(text: &str) -> bool {
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

pub fn volume_attachment(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    match spec.text("attacher") {
        "" => errors.required(&path.child("attacher"), ""),
        name => errors.each(&path.child("attacher"), name, names::dns_subdomain(&name.to_lowercase())),
    }
    let (at, source) = (path.child("source"), &spec["source"]);
    let text = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (source.has("inlineVolumeSpec"), source.has("persistentVolumeName")) {
        (false, false) => errors.required(&at, text),
        (true, true) => errors.forbidden(&at, text),
        (false, true) if source.text("persistentVolumeName").is_empty() => {
            errors.required(&at.child("persistentVolumeName"), "must specify non empty persistentVolumeName");
        }
        _ => {}
    }
    let node = spec.text("nodeName");
    errors.each(&path.child("nodeName"), node, names::dns_subdomain(node));
}

const MAX_GROUP_PRIORITY: i64 = 20_000;
const MAX_VERSION_PRIORITY: i64 = 1_000;

/// Named `version.group`; with a Service behind it, or without: then we serve it ourselves.
pub fn api_service(errors: &mut Errors, object: &Value) {
    let (path, spec) = (Path::field("spec"), &object["spec"]);
    let (group, version) = (spec.text("group"), spec.text("version"));
    let (name, wanted) = (object["metadata"].text("name"), format!("{version}.{group}"));
    if name != wanted && !name.is_empty() {
        let text = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
        errors.invalid(&Path::field("metadata").child("name"), name, text);
    }
    if group.is_empty() && version != "v1" {
        errors.required(&path.child("group"), "only v1 may have an empty group and it better be legacy kube");
    }
    if !group.is_empty() {
        errors.each(&path.child("group"), group, names::dns_subdomain(group));
    }
    errors.each(&path.child("version"), version, names::dns1035_label(version));
    for (name, most) in [("groupPriorityMinimum", MAX_GROUP_PRIORITY), ("versionPriority", MAX_VERSION_PRIORITY)] {
        let value = spec.int(name).unwrap_or(0);
        if !(1..=most).contains(&value) {
            errors.invalid(&path.child(name), value, format!("must be positive and less than {most}"));
        }
    }
    if spec.has("service") {
        return api_server(errors, &path, spec);
    }
    if !spec.text("caBundle").is_empty() {
        let shown = format!("{} bytes", spec.text("caBundle").len() / 4 * 3);
        errors.invalid(&path.child("caBundle"), shown, "local APIServices may not have a caBundle");
    }
    if spec.flag("insecureSkipTLSVerify") {
        let text = "local APIServices may not have insecureSkipTLSVerify";
        errors.invalid(&path.child("insecureSkipTLSVerify"), true, text);
    }
}

fn api_server(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    let (at, service) = (path.child("service"), &spec["service"]);
    for name in ["namespace", "name"].iter().filter(|name| service.text(name).is_empty()) {
        errors.required(&at.child(name), "");
    }
    let port = service.int("port").unwrap_or(0);
    let wrong = names::port_number(port);
    if !wrong.is_empty() {
        errors.invalid(&at.child("port"), port, format!("port is not valid: {}", wrong.join(", ")));
    }
    if spec.flag("insecureSkipTLSVerify") && !spec.text("caBundle").is_empty() {
        errors.invalid(&path.child("insecureSkipTLSVerify"), true, "may not be true if caBundle is present");
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
    fn an_attachment_names_its_driver_volume_and_node() {
        let spec = Path::field("spec");
        let of = |of: Value| found(|errors| volume_attachment(errors, &spec, &of));
        let source = json!({"persistentVolumeName": "v"});
        assert_eq!(of(json!({"attacher": "a.b", "nodeName": "n", "source": source})), [""; 0]);
        assert_eq!(of(json!({"attacher": "a.b", "nodeName": "n", "source": {}})).len(), 1);
        assert_eq!(of(json!({})).len(), 3);
    }

    #[test]
    fn an_api_service_is_named_after_what_it_serves() {
        let spec =
            json!({"group": "birds.example.com", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1});
        let of = |name: &str| found(|errors| api_service(errors, &json!({"metadata": {"name": name}, "spec": spec})));
        assert_eq!(of("v1.birds.example.com"), [""; 0]);
        let text = "must be `spec.version+\".\"+spec.group`: \"v1.birds.example.com\"";
        assert_eq!(of("x"), [format!("metadata.name: Invalid value: \"x\": {text}")]);
        let bare = found(|errors| {
            api_service(errors, &json!({"metadata": {"name": "v1."}, "spec": {"version": "v1", "service": {}}}))
        });
        assert_eq!(bare.len(), 5, "{bare:?}");
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
