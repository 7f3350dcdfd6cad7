//! Whether a custom resource's schema is structural: that its shape can be read off without its conditions
//! (`k8s.io/apiextensions-apiserver/pkg/apiserver/schema`).
use super::field::{Errors, Path, Tree};
use regex::Regex;
use serde_json::Value;

const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];
const COMBINATIONS: &[&str] = &["allOf", "anyOf", "oneOf"];
const RULE_REASONS: &[&str] =
    &["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
/// What only the schema itself may say, not a condition on it.
const NOT_IN_CONDITIONS: &[&str] = &[
    "type",
    "additionalProperties",
    "description",
    "title",
    "default",
    "nullable",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-int-or-string",
];
/// Schemas nest no deeper than this; a deeper one is refused.
const MAX_DEPTH: usize = 64;

/// Where a schema stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Field,
    Item,
}

/// The whole schema of a version.
pub fn schema(errors: &mut Errors, path: &Path<'_>, schema: &Value) {
    node(errors, path, schema, Level::Root, 0);
}

fn node(errors: &mut Errors, path: &Path<'_>, schema: &Value, level: Level, depth: usize) {
    if depth > MAX_DEPTH {
        return errors.forbidden(path, format!("must not be nested deeper than {MAX_DEPTH} levels"));
    }
    type_of(errors, &path.child("type"), schema, level);
    own_rules(errors, path, schema);
    list_type(errors, path, schema);
    if level == Level::Root || schema.flag("x-kubernetes-embedded-resource") {
        resource(errors, path, schema);
    }
    let fields = path.child("properties");
    for (name, of) in schema.entries("properties") {
        node(errors, &fields.key(name), of, Level::Field, depth + 1);
    }
    if schema["additionalProperties"].is_object() {
        node(errors, &path.child("additionalProperties"), &schema["additionalProperties"], Level::Field, depth + 1);
    }
    if schema["items"].is_object() {
        node(errors, &path.child("items"), &schema["items"], Level::Item, depth + 1);
    }
    conditions(errors, path, schema, depth);
    rules(errors, path, schema, level == Level::Root || schema.flag("x-kubernetes-embedded-resource"));
}

/// `x-kubernetes-validations`.
fn rules(errors: &mut Errors, path: &Path<'_>, schema: &Value, resource: bool) {
    let list = path.child("x-kubernetes-validations");
    for (i, rule) in schema.list("x-kubernetes-validations").iter().enumerate() {
        let at = list.index(i);
        if rule_texts(errors, &at, rule)
            && let Some((field, text)) = crate::cel::rules::check(schema, "selfType", resource, rule)
        {
            errors.invalid(&at.child(field), shown(rule), text);
        }
    }
}

/// A rule as upstream prints it.
fn shown(rule: &Value) -> Value {
    serde_json::json!({
        "Rule": rule.text("rule"), "Message": rule.text("message"),
        "MessageExpression": rule.text("messageExpression"), "Reason": rule["reason"],
        "FieldPath": rule.text("fieldPath"), "OptionalOldSelf": rule["optionalOldSelf"],
    })
}

/// Whether the texts of a rule are such that it can be compiled.
fn rule_texts(errors: &mut Errors, path: &Path<'_>, rule: &Value) -> bool {
    let (message, expression) = (rule.text("message"), rule.text("messageExpression"));
    let lines = |text: &str| text.trim().contains(['\n', '\r']);
    if rule.text("rule").trim().is_empty() {
        errors.required(&path.child("rule"), "rule is not specified");
        return false;
    }
    if !message.is_empty() && message.trim().is_empty() {
        errors.invalid(&path.child("message"), message, "must be non-empty if specified");
    } else if lines(message) {
        errors.invalid(&path.child("message"), message, "must not contain line breaks");
    } else if lines(rule.text("rule")) && message.trim().is_empty() {
        errors.required(&path.child("message"), "message must be specified if rule contains line breaks");
    }
    if !expression.is_empty() && expression.trim().is_empty() {
        errors.required(&path.child("messageExpression"), "messageExpression must be non-empty if specified");
        return false;
    }
    if rule.has("reason") && !RULE_REASONS.contains(&rule.text("reason")) {
        errors.unsupported(&path.child("reason"), rule.text("reason"), RULE_REASONS);
    }
    true
}

fn type_of(errors: &mut Errors, path: &Path<'_>, schema: &Value, level: Level) {
    let ty = schema.text("type");
    if !ty.is_empty() {
        if !TYPES.contains(&ty) {
            errors.unsupported(path, ty, TYPES);
        }
        if ty != "object" && level == Level::Root {
            errors.invalid(path, ty, "must be object at the root");
        } else if ty != "object" && schema.flag("x-kubernetes-embedded-resource") {
            errors.invalid(path, ty, "must be object if x-kubernetes-embedded-resource is true");
        }
        return;
    }
    let open = schema.flag("x-kubernetes-int-or-string") || schema.flag("x-kubernetes-preserve-unknown-fields");
    match level {
        Level::Root => errors.required(path, "must not be empty at the root"),
        Level::Item if !open => errors.required(path, "must not be empty for specified array items"),
        Level::Field if !open => errors.required(path, "must not be empty for specified object fields"),
        _ => {}
    }
}

fn own_rules(errors: &mut Errors, path: &Path<'_>, schema: &Value) {
    if schema.text("type") == "array" && !schema.has("items") {
        errors.required(&path.child("items"), "must be specified");
    }
    if schema.flag("uniqueItems") {
        let text = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.forbidden(&path.child("uniqueItems"), text);
    }
    let open = schema.has("additionalProperties") && schema["additionalProperties"] != Value::Bool(false);
    if open && schema.count("properties") > 0 {
        let text = "additionalProperties and properties are mutual exclusive";
        errors.forbidden(&path.child("additionalProperties"), text);
    }
    let pattern = schema.text("pattern");
    if let Some(why) = (!pattern.is_empty()).then(|| Regex::new(pattern).err()).flatten() {
        let why = why.to_string();
        let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ");
        let text = format!("must be a valid regular expression, but isn't: {why}");
        errors.invalid(&path.child("pattern"), pattern, text);
    }
}

fn list_type(errors: &mut Errors, path: &Path<'_>, schema: &Value) {
    let kind = schema.text("x-kubernetes-list-type");
    let keys = path.child("x-kubernetes-list-map-keys");
    if !kind.is_empty() {
        if schema.text("type") != "array" {
            let text = "must be array if x-kubernetes-list-type is specified";
            errors.invalid(&path.child("type"), schema.text("type"), text);
        }
        let kinds = &["atomic", "set", "map"];
        if !kinds.contains(&kind) {
            errors.unsupported(&path.child("x-kubernetes-list-type"), kind, kinds);
        }
    }
    if kind != "map" {
        if schema.count("x-kubernetes-list-map-keys") > 0 {
            let text = "must be map if x-kubernetes-list-map-keys is non-empty";
            errors.invalid(&path.child("x-kubernetes-list-type"), kind, text);
        }
        return;
    }
    if schema.count("x-kubernetes-list-map-keys") == 0 {
        return errors.required(&keys, "must not be empty if x-kubernetes-list-type is map");
    }
    let known = |key: &str| schema["items"]["properties"].has(key);
    if !schema.texts("x-kubernetes-list-map-keys").all(known) {
        let all = schema["x-kubernetes-list-map-keys"].clone();
        errors.invalid(&keys, all, "entries must all be names of item properties");
    }
}

/// The fields that every object has are Kubernetes' own.
fn resource(errors: &mut Errors, path: &Path<'_>, schema: &Value) {
    let (fields, given) = (path.child("properties"), &schema["properties"]);
    for name in ["apiVersion", "kind"].iter().filter(|name| given.has(name)) {
        let ty = given[*name].text("type");
        if ty != "string" {
            errors.invalid(&fields.key(name).child("type"), ty, "must be string");
        }
    }
    if !given.has("metadata") {
        return;
    }
    let meta = fields.key("metadata");
    let ty = given["metadata"].text("type");
    if ty != "object" {
        errors.invalid(&meta.child("type"), ty, "must be object");
    }
    if given["metadata"].entries("properties").any(|(name, _)| !["name", "generateName"].contains(&name)) {
        let text = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.forbidden(&meta, text);
    }
}

fn conditions(errors: &mut Errors, path: &Path<'_>, schema: &Value, depth: usize) {
    let int_or_string = schema.flag("x-kubernetes-int-or-string");
    for name in COMBINATIONS {
        let list = path.child(name);
        for (i, of) in schema.list(name).iter().enumerate() {
            let types_may_stand = int_or_string && *name != "oneOf";
            condition(errors, &list.index(i), of, types_may_stand, depth + 1);
        }
    }
    if schema["not"].is_object() {
        condition(errors, &path.child("not"), &schema["not"], false, depth + 1);
    }
}

fn condition(errors: &mut Errors, path: &Path<'_>, of: &Value, types_may_stand: bool, depth: usize) {
    if depth > MAX_DEPTH {
        return errors.forbidden(path, format!("must not be nested deeper than {MAX_DEPTH} levels"));
    }
    for name in NOT_IN_CONDITIONS.iter().filter(|name| of.has(name) && !(types_may_stand && **name == "type")) {
        errors.forbidden(&path.child(name), "must be empty to be structural");
    }
    let fields = path.child("properties");
    for (name, field) in of.entries("properties") {
        condition(errors, &fields.key(name), field, types_may_stand, depth + 1);
    }
    if of["items"].is_object() {
        condition(errors, &path.child("items"), &of["items"], types_may_stand, depth + 1);
    }
    for name in COMBINATIONS {
        let list = path.child(name);
        for (i, inner) in of.list(name).iter().enumerate() {
            condition(errors, &list.index(i), inner, types_may_stand, depth + 1);
        }
    }
    if of["not"].is_object() {
        condition(errors, &path.child("not"), &of["not"], types_may_stand, depth + 1);
    }
}
