//! Validation against a structural schema, with kube-openapi's texts.
use api::validate::{FieldError, Reason};
use regex::Regex;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Compiled patterns by their text; what does not compile here matches everything.
pub type Patterns = BTreeMap<String, Regex>;

/// How much memory one pattern may take.
const PATTERN_LIMIT_BYTES: usize = 1 << 20;

/// All patterns of a schema.
pub fn patterns(schema: &Value) -> Patterns {
    let mut found = Patterns::new();
    collect(schema, &mut found);
    found
}

fn collect(schema: &Value, found: &mut Patterns) {
    match schema {
        Value::Object(fields) => {
            if let Some(text) = fields.get("pattern").and_then(Value::as_str)
                && let Ok(regex) = regex::RegexBuilder::new(text).size_limit(PATTERN_LIMIT_BYTES).build()
            {
                found.insert(text.into(), regex);
            }
            fields.values().for_each(|value| collect(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        _ => {}
    }
}

/// What of `value` the schema does not allow.
pub fn validate(value: &Value, schema: &Value, patterns: &Patterns) -> Vec<FieldError> {
    let mut check = Check { patterns, errors: Vec::new() };
    check.value("", value, schema);
    check.errors
}

struct Check<'a> {
    patterns: &'a Patterns,
    errors: Vec<FieldError>,
}

impl Check<'_> {
    fn add(&mut self, path: &str, reason: Reason, value: Option<Value>, detail: impl Into<String>) {
        let field = if path.is_empty() { "<nil>".into() } else { path.to_owned() };
        self.errors.push(FieldError { field, reason, value, detail: detail.into() });
    }

    fn body(&mut self, path: &str, value: &Value, detail: &str) {
        self.add(path, Reason::Invalid, Some(value.clone()), format!("{path} in body {detail}"));
    }

    fn value(&mut self, path: &str, value: &Value, schema: &Value) {
        if value.is_null() && schema["nullable"] == true {
            return;
        }
        if !self.has_type(path, value, schema) {
            return;
        }
        self.one_of_enum(path, value, schema);
        match value {
            Value::Object(fields) => self.object(path, fields, schema),
            Value::Array(items) => self.array(path, items, schema),
            Value::String(text) => self.string(path, text, value, schema),
            Value::Number(number) => self.number(path, number.as_f64().unwrap_or(0.0), value, schema),
            _ => {}
        }
        self.combinations(path, value, schema);
    }

    fn has_type(&mut self, path: &str, value: &Value, schema: &Value) -> bool {
        if schema["x-kubernetes-int-or-string"] == true {
            let fits = value.is_string() || value.is_i64() || value.is_u64();
            if !fits {
                self.wrong_type(path, value, "integer,string");
            }
            return fits;
        }
        let wanted = schema["type"].as_str().unwrap_or_default();
        let fits = match wanted {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|f| f.fract() == 0.0),
            "number" => value.is_number(),
            _ => true,
        };
        if !fits {
            self.wrong_type(path, value, wanted);
        }
        fits
    }

    fn wrong_type(&mut self, path: &str, value: &Value, wanted: &str) {
        let is = type_name(value);
        let detail = format!("{path} in body must be of type {wanted}: {is:?}");
        self.add(path, Reason::TypeInvalid, Some(is.into()), detail);
    }

    fn one_of_enum(&mut self, path: &str, value: &Value, schema: &Value) {
        let Some(allowed) = schema["enum"].as_array() else { return };
        if !allowed.contains(value) {
            let texts: Vec<String> = allowed.iter().map(|v| format!("{:?}", plain(v))).collect();
            let detail = format!("supported values: {}", texts.join(", "));
            self.add(path, Reason::NotSupported, Some(value.clone()), detail);
        }
    }

    fn object(&mut self, path: &str, fields: &serde_json::Map<String, Value>, schema: &Value) {
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(name) {
                self.add(&join(path, name), Reason::Required, None, "");
            }
        }
        let count = fields.len() as u64;
        let shown = Value::Object(fields.clone());
        if let Some(least) = schema["minProperties"].as_u64().filter(|&n| count < n) {
            self.body(path, &shown, &format!("should have at least {least} properties"));
        }
        if let Some(most) = schema["maxProperties"].as_u64().filter(|&n| count > n) {
            self.add(path, Reason::TooMany, Some(count.into()), at_most(most));
        }
        for (name, value) in fields {
            let property = &schema["properties"][name];
            let own = path.is_empty() && matches!(name.as_str(), "apiVersion" | "kind" | "metadata");
            if property.is_object() && !own {
                self.value(&join(path, name), value, property);
            } else if schema["additionalProperties"].is_object() {
                self.value(&join(path, name), value, &schema["additionalProperties"]);
            }
        }
    }

    fn array(&mut self, path: &str, items: &[Value], schema: &Value) {
        let count = items.len() as u64;
        let shown = Value::from(items.to_vec());
        if let Some(least) = schema["minItems"].as_u64().filter(|&n| count < n) {
            self.body(path, &count.into(), &format!("should have at least {least} items"));
        }
        if let Some(most) = schema["maxItems"].as_u64().filter(|&n| count > n) {
            self.add(path, Reason::TooMany, Some(count.into()), at_most(most));
        }
        if schema["uniqueItems"] == true && items.iter().enumerate().any(|(i, item)| items[..i].contains(item)) {
            self.body(path, &shown, "shouldn't contain duplicates");
        }
        self.list_type(path, items, schema);
        for (i, item) in items.iter().enumerate() {
            self.value(&format!("{path}[{i}]"), item, &schema["items"]);
        }
    }

    /// Sets and maps hold each element, or key, once.
    fn list_type(&mut self, path: &str, items: &[Value], schema: &Value) {
        let keys: Vec<&str> =
            schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let identity = |item: &Value| match schema["x-kubernetes-list-type"].as_str() {
            Some("set") => Some(item.clone()),
            Some("map") => {
                let of = |k: &&str| {
                    item.get(*k)
                        .or(schema["items"]["properties"][*k].get("default"))
                        .map(|v| ((*k).to_owned(), v.clone()))
                };
                Some(keys.iter().filter_map(of).collect::<serde_json::Map<_, _>>().into())
            }
            _ => None,
        };
        let mut seen = BTreeSet::new();
        for (i, item) in items.iter().enumerate() {
            let Some(identity) = identity(item) else { return };
            if !seen.insert(identity.to_string()) {
                self.add(&format!("{path}[{i}]"), Reason::Duplicate, Some(identity), "");
            }
        }
    }

    /// Of length and pattern, upstream reports the first that is wrong; the format is a check of its own.
    fn string(&mut self, path: &str, text: &str, value: &Value, schema: &Value) {
        let length = text.chars().count() as u64;
        let pattern = schema["pattern"].as_str().unwrap_or_default();
        if let Some(most) = schema["maxLength"].as_u64().filter(|&n| length > n) {
            let unit = if most == 1 { "byte" } else { "bytes" };
            self.add(path, Reason::TooLong, None, format!("may not be more than {most} {unit}"));
        } else if let Some(least) = schema["minLength"].as_u64().filter(|&n| length < n) {
            self.body(path, value, &format!("should be at least {least} chars long"));
        } else if self.patterns.get(pattern).is_some_and(|regex| !regex.is_match(text)) {
            self.body(path, value, &format!("should match '{pattern}'"));
        }
        if let Some(format) = schema["format"].as_str().filter(|f| !has_format(f, text)) {
            self.body(path, value, &format!("must be of type {format}: {text:?}"));
        }
    }

    fn number(&mut self, path: &str, number: f64, value: &Value, schema: &Value) {
        if schema["format"] == "int32" && value.as_i64().is_some_and(|number| i32::try_from(number).is_err()) {
            self.whole(format!("Checked value must be of type integer with format int32 in {path}"));
        }
        if let Some(least) = schema["minimum"].as_f64() {
            let exclusive = schema["exclusiveMinimum"] == true;
            if number < least || exclusive && number == least {
                let words = if exclusive { "greater than" } else { "greater than or equal to" };
                self.body(path, value, &format!("should be {words} {least}"));
            }
        }
        if let Some(most) = schema["maximum"].as_f64() {
            let exclusive = schema["exclusiveMaximum"] == true;
            if number > most || exclusive && number == most {
                let words = if exclusive { "less than" } else { "less than or equal to" };
                self.body(path, value, &format!("should be {words} {most}"));
            }
        }
        if let Some(factor) = schema["multipleOf"].as_f64().filter(|&f| f != 0.0 && (number / f).fract() != 0.0) {
            self.body(path, value, &format!("should be a multiple of {factor}"));
        }
    }

    fn combinations(&mut self, path: &str, value: &Value, schema: &Value) {
        let errors = |schema: &Value| {
            let mut check = Check { patterns: self.patterns, errors: Vec::new() };
            check.value(path, value, schema);
            check.errors
        };
        let all =
            |key: &str| -> Vec<Vec<FieldError>> { schema[key].as_array().into_iter().flatten().map(errors).collect() };
        let (all_of, any_of, one_of) = (all("allOf"), all("anyOf"), all("oneOf"));
        let forbidden = schema["not"].is_object() && errors(&schema["not"]).is_empty();
        if all_of.iter().any(|errors| !errors.is_empty()) {
            self.errors.extend(all_of.into_iter().flatten());
            self.whole(format!("{path:?} must validate all the schemas (allOf)"));
        }
        if !any_of.is_empty() && !any_of.iter().any(Vec::is_empty) {
            self.errors.extend(nearest(any_of));
            self.whole(format!("{path:?} must validate at least one schema (anyOf)"));
        }
        let valid = one_of.iter().filter(|errors| errors.is_empty()).count();
        if !one_of.is_empty() && valid != 1 {
            let text = format!("{path:?} must validate one and only one schema (oneOf).");
            if valid == 0 {
                self.errors.extend(nearest(one_of));
                self.whole(format!("{text} Found none valid"));
            } else {
                self.whole(format!("{text} Found {valid} valid alternatives"));
            }
        }
        if forbidden {
            self.whole(format!("{path:?} must not validate the schema (not)"));
        }
    }

    /// Upstream gives the errors of a whole value no field.
    fn whole(&mut self, detail: String) {
        self.add("", Reason::Invalid, Some("".into()), detail);
    }
}

/// What the alternative that came nearest complains of.
fn nearest(alternatives: Vec<Vec<FieldError>>) -> Vec<FieldError> {
    alternatives.into_iter().min_by_key(Vec::len).unwrap_or_default()
}

fn at_most(limit: u64) -> String {
    let unit = if limit == 1 { "item" } else { "items" };
    format!("must have at most {limit} {unit}")
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.into() } else { format!("{path}.{name}") }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), Into::into)
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The formats that are checked; others are annotations.
fn has_format(format: &str, text: &str) -> bool {
    match format {
        "date-time" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok(),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "uuid" => uuid::Uuid::parse_str(text).is_ok(),
        "byte" => base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text).is_ok(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn errors(spec: Value) -> Vec<String> {
        let definition = super::super::tests::definition();
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let found = validate(&json!({"kind": "Thing", "spec": spec}), schema, &patterns(schema));
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_rule_names_its_field() {
        assert_eq!(errors(json!({"name": "abc", "size": 3})), [""; 0]);
        assert_eq!(errors(json!({})), ["spec.name: Required value"]);
        assert_eq!(
            errors(json!({"name": "a", "size": 0})),
            ["spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1"]
        );
        assert_eq!(
            errors(json!({"name": "A"})),
            ["spec.name: Invalid value: \"A\": spec.name in body should match '^[a-z]+$'"]
        );
        assert_eq!(
            errors(json!({"name": "a", "size": "x"})),
            ["spec.size: Invalid value: \"string\": spec.size in body must be of type integer: \"string\""]
        );
        assert_eq!(
            errors(json!({"name": "a", "mode": "c"})),
            ["spec.mode: Unsupported value: \"c\": supported values: \"a\", \"b\""]
        );
        let twice = json!({"name": "a", "list": [{"k": "x"}, {"k": "x", "v": 1}]});
        assert_eq!(errors(twice), ["spec.list[1]: Duplicate value: {\"k\":\"x\"}"]);
    }

    #[derive(serde::Deserialize)]
    struct Case {
        name: String,
        object: Value,
        errors: Vec<String>,
    }

    #[derive(serde::Deserialize)]
    struct Recorded {
        schema: Value,
        cases: Vec<Case>,
    }

    /// What an unmodified kube-apiserver v1.36.3 said of objects under the fixture's schema.
    #[test]
    fn upstream_says_the_same() {
        let recorded: Recorded = serde_json::from_str(include_str!("testdata/cases.json")).unwrap();
        let patterns = patterns(&recorded.schema);
        let mut differences = String::new();
        for mut case in recorded.cases {
            super::super::schema::default(&mut case.object, &recorded.schema);
            let found = validate(&case.object, &recorded.schema, &patterns);
            let mut ours: Vec<String> = found.iter().map(ToString::to_string).collect();
            ours.sort();
            case.errors.sort();
            if ours != case.errors {
                differences += &format!("{}:\n  ours {ours:#?}\n  theirs {:#?}\n", case.name, case.errors);
            }
        }
        assert!(differences.is_empty(), "{differences}");
    }
}
