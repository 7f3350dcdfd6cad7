//! How apply sees a value: a leaf, or something whose parts have owners of their own.
use crate::schema::{ListKind, Schemas, Struct, Type};
use serde_json::Value;
use std::sync::Arc;

/// A type, or the absence of one: then maps are granular and all else is a leaf.
#[derive(Clone, Copy)]
pub(super) enum Ty<'t> {
    Known(&'t Type),
    /// The parts of a struct have owners here, even if its type is atomic elsewhere.
    Granular(&'t Type),
    Deduced,
}

#[derive(Clone, Copy)]
pub(super) enum Shape<'t> {
    /// A scalar, or something atomic: owned whole.
    Leaf,
    Object(Fields<'t>),
    List(Items<'t>),
}

#[derive(Clone, Copy)]
pub(super) enum Fields<'t> {
    Struct(&'t Struct),
    Map(&'t Type),
    Deduced,
}

/// Elements that have an identity.
#[derive(Clone, Copy)]
pub(super) enum Items<'t> {
    /// Scalars, each its own identity.
    Set,
    Keyed {
        item: &'t Type,
        keys: &'t [Arc<str>],
    },
}

pub(super) struct Types<'a> {
    pub schemas: &'a Schemas,
}

impl<'a> Types<'a> {
    pub fn shape(&self, ty: Ty<'a>, value: &Value) -> Shape<'a> {
        let (ty, granular) = match ty {
            Ty::Known(ty) => (ty, false),
            Ty::Granular(ty) => (ty, true),
            Ty::Deduced => return deduced(value),
        };
        match (self.schemas.resolve(ty), value) {
            (Type::Struct(s), Value::Object(_)) if granular || !s.atomic => Shape::Object(Fields::Struct(s)),
            (Type::Map(item), Value::Object(_)) => Shape::Object(Fields::Map(item)),
            (Type::List(list), Value::Array(_)) => match &list.kind {
                ListKind::Atomic => Shape::Leaf,
                ListKind::Set => Shape::List(Items::Set),
                ListKind::Map(keys) => Shape::List(Items::Keyed { item: &list.item, keys }),
            },
            (Type::Any, value) if !self.schemas.golang => deduced(value),
            _ => Shape::Leaf,
        }
    }

    /// The identity of a list's element as a path element; none if it has none.
    pub fn element(&self, items: Items<'a>, value: &Value) -> Option<String> {
        match items {
            Items::Set => (!value.is_object() && !value.is_array() && !value.is_null()).then(|| format!("v:{value}")),
            Items::Keyed { item, keys } => self.keyed_element(item, keys, value),
        }
    }

    /// The identities of all elements, or none if any has none.
    pub fn elements(&self, items: Items<'a>, values: &[Value]) -> Option<Vec<String>> {
        values.iter().map(|value| self.element(items, value)).collect()
    }

    fn keyed_element(&self, item: &Type, keys: &[Arc<str>], value: &Value) -> Option<String> {
        let fields = value.as_object()?;
        let default = |key: &str| match self.schemas.resolve(item) {
            Type::Struct(s) => s.fields.get(key)?.default.as_ref(),
            _ => None,
        };
        let mut keys: Vec<&str> = keys.iter().map(|key| &**key).collect();
        keys.sort_unstable();
        let mut text = String::from("k:{");
        for key in keys {
            if let Some(value) = fields.get(key).or_else(|| default(key)) {
                let comma = if text.len() > 3 { "," } else { "" };
                text += &format!("{comma}\"{key}\":{value}");
            }
        }
        (text.len() > 3).then(|| text + "}")
    }
}

impl<'t> Fields<'t> {
    pub fn child(self, name: &str) -> Ty<'t> {
        match self {
            Self::Struct(s) => match s.fields.get(name) {
                Some(field) if field.granular => Ty::Granular(&field.ty),
                Some(field) => Ty::Known(&field.ty),
                None => Ty::Deduced,
            },
            Self::Map(item) => Ty::Known(item),
            Self::Deduced => Ty::Deduced,
        }
    }

    /// What an object holds in a field that it leaves out: nothing, or the zero value of a field that is always there.
    pub fn absent(self, name: &str) -> Option<&'t Value> {
        let Self::Struct(s) = self else { return None };
        s.fields.get(name)?.zero.as_ref()
    }

    /// Whether Go leaves the field out with this value: it has nothing in it, and is not always written.
    pub fn leaves_out(self, name: &str, value: &Value) -> bool {
        let empty = match value {
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        let Self::Struct(s) = self else { return false };
        let part = |ty: &Type| matches!(ty, Type::List(_) | Type::Map(_) | Type::AtomicMap(_));
        empty && s.fields.get(name).is_some_and(|field| field.zero.is_none() && part(&field.ty))
    }

    /// Is this a field that the schema names, rather than a map's key?
    pub fn names(self, name: &str) -> bool {
        matches!(self, Self::Struct(s) if s.fields.contains_key(name))
    }
}

impl<'t> Items<'t> {
    pub fn item(self) -> Ty<'t> {
        match self {
            Self::Set => Ty::Deduced,
            Self::Keyed { item, .. } => Ty::Known(item),
        }
    }
}

fn deduced<'t>(value: &Value) -> Shape<'t> {
    if value.is_object() { Shape::Object(Fields::Deduced) } else { Shape::Leaf }
}
