//! What is told of a write that did not survive a merge.
use crate::Stamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Two writes that did not know of each other, of which one lost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conflict {
    /// `metadata.uid` of the object's life that the loser belongs to; empty for what is no Kubernetes object.
    pub life: String,
    /// Field names and item keys from the object's root, joined by dots; empty: the whole object.
    pub path: String,
    /// None as value: removed.
    pub winner: (Stamp, Option<Value>),
    pub loser: (Stamp, Option<Value>),
}
