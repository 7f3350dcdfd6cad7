//! Values: JSON read in place, and what expressions make of it.
use super::types::Type;
use super::{Error, text};
use crate::quantity::Quantity;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value as Json};
use std::any::Any;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

static DYN: Type = Type::Dyn;
/// The greatest integer to which every smaller one is exact as a double.
const EXACT_INTEGER: f64 = 9_007_199_254_740_992.0;

/// A value that brings its own fields or functions: lazily evaluated variables, an authorizer.
pub trait Opaque: Send + Sync + fmt::Debug {
    /// The name of its type, as declared.
    fn type_name(&self) -> &str;

    /// `value.name`.
    ///
    /// # Errors
    /// When it has no such field.
    fn field(&self, name: &str) -> Result<Value<'static>, Error> {
        Err(Error::NoSuchKey(name.into()))
    }

    /// `value.function(arguments...)`.
    ///
    /// # Errors
    /// When it has no such function, or the function fails.
    fn call(&self, function: &str, arguments: &[Value<'_>]) -> Result<Value<'static>, Error> {
        let _ = arguments;
        Err(Error::no_overload(function))
    }

    /// Whether both are the same value.
    fn equals(&self, other: &dyn Opaque) -> bool {
        let _ = other;
        false
    }

    /// As text, for `string()` and messages.
    fn text(&self) -> Option<String> {
        None
    }

    /// For functions that take this type as an argument.
    fn as_any(&self) -> &dyn Any;
}

/// A key of a map that an expression made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Bool(bool),
    Int(i64),
    String(Arc<str>),
}

/// What an expression yields. JSON lists and objects are read where they are, by the type declared for them.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    /// A string of the object or the program, not copied.
    Str(&'a str),
    Bytes(Arc<[u8]>),
    Duration(SignedDuration),
    Timestamp(Timestamp),
    Type(Arc<str>),
    List(Arc<Vec<Value<'a>>>),
    Map(Arc<BTreeMap<Key, Value<'a>>>),
    /// A JSON list and the type of its items.
    Items(&'a [Json], &'a Type),
    /// A JSON object, with its declared type: [`Type::Map`], [`Type::Object`] or [`Type::Dyn`].
    Object(&'a Map<String, Json>, &'a Type),
    Optional(Option<Arc<Value<'a>>>),
    Quantity(Arc<Quantity>),
    Opaque(Arc<dyn Opaque>),
}

impl<'a> Value<'a> {
    /// A JSON value of which nothing is declared.
    pub fn of(json: &'a Json) -> Self {
        Self::typed(json, &DYN)
    }

    /// A JSON value of a declared type. What does not fit its type (an object stored before its schema changed)
    /// reads as what it is.
    pub fn typed(json: &'a Json, ty: &'a Type) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(of) => Self::Bool(*of),
            Json::Number(of) => number(of, ty),
            Json::String(of) => string(of, ty),
            Json::Array(items) => Self::Items(items, if let Type::List(item) = ty { item } else { &DYN }),
            Json::Object(fields) => Self::Object(fields, ty),
        }
    }

    pub fn string(of: impl Into<Arc<str>>) -> Self {
        Self::String(of.into())
    }

    pub fn list(items: Vec<Value<'a>>) -> Self {
        Self::List(Arc::new(items))
    }

    pub fn some(of: Value<'a>) -> Self {
        Self::Optional(Some(Arc::new(of)))
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(of) => Some(of),
            Self::Str(of) => Some(of),
            _ => None,
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(of) = self { Some(*of) } else { None }
    }

    pub fn as_int(&self) -> Option<i64> {
        if let Self::Int(of) = self { Some(*of) } else { None }
    }

    /// How many items, entries, characters or bytes.
    pub fn size(&self) -> Option<usize> {
        Some(match self {
            Self::List(items) => items.len(),
            Self::Items(items, _) => items.len(),
            Self::Map(entries) => entries.len(),
            Self::Object(fields, Type::Object(of)) => {
                of.fields.values().filter(|field| fields.contains_key(&*field.name)).count()
            }
            Self::Object(fields, _) => fields.len(),
            Self::Bytes(of) => of.len(),
            _ => self.as_str()?.chars().count(),
        })
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self, Self::List(_) | Self::Items(..))
    }

    pub(super) fn is_map(&self) -> bool {
        matches!(self, Self::Map(_) | Self::Object(..))
    }

    /// The item of a list.
    pub fn item(&self, index: usize) -> Option<Value<'a>> {
        match self {
            Self::List(items) => items.get(index).cloned(),
            Self::Items(items, ty) => items.get(index).map(|item| Self::typed(item, ty)),
            _ => None,
        }
    }

    /// All items of a list.
    pub fn items(&self) -> impl Iterator<Item = Value<'a>> + '_ {
        (0..if self.is_list() { self.size().unwrap_or(0) } else { 0 }).filter_map(|i| self.item(i))
    }

    /// The entries of a map, or the fields of an object that are set.
    pub fn entries(&self) -> Vec<(Value<'a>, Value<'a>)> {
        match self {
            Self::Map(entries) => entries.iter().map(|(k, v)| (k.into(), v.clone())).collect(),
            Self::Object(fields, Type::Object(of)) => {
                let one = |(name, field): (&'a Arc<str>, &'a super::Field)| {
                    Some((Value::Str(name), Self::typed(fields.get(&*field.name)?, &field.ty)))
                };
                of.fields.iter().filter_map(one).collect()
            }
            Self::Object(fields, ty) => {
                let item = if let Type::Map(_, item) = ty { &**item } else { &DYN };
                fields.iter().map(|(k, v)| (Value::Str(k), Self::typed(v, item))).collect()
            }
            _ => Vec::new(),
        }
    }

    /// `value.name`, absent as none.
    ///
    /// # Errors
    /// When this kind of value has no fields.
    pub(super) fn field(&self, name: &str) -> Result<Option<Value<'a>>, Error> {
        match self {
            Self::Map(entries) => Ok(entries.get(&Key::String(name.into())).cloned()),
            Self::Object(fields, Type::Object(of)) => {
                Ok(of.fields.get(name).and_then(|field| Some(Self::typed(fields.get(&*field.name)?, &field.ty))))
            }
            Self::Object(fields, ty) => {
                let item = if let Type::Map(_, item) = ty { &**item } else { &DYN };
                Ok(fields.get(name).map(|value| Self::typed(value, item)))
            }
            Self::Opaque(of) => match of.field(name) {
                Err(Error::NoSuchKey(_)) => Ok(None),
                other => other.map(Some),
            },
            _ => Err(Error::no_overload("select")),
        }
    }

    /// `value[key]`, absent as none.
    ///
    /// # Errors
    /// When this kind of value has no such keys.
    pub(super) fn index(&self, key: &Value<'_>) -> Result<Option<Value<'a>>, Error> {
        if self.is_list() {
            let at = key.as_index().ok_or_else(|| Error::no_overload("_[_]"))?;
            return Ok(usize::try_from(at).ok().and_then(|at| self.item(at)));
        }
        match (self, Key::try_from(key)) {
            (Self::Map(entries), Ok(key)) => Ok(entries.get(&key).cloned()),
            (Self::Object(..), Ok(Key::String(name))) => self.field(&name),
            (Self::Object(..), Ok(_)) => Ok(None),
            _ => Err(Error::no_overload("_[_]")),
        }
    }

    fn as_index(&self) -> Option<i64> {
        match self {
            Self::Int(at) => Some(*at),
            Self::Uint(at) => i64::try_from(*at).ok(),
            Self::Double(at) if at.fract() == 0.0 && at.abs() < EXACT_INTEGER => Some(*at as i64),
            _ => None,
        }
    }

    /// The name of its type as the language prints it.
    pub fn type_name(&self) -> &str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::String(_) | Self::Str(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::Type(_) => "type",
            Self::List(_) | Self::Items(..) => "list",
            Self::Object(_, Type::Object(of)) => &of.name,
            Self::Map(_) | Self::Object(..) => "map",
            Self::Optional(_) => "optional_type",
            Self::Quantity(_) => "kubernetes.Quantity",
            Self::Opaque(of) => of.type_name(),
        }
    }

    /// How values of the language compare, or none where they don't.
    pub fn compare(&self, other: &Value<'_>) -> Option<Ordering> {
        match (self, other) {
            (Self::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            (Self::Bytes(a), Value::Bytes(b)) => Some(a.cmp(b)),
            (Self::Duration(a), Value::Duration(b)) => Some(a.cmp(b)),
            (Self::Timestamp(a), Value::Timestamp(b)) => Some(a.cmp(b)),
            (Self::Quantity(a), Value::Quantity(b)) => Some(a.cmp(b)),
            (Self::Int(a), Value::Int(b)) => Some(a.cmp(b)),
            (Self::Uint(a), Value::Uint(b)) => Some(a.cmp(b)),
            (Self::Int(a), Value::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Self::Uint(a), Value::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            _ => match (self.as_str(), other.as_str()) {
                (Some(a), Some(b)) => Some(a.cmp(b)),
                _ => self.as_double()?.partial_cmp(&other.as_double()?),
            },
        }
    }

    pub(super) fn as_double(&self) -> Option<f64> {
        match self {
            Self::Double(of) => Some(*of),
            Self::Int(of) => Some(*of as f64),
            Self::Uint(of) => Some(*of as f64),
            _ => None,
        }
    }

    /// As JSON, for patches and messages; durations, times and bytes as Kubernetes writes them.
    pub fn to_json(&self) -> Json {
        match self {
            Self::Bool(of) => Json::Bool(*of),
            Self::Int(of) => Json::from(*of),
            Self::Uint(of) => Json::from(*of),
            Self::Double(of) => Json::from(*of),
            Self::Bytes(of) => Json::String(STANDARD.encode(of)),
            Self::Duration(of) => Json::String(text::duration(*of)),
            Self::Timestamp(of) => Json::String(of.to_string()),
            Self::Type(name) => Json::String(name.to_string()),
            Self::List(_) | Self::Items(..) => Json::Array(self.items().map(|item| item.to_json()).collect()),
            Self::Object(fields, _) => Json::Object((*fields).clone()),
            Self::Map(_) => {
                let entry = |(key, value): (Value<'_>, Value<'_>)| (text::of(&key), value.to_json());
                Json::Object(self.entries().into_iter().map(entry).collect())
            }
            Self::Optional(Some(of)) => of.to_json(),
            Self::Quantity(of) => Json::String(of.to_string()),
            Self::Opaque(of) => of.text().map_or(Json::Null, Json::String),
            Self::Null | Self::Optional(None) => Json::Null,
            Self::String(_) | Self::Str(_) => Json::String(self.as_str().unwrap_or_default().into()),
        }
    }
}

fn number<'a>(of: &serde_json::Number, ty: &Type) -> Value<'a> {
    match (of.as_i64(), of.as_u64()) {
        (Some(int), _) if *ty == Type::Double => Value::Double(int as f64),
        (Some(int), _) => Value::Int(int),
        (None, Some(uint)) => Value::Uint(uint),
        _ => Value::Double(of.as_f64().unwrap_or(f64::NAN)),
    }
}

fn string<'a>(of: &'a str, ty: &Type) -> Value<'a> {
    let typed = match ty {
        Type::Bytes => STANDARD.decode(of).ok().map(|bytes| Value::Bytes(bytes.into())),
        Type::Duration => text::parse_duration(of).map(Value::Duration),
        Type::Timestamp => text::parse_timestamp(of).map(Value::Timestamp),
        _ => None,
    };
    typed.unwrap_or(Value::Str(of))
}

impl PartialEq for Value<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Type(a), Self::Type(b)) => a == b,
            (Self::Optional(a), Self::Optional(b)) => a == b,
            (Self::Opaque(a), Self::Opaque(b)) => Arc::ptr_eq(a, b) || a.equals(&**b),
            _ if self.is_list() && other.is_list() => {
                self.size() == other.size() && self.items().zip(other.items()).all(|(a, b)| a == b)
            }
            _ if self.is_map() && other.is_map() => {
                let same = |(key, value): (Value<'_>, Value<'_>)| matches!(other.index(&key), Ok(Some(theirs)) if theirs == value);
                self.size() == other.size() && self.entries().into_iter().all(same)
            }
            _ => self.compare(other) == Some(Ordering::Equal),
        }
    }
}

impl From<&Key> for Value<'_> {
    fn from(key: &Key) -> Self {
        match key {
            Key::Bool(of) => Self::Bool(*of),
            Key::Int(of) => Self::Int(*of),
            Key::String(of) => Self::String(of.clone()),
        }
    }
}

impl TryFrom<&Value<'_>> for Key {
    type Error = Error;

    fn try_from(value: &Value<'_>) -> Result<Self, Error> {
        match value {
            Value::Bool(of) => Ok(Self::Bool(*of)),
            _ => match (value.as_index(), value.as_str()) {
                (Some(of), _) => Ok(Self::Int(of)),
                (_, Some(of)) => Ok(Self::String(of.into())),
                _ => Err(Error::Function(format!("unsupported key type: {}", value.type_name()))),
            },
        }
    }
}
