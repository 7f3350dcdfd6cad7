//! Defaults of a structural schema.
use serde_json::Value;

/// Fills in defaults of absent fields, at any depth (`structural/defaulting`).
pub fn default(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(fields) => {
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                let absent = match fields.get(name) {
                    None => true,
                    Some(value) => value.is_null() && property["nullable"] != true,
                };
                if absent && let Some(given) = property.get("default") {
                    fields.insert(name.clone(), given.clone());
                }
                if let Some(field) = fields.get_mut(name) {
                    default(field, property);
                }
            }
            if schema["additionalProperties"].is_object() {
                fields.values_mut().for_each(|field| default(field, &schema["additionalProperties"]));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| default(item, &schema["items"])),
        _ => {}
    }
}

/// Whether there is any default, at any depth.
pub fn has_defaults(schema: &Value) -> bool {
    let fields = schema["properties"].as_object().into_iter().flat_map(|fields| fields.values());
    let parts = [&schema["items"], &schema["additionalProperties"]].into_iter();
    schema.get("default").is_some() || fields.chain(parts).any(|part| part.is_object() && has_defaults(part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_fill_what_is_absent_at_any_depth() {
        let schema = json!({"properties": {
            "a": {"default": {}, "properties": {"b": {"default": 1}}},
            "l": {"items": {"properties": {"c": {"default": "x"}}}},
            "m": {"additionalProperties": {"properties": {"d": {"default": true}}}},
            "n": {"nullable": true, "default": 5},
        }});
        let mut value = json!({"l": [{}, {"c": "y"}], "m": {"k": {}}, "n": null});
        default(&mut value, &schema);
        assert_eq!(value, json!({"a": {"b": 1}, "l": [{"c": "x"}, {"c": "y"}], "m": {"k": {"d": true}}, "n": null}));
    }
}
