//! Values as kube-apiserver stores them: JSON, protobuf, or encrypted.
use super::{Error, MAGIC, to_json};
use crate::schema::Schemas;
use crate::{GroupVersion, GroupVersionKind, default};
use serde_json::Value;

/// What an encrypted value begins with (`k8s.io/apiserver/pkg/server/options/encryptionconfig`).
pub const ENCRYPTED: &[u8] = b"k8s:enc:";

/// What a stored value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// JSON, or what is no object at all.
    Plain,
    /// It was protobuf; this is what would be stored of it as JSON.
    Decoded(Value),
    /// Nothing can be read without the key that the API server has.
    Encrypted,
}

/// Reads a value out of a store that an API server of upstream may write to. As there, an object that comes out of the
/// store gets the defaults that it lacks.
///
/// # Errors
/// Protobuf that is damaged, or of a kind that is not known.
pub fn stored(value: &[u8]) -> Result<Stored, Error> {
    if value.starts_with(ENCRYPTED) {
        return Ok(Stored::Encrypted);
    }
    if !value.starts_with(MAGIC) {
        return Ok(Stored::Plain);
    }
    let mut object = to_json(value)?;
    let schemas = Schemas::builtin();
    let gvk = kind_of(&object);
    if let Some(definition) = schemas.for_kind(&gvk) {
        default::default(&gvk, &mut object, &definition.ty, schemas);
        default::settle(&mut object, &definition.ty, schemas);
    }
    Ok(Stored::Decoded(object))
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
        assert_eq!(stored(b"{}").unwrap(), Stored::Plain);
        assert_eq!(stored(b"").unwrap(), Stored::Plain);
        assert_eq!(stored(b"k8s:enc:aescbc:v1:key:xyz").unwrap(), Stored::Encrypted);
        assert!(matches!(stored(b"k8s\0"), Err(Error::UnknownKind { .. })));
    }
}
