//! How large what a schema describes can be in one request (`k8s.io/apiserver/pkg/cel/common/schemas.go`): what costs
//! are estimated by before there is an object.
use super::schema::escape;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The largest request that is accepted, in bytes.
const REQUEST: u64 = 3 << 20;
/// The longest text that fits into it, beside its quotes.
const TEXT: u64 = REQUEST - 2;
/// Characters of `maxLength` as bytes.
const BYTES_A_CHARACTER: u64 = 4;
/// The longest duration or time, and the length of a date.
const TIME: u64 = 32;
const DATE: u64 = 12;

/// The bounds of a value and of all within it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bounds {
    /// The most items, entries or bytes; 0 for what has no size.
    pub most: u64,
    /// The fewest bytes that it takes in a request.
    pub least_bytes: u64,
    key: Option<Box<Bounds>>,
    element: Option<Box<Bounds>>,
    fields: BTreeMap<String, Bounds>,
}

/// A way from a value into it.
#[derive(Clone, Debug)]
pub enum Step {
    Key,
    /// The position in a list, which has no bounds.
    Position,
    Element,
    Field(Arc<str>),
}

impl Bounds {
    /// None where the schema says nothing. At a `root`, the fields that every object has are known.
    pub fn of(schema: &Value, root: bool) -> Option<Self> {
        let given = |key: &str| schema[key].as_i64().map(|of| of.max(0).unsigned_abs());
        let characters = given("maxLength").map(|most| most * BYTES_A_CHARACTER);
        if schema["x-kubernetes-int-or-string"] == true {
            return Some(Self::simple(characters.unwrap_or(TEXT), 1));
        }
        let format = schema["format"].as_str().unwrap_or_default();
        let type_name = if root { "object" } else { schema["type"].as_str().unwrap_or_default() };
        Some(match (type_name, format) {
            ("array", _) => {
                let items = Self::of(&schema["items"], is_embedded(&schema["items"]))?;
                let most = given("maxItems").unwrap_or(TEXT / (items.least_bytes + 1));
                Self { element: Some(Box::new(items)), ..Self::simple(most, 2) }
            }
            ("object", _) if schema["additionalProperties"].is_object() => {
                let values = Self::of(&schema["additionalProperties"], is_embedded(&schema["additionalProperties"]))?;
                // Beside the value: a key of one letter in quotes, a colon, a comma.
                let most = given("maxProperties").unwrap_or(TEXT / (values.least_bytes + 6));
                let key = Some(Box::new(Self::simple(0, 2)));
                Self { key, element: Some(Box::new(values)), ..Self::simple(most, 2) }
            }
            ("object", _) => Self::object(schema, root),
            ("string", "byte") => Self::simple(given("maxLength").unwrap_or(TEXT), 2),
            ("string", "duration") => Self::simple(TIME, 3),
            ("string", "date") => Self::simple(DATE, DATE),
            ("string", "date-time") => Self::simple(TIME, 21),
            ("string", _) => Self::simple(characters.or_else(|| longest_of(schema)).unwrap_or(TEXT), 2),
            ("boolean", _) => Self::simple(0, 4),
            ("number" | "integer", _) => Self::simple(0, 1),
            _ => return None,
        })
    }

    fn simple(most: u64, least_bytes: u64) -> Self {
        Self { most, least_bytes, ..Self::default() }
    }

    fn object(schema: &Value, root: bool) -> Self {
        let mut bounds = Self::simple(0, 2);
        let required = |name: &str| schema["required"].as_array().is_some_and(|names| names.iter().any(|n| n == name));
        let whole = root.then(|| with_own_fields(schema));
        for (name, of) in whole.as_ref().unwrap_or(schema)["properties"].as_object().into_iter().flatten() {
            let Some(field) = Self::of(of, is_embedded(of)) else { continue };
            if required(name) && of["default"].is_null() {
                bounds.least_bytes += name.len() as u64 + field.least_bytes + 4;
            }
            if let Some(name) = escape(name) {
                bounds.fields.insert(name, field);
            }
        }
        bounds
    }

    pub fn step(&self, to: &Step) -> Option<&Self> {
        match to {
            Step::Key => self.key.as_deref(),
            Step::Element => self.element.as_deref(),
            Step::Field(name) => self.fields.get(&**name),
            Step::Position => None,
        }
    }

    /// How many such values there can be in one request at most.
    pub fn most_in_a_request(&self) -> u64 {
        REQUEST / (self.least_bytes + 1)
    }
}

fn is_embedded(schema: &Value) -> bool {
    schema["x-kubernetes-embedded-resource"] == true
}

/// The longest value of an enumeration.
fn longest_of(schema: &Value) -> Option<u64> {
    let values = schema["enum"].as_array().filter(|values| !values.is_empty())?;
    Some(values.iter().filter_map(Value::as_str).map(|text| text.len() as u64).max().unwrap_or(0))
}

/// `apiVersion`, `kind` and the names, unless the schema has them all.
fn with_own_fields(schema: &Value) -> Value {
    let text = serde_json::json!({"type": "string"});
    let fields = &schema["properties"];
    let names = &fields["metadata"]["properties"];
    let is_text = |of: &Value| of["type"] == "string";
    let all = [&fields["kind"], &fields["apiVersion"], &names["name"], &names["generateName"]].into_iter().all(is_text);
    let mut whole = schema.clone();
    if !(all && fields["metadata"]["type"] == "object") {
        whole["properties"]["kind"] = text.clone();
        whole["properties"]["apiVersion"] = text.clone();
        whole["properties"]["metadata"] =
            serde_json::json!({"type": "object", "properties": {"name": text, "generateName": text}});
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_schema_leaves_open_is_bounded_by_the_request() {
        let most = |schema: Value| Bounds::of(&schema, false).unwrap().most;
        assert_eq!(most(json!({"type": "string"})), 3_145_726);
        assert_eq!(most(json!({"type": "string", "maxLength": 5})), 20);
        assert_eq!(most(json!({"type": "string", "enum": ["a", "bcd"]})), 3);
        assert_eq!(most(json!({"type": "string", "format": "byte", "maxLength": 5})), 5);
        assert_eq!(most(json!({"type": "array", "items": {"type": "integer"}})), 1_572_863);
        assert_eq!(most(json!({"type": "array", "maxItems": 3, "items": {"type": "integer"}})), 3);
        assert_eq!(most(json!({"type": "object", "additionalProperties": {"type": "string"}})), 393_215);
        assert_eq!(most(json!({"x-kubernetes-int-or-string": true})), 3_145_726);
        assert_eq!(Bounds::of(&json!({"x-kubernetes-preserve-unknown-fields": true}), false), None);
    }

    #[test]
    fn required_fields_take_room() {
        let schema = json!({"type": "object", "required": ["name", "count"], "properties": {
            "name": {"type": "string"}, "count": {"type": "integer", "default": 1}, "more": {"type": "string"}}});
        let bounds = Bounds::of(&schema, false).unwrap();
        assert_eq!((bounds.least_bytes, bounds.most_in_a_request()), (12, 241_979));
        let root = Bounds::of(&schema, true).unwrap();
        let metadata = root.step(&Step::Field("metadata".into())).unwrap();
        assert_eq!(metadata.step(&Step::Field("name".into())).unwrap().most, TEXT);
    }
}
