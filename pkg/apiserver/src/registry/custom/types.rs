//! A structural schema as the engine's type model.
use api::GroupVersionKind;
use api::schema::{Definition, Field, List, ListKind, Schemas, StringFormat, Struct, Type};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// `metadata` and all that it holds, from the built-in schemas.
pub fn metadata() -> Vec<Definition> {
    let all = Schemas::builtin();
    let (mut found, mut waiting) = (BTreeMap::new(), vec![Arc::<str>::from(OBJECT_META)]);
    while let Some(name) = waiting.pop() {
        let Some(definition) = all.get(&name).filter(|_| !found.contains_key(&name)) else { continue };
        let mut names = BTreeSet::new();
        references(&definition.ty, &mut names);
        waiting.extend(names);
        let kinds: Vec<GroupVersionKind> = Vec::new();
        found.insert(name.clone(), Definition { name, ty: definition.ty.clone(), kinds });
    }
    found.into_values().collect()
}

fn references(ty: &Type, names: &mut BTreeSet<Arc<str>>) {
    match ty {
        Type::Ref(name) => {
            names.insert(name.clone());
        }
        Type::Struct(fields) => fields.fields.values().for_each(|f| references(&f.ty, names)),
        Type::Map(item) => references(item, names),
        Type::List(list) => references(&list.item, names),
        _ => {}
    }
}

/// The type of a whole object: what every object has, whatever the schema says.
pub fn root(schema: &Value) -> Type {
    match of(schema) {
        Type::Struct(mut root) => {
            root.fields.extend(own_fields());
            Type::Struct(root)
        }
        _ => Type::Struct(Box::new(Struct {
            fields: own_fields().collect(),
            preserve_unknown: true,
            ..Struct::default()
        })),
    }
}

fn own_fields() -> impl Iterator<Item = (Arc<str>, Field)> {
    let field = Field::optional;
    [
        ("apiVersion", field(Type::String(StringFormat::Plain))),
        ("kind", field(Type::String(StringFormat::Plain))),
        ("metadata", field(Type::Ref(OBJECT_META.into()))),
    ]
    .into_iter()
    .map(|(name, field)| (name.into(), field))
}

/// Scalars are [`Type::Any`]: a wrong one is reported by validation, with its field, as upstream does.
pub fn of(schema: &Value) -> Type {
    let keeps = schema["x-kubernetes-preserve-unknown-fields"] == true;
    if schema["x-kubernetes-int-or-string"] == true {
        return Type::IntOrString;
    }
    match schema["type"].as_str().unwrap_or_default() {
        "array" => Type::List(Box::new(list(schema))),
        "object" if schema["additionalProperties"].is_object() => {
            Type::Map(Box::new(of(&schema["additionalProperties"])))
        }
        "object" if schema["additionalProperties"] == true => Type::Map(Box::new(Type::Any)),
        "object" => Type::Struct(Box::new(structure(schema, keeps))),
        _ if schema["properties"].is_object() => Type::Struct(Box::new(structure(schema, keeps))),
        _ => Type::Any,
    }
}

fn structure(schema: &Value, keeps: bool) -> Struct {
    let required: BTreeSet<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let field = |name: &str, schema: &Value| Field {
        required: required.contains(name),
        nullable: schema["nullable"] == true,
        default: schema.get("default").cloned(),
        ..Field::optional(of(schema))
    };
    let given = schema["properties"].as_object().into_iter().flatten();
    let mut fields: BTreeMap<Arc<str>, Field> = given.map(|(n, s)| (n.as_str().into(), field(n, s))).collect();
    let embedded = schema["x-kubernetes-embedded-resource"] == true;
    if embedded {
        fields.extend(own_fields());
    }
    Struct { fields, preserve_unknown: keeps, embedded, atomic: schema["x-kubernetes-map-type"] == "atomic" }
}

fn list(schema: &Value) -> List {
    let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let kind = match schema["x-kubernetes-list-type"].as_str() {
        Some("map") => ListKind::Map(keys.map(Into::into).collect()),
        Some("set") => ListKind::Set,
        _ => ListKind::Atomic,
    };
    List { item: of(&schema["items"]), kind, patch_merge_key: None, retain_keys: false }
}
