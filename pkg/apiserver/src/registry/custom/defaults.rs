//! Whether the defaults of a definition's schemas are what the schemas themselves ask for
//! (`k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting`).
use super::{types, validate};
use api::cel::rules::Rules;
use api::decode::FieldValidation;
use api::schema::Schemas;
use api::validate::{FieldError, Reason};
use serde_json::Value;

/// What is wrong with the defaults of `new`. What was wrong in `old`, too, does not stand in the way.
pub fn check(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = of_definition(new);
    if let Some(old) = old.filter(|_| !errors.is_empty()) {
        let before = of_definition(old);
        errors.retain(|error| !before.contains(error));
    }
    errors
}

/// Schemas that all versions share are reported once, where upstream keeps them.
fn of_definition(definition: &Value) -> Vec<FieldError> {
    let versions = definition["spec"]["versions"].as_array().map_or(&[][..], |all| all);
    let alike = versions.iter().all(|version| version["schema"] == versions[0]["schema"]);
    let (mut check, metadata) = (Vec::new(), Schemas::new(types::metadata()));
    for (i, version) in versions.iter().enumerate().take(if alike { 1 } else { versions.len() }) {
        let place = if alike { "spec.validation".into() } else { format!("spec.versions[{i}].schema") };
        let schema = &version["schema"]["openAPIV3Schema"];
        node(&mut check, &format!("{place}.openAPIV3Schema"), schema, true, &metadata);
    }
    check
}

/// `root`: the schema of a whole object, whose metadata is no place for defaults of ours to judge.
fn node(errors: &mut Vec<FieldError>, path: &str, schema: &Value, root: bool, metadata: &Schemas) {
    if let Some(default) = schema.get("default").filter(|default| !default.is_null()) {
        one(errors, &format!("{path}.default"), schema, default, metadata);
    }
    if schema["items"].is_object() {
        node(errors, &format!("{path}.items"), &schema["items"], false, metadata);
    }
    let whole = root || schema["x-kubernetes-embedded-resource"] == true;
    for (name, of) in schema["properties"].as_object().into_iter().flatten() {
        if !(whole && ["metadata", "apiVersion", "kind"].contains(&name.as_str())) {
            node(errors, &format!("{path}.properties[{name}]"), of, false, metadata);
        }
    }
}

fn one(errors: &mut Vec<FieldError>, path: &str, schema: &Value, default: &Value, metadata: &Schemas) {
    let decoded = api::decode::check(default.clone(), &types::of(schema), metadata, FieldValidation::Ignore);
    if decoded.is_ok_and(|decoded| decoded.value != *default) {
        let (field, detail) = (path.to_owned(), "must not have unknown fields".to_owned());
        errors.push(FieldError { field, reason: Reason::Invalid, value: Some(default.clone()), detail });
    }
    let mut found = validate::validate(default, schema, &validate::patterns(schema));
    if found.is_empty() {
        found = Rules::compile(schema).validate(default, None);
    }
    errors.extend(found.into_iter().map(|error| FieldError { field: join(path, &error.field), ..error }));
}

fn join(path: &str, field: &str) -> String {
    match field.chars().next() {
        None => path.into(),
        Some(_) if field == "<nil>" => path.into(),
        Some(_) => format!("{path}.{field}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn errors(field: &Value) -> Vec<String> {
        let schema = json!({"type": "object", "properties": {"f": field}});
        let definition = json!({"spec": {"versions": [{"schema": {"openAPIV3Schema": schema}}]}});
        check(&definition, None).iter().map(|error| format!("{}: {}", error.field, error.detail)).collect()
    }

    #[test]
    fn a_default_is_what_its_schema_asks_for() {
        const AT: &str = "spec.validation.openAPIV3Schema.properties[f].default";
        assert_eq!(errors(&json!({"type": "integer", "minimum": 1, "default": 2})), [""; 0]);
        assert!(errors(&json!({"type": "integer", "minimum": 3, "default": 2}))[0].starts_with(AT));
        assert!(errors(&json!({"type": "string", "default": 2}))[0].starts_with(AT));
        let unknown = json!({"type": "object", "properties": {"a": {"type": "string"}}, "default": {"b": 1}});
        assert_eq!(errors(&unknown), [format!("{AT}: must not have unknown fields")]);
        let rule = json!({
            "type": "integer", "default": 2, "x-kubernetes-validations": [{"rule": "self > 5", "message": "too small"}],
        });
        assert_eq!(errors(&rule), [format!("{AT}: too small")]);
    }

    #[test]
    fn what_was_wrong_before_may_stay() {
        let of = |default: i64| {
            let field = json!({"type": "integer", "minimum": 3, "default": default});
            json!({"spec": {"versions": [{"schema": {"openAPIV3Schema": {"properties": {"f": field}}}}]}})
        };
        assert!(check(&of(1), Some(&of(1))).is_empty());
        assert_eq!(check(&of(1), Some(&of(3))).len(), 1);
    }
}
