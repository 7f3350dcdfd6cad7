//! What an object may hold, as data: one model for built-in kinds (from the generated file) and for custom
//! resources (from their structural schemas). Decoding, defaults, strategic merge, apply, OpenAPI and the
//! CRDT's list encoding all read it.
mod builtin;

use crate::GroupVersionKind;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A named type (`io.k8s.api.core.v1.PodSpec`) or a custom resource's root. References between types go by
/// name through [`Schemas`], so recursive types (JSONSchemaProps) need no cycles of `Arc`.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// The OpenAPI v2 definition name, or `<group>/<version>.<Kind>` for a custom resource.
    pub name: Arc<str>,
    pub ty: Type,
    /// The kinds that this type is the root of.
    pub kinds: Vec<GroupVersionKind>,
}

/// The type of one value.
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// A named type of the same [`Schemas`].
    Ref(Arc<str>),
    /// A struct with known fields. `preserve_unknown` keeps what is not listed
    /// (`x-kubernetes-preserve-unknown-fields`); `embedded` marks an embedded resource.
    Struct(Box<Struct>),
    /// String keys to values of one type.
    Map(Box<Type>),
    /// The same with `x-kubernetes-map-type: atomic` (nodeSelector, a Service's selector): read and strategically
    /// merged like [`Type::Map`], but apply owns it whole.
    AtomicMap(Box<Type>),
    List(Box<List>),
    String(StringFormat),
    /// `bits` is 32 or 64.
    Integer {
        bits: u8,
    },
    Number,
    Boolean,
    /// `intstr.IntOrString`.
    IntOrString,
    /// `resource.Quantity`: a string or a number on input, its canonical string inside.
    Quantity,
    /// Any JSON value (`RawExtension`, `JSON`, `FieldsV1`).
    Any,
}

/// What a string must look like to be decoded; further rules are validation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StringFormat {
    Plain,
    /// base64
    Bytes,
    /// RFC 3339, seconds
    DateTime,
    /// RFC 3339, microseconds
    MicroTime,
    /// Go's duration text, `1m30s`
    Duration,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Struct {
    pub fields: BTreeMap<Arc<str>, Field>,
    pub preserve_unknown: bool,
    pub embedded: bool,
    /// `x-kubernetes-map-type: atomic`: apply owns it whole.
    pub atomic: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    pub ty: Type,
    pub required: bool,
    /// JSON null is kept only here; elsewhere it means absent.
    pub nullable: bool,
    /// What upstream's encoder writes when nobody set the field (`{}` of a struct held by value, `null` of a list
    /// without omitempty); none: nothing. Whoever fills such a field in adds its parts, but not the field itself.
    pub zero: Option<Value>,
    /// `x-kubernetes-map-type: granular` over a type that is atomic elsewhere.
    pub granular: bool,
    /// The static default of the type, from OpenAPI; conditional defaults are in `default`.
    pub default: Option<Value>,
}

impl Field {
    /// A field that may be left out and then is not there.
    pub fn optional(ty: Type) -> Self {
        Self { ty, required: false, nullable: false, zero: None, granular: false, default: None }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct List {
    pub item: Type,
    /// `x-kubernetes-list-type` and its keys: how apply and the CRDT see the list.
    pub kind: ListKind,
    /// `x-kubernetes-patch-merge-key` with strategy `merge`: how strategic merge sees it (for a list of
    /// scalars with strategy merge, the empty string).
    pub patch_merge_key: Option<Arc<str>>,
    /// `retainKeys` in the patch strategy.
    pub retain_keys: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListKind {
    Atomic,
    Set,
    Map(Vec<Arc<str>>),
}

/// A closed set of definitions: the built-in ones, or one custom resource version's own.
#[derive(Clone, Debug, Default)]
pub struct Schemas {
    /// The types are Go's: a list or map without anything in it is left out like one that is absent, and values
    /// without a schema (`RawExtension`, `JSON`) have one owner. A custom resource keeps what it is given, and values
    /// without a schema are owned part by part.
    pub golang: bool,
    definitions: BTreeMap<Arc<str>, Arc<Definition>>,
    kinds: BTreeMap<GroupVersionKind, Arc<str>>,
}

impl Schemas {
    pub fn new(definitions: impl IntoIterator<Item = Definition>) -> Self {
        let mut schemas = Self::default();
        for definition in definitions {
            for kind in &definition.kinds {
                schemas.kinds.insert(kind.clone(), definition.name.clone());
            }
            schemas.definitions.insert(definition.name.clone(), Arc::new(definition));
        }
        schemas
    }

    /// The definition whose root kind this is.
    pub fn for_kind(&self, kind: &GroupVersionKind) -> Option<&Arc<Definition>> {
        self.definitions.get(self.kinds.get(kind)?)
    }

    pub fn get(&self, name: &str) -> Option<&Arc<Definition>> {
        self.definitions.get(name)
    }

    /// Follows references until the type is no name. Unknown names read as [`Type::Any`].
    pub fn resolve<'a>(&'a self, mut ty: &'a Type) -> &'a Type {
        while let Type::Ref(name) = ty {
            match self.definitions.get(name) {
                Some(definition) => ty = &definition.ty,
                None => return &Type::Any,
            }
        }
        ty
    }

    /// The name of a type, if it is one, or the type of a definition.
    pub fn name_of<'a>(&'a self, ty: &'a Type) -> Option<&'a str> {
        match ty {
            Type::Ref(name) => Some(name),
            ty => self.definitions.values().find(|definition| std::ptr::eq(&definition.ty, ty)).map(|d| &*d.name),
        }
    }

    pub fn definitions(&self) -> impl Iterator<Item = &Arc<Definition>> {
        self.definitions.values()
    }
}
