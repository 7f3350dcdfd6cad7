//! One pod: what it needs next, what the runtime is told, and what is reported. Pure but for `grpc`,
//! `observed` and `probe`.
pub mod admit;
pub mod apparmor;
pub mod config;
pub mod env;
pub mod grpc;
pub mod ledger;
pub mod observed;
pub mod probe;
pub mod resize;
pub mod resources;
pub mod status;
pub mod step;
