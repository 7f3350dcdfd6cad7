//! What conditions speak of, the skeleton must have.
use crate::validate::field::{Errors, Path, Tree};
use serde_json::Value;

/// The conditions that stand in `of`, at `from`, against the skeleton at `path`. (The shape's check has bounded the
/// depth.)
pub fn node(errors: &mut Errors, of: &Value, from: &Path<'_>, path: &Path<'_>, schema: &Value) {
    for name in ["not", "allOf", "anyOf", "oneOf"] {
        let at = from.child(name);
        if of[name].is_object() {
            condition(errors, &of[name], &at, path, schema);
        }
        for (i, of) in of.list(name).iter().enumerate() {
            condition(errors, of, &at.index(i), path, schema);
        }
    }
}

fn condition(errors: &mut Errors, of: &Value, from: &Path<'_>, path: &Path<'_>, schema: &Value) {
    if !schema.is_object() {
        return errors.required(path, format!("because it is defined in {from}"));
    }
    node(errors, of, from, path, schema);
    if of["items"].is_object() {
        condition(errors, &of["items"], &from.child("items"), &path.child("items"), &schema["items"]);
    }
    let (fields, places) = (from.child("properties"), path.child("properties"));
    for (name, field) in of.entries("properties") {
        condition(errors, field, &fields.key(name), &places.key(name), &schema["properties"][name]);
    }
}
