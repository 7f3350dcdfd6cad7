//! Many servers in one thread: the real documents, stores and sessions under a network, clocks and disks that go wrong
//! as a seed says. The same seed makes the same run.
//!
//! Named invariants, checked while it runs and at its end: `revisions rise`, `a snapshot never changes`, `convergence`,
//! `no write is lost`, `bounded`.

mod edit;
mod ledger;
mod net;
mod server;
mod world;

pub use world::{Failure, Plan, Report, run};
