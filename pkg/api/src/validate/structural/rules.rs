//! `x-kubernetes-validations`.
use super::costs::{Costs, Repeated};
use super::paths;
use crate::validate::field::{Errors, Path, Tree};
use serde_json::Value;

const RULE_REASONS: &[&str] =
    &["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

/// Where a schema stands.
#[derive(Clone, Copy)]
struct Place<'p> {
    /// The list or map within which an old value can't be found.
    loose: Option<&'p str>,
    /// Is it of a whole object?
    resource: bool,
    repeated: Repeated,
}

/// The rules of a whole schema.
pub fn all(errors: &mut Errors, path: &Path<'_>, schema: &Value) {
    let mut costs = Costs::default();
    below(errors, &mut costs, path, schema, Place { loose: None, resource: true, repeated: Repeated::once() });
    costs.report(errors, path);
}

/// The rules of a schema and of all below it.
fn below(errors: &mut Errors, costs: &mut Costs, path: &Path<'_>, schema: &Value, place: Place<'_>) {
    let here = path.to_string();
    let repeated = place.repeated.within(schema);
    if schema["additionalProperties"].is_object() {
        let place = Place { resource: false, repeated, ..place };
        below(errors, costs, &path.child("additionalProperties"), &schema["additionalProperties"], place);
    }
    let fields = path.child("properties");
    let atomic = schema.text("x-kubernetes-map-type") == "atomic";
    for (name, of) in schema.entries("properties") {
        let loose = place.loose.or(atomic.then_some(here.as_str()));
        let place = Place { loose, resource: of.flag("x-kubernetes-embedded-resource"), repeated };
        below(errors, costs, &fields.key(name), of, place);
    }
    if schema["items"].is_object() {
        let apart = schema.text("x-kubernetes-list-type") != "map";
        let loose = place.loose.or(apart.then_some(here.as_str()));
        let place = Place { loose, resource: schema["items"].flag("x-kubernetes-embedded-resource"), repeated };
        below(errors, costs, &path.child("items"), &schema["items"], place);
    }
    let list = path.child("x-kubernetes-validations");
    for (i, rule) in schema.list("x-kubernetes-validations").iter().enumerate() {
        one(errors, costs, &list.index(i), schema, rule, place);
    }
}

fn one(
    errors: &mut Errors,
    costs: &mut Costs,
    path: &Path<'_>,
    schema: &Value,
    rule: &Value,
    Place { loose, resource, repeated }: Place<'_>,
) {
    let before = errors.0.len();
    texts(errors, path, schema, rule);
    if errors.0.len() > before {
        return;
    }
    costs.add(errors, path, crate::cel::rules::estimate(schema, resource, rule), repeated);
    if let Some((field, text)) = crate::cel::rules::check(schema, "selfType", resource, rule) {
        errors.invalid_as(&path.child(field), "apiextensions.ValidationRule", rule, &text);
    }
    let uses_old = crate::cel::rules::is_transition(schema, resource, rule);
    if let (true, Some(loose)) = (uses_old, loose) {
        let text = format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {loose}");
        errors.invalid(&path.child("rule"), rule.text("rule"), text);
    }
    if !uses_old && rule.has("optionalOldSelf") {
        let at = path.child("optionalOldSelf");
        errors.invalid(&at, rule["optionalOldSelf"].clone(), "may not be set if oldSelf is not used in rule");
    }
}

/// The texts of a rule, before it is compiled.
fn texts(errors: &mut Errors, path: &Path<'_>, schema: &Value, rule: &Value) {
    let (message, expression, place) = (rule.text("message"), rule.text("messageExpression"), rule.text("fieldPath"));
    let lines = |text: &str| text.contains(['\n', '\r']);
    if rule.text("rule").trim().is_empty() {
        errors.required(&path.child("rule"), "rule is not specified");
    } else if !message.is_empty() && message.trim().is_empty() {
        errors.invalid(&path.child("message"), message, "must be non-empty if specified");
    } else if lines(message.trim()) {
        errors.invalid(&path.child("message"), message, "must not contain line breaks");
    } else if lines(rule.text("rule").trim()) && message.trim().is_empty() {
        errors.required(&path.child("message"), "message must be specified if rule contains line breaks");
    }
    if !expression.is_empty() && expression.trim().is_empty() {
        errors.required(&path.child("messageExpression"), "messageExpression must be non-empty if specified");
    }
    if rule.has("reason") && !RULE_REASONS.contains(&rule.text("reason")) {
        errors.unsupported(&path.child("reason"), rule.text("reason"), RULE_REASONS);
    }
    if place.is_empty() {
        return;
    }
    let at = path.child("fieldPath");
    if place.trim().is_empty() {
        errors.invalid(&at, place, "must be non-empty if specified");
    }
    if lines(place) {
        errors.invalid(&at, place, "must not contain line breaks");
    }
    if paths::find(schema, place, true).is_err() {
        errors.invalid(&at, place, "must be a valid path");
    }
}
