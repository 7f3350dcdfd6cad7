//! One pod: what it needs next, what the runtime is told, and what is reported. Pure but for `observed` and `probe`.
pub mod config;
pub mod env;
pub mod observed;
pub mod probe;
pub mod resources;
pub mod status;
pub mod step;
