//! Values as an API server of upstream stores them: JSON, protobuf, or encrypted, and some kinds in another version than
//! is stored here.
mod definition;

use crate::protobuf::{Error, MAGIC, to_json};
use crate::schema::Schemas;
use crate::{GroupVersion, GroupVersionKind, default};
use serde_json::Value;

/// What an encrypted value begins with (`k8s.io/apiserver/pkg/server/options/encryptionconfig`).
pub const ENCRYPTED: &[u8] = b"k8s:enc:";

/// What a stored value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// JSON as it is stored here, or what is no object at all.
    Plain,
    /// It was protobuf, or in another version; this is what would be stored of it here.
    Read(Value),
    /// Nothing can be read without the key that the API server has.
    Encrypted,
}

/// Whether a value may be anything else than [`Stored::Plain`]: cheap enough to ask of every value.
pub fn is_foreign(value: &[u8]) -> bool {
    value.starts_with(b"k8s") && (value.starts_with(MAGIC) || value.starts_with(ENCRYPTED))
        || value.starts_with(definition::OLD)
}

/// Reads a value out of a store that an API server of upstream may write to. As there, an object that comes out of the
/// store gets the defaults that it lacks.
///
/// # Errors
/// Protobuf that is damaged, or of a kind that is not known.
pub fn read(value: &[u8]) -> Result<Stored, Error> {
    if !is_foreign(value) {
        return Ok(Stored::Plain);
    }
    if value.starts_with(ENCRYPTED) {
        return Ok(Stored::Encrypted);
    }
    let object = match value.starts_with(MAGIC) {
        true => to_json(value)?,
        false => serde_json::from_slice(value).map_err(|_| Error::Damaged)?,
    };
    let mut object = definition::current(object);
    let schemas = Schemas::builtin();
    let gvk = kind_of(&object);
    if let Some(definition) = schemas.for_kind(&gvk) {
        default::default(&gvk, &mut object, &definition.ty, schemas);
        default::settle(&mut object, &definition.ty, schemas);
    }
    Ok(Stored::Read(object))
}

fn kind_of(object: &Value) -> GroupVersionKind {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    let version = GroupVersion::parse(text("apiVersion"));
    GroupVersionKind::new(version.group, version.version, text("kind"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_value_is_shows_in_its_first_bytes() {
        assert_eq!(read(b"{}").unwrap(), Stored::Plain);
        assert_eq!(read(b"").unwrap(), Stored::Plain);
        assert_eq!(read(b"k8s").unwrap(), Stored::Plain);
        assert_eq!(read(b"k8s:enc:aescbc:v1:key:xyz").unwrap(), Stored::Encrypted);
        assert!(matches!(read(b"k8s\0"), Err(Error::UnknownKind { .. })));
    }
}
