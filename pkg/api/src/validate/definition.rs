//! CustomResourceDefinitions (`k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation`).
use super::field::{Errors, Path, Tree};
use super::{names, structural};
use serde_json::Value;
use std::collections::BTreeSet;

const COLUMN_TYPES: &[&str] = &["boolean", "date", "integer", "number", "string"];

pub fn definition(errors: &mut Errors, object: &Value) {
    let (path, spec) = (Path::field("spec"), &object["spec"]);
    let name = object["metadata"].text("name");
    let wanted = format!("{}.{}", spec["names"].text("plural"), spec.text("group"));
    if name != wanted {
        let text = "must be spec.names.plural+\".\"+spec.group";
        errors.invalid(&Path::field("metadata").child("name"), name, text);
    }
    group(errors, &path.child("group"), spec.text("group"));
    errors.one_of(&path.child("scope"), spec.text("scope"), &["Cluster", "Namespaced"]);
    versions(errors, &path, spec);
    names_of(errors, &path.child("names"), &spec["names"]);
    stored_versions(errors, object);
}

fn group(errors: &mut Errors, path: &Path<'_>, group: &str) {
    match group {
        "" => errors.required(path, ""),
        _ if !group.contains('.') => errors.invalid(path, group, "should be a domain with at least one dot"),
        _ => errors.each(path, group, names::dns_subdomain(group)),
    }
}

fn versions(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    let (list, at) = (spec.list("versions"), path.child("versions"));
    let mut seen = BTreeSet::new();
    for (i, version) in list.iter().enumerate() {
        let (at, name) = (at.index(i), version.text("name"));
        errors.each(&at.child("name"), name, names::dns1035_label(name));
        if i == 0 {
            errors.each(&path.child("version"), name, names::dns1035_label(name));
        }
        if !seen.insert(name) {
            errors.invalid(&path.child("versions"), list.to_vec(), "must contain unique version names");
        }
        if !version["schema"].has("openAPIV3Schema") {
            let schema = at.child("schema");
            errors.required(&schema.child("openAPIV3Schema"), "");
        }
    }
    if list.iter().filter(|version| version.flag("storage")).count() != 1 {
        errors.invalid(&at, list.to_vec(), "must have exactly one version marked as storage version");
    }
    // What all versions have alike, upstream checks (and reports) once, at the top.
    let alike = |name: &str| list.iter().all(|version| version[name] == list[0][name]);
    for (i, version) in list.iter().enumerate() {
        let at = at.index(i);
        let mut part = |name: &str, top: &str, check: fn(&mut Errors, &Path<'_>, &Value)| {
            if !version.has(name) || (alike(name) && i > 0) {
                return;
            }
            let place = if alike(name) { path.child(top) } else { at.child(name) };
            check(errors, &place, &version[name]);
        };
        part("schema", "validation", |errors, path, of| {
            if of.has("openAPIV3Schema") {
                structural::schema(errors, &path.child("openAPIV3Schema"), &of["openAPIV3Schema"]);
            }
        });
        part("subresources", "subresources", |errors, path, of| scale(errors, &path.child("scale"), &of["scale"]));
        part("additionalPrinterColumns", "additionalPrinterColumns", columns);
    }
}

/// `.a.b`: fields only.
fn is_simple_path(path: &str) -> bool {
    let part =
        |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    path.strip_prefix('.').is_some_and(|rest| rest.split('.').all(part))
}

fn scale(errors: &mut Errors, path: &Path<'_>, scale: &Value) {
    if scale.is_null() {
        return;
    }
    let places = [("specReplicasPath", ".spec.", ".spec"), ("statusReplicasPath", ".status.", ".status")];
    for (name, prefix, place) in places {
        let (at, value) = (path.child(name), scale.text(name));
        if value.is_empty() {
            errors.required(&at, "");
        } else if !is_simple_path(value) {
            errors.invalid(&at, value, "must be a simple json path starting with .");
        } else if !value.starts_with(prefix) {
            errors.invalid(&at, value, format!("should be a json path under {place}"));
        }
    }
    let (at, value) = (path.child("labelSelectorPath"), scale.text("labelSelectorPath"));
    if !value.is_empty() && !is_simple_path(value) {
        errors.invalid(&at, value, "must be a simple json path starting with .");
    } else if !value.is_empty() && !value.starts_with(".status.") && !value.starts_with(".spec.") {
        errors.invalid(&at, value, "must be a json path under either .spec or .status");
    }
}

fn columns(errors: &mut Errors, path: &Path<'_>, columns: &Value) {
    for (i, column) in columns.as_array().into_iter().flatten().enumerate() {
        let (at, ty) = (path.index(i), column.text("type"));
        if column.text("name").is_empty() {
            errors.required(&at.child("name"), "");
        }
        if ty.is_empty() {
            errors.required(&at.child("type"), format!("must be one of {}", COLUMN_TYPES.join(",")));
        } else if !COLUMN_TYPES.contains(&ty) {
            errors.invalid(&at.child("type"), ty, format!("must be one of {}", COLUMN_TYPES.join(",")));
        }
        match column.text("jsonPath") {
            "" => errors.required(&at.child("JSONPath"), ""),
            json_path if !json_path.starts_with('.') => {
                let text = "must be a simple json path starting with .";
                errors.invalid(&at.child("JSONPath"), json_path, text);
            }
            _ => {}
        }
    }
}

fn names_of(errors: &mut Errors, path: &Path<'_>, of: &Value) {
    for name in ["plural", "singular"] {
        match of.text(name) {
            "" => errors.required(&path.child(name), ""),
            text => errors.each(&path.child(name), text, names::dns1035_label(text)),
        }
    }
    for name in ["kind", "listKind"] {
        match of.text(name) {
            "" => errors.required(&path.child(name), ""),
            text => {
                for message in names::dns1035_label(&text.to_lowercase()) {
                    let message = format!("may have mixed case, but should otherwise match: {message}");
                    errors.invalid(&path.child(name), text, message);
                }
            }
        }
    }
    for name in ["shortNames", "categories"] {
        for (i, text) in of.texts(name).enumerate() {
            errors.each(&path.child(name).index(i), text, names::dns1035_label(text));
        }
    }
    let (kind, list) = (of.text("kind"), of.text("listKind"));
    if !kind.is_empty() && kind == list {
        errors.invalid(&path.child("listKind"), list, "kind and listKind may not be the same");
    }
}

/// Versions that objects may be stored in must stay readable.
fn stored_versions(errors: &mut Errors, object: &Value) {
    let status = Path::field("status");
    let path = status.child("storedVersions");
    if object["status"].count("storedVersions") == 0 {
        return errors.invalid(&path, Value::Null, "must have at least one stored version");
    }
    for (i, stored) in object["status"].texts("storedVersions").enumerate() {
        if !object["spec"].list("versions").iter().any(|version| version.text("name") == stored) {
            let text = format!(
                "missing from spec.versions; {stored} was previously a storage version, and must remain in \
                 spec.versions until a storage migration ensures no data remains persisted in {stored} and removes \
                 {stored} from status.storedVersions"
            );
            errors.invalid(&path.index(i), stored, text);
        }
    }
}

/// Names stay once clients have learnt them.
pub fn definition_update(errors: &mut Errors, new: &Value, old: &Value) {
    let path = Path::field("spec");
    let established = |condition: &Value| condition.text("type") == "Established" && condition.text("status") == "True";
    errors.all_immutable(&path, &new["spec"], &old["spec"], &["group"]);
    errors.all_immutable(&path.child("names"), &new["spec"]["names"], &old["spec"]["names"], &["plural"]);
    if old["status"].list("conditions").iter().any(established) {
        errors.all_immutable(&path, &new["spec"], &old["spec"], &["scope"]);
        errors.all_immutable(&path.child("names"), &new["spec"]["names"], &old["spec"]["names"], &["kind"]);
    }
}
