//! What lists and maps are to those who merge them (`x-kubernetes-list-type` and its kin).
use crate::validate::field::{Errors, Path, Tree};
use serde_json::Value;
use std::collections::BTreeSet;

const LIST_TYPE: &str = "x-kubernetes-list-type";
const MAP_TYPE: &str = "x-kubernetes-map-type";
const KEYS: &str = "x-kubernetes-list-map-keys";

/// A schema that says how it merges must be of this type.
fn has_type(errors: &mut Errors, path: &Path<'_>, schema: &Value, wanted: &str, extension: &str) -> bool {
    let (at, ty) = (path.child("type"), schema.text("type"));
    let text = format!("must be {wanted} if {extension} is specified");
    match ty {
        _ if !schema.has(extension) || ty == wanted => return true,
        "" => errors.required(&at, text),
        _ => errors.invalid(&at, ty, text),
    }
    false
}

pub fn map_type(errors: &mut Errors, path: &Path<'_>, schema: &Value) {
    has_type(errors, path, schema, "object", MAP_TYPE);
    let kinds = &["atomic", "granular"];
    if schema.has(MAP_TYPE) && !kinds.contains(&schema.text(MAP_TYPE)) {
        errors.unsupported(&path.child(MAP_TYPE), schema.text(MAP_TYPE), kinds);
    }
}

pub fn list_type(errors: &mut Errors, path: &Path<'_>, schema: &Value) {
    if has_type(errors, path, schema, "array", LIST_TYPE) && schema.text(LIST_TYPE) == "set" {
        set_item(errors, &path.child("items"), &schema["items"]);
    }
    let kinds = &["atomic", "set", "map"];
    if schema.has(LIST_TYPE) && !kinds.contains(&schema.text(LIST_TYPE)) {
        errors.unsupported(&path.child(LIST_TYPE), schema.text(LIST_TYPE), kinds);
    }
}

/// Members of a set are compared whole.
fn set_item(errors: &mut Errors, path: &Path<'_>, item: &Value) {
    let text = "must be atomic as item of a list with x-kubernetes-list-type=set";
    let given = item[LIST_TYPE].clone();
    match item.text("type") {
        "array" if item.has(LIST_TYPE) && item.text(LIST_TYPE) != "atomic" => {
            errors.invalid(&path.child(LIST_TYPE), given, text);
        }
        "object" if item.text(MAP_TYPE) != "atomic" => errors.invalid(&path.child(MAP_TYPE), given, text),
        _ => {}
    }
}

/// The keys of a list that is a map.
pub fn keys(errors: &mut Errors, path: &Path<'_>, schema: &Value) {
    let (kind, keys) = (schema.text(LIST_TYPE), path.child(KEYS));
    let none = schema.count(KEYS) == 0;
    if !none && kind != "map" {
        let (at, text) = (path.child(LIST_TYPE), "must be map if x-kubernetes-list-map-keys is non-empty");
        if kind.is_empty() { errors.required(&at, text) } else { errors.invalid(&at, kind, text) }
    }
    if kind == "map" {
        if none {
            errors.required(&keys, "must not be empty if x-kubernetes-list-type is map");
        }
        if !schema.has("items") {
            errors.required(&path.child("items"), "must have a schema if x-kubernetes-list-type is map");
        } else {
            key_types(errors, path, schema);
        }
    }
    if ["set", "map"].contains(&kind) && schema["items"].is_object() {
        items(errors, &path.child("items"), schema);
    }
}

fn key_types(errors: &mut Errors, path: &Path<'_>, schema: &Value) {
    let (items, item) = (path.child("items"), &schema["items"]);
    if item.text("type") != "object" {
        let text = "must be object if parent array's x-kubernetes-list-type is map";
        return errors.invalid(&items.child("type"), item.text("type"), text);
    }
    let (keys, fields) = (path.child(KEYS), items.child("properties"));
    let mut seen = BTreeSet::new();
    for key in schema.texts(KEYS) {
        let of = &item["properties"][key];
        if of.is_null() {
            errors.invalid(&keys, schema[KEYS].clone(), "entries must all be names of item properties");
        } else if ["array", "object"].contains(&of.text("type")) {
            let text = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            let at = fields.key(key);
            errors.invalid(&at.child("type"), item.text("type"), text);
        }
        if !seen.insert(key) {
            errors.invalid(&keys, schema[KEYS].clone(), "must not contain duplicate entries");
        }
    }
}

/// Keys are always there, and items are never null.
fn items(errors: &mut Errors, path: &Path<'_>, schema: &Value) {
    let (kind, item) = (schema.text(LIST_TYPE), &schema["items"]);
    if item.flag("nullable") {
        let text = format!("cannot be nullable when x-kubernetes-list-type is {kind}");
        errors.forbidden(&path.child("nullable"), text);
    }
    let fields = path.child("properties");
    for key in schema.texts(KEYS).filter(|key| kind == "map" && item["properties"].has(key)) {
        let (at, of) = (fields.key(key), &item["properties"][key]);
        if !item.texts("required").any(|name| name == key) && !of.has("default") {
            let text =
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.required(&at.child("default"), text);
        }
        if of.flag("nullable") {
            let text = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.forbidden(&at.child("nullable"), text);
        }
    }
}
