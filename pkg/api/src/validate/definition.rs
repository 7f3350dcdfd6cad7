//! CustomResourceDefinitions (`k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation`).
use super::field::{Errors, Path, Tree};
use super::shown::shown;
use super::{admission, names, structural};
use serde_json::Value;
use std::collections::BTreeSet;

const APPROVAL: &str = "api-approved.kubernetes.io";
const MAX_SELECTABLE_FIELDS: usize = 8;
const REVIEWS: &[&str] = &["v1", "v1beta1"];
const COLUMN_FORMATS: &[&str] = &["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
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
    conversion(errors, &path.child("conversion"), &spec["conversion"]);
    accepted_names(errors, object);
    stored_versions(errors, object);
    if spec.flag("preserveUnknownFields") {
        let text =
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.invalid(&path.child("preserveUnknownFields"), true, text);
    }
}

/// On a create only: an update may keep what the annotation said.
pub fn definition_create(errors: &mut Errors, object: &Value) {
    approval(errors, object);
}

/// Whether a definition of Kubernetes' own groups was approved, as its annotation says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approval {
    /// Not a group that needs any.
    NotNeeded,
    Missing,
    Invalid,
    Approved,
    /// Says itself that it is not.
    Bypassed,
}

/// The approval of a definition, and what upstream says of it.
pub fn approval_of(definition: &Value) -> (Approval, String) {
    let group = definition["spec"].text("group");
    if !["k8s.io", "kubernetes.io"].iter().any(|own| group == *own || group.ends_with(&format!(".{own}"))) {
        return (Approval::NotNeeded, String::new());
    }
    const SEE: &str = "see https://github.com/kubernetes/enhancements/pull/1111";
    match definition["metadata"]["annotations"].text(APPROVAL) {
        "" => (Approval::Missing, format!("protected groups must have approval annotation {APPROVAL:?}, {SEE}")),
        text if text.starts_with("unapproved") => (Approval::Bypassed, format!("not approved: {text:?}")),
        text if url::Url::parse(text).is_ok_and(|url| url.has_host()) => {
            (Approval::Approved, format!("approved in {text}"))
        }
        _ => {
            let text = "with either a URL or a reason starting with \"unapproved\"";
            (Approval::Invalid, format!("protected groups must have approval annotation {APPROVAL:?} {text}, {SEE}"))
        }
    }
}

fn approval(errors: &mut Errors, object: &Value) {
    let (meta, (state, why)) = (Path::field("metadata"), approval_of(object));
    let annotations = meta.child("annotations");
    let at = annotations.key(APPROVAL);
    match state {
        Approval::Missing => errors.required(&at, why),
        Approval::Invalid => errors.invalid(&at, object["metadata"]["annotations"].text(APPROVAL), why),
        Approval::NotNeeded | Approval::Approved | Approval::Bypassed => {}
    }
}

fn conversion(errors: &mut Errors, path: &Path<'_>, conversion: &Value) {
    if conversion.is_null() {
        return;
    }
    errors.one_of(&path.child("strategy"), conversion.text("strategy"), &["None", "Webhook"]);
    let webhook = &conversion["webhook"];
    let (config, versions) = (path.child("webhookClientConfig"), path.child("conversionReviewVersions"));
    if conversion.text("strategy") != "Webhook" {
        let text = "should not be set when strategy is not set to Webhook";
        if webhook.has("clientConfig") {
            errors.forbidden(&config, text);
        }
        if webhook.count("conversionReviewVersions") > 0 {
            errors.forbidden(&versions, text);
        }
        return;
    }
    if webhook.has("clientConfig") {
        admission::client_config(errors, &config, &webhook["clientConfig"]);
    } else {
        errors.required(&config, "required when strategy is set to Webhook");
    }
    let given: Vec<&str> = webhook.texts("conversionReviewVersions").collect();
    if given.is_empty() {
        return errors.required(&versions, "");
    }
    admission::listed_versions(errors, &versions, &given, REVIEWS);
}

/// What was accepted before must have the form of names, too.
pub fn accepted_names(errors: &mut Errors, object: &Value) {
    let status = Path::field("status");
    forms(errors, &status.child("acceptedNames"), &object["status"]["acceptedNames"]);
}

fn group(errors: &mut Errors, path: &Path<'_>, group: &str) {
    match group {
        "" => errors.required(path, ""),
        _ if !group.contains('.') => errors.invalid(path, group, "should be a domain with at least one dot"),
        _ => errors.each(path, group, names::dns_subdomain(group)),
    }
}

/// Versions as upstream shows them: what all have alike has moved to the top of the definition.
fn shown_versions(list: &[Value], detail: &str) -> String {
    const SHARED: &[&str] = &["schema", "subresources", "additionalPrinterColumns", "selectableFields"];
    let moved: Vec<&&str> = SHARED.iter().filter(|name| list.iter().all(|of| of[**name] == list[0][**name])).collect();
    let shown = |version: &Value| {
        let mut version = version.clone();
        if let Some(fields) = version.as_object_mut() {
            fields.retain(|name, _| !moved.iter().any(|moved| **moved == name));
        }
        shown("apiextensions.CustomResourceDefinitionVersion", &version)
    };
    let all: Vec<String> = list.iter().map(shown).collect();
    format!("[{}]: {detail}", all.join(","))
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
            errors.invalid_whole(&path.child("versions"), shown_versions(list, "must contain unique version names"));
        }
        if !version["schema"].has("openAPIV3Schema") {
            let schema = at.child("schema");
            errors.required(&schema.child("openAPIV3Schema"), "");
        }
    }
    if list.iter().filter(|version| version.flag("storage")).count() != 1 {
        errors.invalid_whole(&at, shown_versions(list, "must have exactly one version marked as storage version"));
    }
    // What all versions have alike, upstream checks (and reports) once, at the top.
    let alike = |name: &str| list.iter().all(|version| version[name] == list[0][name]);
    for (i, version) in list.iter().enumerate() {
        let at = at.index(i);
        let of = &version["schema"];
        if of.has("openAPIV3Schema") && !(alike("schema") && i > 0) {
            let any = list.iter().any(has_status);
            let (place, status) = if alike("schema") {
                (path.child("validation"), any)
            } else {
                (at.child("schema"), has_status(version))
            };
            structural::schema(errors, &place.child("openAPIV3Schema"), &of["openAPIV3Schema"], status);
        }
        let mut part = |name: &str, top: &str, check: fn(&mut Errors, &Path<'_>, &Value)| {
            if !version.has(name) || (alike(name) && i > 0) {
                return;
            }
            let place = if alike(name) { path.child(top) } else { at.child(name) };
            check(errors, &place, &version[name]);
        };
        part("subresources", "subresources", |errors, path, of| scale(errors, &path.child("scale"), &of["scale"]));
        part("additionalPrinterColumns", "additionalPrinterColumns", columns);
        if version.count("selectableFields") > 0 && !(alike("selectableFields") && i > 0) {
            let place = if alike("selectableFields") { path } else { &at };
            let place = place.child("selectableFields");
            if alike("schema") && !alike("selectableFields") {
                // Upstream looks for the schema where it has just taken it away from.
                let text = "may only be set when `version.schema.openAPIV3Schema` is not included";
                errors.invalid(&place, "", text);
            } else {
                selectable(errors, &place, version);
            }
        }
        deprecation(errors, &at.child("deprecationWarning"), version);
    }
}

fn has_status(version: &Value) -> bool {
    version["subresources"].has("status")
}

fn deprecation(errors: &mut Errors, path: &Path<'_>, version: &Value) {
    const LIMIT_BYTES: usize = 256;
    if !version.has("deprecationWarning") {
        return;
    }
    let text = version.text("deprecationWarning");
    if !version.flag("deprecated") {
        return errors.invalid(path, text, "can only be set for deprecated versions");
    }
    if text.len() > LIMIT_BYTES {
        errors.invalid(path, text, format!("must be <= {LIMIT_BYTES} characters long"));
    }
    if text.is_empty() {
        errors.invalid(path, text, "must not be an empty string");
    }
    if let Some((at, _)) = text.char_indices().find(|(_, c)| c.is_control()) {
        let why = format!("must only contain printable UTF-8 characters; non-printable character found at index {at}");
        errors.invalid(path, text, why);
    }
}

/// Fields that selectors may name.
fn selectable(errors: &mut Errors, path: &Path<'_>, version: &Value) {
    let schema = &version["schema"]["openAPIV3Schema"];
    let mut seen = BTreeSet::new();
    for (i, field) in version.list("selectableFields").iter().enumerate() {
        let (at, given) = (path.index(i), field.text("jsonPath"));
        let at = at.child("jsonPath");
        if given.is_empty() {
            errors.required(&at, "");
            continue;
        }
        let found = match structural::find(schema, given, false) {
            Ok(found) => found,
            Err(why) => {
                errors.invalid(&at, given, format!("is an invalid path: {why}"));
                continue;
            }
        };
        if found.path.starts_with(".metadata")
            && matches!(found.path.as_bytes().get(".metadata".len()), None | Some(b'.'))
        {
            errors.invalid(&at, given, "must not point to fields in metadata");
        }
        if !["string", "boolean", "integer"].contains(&found.schema.text("type")) {
            let text = "must point to a field of type string, boolean or integer. Enum string fields and strings with \
                        formats are allowed.";
            errors.invalid(&at, given, text);
        }
        if !seen.insert(found.path) {
            errors.duplicate(&at, given);
        }
    }
    if seen.len() > MAX_SELECTABLE_FIELDS {
        errors.too_many(path, seen.len(), MAX_SELECTABLE_FIELDS);
    }
}

fn is_simple_path(path: &str) -> bool {
    path.starts_with('.')
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
        errors.invalid(&at, value, "should be a json path under either .spec or .status");
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
        let format = column.text("format");
        if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
            errors.invalid(&at.child("format"), format, format!("must be one of {}", COLUMN_FORMATS.join(",")));
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
    for name in ["plural", "singular", "kind", "listKind"].into_iter().filter(|name| of.text(name).is_empty()) {
        errors.required(&path.child(name), "");
    }
    forms(errors, path, of);
}

/// What names look like, where they are given.
fn forms(errors: &mut Errors, path: &Path<'_>, of: &Value) {
    let given = |name: &'static str| Some((name, of.text(name))).filter(|(_, text)| !text.is_empty());
    for (name, text) in ["plural", "singular"].into_iter().filter_map(given) {
        errors.each(&path.child(name), text, names::dns1035_label(text));
    }
    for (name, text) in ["kind", "listKind"].into_iter().filter_map(given) {
        for message in names::dns1035_label(&text.to_lowercase()) {
            let message = format!("may have mixed case, but should otherwise match: {message}");
            errors.invalid(&path.child(name), text, message);
        }
    }
    for (i, text) in of.texts("shortNames").enumerate() {
        errors.each(&path.child("shortNames").index(i), text, names::dns1035_label(text));
    }
    let (kind, list) = (of.text("kind"), of.text("listKind"));
    if !kind.is_empty() && kind == list {
        errors.invalid(&path.child("listKind"), list, "kind and listKind may not be the same");
    }
    for (i, text) in of.texts("categories").enumerate() {
        errors.each(&path.child("categories").index(i), text, names::dns1035_label(text));
    }
}

/// Versions that objects may be stored in must stay readable.
fn stored_versions(errors: &mut Errors, object: &Value) {
    let status = Path::field("status");
    let path = status.child("storedVersions");
    if object["status"].count("storedVersions") == 0 {
        return errors.invalid(&path, Value::Null, "must have at least one stored version");
    }
    let storage = object["spec"].list("versions").iter().filter(|version| version.flag("storage"));
    for name in storage.map(|version| version.text("name")) {
        if !object["status"].texts("storedVersions").any(|stored| stored == name) {
            let given = object["status"]["storedVersions"].clone();
            errors.invalid(&path, given, format!("must have the storage version {name}"));
        }
    }
    let all = &object["status"]["storedVersions"];
    let mut left: BTreeSet<&str> = object["status"].texts("storedVersions").collect();
    for version in object["spec"].list("versions") {
        let name = version.text("name");
        // A version that stands there twice finds itself gone the second time, as upstream's does.
        if !left.remove(name) && version.flag("storage") {
            errors.invalid(&path, all.clone(), format!("must have the storage version {name}"));
        }
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

/// Rules of a schema that did not change may cost what they did.
fn forgive_costs(errors: &mut Errors, new: &Value, old: &Value) {
    for (i, version) in new["spec"].list("versions").iter().enumerate() {
        let mut before = old["spec"].list("versions").iter().filter(|old| old["name"] == version["name"]);
        if before.any(|old| old["schema"] == version["schema"]) {
            let own = format!("spec.versions[{i}].schema.");
            let is_of = |field: &str| field.starts_with(&own) || (i == 0 && field.starts_with("spec.validation."));
            errors.0.retain(|error| !(structural::is_estimate(error) && is_of(&error.field)));
        }
    }
}

/// Names stay once clients have learnt them.
pub fn definition_update(errors: &mut Errors, new: &Value, old: &Value) {
    forgive_costs(errors, new, old);
    let path = Path::field("spec");
    let established = |condition: &Value| condition.text("type") == "Established" && condition.text("status") == "True";
    errors.all_immutable(&path, &new["spec"], &old["spec"], &["group"]);
    errors.all_immutable(&path.child("names"), &new["spec"]["names"], &old["spec"]["names"], &["plural"]);
    if old["status"].list("conditions").iter().any(established) {
        errors.all_immutable(&path, &new["spec"], &old["spec"], &["scope"]);
        errors.all_immutable(&path.child("names"), &new["spec"]["names"], &old["spec"]["names"], &["kind"]);
    }
    if approval_of(new).0 != approval_of(old).0 {
        approval(errors, new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn versions_are_shown_without_what_they_share() {
        let schema = json!({"openAPIV3Schema": {"type": "object"}});
        let list = [json!({"name": "v1", "served": true, "storage": true, "schema": schema})];
        let rest = r#""Subresources":null,"AdditionalPrinterColumns":null,"SelectableFields":null"#;
        let first = r#""Name":"v1","Served":true,"Storage":true,"Deprecated":false,"DeprecationWarning":null"#;
        assert_eq!(shown_versions(&list, "why"), format!("[{{{first},\"Schema\":null,{rest}}}]: why"));
    }

    #[test]
    fn a_storage_version_is_stored_once() {
        let version = json!({"name": "v1", "storage": true});
        let found = |versions: Value| {
            let mut errors = Errors::default();
            let object = json!({"spec": {"versions": versions}, "status": {"storedVersions": ["v1"]}});
            stored_versions(&mut errors, &object);
            errors.0.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(found(json!([version])), [""; 0]);
        let text = "status.storedVersions: Invalid value: [\"v1\"]: must have the storage version v1";
        assert_eq!(found(json!([version, version])), [text]);
    }
}
