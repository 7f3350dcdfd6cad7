//! Types of objects, from the schema of a custom resource (`k8s.io/apiserver/pkg/cel/common/schemas.go`).
use super::{Field, ObjectType, Type};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Words of the language that cannot name a field as they are.
const RESERVED: &[&str] = &[
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// The type of what a schema describes, or none where the schema says nothing (`preserve-unknown-fields`). At a
/// `root`, the fields that every object has are known.
pub fn declared(schema: &Value, name: &str, root: bool) -> Option<Type> {
    if schema["x-kubernetes-int-or-string"] == true {
        return Some(Type::Dyn);
    }
    let format = schema["format"].as_str().unwrap_or_default();
    match schema["type"].as_str().unwrap_or_default() {
        "array" => Some(Type::list(declared(&schema["items"], &format!("{name}.@idx"), embedded(&schema["items"]))?)),
        "object" if schema["additionalProperties"].is_object() => {
            let values = &schema["additionalProperties"];
            Some(Type::map(Type::String, declared(values, &format!("{name}.@elem"), embedded(values))?))
        }
        "object" => Some(Type::Object(Arc::new(object(schema, name, root)))),
        "string" if format == "byte" => Some(Type::Bytes),
        "string" if format == "duration" => Some(Type::Duration),
        "string" if format == "date" || format == "date-time" => Some(Type::Timestamp),
        "string" => Some(Type::String),
        "boolean" => Some(Type::Bool),
        "number" => Some(Type::Double),
        "integer" => Some(Type::Int),
        _ => None,
    }
}

fn embedded(schema: &Value) -> bool {
    schema["x-kubernetes-embedded-resource"] == true
}

fn object(schema: &Value, name: &str, root: bool) -> ObjectType {
    let mut fields = BTreeMap::new();
    for (property, of) in schema["properties"].as_object().into_iter().flatten() {
        let Some(ty) = declared(of, &format!("{name}.{property}"), embedded(of)) else { continue };
        if let Some(escaped) = escape(property) {
            fields.insert(escaped.into(), Field { name: property.as_str().into(), ty });
        }
    }
    if root {
        own_fields(&mut fields, name);
    }
    ObjectType { name: name.into(), fields }
}

/// `apiVersion`, `kind`, `metadata.name` and `metadata.generateName` can always be read.
fn own_fields(fields: &mut BTreeMap<Arc<str>, Field>, name: &str) {
    let names = [("name", Type::String), ("generateName", Type::String)];
    let metadata = Type::Object(Arc::new(ObjectType::new(&format!("{name}.metadata"), &names)));
    for (field, ty) in [("apiVersion", Type::String), ("kind", Type::String), ("metadata", metadata)] {
        fields.insert(field.into(), Field { name: field.into(), ty });
    }
}

/// The name by which expressions reach a field; none if no name can (`k8s.io/apiserver/pkg/cel/escaping.go`).
pub fn escape(name: &str) -> Option<String> {
    if RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    let first = name.chars().next()?;
    let usable = |c: char| c.is_ascii_alphanumeric() || "_.-/".contains(c);
    if first.is_ascii_digit() || !name.chars().all(usable) {
        return None;
    }
    let escaped = name.replace("__", "__underscores__");
    Some(escaped.replace('.', "__dot__").replace('-', "__dash__").replace('/', "__slash__"))
}
