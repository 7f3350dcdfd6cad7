//! The skeleton of a schema: types, fields and items.
use super::{MAX_DEPTH, conditions};
use crate::validate::field::{Errors, Path, Tree};
use serde_json::Value;

/// Where a schema stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Root,
    Field,
    Item,
}

pub fn node(errors: &mut Errors, path: &Path<'_>, schema: &Value, level: Level, depth: usize) {
    if depth > MAX_DEPTH {
        return errors.forbidden(path, format!("must not be nested deeper than {MAX_DEPTH} levels"));
    }
    if schema.text("type") == "array" && !schema.has("items") {
        errors.required(&path.child("items"), "must be specified");
    }
    if schema["items"].is_object() {
        node(errors, &path.child("items"), &schema["items"], Level::Item, depth + 1);
    }
    let fields = path.child("properties");
    for (name, of) in schema.entries("properties") {
        node(errors, &fields.key(name), of, Level::Field, depth + 1);
    }
    additional(errors, &path.child("additionalProperties"), schema, level, depth);
    extensions(errors, path, schema);
    conditions::of_schema(errors, path, schema, depth);
    type_of(errors, &path.child("type"), schema, level);
    resource(errors, path, schema, level);
}

fn additional(errors: &mut Errors, path: &Path<'_>, schema: &Value, level: Level, depth: usize) {
    if !schema.has("additionalProperties") {
        return;
    }
    if level == Level::Root {
        errors.forbidden(path, "must not be used at the root");
    }
    if schema["additionalProperties"].is_object() {
        node(errors, path, &schema["additionalProperties"], Level::Field, depth + 1);
    }
    if schema.flag("x-kubernetes-embedded-resource") {
        errors.forbidden(path, "must not be used if x-kubernetes-embedded-resource is set");
    }
}

fn extensions(errors: &mut Errors, path: &Path<'_>, schema: &Value) {
    if !schema.flag("x-kubernetes-int-or-string") {
        return;
    }
    for name in ["x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"] {
        if schema.flag(name) {
            errors.invalid(&path.child(name), true, "must be false if x-kubernetes-int-or-string is true");
        }
    }
}

fn type_of(errors: &mut Errors, path: &Path<'_>, schema: &Value, level: Level) {
    let (ty, embedded) = (schema.text("type"), schema.flag("x-kubernetes-embedded-resource"));
    let open = schema.flag("x-kubernetes-int-or-string") || schema.flag("x-kubernetes-preserve-unknown-fields");
    if embedded && ty != "object" {
        let text = "must be object if x-kubernetes-embedded-resource is true";
        if ty.is_empty() { errors.required(path, text) } else { errors.invalid(path, ty, text) }
    } else if ty.is_empty() && !open {
        errors.required(
            path,
            match level {
                Level::Root => "must not be empty at the root",
                Level::Item => "must not be empty for specified array items",
                Level::Field => "must not be empty for specified object fields",
            },
        );
    }
    if level == Level::Root && !ty.is_empty() && ty != "object" {
        errors.invalid(path, ty, "must be object at the root");
    }
}

/// The fields that every object has are Kubernetes' own.
fn resource(errors: &mut Errors, path: &Path<'_>, schema: &Value, level: Level) {
    let embedded = schema.flag("x-kubernetes-embedded-resource");
    let (fields, given) = (path.child("properties"), &schema["properties"]);
    if level == Level::Root || embedded {
        for (name, wanted) in [("kind", "string"), ("apiVersion", "string"), ("metadata", "object")] {
            if given.has(name) && given[name].text("type") != wanted {
                let at = fields.key(name);
                errors.invalid(&at.child("type"), given[name].text("type"), format!("must be {wanted}"));
            }
        }
    }
    if level == Level::Root && given.has("metadata") && says_more(&given["metadata"]) {
        let text = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.forbidden(&fields.key("metadata"), text);
    }
    if embedded && !schema.flag("x-kubernetes-preserve-unknown-fields") && schema.count("properties") == 0 {
        let text =
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.required(&fields, text);
    }
}

/// Whether a schema of metadata restricts more than names.
fn says_more(metadata: &Value) -> bool {
    let own = |name: &str| ["type", "default"].contains(&name);
    let names = metadata.entries("properties").all(|(name, _)| ["name", "generateName"].contains(&name));
    let mut others =
        metadata.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null() && **value != false);
    !others.all(|(name, _)| own(name) || (name == "properties" && names))
}
