//! What the server needs to know of an object without parsing it again: taken once when the object changes.
use std::collections::BTreeMap;

/// The few facts by which lists and watches filter and the garbage collector walks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// Selectable fields besides `metadata.name` and `metadata.namespace`, by path (`spec.nodeName`).
    pub fields: BTreeMap<Box<str>, Box<str>>,
    pub uid: Box<str>,
    /// uids of the owners.
    pub owners: Box<[Box<str>]>,
    pub deleting: bool,
    /// Byte offset right after the `{` of `metadata`, where `"resourceVersion":"N",` is spliced in;
    /// none when the value is not a Kubernetes object.
    pub splice_at: Option<u32>,
}

/// Makes the summary of a stored value. The API front supplies it, because which fields are selectable is a
/// matter of the resource.
pub trait Summarize: Send + Sync {
    fn summarize(&self, key: &[u8], value: &[u8]) -> Summary;
}
