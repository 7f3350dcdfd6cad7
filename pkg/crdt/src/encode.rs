//! JSON as a document's values. Objects are maps. Lists with keys and sets are maps too, so that edits of
//! different items never meet; each carries how it was encoded, and merging reads nothing else. What Kubernetes
//! calls atomic is one opaque value. `metadata.generation` is a counter: two edits make it rise by two.
use api::schema::{ListKind, Schemas, Type};
use automerge::ScalarValue;
use automerge::hydrate;
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};

/// In a list's map: how the list is encoded.
pub(crate) const KIND: &str = "\0kind";
/// In a list's map: the place of each item, by the item's key.
pub(crate) const ORDER: &str = "\0order";
/// In a list's map: the items by key; a set has none.
pub(crate) const ITEMS: &str = "\0items";
/// What [`KIND`] says of a set.
pub(crate) const SET: &str = "";
/// Between the places of neighbours, so that an insertion need not move others.
pub(crate) const GAP: i64 = 1 << 20;

/// A place in a schema: says how the value there is encoded when it is first written.
#[derive(Clone, Copy)]
pub struct Shape<'a> {
    schemas: Option<&'a Schemas>,
    ty: &'a Type,
    place: Place,
}

/// Whether the value is on the way to `metadata.generation`.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Root,
    Metadata,
    Generation,
    Elsewhere,
}

impl<'a> Shape<'a> {
    /// Of an object whose kind is not known: its lists are atomic.
    pub const UNKNOWN: Shape<'static> = Shape { schemas: None, ty: &Type::Any, place: Place::Root };

    /// Of an object of the kind that its own `apiVersion` and `kind` name.
    pub fn of(object: &Value, schemas: &'a Schemas) -> Self {
        let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
        let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
        let kind = api::GroupVersionKind::new(group, version, text("kind"));
        match schemas.for_kind(&kind) {
            Some(definition) => Self { schemas: Some(schemas), ty: &definition.ty, place: Place::Root },
            None => Self::UNKNOWN,
        }
    }

    fn resolved(&self) -> &'a Type {
        self.schemas.map_or(self.ty, |schemas| schemas.resolve(self.ty))
    }

    pub(crate) fn field(&self, name: &str) -> Self {
        let ty = match self.resolved() {
            Type::Struct(known) => known.fields.get(name).map_or(&Type::Any, |field| &field.ty),
            Type::Map(ty) | Type::AtomicMap(ty) => ty,
            _ => &Type::Any,
        };
        let place = match (self.place, name) {
            (Place::Root, "metadata") => Place::Metadata,
            (Place::Metadata, "generation") => Place::Generation,
            _ => Place::Elsewhere,
        };
        Self { schemas: self.schemas, ty, place }
    }

    pub(crate) fn item(&self) -> Self {
        let ty = match self.resolved() {
            Type::List(list) => &list.item,
            _ => &Type::Any,
        };
        Self { schemas: self.schemas, ty, place: Place::Elsewhere }
    }

    pub(crate) fn is_counter(&self) -> bool {
        self.place == Place::Generation
    }

    pub(crate) fn is_atomic_map(&self) -> bool {
        match self.resolved() {
            Type::AtomicMap(_) => true,
            Type::Struct(known) => known.atomic,
            _ => false,
        }
    }

    /// How a list here is encoded; none: whole.
    pub(crate) fn list_kind(&self) -> Option<String> {
        let Type::List(list) = self.resolved() else { return None };
        match &list.kind {
            ListKind::Atomic => None,
            ListKind::Set => Some(SET.to_owned()),
            ListKind::Map(keys) => Some(keys.join(",")),
        }
    }
}

/// A map's key as it stands in the document: a zero byte in front is ours.
pub(crate) fn escape(key: &str) -> String {
    if key.starts_with('\0') { format!("\0{key}") } else { key.to_owned() }
}

/// The reverse; none: not an object's key.
pub(crate) fn unescape(key: &str) -> Option<&str> {
    match key.strip_prefix('\0') {
        None => Some(key),
        Some(rest) => rest.starts_with('\0').then_some(rest),
    }
}

/// The key of each item under an encoding, in order; none when one lacks a key or two share one.
pub(crate) fn item_keys(items: &[Value], kind: &str) -> Option<Vec<String>> {
    let key = |item: &Value| match kind {
        SET => (!item.is_object() && !item.is_array()).then(|| item.to_string()),
        keys => {
            let parts: Option<Vec<&Value>> = keys.split(',').map(|key| item.get(key)).collect();
            serde_json::to_string(&parts?).ok()
        }
    };
    let keys: Vec<String> = items.iter().map(key).collect::<Option<_>>()?;
    let distinct: HashSet<&String> = keys.iter().collect();
    (distinct.len() == keys.len()).then_some(keys)
}

/// A value that is replaced whole.
pub(crate) fn whole(value: &Value) -> ScalarValue {
    ScalarValue::Bytes(value.to_string().into_bytes())
}

pub(crate) fn scalar(value: &Value, shape: Shape<'_>) -> ScalarValue {
    match value {
        Value::Null => ScalarValue::Null,
        Value::Bool(yes) => ScalarValue::Boolean(*yes),
        Value::String(text) => ScalarValue::Str(text.as_str().into()),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(n), _) if shape.is_counter() => ScalarValue::counter(n),
            (Some(n), _) => ScalarValue::Int(n),
            (None, Some(n)) => ScalarValue::Uint(n),
            _ => ScalarValue::F64(number.as_f64().unwrap_or_default()),
        },
        Value::Array(_) | Value::Object(_) => whole(value),
    }
}

/// A fresh document's root.
pub(crate) fn root(object: &Value, shape: Shape<'_>) -> hydrate::Map {
    HashMap::from([(crate::document::OBJECT.to_owned(), value(object, shape))]).into()
}

/// A value as it is first written.
pub(crate) fn value(value: &Value, shape: Shape<'_>) -> hydrate::Value {
    match value {
        Value::Object(fields) if !shape.is_atomic_map() => map(fields, shape),
        Value::Array(items) => match shape.list_kind() {
            Some(kind) => list(items, &kind, shape).unwrap_or_else(|| whole(value).into()),
            None => whole(value).into(),
        },
        scalar_or_atomic => scalar(scalar_or_atomic, shape).into(),
    }
}

fn map(fields: &Map<String, Value>, shape: Shape<'_>) -> hydrate::Value {
    let fields = fields.iter().map(|(key, field)| (escape(key), value(field, shape.field(key))));
    hydrate::Value::Map(fields.collect::<HashMap<_, _>>().into())
}

/// A list as a map; none when its items don't fit the encoding.
pub(crate) fn list(items: &[Value], kind: &str, shape: Shape<'_>) -> Option<hydrate::Value> {
    let keys = item_keys(items, kind)?;
    let places = (1i64..).map(|n| hydrate::Value::from(ScalarValue::Int(n * GAP)));
    let order: HashMap<_, _> = keys.iter().cloned().zip(places).collect();
    let mut encoded = HashMap::from([
        (KIND.to_owned(), hydrate::Value::from(ScalarValue::Str(kind.into()))),
        (ORDER.to_owned(), hydrate::Value::Map(order.into())),
    ]);
    if kind != SET {
        let items: HashMap<_, _> = keys.into_iter().zip(items.iter().map(|item| value(item, shape.item()))).collect();
        encoded.insert(ITEMS.to_owned(), hydrate::Value::Map(items.into()));
    }
    Some(hydrate::Value::Map(encoded.into()))
}
