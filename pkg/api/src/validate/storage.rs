//! PersistentVolumes, claims and StorageClasses.
use super::field::{Errors, Path, Tree, put_back, same};
use super::shown::difference;
use super::{names, pod, selector};
use crate::quantity::Quantity;
use serde_json::Value;
use std::collections::BTreeSet;

const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const MODES: &[&str] = &["Block", "Filesystem"];

fn access_modes(errors: &mut Errors, path: &Path<'_>, spec: &Value, required: &str) {
    let at = path.child("accessModes");
    if spec.count("accessModes") == 0 {
        errors.required(&at, required);
    }
    for mode in spec.texts("accessModes").filter(|mode| !ACCESS_MODES.contains(mode)) {
        errors.unsupported(&at, mode, ACCESS_MODES);
    }
    let modes = || spec.texts("accessModes");
    if modes().any(|mode| mode == "ReadWriteOncePod")
        && modes().any(|m| m != "ReadWriteOncePod" && ACCESS_MODES.contains(&m))
    {
        errors.forbidden(&at, "may not use ReadWriteOncePod with other access modes");
    }
}

fn class_name(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    let name = spec.text("storageClassName");
    if !name.is_empty() {
        errors.each(&path.child("storageClassName"), name, names::dns_subdomain(name));
    }
    if spec.has("volumeMode") && !MODES.contains(&spec.text("volumeMode")) {
        errors.unsupported(&path.child("volumeMode"), spec.text("volumeMode"), MODES);
    }
}

/// The spec of a claim, or of a claim template.
pub fn claim(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    access_modes(errors, path, spec, "at least 1 access mode is required");
    selector::label_selector(errors, &path.child("selector"), &spec["selector"]);
    let resources = path.child("resources");
    let at = resources.key("storage");
    match spec["resources"]["requests"].get("storage") {
        None => errors.required(&at, ""),
        Some(amount) => pod::resources::positive(errors, &at, amount),
    }
    class_name(errors, path, spec);
}

pub fn claim_update(errors: &mut Errors, new: &Value, old: &Value) {
    let path = Path::field("spec");
    let bound = new["status"].text("phase") == "Bound";
    let mut fixed = [new["spec"].clone(), old["spec"].clone()];
    for spec in fixed.iter_mut().filter_map(Value::as_object_mut) {
        if old["spec"].text("volumeName").is_empty() {
            spec.remove("volumeName");
        }
        if !old["spec"].has("storageClassName") {
            spec.remove("storageClassName");
        }
        if bound {
            spec.remove("volumeAttributesClassName");
            spec.get_mut("resources").and_then(|r| r.get_mut("requests")?.as_object_mut()?.remove("storage"));
        }
    }
    if !same(&fixed[0], &fixed[1]) {
        let text =
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        let shown = difference("core.PersistentVolumeClaimSpec", &old["spec"], &without_open_fields(new, old, bound));
        errors.forbidden(&path, format!("{text}\n{shown}"));
    }
    let size = |of: &Value| Quantity::from_json(&of["storage"]).unwrap_or(Quantity::ZERO);
    let (now, before) = (size(&new["spec"]["resources"]["requests"]), size(&old["spec"]["resources"]["requests"]));
    if now < before && now <= size(&old["status"]["capacity"]) {
        let resources = path.child("resources");
        let at = resources.child("requests");
        errors.forbidden(&at.child("storage"), "field can not be less than status.capacity");
    }
    errors.immutable(&Path::field("volumeMode"), &new["spec"]["volumeMode"], &old["spec"]["volumeMode"]);
}

/// The new spec with what may change as it was.
fn without_open_fields(new: &Value, old: &Value, bound: bool) -> Value {
    let mut spec = new["spec"].clone();
    let Some(fields) = spec.as_object_mut() else { return spec };
    let open = [
        ("volumeName", old["spec"].text("volumeName").is_empty()),
        ("storageClassName", !old["spec"].has("storageClassName")),
        ("volumeAttributesClassName", bound),
    ];
    for (name, _) in open.iter().filter(|(_, open)| *open) {
        put_back(fields, &old["spec"], name);
    }
    if let Some(requests) = fields.get_mut("resources").and_then(|all| all.get_mut("requests")?.as_object_mut())
        && bound
    {
        put_back(requests, &old["spec"]["resources"]["requests"], "storage");
    }
    spec
}

/// The fields of a PersistentVolume's spec that are not its source.
const NOT_SOURCES: &[&str] = &[
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

fn sources(spec: &Value) -> impl Iterator<Item = (&String, &Value)> {
    spec.as_object().into_iter().flatten().filter(|(name, of)| !NOT_SOURCES.contains(&name.as_str()) && !of.is_null())
}

pub fn volume(errors: &mut Errors, object: &Value) {
    let (path, spec) = (Path::field("spec"), &object["spec"]);
    access_modes(errors, &path, spec, "");
    let capacity = path.child("capacity");
    if spec.count("capacity") == 0 {
        errors.required(&capacity, "");
    }
    if spec.count("capacity") != 1 || !spec["capacity"].has("storage") {
        errors.unsupported(&capacity, spec["capacity"].clone(), &["storage"]);
    }
    for (name, amount) in spec.entries("capacity") {
        pod::resources::positive(errors, &capacity.key(name), amount);
    }
    let policies = &["Delete", "Recycle", "Retain"];
    let policy = spec.text("persistentVolumeReclaimPolicy");
    errors.maybe_one_of(&path.child("persistentVolumeReclaimPolicy"), policy, policies);
    let affinity = path.child("nodeAffinity");
    if spec.has("nodeAffinity") {
        match spec["nodeAffinity"].get("required") {
            Some(required) => selector::node_selector(errors, &affinity.child("required"), required),
            None => errors.required(&affinity.child("required"), "must specify required node constraints"),
        }
    }
    let host = spec["hostPath"].text("path");
    if host.split('/').any(|part| part == "..") {
        errors.invalid(&path.child("hostPath").child("path"), host, "must not contain '..'");
    }
    match sources(spec).count() {
        0 => errors.required(&path, "must specify a volume type"),
        1 => {}
        _ => {
            for (name, _) in sources(spec).skip(1) {
                errors.forbidden(&path.child(name), "may not specify more than 1 volume type");
            }
        }
    }
    if spec.has("local") && !spec.has("nodeAffinity") {
        errors.required(&affinity, "Local volume requires node affinity");
    }
    class_name(errors, &path, spec);
}

pub fn volume_update(errors: &mut Errors, new: &Value, old: &Value) {
    let (path, new, old) = (Path::field("spec"), &new["spec"], &old["spec"]);
    if !sources(new).eq(sources(old)) {
        errors.forbidden(
            &path.child("persistentvolumesource"),
            "spec.persistentvolumesource is immutable after creation",
        );
    }
    errors.immutable(&Path::field("volumeMode"), &new["volumeMode"], &old["volumeMode"]);
    if old.has("nodeAffinity") {
        errors.all_immutable(&path, new, old, &["nodeAffinity"]);
    }
}

pub fn class(errors: &mut Errors, object: &Value) {
    match object.text("provisioner") {
        "" => errors.required(&Path::field("provisioner"), ""),
        name => {
            let lower = name.to_lowercase();
            errors.each(&Path::field("provisioner"), &lower, names::qualified_name(&lower));
        }
    }
    parameters(errors, object, true);
    errors.maybe_one_of(&Path::field("reclaimPolicy"), object.text("reclaimPolicy"), &["Delete", "Retain"]);
    let modes = &["Immediate", "WaitForFirstConsumer"];
    errors.one_of(&Path::field("volumeBindingMode"), object.text("volumeBindingMode"), modes);
    let topologies = Path::field("allowedTopologies");
    for (i, term) in object.list("allowedTopologies").iter().enumerate() {
        topology(errors, &topologies.index(i).child("matchLabelExpressions"), term);
    }
}

fn topology(errors: &mut Errors, path: &Path<'_>, term: &Value) {
    let mut keys = BTreeSet::new();
    for (i, of) in term.list("matchLabelExpressions").iter().enumerate() {
        let (at, key) = (path.index(i), of.text("key"));
        if of.count("values") == 0 {
            errors.required(&at.child("values"), "");
        }
        let mut seen = BTreeSet::new();
        for (j, value) in of.texts("values").enumerate() {
            if !seen.insert(value) {
                errors.duplicate(&at.child("values").index(j), value);
            }
        }
        errors.each(&at.child("key"), key, names::qualified_name(key));
        if !keys.insert(key) {
            errors.duplicate(&at.child("key"), key);
        }
    }
}

const MAX_PARAMETERS: usize = 512;
const MAX_PARAMETERS_BYTES: usize = 256 * 1024;

/// What is told to the driver.
fn parameters(errors: &mut Errors, object: &Value, may_be_empty: bool) {
    let path = Path::field("parameters");
    if object.count("parameters") > MAX_PARAMETERS {
        return errors.too_long(&path, MAX_PARAMETERS);
    }
    for (key, _) in object.entries("parameters").filter(|(key, _)| key.is_empty()) {
        errors.invalid(&path, key, "field can not be empty.");
    }
    let sizes = object.entries("parameters").map(|(key, value)| key.len() + value.as_str().map_or(0, str::len));
    if sizes.sum::<usize>() > MAX_PARAMETERS_BYTES {
        errors.too_long(&path, MAX_PARAMETERS_BYTES);
    }
    if !may_be_empty && object.count("parameters") == 0 {
        errors.required(&path, "must contain at least one key/value pair");
    }
}

pub fn attributes_class(errors: &mut Errors, object: &Value) {
    let path = Path::field("driverName");
    match object.text("driverName") {
        "" => errors.required(&path, ""),
        name => errors.each(&path, name, names::dns_subdomain(&name.to_lowercase())),
    }
    parameters(errors, object, false);
}
