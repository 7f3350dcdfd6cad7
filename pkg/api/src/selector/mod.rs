//! Label and field selectors, with the syntax, semantics and error texts of `k8s.io/apimachinery/pkg/labels`
//! and `pkg/fields`.

mod field;
mod label;
mod parse;
pub mod syntax;

pub use field::{FieldSelector, Term};
pub use label::{LabelSelector, Labels, Operator, Requirement};

/// A selector that can't be read. Answered as 400 with this text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub(crate) String);
