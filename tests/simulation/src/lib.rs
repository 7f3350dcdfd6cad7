//! Many servers in one thread: the real documents, stores and sessions under a network, clocks and disks that go wrong
//! as a seed says. The same seed makes the same run.
//!
//! Named invariants, checked while it runs and at its end: `revisions rise`, `peers agree` (no change comes before what it
//! rests on), `convergence`,
//! `no write is lost`, `watch` (each change once, in order, a life's end before the next; what events make is what a list
//! shows), `bounded` (documents, changes and conflicts once all have all), `no double owner` (in each part of the network).

mod check;
mod edit;
mod ledger;
mod net;
mod owners;
mod quiet;
mod server;
mod watcher;
mod world;

pub use quiet::{Shape, quiet};
pub use world::{Failure, Plan, Report, run};
