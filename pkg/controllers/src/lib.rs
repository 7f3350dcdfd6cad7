//! The controllers: each compares what objects ask for with what is there, and acts through the API alone.
//!
//! Place in the flow: `client (shared caches) -> runner (keys, retries) -> a controller's plan (pure) -> execute`.
//!
//! Every controller is a directory: `plan.rs` says what should change, given the objects and the time, and `mod.rs`
//! reads the caches and hands the plan's actions to [`execute`]. All share one vocabulary of actions.

mod account_token;
mod action;
mod amount;
mod bootstrap_token;
mod cluster_role;
mod cron_job;
mod daemon_set;
mod deployment;
mod disruption;
mod endpoint_slice;
mod error;
mod execute;
mod garbage_collector;
mod hash;
mod history;
mod job;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod options;
mod owned;
mod placement;
mod pod_autoscaler;
mod pod_gc;
mod pods;
mod replica_set;
mod resource_quota;
mod root_ca;
mod runner;
mod secret_view;
mod served;
mod service;
mod service_account;
mod service_lb;
mod site;
mod stateful_set;
mod taints;
mod volume;

pub use error::Error;
pub use options::{ClientFor, Options, Tombstones};
pub use service::Service;
