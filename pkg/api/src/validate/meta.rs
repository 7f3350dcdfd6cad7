//! `metadata`, of every kind (`k8s.io/apimachinery/pkg/api/validation/objectmeta.go`).
use super::field::{Errors, Path, Tree};
use super::names;
use serde_json::Value;

/// All annotations of an object together.
const ANNOTATIONS_MAX_BYTES: usize = 256 * 1024;

/// What the names of a kind look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// Most kinds.
    Subdomain,
    /// Namespaces, Services, StatefulSets.
    Label,
    /// Roles and bindings: whatever a path may hold.
    PathSegment,
    /// IPAddress objects; checked with the kind.
    Any,
}

impl NameRule {
    pub fn check(self, name: &str) -> Vec<String> {
        match self {
            Self::Subdomain => names::dns_subdomain(name),
            Self::Label => names::dns_label(name),
            Self::PathSegment => names::path_segment(name),
            Self::Any => Vec::new(),
        }
    }

    fn check_prefix(self, prefix: &str) -> Vec<String> {
        match self {
            Self::PathSegment | Self::Any => self.check(prefix),
            _ => self.check(&names::mask_trailing_dash(prefix)),
        }
    }
}

pub fn metadata(errors: &mut Errors, object: &Value, rule: NameRule) {
    let path = Path::field("metadata");
    let meta = &object["metadata"];
    let prefix = meta.text("generateName");
    if !prefix.is_empty() {
        errors.each(&path.child("generateName"), prefix, rule.check_prefix(prefix));
    }
    match meta.text("name") {
        "" => errors.required(&path.child("name"), "name or generateName is required"),
        name => errors.each(&path.child("name"), name, rule.check(name)),
    }
    let namespace = meta.text("namespace");
    if !namespace.is_empty() {
        errors.each(&path.child("namespace"), namespace, names::dns_label(namespace));
    }
    errors.none_negative(&path, meta, &["generation"]);
    labels(errors, &path.child("labels"), meta, "labels");
    annotations(errors, &path.child("annotations"), meta);
    owners(errors, &path.child("ownerReferences"), meta);
    finalizers(errors, &path.child("finalizers"), meta);
}

/// Of built-in kinds: a finalizer without a domain is one of Kubernetes' own.
pub fn standard_finalizers(errors: &mut Errors, object: &Value) {
    let meta = Path::field("metadata");
    let path = meta.child("finalizers");
    for (i, name) in object["metadata"].texts("finalizers").enumerate() {
        if !name.contains('/') && !["kubernetes", "orphan", "foregroundDeletion"].contains(&name) {
            let text = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(&path.index(i), name, text);
        }
    }
}

/// What an update may not do to metadata. (Name, namespace, uid and times are the engine's to keep.)
pub fn metadata_update(errors: &mut Errors, new: &Value, old: &Value) {
    let path = Path::field("metadata");
    let (new, old) = (&new["metadata"], &old["metadata"]);
    if old.has("deletionTimestamp") {
        let added: Vec<String> = new
            .texts("finalizers")
            .filter(|name| !old.texts("finalizers").any(|known| known == *name))
            .map(|name| format!("{name:?}"))
            .collect();
        if !added.is_empty() {
            let text = "no new finalizers can be added if the object is being deleted, found new finalizers";
            errors.forbidden(&path.child("finalizers"), format!("{text} []string{{{}}}", added.join(", ")));
        }
    }
    errors.all_immutable(&path, new, old, &["name", "namespace", "uid", "creationTimestamp"]);
}

/// What upstream looks at once more in an update (at labels three times), so that it is among the causes again.
pub fn once_more(errors: &mut Errors, object: &Value) {
    let (path, meta) = (Path::field("metadata"), &object["metadata"]);
    for _ in 0..3 {
        labels(errors, &path.child("labels"), meta, "labels");
    }
    annotations(errors, &path.child("annotations"), meta);
    owners(errors, &path.child("ownerReferences"), meta);
}

/// The metadata of a pod template: labels and annotations only.
pub fn template(errors: &mut Errors, path: &Path<'_>, meta: &Value) {
    labels(errors, &path.child("labels"), meta, "labels");
    annotations(errors, &path.child("annotations"), meta);
}

/// A map of labels: `of[name]`, reported at `path`.
pub fn labels(errors: &mut Errors, path: &Path<'_>, of: &Value, name: &str) {
    for (key, value) in of.entries(name) {
        errors.each(path, key, names::qualified_name(key));
        let value = value.as_str().unwrap_or_default();
        errors.each(path, value, names::label_value(value));
    }
}

pub fn annotations(errors: &mut Errors, path: &Path<'_>, meta: &Value) {
    let mut total = 0;
    for (key, value) in meta.entries("annotations") {
        if key.bytes().any(|b| b.is_ascii_uppercase()) {
            errors.each(path, key, names::qualified_name(&key.to_lowercase()));
        } else {
            errors.each(path, key, names::qualified_name(key));
        }
        total += key.len() + value.as_str().map_or(0, str::len);
    }
    if total > ANNOTATIONS_MAX_BYTES {
        errors.too_long(path, ANNOTATIONS_MAX_BYTES);
    }
}

fn owners(errors: &mut Errors, path: &Path<'_>, meta: &Value) {
    let mut controller: Option<String> = None;
    for owner in meta.list("ownerReferences") {
        let version = owner.text("apiVersion");
        if version.is_empty() || version.ends_with('/') {
            errors.invalid(&path.child("apiVersion"), version, "version must not be empty");
        }
        for field in ["kind", "name", "uid"] {
            if owner.text(field).is_empty() {
                errors.invalid(&path.child(field), "", "must not be empty");
            }
        }
        if (version, owner.text("kind")) == ("v1", "Event") {
            errors.invalid(path, owner.clone(), "/v1, Kind=Event is disallowed from being an owner");
        }
        if owner.flag("controller") {
            let name = format!("{}/{}", owner.text("kind"), owner.text("name"));
            match &controller {
                None => controller = Some(name),
                Some(first) => {
                    let text = "Only one reference can have Controller set to true. Found \"true\" in references for";
                    let all = meta["ownerReferences"].clone();
                    errors.invalid(path, all, format!("{text} {first} and {name}"));
                }
            }
        }
    }
}

fn finalizers(errors: &mut Errors, path: &Path<'_>, meta: &Value) {
    for name in meta.texts("finalizers") {
        errors.each(path, name, names::qualified_name(name));
    }
    let has = |wanted| meta.texts("finalizers").any(|name| name == wanted);
    if has("orphan") && has("foregroundDeletion") {
        let all = meta["finalizers"].clone();
        errors.invalid(path, all, "finalizer orphan and foregroundDeletion cannot be both set");
    }
}
