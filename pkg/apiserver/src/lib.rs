//! The API front: HTTPS, who is asking, what they may do, and one generic engine for every resource.
//!
//! Place in the flow: `kubectl | client -> front (authn, authz) -> engine (admission) -> store::Backend`.

pub mod body;
pub mod engine;
pub mod registry;
pub mod request;

pub use body::Body;
pub use request::{RequestInfo, User, Verb};
