//! The durable, observable store of one server. [`Backend`] is the seam: the API front and the etcd endpoint
//! see it alone; merging with peers is another trait.
//!
//! Place in the flow: `apiserver | etcd -> Backend -> Store -> writer -> SQLite`, and back out through the hub's
//! watches. A thread of low priority follows the log and derives what peers will be told: [`Replica`].
//! Reads of now come from memory, reads of the past from the log.

mod backend;
mod batch;
mod changes;
mod damage;
mod derive;
mod hub;
mod lease;
mod log;
mod reader;
mod replica;
mod revision;
pub mod snapshot;
mod staged;
mod state;
mod store;
mod watch;
mod writer;

pub use backend::*;
pub use crdt::HybridClock;
pub use replica::{Content, Numbered, Replica};
pub use revision::Revision;
pub use store::{KEEP, Options, Store};
