//! What happens when servers that wrote apart meet again: one document an object, merged field by field, the
//! later write winning, and what lost reported. Pure: no clock, no IO; automerge's types stay inside.
//!
//! Place in the flow: `store` derives a change from each row of its log through [`Document::write`] and keeps it;
//! a peer's changes go through [`Document::merge`], and [`Document::view`] is what is then served.

mod clock;
mod document;
mod encode;
mod policy;
mod register;
mod view;
mod write;

pub use clock::HybridClock;
pub use document::{Actor, Document, Error, Result};
pub use encode::Shape;
pub use policy::{Policy, policy};
pub use register::Register;
pub use view::{Conflict, Stamp, View};
