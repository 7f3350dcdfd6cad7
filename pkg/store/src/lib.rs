//! The durable, observable store of one server. [`Backend`] is the seam: the API front and the etcd endpoint
//! see it alone; merging with peers is another trait.
//!
//! Place in the flow: `apiserver | etcd -> Backend -> SQLite`, and back out through watches.

mod backend;
mod revision;

pub use backend::*;
pub use revision::Revision;
