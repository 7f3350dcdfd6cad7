//! The three patch formats that carry no ownership: JSON patch, JSON merge patch, strategic merge patch.

mod json;
mod strategic;

pub use json::{json_patch, merge_patch};
pub use strategic::strategic_merge;

/// Texts are upstream's where the cause is the same.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// Answered as 400.
    #[error("{0}")]
    Malformed(String),
    /// What upstream fails of rather than refuses: answered as 500.
    #[error("{0}")]
    Failed(String),
    /// A JSON patch's `test` failed or its path is missing: answered as 422.
    #[error("{0}")]
    Unprocessable(String),
    /// More operations than one request may carry: answered as 413.
    #[error("{0}")]
    TooLarge(String),
}
