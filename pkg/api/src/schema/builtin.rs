//! The built-in kinds, from the generated file (`schemas/generate.py` tells its format).
use super::{Definition, Field, List, ListKind, Schemas, StringFormat, Struct, Type};
use crate::GroupVersionKind;
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, LazyLock};

static FILE: &str = include_str!("../../schemas/builtin.json");

static BUILTIN: LazyLock<Arc<Schemas>> = LazyLock::new(|| Arc::new(read(FILE)));

impl Schemas {
    /// All built-in kinds of the served Kubernetes version. Read once, when first asked for.
    pub fn builtin() -> &'static Arc<Self> {
        &BUILTIN
    }
}

/// The file is ours: what does not fit is a mistake of the generator, and the tests read it whole.
fn read(file: &str) -> Schemas {
    let definitions: BTreeMap<String, Value> = serde_json::from_str(file).expect("the generated file is JSON");
    let mut names = Names::default();
    let schemas = Schemas::new(definitions.into_iter().map(|(name, definition)| Definition {
        name: names.get(&name),
        ty: names.ty(&definition["t"]),
        kinds: definition["k"].as_array().into_iter().flatten().map(kind).collect(),
    }));
    Schemas { golang: true, ..schemas }
}

fn kind(value: &Value) -> GroupVersionKind {
    let text = |n: usize| value[n].as_str().unwrap_or_default();
    GroupVersionKind::new(text(0), text(1), text(2))
}

/// Each name is in memory once, however often it occurs.
#[derive(Default)]
struct Names(HashSet<Arc<str>>);

impl Names {
    fn get(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return known.clone();
        }
        let new: Arc<str> = name.into();
        self.0.insert(new.clone());
        new
    }

    fn ty(&mut self, value: &Value) -> Type {
        match value {
            Value::String(text) => self.scalar(text),
            Value::Array(parts) => match parts[0].as_str() {
                Some("struct") => self.structure(parts),
                Some("map") if parts[2] == true => Type::AtomicMap(Box::new(self.ty(&parts[1]))),
                Some("map") => Type::Map(Box::new(self.ty(&parts[1]))),
                Some("list") => self.list(parts),
                _ => panic!("unknown type in the generated file: {value}"),
            },
            _ => panic!("unknown type in the generated file: {value}"),
        }
    }

    fn scalar(&mut self, text: &str) -> Type {
        match text {
            "s" => Type::String(StringFormat::Plain),
            "s:byte" => Type::String(StringFormat::Bytes),
            "s:time" => Type::String(StringFormat::DateTime),
            "s:micro" => Type::String(StringFormat::MicroTime),
            "s:duration" => Type::String(StringFormat::Duration),
            "i32" => Type::Integer { bits: 32 },
            "i64" => Type::Integer { bits: 64 },
            "n" => Type::Number,
            "b" => Type::Boolean,
            "ios" => Type::IntOrString,
            "q" => Type::Quantity,
            "any" => Type::Any,
            _ => match text.strip_prefix('@') {
                Some(name) => Type::Ref(self.get(name)),
                None => panic!("unknown type in the generated file: {text}"),
            },
        }
    }

    fn structure(&mut self, parts: &[Value]) -> Type {
        let fields = parts[1].as_object().into_iter().flatten();
        let fields = fields.map(|(name, field)| (self.get(name), self.field(field))).collect();
        Type::Struct(Box::new(Struct { fields, atomic: parts[2] == true, ..Struct::default() }))
    }

    /// A bare type, or `[flags, type, default, zero]`.
    fn field(&mut self, value: &Value) -> Field {
        let Value::Array(parts) = value else { return Field::optional(self.ty(value)) };
        let flags = parts[0].as_str().unwrap_or_default();
        Field {
            ty: self.ty(&parts[1]),
            required: flags.contains('r'),
            nullable: false,
            granular: flags.contains('g'),
            default: parts.get(2).filter(|default| !default.is_null()).cloned(),
            zero: parts.get(3).cloned(),
        }
    }

    fn list(&mut self, parts: &[Value]) -> Type {
        let kind = match &parts[2] {
            Value::Array(keys) => ListKind::Map(keys.iter().filter_map(Value::as_str).map(|k| self.get(k)).collect()),
            text if text == "set" => ListKind::Set,
            _ => ListKind::Atomic,
        };
        Type::List(Box::new(List {
            item: self.ty(&parts[1]),
            kind,
            patch_merge_key: parts[3].as_str().map(|key| self.get(key)),
            retain_keys: parts[4] == true,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field<'a>(definition: &str, name: &str) -> &'a Field {
        let definition = Schemas::builtin().get(definition).unwrap();
        let Type::Struct(structure) = &definition.ty else { panic!("{definition:?}") };
        &structure.fields[name]
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn walk(ty: &Type, missing: &mut Vec<String>) {
            match ty {
                Type::Ref(name) if Schemas::builtin().get(name).is_none() => missing.push(name.to_string()),
                Type::Struct(s) => s.fields.values().for_each(|field| walk(&field.ty, missing)),
                Type::Map(item) | Type::AtomicMap(item) => walk(item, missing),
                Type::List(list) => walk(&list.item, missing),
                _ => {}
            }
        }
        let mut missing = Vec::new();
        Schemas::builtin().definitions().for_each(|definition| walk(&definition.ty, &mut missing));
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn apply_and_strategic_merge_have_their_own_keys() {
        let Type::List(ports) = &field("io.k8s.api.core.v1.Container", "ports").ty else { panic!() };
        assert_eq!(ports.kind, ListKind::Map(vec!["containerPort".into(), "protocol".into()]));
        assert_eq!(ports.patch_merge_key.as_deref(), Some("containerPort"));
    }

    #[test]
    fn kinds_are_found_and_defaults_kept() {
        let pod = Schemas::builtin().for_kind(&GroupVersionKind::new("", "v1", "Pod")).unwrap();
        assert_eq!(&*pod.name, "io.k8s.api.core.v1.Pod");
        assert_eq!(field("io.k8s.api.core.v1.ContainerPort", "protocol").default, Some("TCP".into()));
        assert_eq!(field("io.k8s.api.core.v1.ContainerPort", "name").default, None);
        assert!(field("io.k8s.api.core.v1.ContainerPort", "containerPort").required);
    }

    #[test]
    fn what_nobody_sets_is_written_as_upstream_does() {
        let zero = |definition, name| field(definition, name).zero.clone();
        assert_eq!(zero("io.k8s.api.rbac.v1.Role", "rules"), Some(Value::Null));
        assert_eq!(zero("io.k8s.api.core.v1.NodeSystemInfo", "bootID"), Some("".into()));
        assert_eq!(zero("io.k8s.api.core.v1.NodeStatus", "nodeInfo"), Some(serde_json::json!({})));
        assert_eq!(zero("io.k8s.api.core.v1.NodeStatus", "addresses"), None);
        assert!(field("io.k8s.api.core.v1.PersistentVolumeSpec", "claimRef").granular);
    }
}
