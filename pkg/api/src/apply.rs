//! Field ownership: server-side apply and the bookkeeping of `metadata.managedFields` for every other write.
//! Behaviour is that of `sigs.k8s.io/structured-merge-diff`.
use crate::schema::{Schemas, Type};
use serde_json::Value;

/// Who writes, and when.
#[derive(Clone, Debug)]
pub struct Writer<'a> {
    /// The `fieldManager` parameter, or the user agent's first part.
    pub manager: &'a str,
    pub api_version: &'a str,
    /// `""` or `status`.
    pub subresource: &'a str,
    /// RFC 3339.
    pub now: &'a str,
}

/// A field that another manager owns with another value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub manager: String,
    /// Upstream's path text, `.spec.replicas`.
    pub field: String,
    /// ` using apps/v1` and the subresource, as upstream's message has them.
    pub api_version: String,
    pub subresource: String,
    pub update_time: Option<String>,
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// Answered as 409 with a cause a field.
    #[error("Apply failed with {} conflict(s)", .0.len())]
    Conflicts(Vec<Conflict>),
    /// Answered as 400 or 422 by the caller.
    #[error("{0}")]
    Malformed(String),
}

/// Server-side apply of `applied` (already checked against the schema, not defaulted) on `live` (absent: a
/// create). Returns the merged object with updated managedFields.
pub fn apply(
    live: Option<&Value>,
    applied: &Value,
    writer: &Writer<'_>,
    force: bool,
    ty: &Type,
    schemas: &Schemas,
) -> Result<Value, Error> {
    let _ = (live, applied, writer, force, ty, schemas);
    Err(Error::Malformed("apply".into()))
}

/// Records the fields that `new` changed against `live` as owned by the writer (operation `Update`); takes
/// them from managers whose value changed. `new` carries the client's managedFields: an explicit `[]` or
/// `[{}]` resets them.
pub fn update(live: Option<&Value>, new: &mut Value, writer: &Writer<'_>, ty: &Type, schemas: &Schemas) {
    let _ = (live, new, writer, ty, schemas);
}
