//! What happens when servers that wrote apart meet again: what all of them know of a key is one document, a state
//! that merges field by field, the later write winning, and what lost reported. Pure: no clock, no IO.
//!
//! Place in the flow: `store` derives a [`Delta`] from each row of its log through [`Document::write`] and keeps
//! both; a peer's deltas go through [`Document::merge`], a peer's whole documents through [`Document::join`], and
//! [`Document::visible`] is what is then served.

mod apply;
mod clock;
mod conflict;
mod document;
mod edit;
mod join;
mod life;
mod place;
mod policy;
mod repair;
mod shape;
mod stamp;
mod wire;

pub use clock::HybridClock;
pub use conflict::Conflict;
pub use document::{Delta, Document, Error, Result, Visible};
pub use policy::{Policy, policy};
pub use stamp::{Actor, Stamp, Vector};
