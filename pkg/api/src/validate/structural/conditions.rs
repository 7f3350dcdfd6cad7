//! Conditions on values: they may not say what belongs into the skeleton.
use super::MAX_DEPTH;
use crate::validate::field::{Errors, Path, Tree};
use regex::Regex;
use serde_json::{Value, json};

/// What only the schema itself may say, and in what words a condition is told so.
const NOT_IN_CONDITIONS: &[(&str, &str)] = &[
    ("type", "must be empty to be structural"),
    ("additionalProperties", "must be undefined to be structural"),
    ("default", "must be undefined to be structural"),
    ("title", "must be empty to be structural"),
    ("description", "must be empty to be structural"),
    ("nullable", "must be false to be structural"),
    ("x-kubernetes-preserve-unknown-fields", "must be false to be structural"),
    ("x-kubernetes-embedded-resource", "must be false to be structural"),
    ("x-kubernetes-int-or-string", "must be false to be structural"),
    ("x-kubernetes-list-map-keys", "must be empty to be structural"),
    ("x-kubernetes-list-type", "must be undefined to be structural"),
    ("x-kubernetes-map-type", "must be undefined to be structural"),
    ("x-kubernetes-validations", "must be empty to be structural"),
];

/// The conditions of a schema of the skeleton. Two old ways to say "integer or string" are let pass.
pub fn of_schema(errors: &mut Errors, path: &Path<'_>, schema: &Value, depth: usize) {
    let is_pattern = |of: &Value| of["anyOf"] == json!([{"type": "integer"}, {"type": "string"}]);
    let skips = Skips { any_of: is_pattern(schema), first_all_of: is_pattern(&schema["allOf"][0]) };
    combinations(errors, path, schema, skips, depth);
}

#[derive(Clone, Copy, Default)]
struct Skips {
    any_of: bool,
    first_all_of: bool,
}

fn combinations(errors: &mut Errors, path: &Path<'_>, of: &Value, skips: Skips, depth: usize) {
    for name in ["anyOf", "allOf", "oneOf"] {
        let list = path.child(name);
        for (i, of) in of.list(name).iter().enumerate().filter(|_| !(name == "anyOf" && skips.any_of)) {
            let any_of = name == "allOf" && i == 0 && skips.first_all_of;
            condition(errors, &list.index(i), of, Skips { any_of, first_all_of: false }, depth + 1);
        }
    }
    if of["not"].is_object() {
        condition(errors, &path.child("not"), &of["not"], Skips::default(), depth + 1);
    }
    let pattern = of.text("pattern");
    if let Some(why) = (!pattern.is_empty()).then(|| Regex::new(pattern).err()).flatten() {
        let text = format!("must be a valid regular expression, but isn't: {}", go_error(pattern, &why.to_string()));
        errors.invalid(&path.child("pattern"), pattern, text);
    }
}

/// What Go's `regexp` says of the most frequent mistakes; of others what our parser says.
fn go_error(pattern: &str, why: &str) -> String {
    let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ");
    let (text, part) = match why {
        "unclosed group" => ("missing closing )", pattern),
        "unclosed character class" => ("missing closing ]", pattern.rfind('[').map_or(pattern, |at| &pattern[at..])),
        "unopened group" => ("unexpected )", pattern),
        other => (other, pattern),
    };
    format!("error parsing regexp: {text}: `{part}`")
}

fn condition(errors: &mut Errors, path: &Path<'_>, of: &Value, skips: Skips, depth: usize) {
    if depth > MAX_DEPTH {
        return errors.forbidden(path, format!("must not be nested deeper than {MAX_DEPTH} levels"));
    }
    combinations(errors, path, of, skips, depth);
    if of["items"].is_object() {
        condition(errors, &path.child("items"), &of["items"], Skips::default(), depth + 1);
    }
    let fields = path.child("properties");
    for (name, field) in of.entries("properties") {
        condition(errors, &fields.key(name), field, Skips::default(), depth + 1);
    }
    let says = |name: &str| match &of[name] {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => true,
    };
    for (name, text) in NOT_IN_CONDITIONS.iter().filter(|(name, _)| says(name)) {
        errors.forbidden(&path.child(name), *text);
    }
    if of["properties"].has("metadata") {
        errors.forbidden(&fields.key("metadata"), "must not be specified in a nested context");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_patterns_are_told_as_go_tells_them() {
        let said = |pattern: &str| go_error(pattern, &Regex::new(pattern).unwrap_err().to_string());
        assert_eq!(said("("), "error parsing regexp: missing closing ): `(`");
        assert_eq!(said("a["), "error parsing regexp: missing closing ]: `[`");
    }
}
