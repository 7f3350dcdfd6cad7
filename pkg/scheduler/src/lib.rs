//! Decides which node each pending pod runs on, and tells the API by a binding.
//!
//! Place in the flow: `client (reflectors of pods and nodes) -> scheduler -> client (binding, condition, events)`.
//! All deciding is pure: [`core`] holds the [`cluster`] and the [`queue`], takes events with the time as an
//! argument and returns decisions; [`service`] is the thin shell that feeds it and carries decisions out.
//!
//! ```text
//! events ─► core ─► queue ─► framework (filter, score) ─► Decision ─► bind | condition + event
//!             ▲                     reads cluster                        │
//!             └──────────────────── bound, failed ◄──────────────────────┘
//! ```

pub mod affinity;
pub mod budgets;
pub mod cluster;
pub mod core;
mod follow;
pub mod framework;
pub mod node;
pub mod nominated;
pub mod plugins;
pub mod pod;
mod prebind;
pub mod queue;
mod report;
pub mod resources;
mod service;
pub mod storage;
#[cfg(test)]
mod testing;

pub use service::{Options, Service};
