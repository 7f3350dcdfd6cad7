//! One schema type as a JSON schema, in either version of OpenAPI.
use super::Resource;
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
pub struct Renderer {
    dialect: Dialect,
    pub references: BTreeSet<String>,
}

impl Renderer {
    pub fn new(dialect: Dialect) -> Self {
        Self { dialect, references: BTreeSet::new() }
    }

    pub fn definition(&mut self, definition: &Definition) -> Value {
        let mut out = match &definition.ty {
            // Unions such as JSONSchemaPropsOrBool: any JSON.
            Type::Any => json!({}),
            Type::Struct(structure) => self.structure(structure, &definition.name),
            other => self.ty(other),
        };
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
    fn beside(&self, mut schema: Value, name: &str, value: Value) -> Value {
        if self.dialect == Dialect::V3 && schema.get("$ref").is_some() {
            schema = json!({ "allOf": [schema] });
        }
        schema[name] = value;
        schema
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

/// A custom resource's own schema, with the fields that every object has.
pub fn custom(resource: &Resource, schema: &Value, dialect: Dialect) -> Value {
    let mut out = match dialect {
        Dialect::V3 => schema.clone(),
        Dialect::V2 => to_v2(schema),
    };
    if !out.is_object() {
        out = json!({});
    }
    out["type"] = "object".into();
    // v2 can't say that unknown fields are kept below the root, and clients would refuse them.
    let open = dialect == Dialect::V2 && out["x-kubernetes-preserve-unknown-fields"] == true;
    if open {
        out.as_object_mut().expect("made an object above").remove("properties");
    } else {
        out["properties"]["apiVersion"] = json!({ "type": "string" });
        out["properties"]["kind"] = json!({ "type": "string" });
        out["properties"]["metadata"] = reference(OBJECT_META, dialect);
    }
    out["x-kubernetes-group-version-kind"] = json!([kind_extension(&resource.gvk)]);
    out
}

pub fn custom_list(resource: &Resource, dialect: Dialect) -> Value {
    let list = GroupVersionKind { kind: resource.list_kind.clone(), ..resource.gvk.clone() };
    json!({
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": { "type": "string" },
            "kind": { "type": "string" },
            "metadata": reference(LIST_META, dialect),
            "items": { "type": "array", "items": reference(&custom_name(&resource.gvk), dialect) },
        },
        "x-kubernetes-group-version-kind": [kind_extension(&list)],
    })
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
