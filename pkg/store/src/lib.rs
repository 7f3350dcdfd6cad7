//! The durable, observable store of one server. [`Backend`] is the seam: the API front and the etcd endpoint
//! see it alone; merging with peers is another trait.
//!
//! Place in the flow: `apiserver | etcd -> Backend -> Store -> writer -> SQLite`, and back out through the hub's
//! watches. A thread of low priority follows the log, derives what peers will be told and merges what they tell:
//! [`Replica`].
//! Reads of now come from memory, reads of the past from the log.

mod adopt;
mod backend;
pub mod bare;
mod batch;
mod changes;
mod checkpoint;
mod damage;
mod follow;
mod hub;
mod lease;
mod log;
mod reader;
mod replica;
mod replicator;
mod revision;
pub mod snapshot;
mod staged;
mod state;
mod store;
mod sweep;
mod tail;
mod watch;
mod writer;

pub use backend::*;
pub use crdt::HybridClock;
pub use replica::{Begin, ConflictRecord, Documents, Pruned, Replica, Row, SnapshotPage, Whole};
pub use replicator::MAX_AHEAD_MS;
pub use revision::Revision;
pub use store::{KEEP, Options, Store};
