//! The three patch formats that carry no ownership: JSON patch, JSON merge patch, strategic merge patch.
use crate::schema::{Schemas, Type};
use serde_json::Value;

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// Answered as 400.
    #[error("{0}")]
    Malformed(String),
    /// A JSON patch's `test` failed or its path is missing: answered as 422.
    #[error("{0}")]
    Unprocessable(String),
}

/// RFC 6902.
pub fn json_patch(live: &Value, patch: &[u8]) -> Result<Value, Error> {
    let _ = (live, patch);
    Err(Error::Malformed("json patch".into()))
}

/// RFC 7386.
pub fn merge_patch(live: &Value, patch: &Value) -> Value {
    let mut out = live.clone();
    json_patch::merge(&mut out, patch);
    out
}

/// Kubernetes' strategic merge, with `$patch`, `$deleteFromPrimitiveList`, `$setElementOrder` and `$retainKeys`.
pub fn strategic_merge(live: &Value, patch: &Value, ty: &Type, schemas: &Schemas) -> Result<Value, Error> {
    let _ = (live, patch, ty, schemas);
    Err(Error::Malformed("strategic merge".into()))
}
