//! How a value is encoded when it is first written, from its kind's schema. Merging reads only what was recorded then.
use crate::place::What;
use api::schema::{ListKind, Schemas, Type};
use serde_json::Value;

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
/// What tells the entries of `managedFields` apart; any of them may be missing.
const MANAGER_KEYS: &str = "?manager,operation,apiVersion,subresource";
/// What tells conditions apart in kinds without a schema here.
const CONDITION_KEYS: &str = "type";

/// A place in a schema.
#[derive(Clone, Copy)]
pub(crate) struct Shape<'a> {
    schemas: &'a Schemas,
    ty: &'a Type,
    spot: Spot,
    granular: bool,
}

/// Places that every object has, whatever its kind.
#[derive(Clone, Copy, PartialEq)]
enum Spot {
    Root,
    Metadata,
    Status,
    Conditions,
    Generation,
    Least,
    Managers,
    Manager,
    /// Inside `fieldsV1`: sets of paths.
    Paths,
    Elsewhere,
}

impl Spot {
    fn field(self, name: &str) -> Self {
        match (self, name) {
            (Self::Root, "metadata") => Self::Metadata,
            (Self::Root, "status") => Self::Status,
            (Self::Status, "conditions") => Self::Conditions,
            (Self::Metadata, "generation") => Self::Generation,
            (Self::Metadata, "deletionTimestamp" | "deletionGracePeriodSeconds") => Self::Least,
            (Self::Metadata, "managedFields") => Self::Managers,
            (Self::Manager, "fieldsV1") | (Self::Paths, _) => Self::Paths,
            _ => Self::Elsewhere,
        }
    }
}

impl<'a> Shape<'a> {
    /// Of an object of the kind that its own `apiVersion` and `kind` name.
    pub fn of(object: &Value, schemas: &'a Schemas) -> Self {
        let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
        let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
        let kind = api::GroupVersionKind::new(group, version, text("kind"));
        let ty = schemas.for_kind(&kind).map_or(&Type::Any, |definition| &definition.ty);
        Self { schemas, ty, spot: Spot::Root, granular: false }
    }

    pub fn field(&self, name: &str) -> Self {
        let spot = self.spot.field(name);
        let (ty, granular) = match self.schemas.resolve(self.ty) {
            Type::Struct(known) => {
                known.fields.get(name).map_or((&Type::Any, false), |field| (&field.ty, field.granular))
            }
            Type::Map(ty) | Type::AtomicMap(ty) => (&**ty, false),
            _ if spot == Spot::Metadata => (self.schemas.get(OBJECT_META).map_or(&Type::Any, |meta| &meta.ty), false),
            _ => (&Type::Any, false),
        };
        Self { schemas: self.schemas, ty, spot, granular }
    }

    pub fn item(&self) -> Self {
        let ty = match self.schemas.resolve(self.ty) {
            Type::List(list) => &list.item,
            _ => &Type::Any,
        };
        let spot = if self.spot == Spot::Managers { Spot::Manager } else { Spot::Elsewhere };
        Self { schemas: self.schemas, ty, spot, granular: false }
    }

    /// How an object here is encoded; none: whole.
    pub fn object(&self) -> Option<What> {
        if self.spot == Spot::Paths {
            return Some(What::Map);
        }
        match self.schemas.resolve(self.ty) {
            Type::AtomicMap(_) if !self.granular => None,
            Type::Struct(known) if known.atomic && !self.granular => None,
            Type::Map(_) | Type::AtomicMap(_) => Some(What::Map),
            _ => Some(What::Struct),
        }
    }

    /// How a list here is encoded; none: whole.
    pub fn list(&self) -> Option<What> {
        match (self.spot, self.schemas.resolve(self.ty)) {
            (Spot::Managers, _) => Some(What::Keyed(MANAGER_KEYS.into())),
            (_, Type::List(list)) => match &list.kind {
                ListKind::Atomic => None,
                ListKind::Set => Some(What::Set),
                ListKind::Map(keys) => Some(What::Keyed(keys.join(",").into())),
            },
            (Spot::Conditions, Type::Any) => Some(What::Keyed(CONDITION_KEYS.into())),
            _ => None,
        }
    }

    pub fn is_counter(&self) -> bool {
        self.spot == Spot::Generation
    }

    pub fn is_least(&self) -> bool {
        self.spot == Spot::Least
    }
}
