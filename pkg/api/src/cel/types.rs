//! Static types, and how they print.
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// What an expression may yield.
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// Known when evaluated only.
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Duration,
    Timestamp,
    /// The type of types.
    Type,
    List(Arc<Type>),
    Map(Arc<Type>, Arc<Type>),
    Object(Arc<ObjectType>),
    Optional(Arc<Type>),
    /// A type that only its functions see into, by name (`kubernetes.Quantity`).
    Opaque(Arc<str>),
    /// A type parameter of a function's declaration.
    Param(char),
}

/// A struct with known fields.
#[derive(Clone, Debug, Default)]
pub struct ObjectType {
    pub name: Arc<str>,
    /// By the name that expressions use, which is the escaped one.
    pub fields: BTreeMap<Arc<str>, Field>,
}

#[derive(Clone, Debug)]
pub struct Field {
    /// The name in the object.
    pub name: Arc<str>,
    pub ty: Type,
}

impl PartialEq for ObjectType {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl ObjectType {
    /// A type whose fields need no escaping.
    pub fn new(name: &str, fields: &[(&str, Type)]) -> Self {
        let field = |(name, ty): &(&str, Type)| ((*name).into(), Field { name: (*name).into(), ty: ty.clone() });
        Self { name: name.into(), fields: fields.iter().map(field).collect() }
    }
}

impl Type {
    pub fn list(item: Type) -> Self {
        Self::List(Arc::new(item))
    }

    pub fn map(key: Type, value: Type) -> Self {
        Self::Map(Arc::new(key), Arc::new(value))
    }

    pub fn optional(of: Type) -> Self {
        Self::Optional(Arc::new(of))
    }

    pub fn opaque(name: &str) -> Self {
        Self::Opaque(name.into())
    }

    pub(super) fn is_number(&self) -> bool {
        matches!(self, Self::Int | Self::Uint | Self::Double)
    }

    /// Whether a value of type `other` may stand where this type is asked for.
    pub(super) fn accepts(&self, other: &Type) -> bool {
        match (self, other) {
            (Self::Dyn, _) | (_, Self::Dyn) => true,
            (Self::List(a), Self::List(b)) | (Self::Optional(a), Self::Optional(b)) => a.accepts(b),
            (Self::Map(k, v), Self::Map(l, w)) => k.accepts(l) && v.accepts(w),
            // Structs and what only functions see into may be null.
            (Self::Object(_) | Self::Opaque(_) | Self::Duration | Self::Timestamp, Self::Null) => true,
            (Self::Null, Self::Object(_) | Self::Opaque(_) | Self::Duration | Self::Timestamp) => true,
            (a, b) => a == b,
        }
    }

    /// The one type for both, [`Type::Dyn`] if there is none.
    pub(super) fn join(&self, other: &Type) -> Type {
        match (self, other) {
            (a, b) if a == b => a.clone(),
            (Self::List(a), Self::List(b)) => Type::list(a.join(b)),
            (Self::Map(k, v), Self::Map(l, w)) => Type::map(k.join(l), v.join(w)),
            (Self::Optional(a), Self::Optional(b)) => Type::optional(a.join(b)),
            _ => Type::Dyn,
        }
    }

    /// Reads the notation of declarations: `list<T>`, `map<string, dyn>`, `optional<T>`, `kubernetes.Quantity`.
    pub(super) fn parse(text: &str) -> Type {
        let text = text.trim();
        let inner = |prefix: &str| text.strip_prefix(prefix).and_then(|rest| rest.strip_suffix('>'));
        if let Some(item) = inner("list<") {
            return Type::list(Type::parse(item));
        }
        if let Some(of) = inner("optional<") {
            return Type::optional(Type::parse(of));
        }
        if let Some((key, value)) = inner("map<").and_then(|entry| entry.split_once(',')) {
            return Type::map(Type::parse(key), Type::parse(value));
        }
        let mut letters = text.chars();
        if let (Some(letter @ 'A'..='Z'), None) = (letters.next(), letters.next()) {
            return Type::Param(letter);
        }
        Type::named(text).unwrap_or_else(|| Type::opaque(text))
    }

    /// The type that an identifier of the language names.
    pub(super) fn named(name: &str) -> Option<Type> {
        Some(match name {
            "dyn" => Type::Dyn,
            "null_type" => Type::Null,
            "bool" => Type::Bool,
            "int" => Type::Int,
            "uint" => Type::Uint,
            "double" => Type::Double,
            "string" => Type::String,
            "bytes" => Type::Bytes,
            "google.protobuf.Duration" => Type::Duration,
            "google.protobuf.Timestamp" => Type::Timestamp,
            "type" => Type::Type,
            "list" => Type::list(Type::Dyn),
            "map" => Type::map(Type::Dyn, Type::Dyn),
            "optional_type" => Type::optional(Type::Dyn),
            _ => return None,
        })
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dyn => f.write_str("dyn"),
            Self::Null => f.write_str("null"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Uint => f.write_str("uint"),
            Self::Double => f.write_str("double"),
            Self::String => f.write_str("string"),
            Self::Bytes => f.write_str("bytes"),
            Self::Duration => f.write_str("google.protobuf.Duration"),
            Self::Timestamp => f.write_str("google.protobuf.Timestamp"),
            Self::Type => f.write_str("type"),
            Self::List(item) => write!(f, "list({item})"),
            Self::Map(key, value) => write!(f, "map({key}, {value})"),
            Self::Object(of) => f.write_str(&of.name),
            Self::Optional(of) => write!(f, "optional_type({of})"),
            Self::Opaque(name) => f.write_str(name),
            Self::Param(letter) => write!(f, "{letter}"),
        }
    }
}
