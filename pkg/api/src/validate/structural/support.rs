//! What of JSON schema is supported, and where defaults may stand.
use super::lists;
use crate::validate::field::{Errors, Path, Tree};
use serde_json::Value;

const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];
const UNSUPPORTED: &[&str] = &["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"];
const COMBINATIONS: &[&str] = &["allOf", "oneOf", "anyOf"];

/// Where a schema stands.
#[derive(Clone, Default)]
pub struct Place {
    root: bool,
    /// In the schema of a `metadata`, `kind` or `apiVersion`.
    in_metadata: bool,
    /// Why there may be no default.
    no_default: Option<String>,
}

impl Place {
    pub fn root() -> Self {
        Self { root: true, ..Self::default() }
    }

    fn below(&self) -> Self {
        Self { root: false, ..self.clone() }
    }

    fn additional(&self) -> Self {
        let why = "inside additionalProperties applying to object metadata";
        let no_default = if self.in_metadata { Some(why.into()) } else { self.no_default.clone() };
        Self { no_default, ..self.below() }
    }

    fn field(&self, name: &str, embedded: bool) -> Self {
        let own = (self.root || embedded) && ["metadata", "kind", "apiVersion"].contains(&name);
        let forbidden = (own && self.root).then(|| format!("in top-level {name}"));
        let mut below = self.below();
        below.in_metadata |= own;
        below.no_default = forbidden.or(below.no_default);
        below
    }
}

/// One schema, whether of the skeleton or a condition.
pub fn node(errors: &mut Errors, path: &Path<'_>, schema: &Value, place: &Place) {
    own(errors, path, schema, place);
    if schema["additionalProperties"].is_object() {
        let at = path.child("additionalProperties");
        node(errors, &at, &schema["additionalProperties"], &place.additional());
    }
    let (fields, embedded) = (path.child("properties"), schema.flag("x-kubernetes-embedded-resource"));
    for (name, of) in schema.entries("properties") {
        node(errors, &fields.key(name), of, &place.field(name, embedded));
    }
    if schema["not"].is_object() {
        node(errors, &path.child("not"), &schema["not"], &place.below());
    }
    for name in COMBINATIONS {
        let list = path.child(name);
        for (i, of) in schema.list(name).iter().enumerate() {
            node(errors, &list.index(i), of, &place.below());
        }
    }
    if schema["items"].is_object() {
        node(errors, &path.child("items"), &schema["items"], &place.below());
    }
    if schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
        errors.invalid(&path.child("x-kubernetes-preserve-unknown-fields"), false, "must be true or undefined");
    }
    lists::map_type(errors, path, schema);
    lists::list_type(errors, path, schema);
    lists::keys(errors, path, schema);
}

fn own(errors: &mut Errors, path: &Path<'_>, schema: &Value, place: &Place) {
    let ty = schema.text("type");
    if !ty.is_empty() && !TYPES.contains(&ty) {
        errors.unsupported(&path.child("type"), ty, TYPES);
    }
    if let (Some(why), true) = (&place.no_default, schema.has("default")) {
        errors.forbidden(&path.child("default"), format!("must not be set {why}"));
    }
    for name in UNSUPPORTED.iter().filter(|name| schema.has(name)) {
        errors.forbidden(&path.child(name), format!("{name} is not supported"));
    }
    if ty == "null" {
        errors.forbidden(&path.child("type"), "type cannot be set to null, use nullable as an alternative");
    }
    if schema["items"].is_array() {
        errors.forbidden(&path.child("items"), "items must be a schema object and not an array");
    }
    if place.in_metadata && schema.flag("x-kubernetes-embedded-resource") {
        let text = "must not be used inside of resource meta";
        errors.forbidden(&path.child("x-kubernetes-embedded-resource"), text);
    }
    if schema.flag("uniqueItems") {
        let text = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.forbidden(&path.child("uniqueItems"), text);
    }
    let open = schema.has("additionalProperties") && schema["additionalProperties"] != true;
    if open && schema.count("properties") > 0 {
        let text = "additionalProperties and properties are mutual exclusive";
        errors.forbidden(&path.child("additionalProperties"), text);
    }
}
