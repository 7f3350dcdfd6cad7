//! One schema type as a JSON schema, in either version of OpenAPI.
use super::Resource;
use super::descriptions::Descriptions;
use crate::GroupVersionKind;
use crate::schema::{Definition, Field, List, ListKind, Schemas, StringFormat, Struct, Type};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// The two versions differ in where definitions are and in what may stand beside a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    V2,
    V3,
}

const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Time";
const MICRO_TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime";
const DURATION: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Duration";
pub const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
pub const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
pub const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
pub const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";

/// What the operations of every document refer to.
pub const COMMON: &[&str] = &[OBJECT_META, LIST_META, STATUS, DELETE_OPTIONS, PATCH];

/// Structs that a client's strategic patch replaces key by key: `x-kubernetes-patch-strategy: retainKeys`.
const RETAIN_KEYS: &[(&str, &str)] = &[("io.k8s.api.apps.v1.DeploymentSpec", "strategy")];

/// The definition of a built-in kind. Kinds that only travel as query parameters (PodExecOptions) have none.
pub fn name_of(kind: &GroupVersionKind) -> Option<String> {
    Schemas::builtin().for_kind(kind).map(|definition| definition.name.to_string())
}

pub fn reference(name: &str, dialect: Dialect) -> Value {
    let place = match dialect {
        Dialect::V2 => "#/definitions/",
        Dialect::V3 => "#/components/schemas/",
    };
    json!({ "$ref": format!("{place}{name}") })
}

/// The named types that decoding treats as scalars.
pub fn scalar(name: &str) -> Option<fn(Dialect) -> Value> {
    Some(match name {
        TIME | MICRO_TIME => |_| json!({ "type": "string", "format": "date-time" }),
        DURATION => |_| json!({ "type": "string" }),
        QUANTITY => |dialect| match dialect {
            Dialect::V2 => json!({ "type": "string" }),
            Dialect::V3 => json!({ "oneOf": [{ "type": "string" }, { "type": "number" }] }),
        },
        INT_OR_STRING => |dialect| match dialect {
            Dialect::V2 => json!({ "type": "string", "format": "int-or-string" }),
            Dialect::V3 => json!({ "format": "int-or-string", "oneOf": [{ "type": "integer" }, { "type": "string" }] }),
        },
        _ => return None,
    })
}

pub fn kind_extension(kind: &GroupVersionKind) -> Value {
    json!({ "group": kind.group, "kind": kind.kind, "version": kind.version })
}

/// Writes types and notes the names that they refer to.
pub struct Renderer<'a> {
    dialect: Dialect,
    texts: &'a Descriptions,
    pub references: BTreeSet<String>,
}

/// The schema with a text, if there is one.
pub fn described(mut schema: Value, text: Option<&str>) -> Value {
    if let Some(text) = text {
        schema["description"] = text.into();
    }
    schema
}

impl<'a> Renderer<'a> {
    pub fn new(dialect: Dialect, texts: &'a Descriptions) -> Self {
        Self { dialect, texts, references: BTreeSet::new() }
    }

    pub fn definition(&mut self, definition: &Definition) -> Value {
        let mut out = match &definition.ty {
            // Unions such as JSONSchemaPropsOrBool: any JSON.
            Type::Any => json!({}),
            Type::Struct(structure) => self.structure(structure, &definition.name),
            other => self.ty(other),
        };
        out = described(out, self.texts.of(&definition.name, ""));
        if !definition.kinds.is_empty() {
            out["x-kubernetes-group-version-kind"] = definition.kinds.iter().map(kind_extension).collect();
        }
        out
    }

    fn structure(&mut self, structure: &Struct, owner: &str) -> Value {
        let mut out = json!({ "type": "object" });
        let mut properties = Map::new();
        for (name, field) in &structure.fields {
            let mut schema = self.field(field);
            if RETAIN_KEYS.contains(&(owner, name)) {
                schema = self.beside(schema, "x-kubernetes-patch-strategy", "retainKeys".into());
            }
            if let Some(text) = self.texts.of(owner, name) {
                schema = self.beside(schema, "description", text.into());
            }
            properties.insert(name.to_string(), schema);
        }
        let required: Vec<&str> = structure.fields.iter().filter(|(_, f)| f.required).map(|(n, _)| &**n).collect();
        if !required.is_empty() {
            out["required"] = json!(required);
        }
        if !properties.is_empty() {
            out["properties"] = properties.into();
        }
        if structure.atomic {
            out["x-kubernetes-map-type"] = "atomic".into();
        }
        if structure.preserve_unknown {
            out["x-kubernetes-preserve-unknown-fields"] = true.into();
        }
        out
    }

    fn field(&mut self, field: &Field) -> Value {
        let schema = self.ty(&field.ty);
        match (&field.default, self.dialect) {
            (Some(default), Dialect::V3) => self.beside(schema, "default", default.clone()),
            _ => schema,
        }
    }

    /// In v3 nothing may stand beside `$ref`, so it moves into `allOf`.
    fn beside(&self, schema: Value, name: &str, value: Value) -> Value {
        beside(self.dialect, schema, name, value)
    }

    fn named(&mut self, name: &str) -> Value {
        self.references.insert(name.to_owned());
        reference(name, self.dialect)
    }

    fn ty(&mut self, ty: &Type) -> Value {
        match ty {
            Type::Ref(name) => self.named(name),
            Type::Struct(structure) => self.structure(structure, ""),
            Type::Map(item) => json!({ "type": "object", "additionalProperties": self.ty(item) }),
            Type::AtomicMap(item) => {
                json!({ "type": "object", "additionalProperties": self.ty(item), "x-kubernetes-map-type": "atomic" })
            }
            Type::List(list) => self.list(list),
            Type::String(StringFormat::Plain) => json!({ "type": "string" }),
            Type::String(StringFormat::Bytes) => json!({ "type": "string", "format": "byte" }),
            Type::String(StringFormat::DateTime) => self.named(TIME),
            Type::String(StringFormat::MicroTime) => self.named(MICRO_TIME),
            Type::String(StringFormat::Duration) => self.named(DURATION),
            Type::Integer { bits } => json!({ "type": "integer", "format": format!("int{bits}") }),
            Type::Number => json!({ "type": "number", "format": "double" }),
            Type::Boolean => json!({ "type": "boolean" }),
            Type::IntOrString => self.named(INT_OR_STRING),
            Type::Quantity => self.named(QUANTITY),
            Type::Any => json!({ "type": "object" }),
        }
    }

    fn list(&mut self, list: &List) -> Value {
        let mut out = json!({ "type": "array", "items": self.ty(&list.item) });
        match &list.kind {
            ListKind::Atomic => out["x-kubernetes-list-type"] = "atomic".into(),
            ListKind::Set => out["x-kubernetes-list-type"] = "set".into(),
            ListKind::Map(keys) => {
                out["x-kubernetes-list-type"] = "map".into();
                out["x-kubernetes-list-map-keys"] = keys.iter().map(|key| key.to_string()).collect();
            }
        }
        if let Some(key) = &list.patch_merge_key {
            out["x-kubernetes-patch-strategy"] = if list.retain_keys { "merge,retainKeys" } else { "merge" }.into();
            if !key.is_empty() {
                out["x-kubernetes-patch-merge-key"] = (**key).into();
            }
        }
        out
    }
}

/// `com.example.v1.Thing` for group `example.com`.
pub fn custom_name(kind: &GroupVersionKind) -> String {
    let labels: Vec<&str> = kind.group.rsplit('.').collect();
    format!("{}.{}.{}", labels.join("."), kind.version, kind.kind)
}

pub fn custom_list_name(resource: &Resource) -> String {
    custom_name(&GroupVersionKind { kind: resource.list_kind.clone(), ..resource.gvk.clone() })
}

fn beside(dialect: Dialect, mut schema: Value, name: &str, value: Value) -> Value {
    if dialect == Dialect::V3 && schema.get("$ref").is_some() {
        schema = json!({ "allOf": [schema] });
    }
    schema[name] = value;
    schema
}

/// The type whose texts of `apiVersion`, `kind` and `metadata` serve custom resources, and lists of them.
const SINGLE: &str = "io.k8s.api.core.v1.Pod";
const LIST: &str = "io.k8s.api.core.v1.PodList";

/// `apiVersion`, `kind` and `metadata`, put among the properties.
fn add_own_fields(out: &mut Value, of: &str, meta: &str, dialect: Dialect, texts: &Descriptions) {
    for name in ["apiVersion", "kind"] {
        out["properties"][name] = described(json!({ "type": "string" }), texts.of(of, name));
    }
    let mut metadata = reference(meta, dialect);
    if let Some(text) = texts.of(of, "metadata") {
        metadata = beside(dialect, metadata, "description", text.into());
    }
    out["properties"]["metadata"] = metadata;
}

/// A custom resource's own schema, with the fields that every object has.
pub fn custom(resource: &Resource, schema: &Value, dialect: Dialect, texts: &Descriptions) -> Value {
    // v2 can't say that unknown fields are kept, and clients would refuse them: it says nothing.
    let open = dialect == Dialect::V2 && schema["x-kubernetes-preserve-unknown-fields"] == true;
    let mut out = match dialect {
        _ if open || !schema.is_object() => json!({}),
        Dialect::V3 => schema.clone(),
        Dialect::V2 => to_v2(schema),
    };
    out["type"] = "object".into();
    if schema.is_object() && !open {
        embedded(&mut out, dialect, texts);
        add_own_fields(&mut out, SINGLE, OBJECT_META, dialect, texts);
    }
    out["x-kubernetes-group-version-kind"] = json!([kind_extension(&resource.gvk)]);
    if !resource.selectable_fields.is_empty() {
        let fields = resource.selectable_fields.iter().map(|path| json!({ "fieldPath": path }));
        out["x-kubernetes-selectable-fields"] = fields.collect();
    }
    out
}

/// Objects within objects have their own apiVersion, kind and metadata.
fn embedded(schema: &mut Value, dialect: Dialect, texts: &Descriptions) {
    for part in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get_mut(part).filter(|inner| inner.is_object()) {
            embedded(inner, dialect, texts);
        }
    }
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.values_mut().for_each(|property| embedded(property, dialect, texts));
    }
    let preserves = schema["x-kubernetes-preserve-unknown-fields"] == true;
    if schema["x-kubernetes-embedded-resource"] != true || (preserves && dialect == Dialect::V2) {
        return;
    }
    add_own_fields(schema, SINGLE, OBJECT_META, dialect, texts);
    let mut required: Vec<Value> = schema["required"].as_array().cloned().unwrap_or_default();
    for name in ["kind", "apiVersion"].map(Value::from) {
        if !required.contains(&name) {
            required.push(name);
        }
    }
    schema["required"] = required.into();
}

pub fn custom_list(resource: &Resource, dialect: Dialect, texts: &Descriptions) -> Value {
    let list = GroupVersionKind { kind: resource.list_kind.clone(), ..resource.gvk.clone() };
    let text = format!(
        "List of {}. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md",
        resource.plural
    );
    let items = reference(&custom_name(&resource.gvk), dialect);
    let mut out = json!({
        "description": format!("{} is a list of {}", resource.list_kind, resource.gvk.kind),
        "type": "object",
        "required": ["items"],
        "properties": { "items": { "description": text, "type": "array", "items": items } },
        "x-kubernetes-group-version-kind": [kind_extension(&list)],
    });
    add_own_fields(&mut out, LIST, LIST_META, dialect, texts);
    out
}

/// Drops what v2 has no words for (`apiextensions-apiserver/pkg/controller/openapi/v2/conversion.go`): combined
/// schemas, nullable and defaults, and the inside of what may hold anything.
fn to_v2(schema: &Value) -> Value {
    let Value::Object(schema) = schema else { return schema.clone() };
    let mut out = Map::new();
    let preserves = schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    let int_or_string = schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true));
    let nullable = schema.get("nullable") == Some(&Value::Bool(true));
    for (name, value) in schema {
        let value = match name.as_str() {
            "oneOf" | "anyOf" | "allOf" | "not" | "nullable" | "default" | "x-kubernetes-validations" => continue,
            "type" if int_or_string || nullable => continue,
            "properties" | "items" | "additionalProperties" | "required" if preserves || nullable => continue,
            "properties" => match value {
                Value::Object(of) => of.iter().map(|(n, s)| (n.clone(), to_v2(s))).collect::<Map<_, _>>().into(),
                other => other.clone(),
            },
            "items" | "additionalProperties" => to_v2(value),
            _ => value.clone(),
        };
        out.insert(name.clone(), value);
    }
    out.into()
}
