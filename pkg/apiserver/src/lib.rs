//! The API front: HTTPS, who is asking, what they may do, and one generic engine for every resource.
//!
//! Place in the flow: `kubectl | client -> front (authn, authz) -> engine (admission) -> store::Backend`.

pub mod admission;
pub mod aggregation;
pub mod alloc;
pub mod authn;
pub mod authz;
pub mod body;
pub mod bootstrap;
pub mod connect;
pub mod discovery;
mod endpoints;
pub mod engine;
pub mod front;
pub mod guard;
pub mod health;
pub mod limits;
pub mod metrics;
pub mod options;
pub mod registry;
pub mod request;
pub mod reviews;
pub mod service;
pub mod shared;
pub mod sites;
pub mod spdy;
mod tls;
pub mod version;
mod webhook;

pub use authn::Tokens;
pub use body::Body;
pub use connect::Tunnels;
pub use options::{Cluster, EXTENSION, Extension, FrontProxy, Options, Tls, TokenKeys};
pub use request::{RequestInfo, User, Verb};
pub use service::{Handle, InProcess, Service};
pub use sites::{Forwarded, HomeProxy, Sites, Unreachable, Watermarks};
