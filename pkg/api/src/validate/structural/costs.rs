//! Rules that would cost too much are refused when they are made, by what they can cost at most
//! (`k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation/cel_validation.go`).
use crate::cel::rules::Estimate;
use crate::validate::field::{Errors, Path, Tree};
use crate::validate::{FieldError, Reason};
use serde_json::Value;

/// What one rule may cost, and what all of a schema may (`StaticEstimatedCostLimit`, `StaticEstimatedCRDCostLimit`).
const RULE: u64 = 10_000_000;
const SCHEMA: u64 = 10 * RULE;
/// So many of the dearest rules are named when all together cost too much, of those that take a hundredth of that.
const NAMED: usize = 4;

/// How often a part of a schema can occur in an object; none: as often as there is room.
#[derive(Clone, Copy)]
pub struct Repeated(Option<u64>);

impl Repeated {
    pub fn once() -> Self {
        Self(Some(1))
    }

    /// The same for what is within a schema.
    pub fn within(self, schema: &Value) -> Self {
        let given = |key: &str| schema[key].as_i64().map(|most| most.max(0).unsigned_abs());
        let most = match schema.text("type") {
            "object" if schema.has("additionalProperties") => given("maxProperties"),
            "array" => given("maxItems"),
            _ => Some(1),
        };
        Self(self.0.zip(most).map(|(times, most)| times.saturating_mul(most)))
    }
}

/// What the rules of a schema cost together.
#[derive(Default)]
pub struct Costs {
    sum: u64,
    /// The dearest rules, dearest first.
    dearest: Vec<(String, u64)>,
}

impl Costs {
    /// Adds a rule, and reports it if it costs too much by itself.
    pub fn add(&mut self, errors: &mut Errors, path: &Path<'_>, of: Estimate, repeated: Repeated) {
        let cost = of.rule.saturating_mul(repeated.0.unwrap_or(of.values));
        self.count(errors, &path.child("rule"), "estimated rule cost", cost);
        if let Some(cost) = of.message {
            self.count(errors, &path.child("messageExpression"), "estimated messageExpression cost", cost);
        }
    }

    fn count(&mut self, errors: &mut Errors, path: &Path<'_>, what: &str, cost: u64) {
        if cost > RULE {
            errors.forbidden(path, exceeds(what, cost, RULE));
        }
        self.sum = self.sum.saturating_add(cost);
        if cost >= SCHEMA / 100 {
            self.dearest.push((path.to_string(), cost));
            self.dearest.sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
            self.dearest.truncate(NAMED);
        }
    }

    /// Reports all together if they cost too much.
    pub fn report(self, errors: &mut Errors, path: &Path<'_>) {
        if self.sum <= SCHEMA {
            return;
        }
        let text = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
        let named = |(field, _)| FieldError { field, reason: Reason::Forbidden, value: None, detail: text.into() };
        errors.0.extend(self.dearest.into_iter().map(named));
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        errors.forbidden(path, exceeds(what, self.sum, SCHEMA));
    }
}

fn exceeds(what: &str, cost: u64, limit: u64) -> String {
    let factor = match cost as f64 / limit as f64 {
        times if times > 100.0 => "more than 100x".to_owned(),
        times if times < 1.5 => format!("{times:.6}x"),
        times => format!("{times:.1}x"),
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and \
         maxLength where arrays, maps, and strings are declared)"
    )
}

/// Is the error about what one expression costs? A schema that did not change keeps its expressions.
pub fn is_estimate(error: &FieldError) -> bool {
    let words = ["estimated rule cost exceeds", "estimated messageExpression cost exceeds"];
    error.reason == Reason::Forbidden && words.iter().any(|words| error.detail.starts_with(words))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(schema: &Value) -> Vec<String> {
        let mut errors = Errors::default();
        super::super::schema(&mut errors, &Path::field("schema"), schema, false);
        errors.0.iter().map(ToString::to_string).collect()
    }

    /// What kube-apiserver v1.36.3 says of rules of items of a list: `[rule, the list's maxItems, by how much it is too
    /// dear]`.
    #[test]
    fn upstream_estimates_the_same() {
        let all: Value = serde_json::from_str(include_str!("costs.json")).unwrap();
        for part in all.as_array().unwrap() {
            for verdict in part.list("verdicts") {
                let mut items = part["items"].clone();
                items["x-kubernetes-validations"] = json!([{"rule": verdict[0]}]);
                let list = json!({"type": "array", "maxItems": verdict[1], "items": items});
                let found = found(&json!({"type": "object", "properties": {"list": list}}));
                let rule =
                    found.first().and_then(|text| text.split_once("estimated rule cost exceeds budget by factor of "));
                let factor = rule.and_then(|(_, rest)| rest.split_once(" (")).map(|(factor, _)| factor);
                assert_eq!(factor, verdict[2].as_str(), "{verdict}: {found:?}");
            }
        }
    }

    #[test]
    fn all_together_cost_too_much_as_well() {
        let rule = |times: u64| {
            json!({"type": "array", "maxItems": times, "items": {"type": "string", "maxLength": 30,
                "x-kubernetes-validations": [{"rule": "self.matches('^abc$')"}]}})
        };
        // Of 27 units a time.
        let just = rule(370_000);
        let fields: serde_json::Map<_, _> = (0..10).map(|n| (format!("f{n}"), just.clone())).collect();
        let mut schema = json!({"type": "object", "properties": fields});
        assert_eq!(found(&schema), [""; 0]);
        schema["properties"]["more"] = just;
        let found = found(&schema);
        let named =
            "Forbidden: contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
        assert_eq!(found[0], format!("schema.properties[f0].items.x-kubernetes-validations[0].rule: {named}"));
        assert_eq!(found.len(), NAMED + 1);
        let total = "schema: Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema \
                     exceeds budget by factor of 1.098900x";
        assert!(found[NAMED].starts_with(total), "{found:?}");
    }

    #[test]
    fn messages_cost_once() {
        let text = json!({"type": "string"});
        let rule = json!([{"rule": "self.a != ''", "messageExpression": "self.list.join(self.a)"}]);
        let schema = json!({"type": "object", "properties": {"x": {"type": "object", "x-kubernetes-validations": rule,
            "properties": {"a": text, "list": {"type": "array", "items": text}}}}});
        let found = found(&schema);
        let wanted = "schema.properties[x].x-kubernetes-validations[0].messageExpression: Forbidden: estimated \
                      messageExpression cost exceeds budget by factor of more than 100x";
        assert!(found[0].starts_with(wanted), "{found:?}");
    }
}
