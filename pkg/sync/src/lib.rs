//! Lazy replication between servers: each tells its peers what they lack, over any link and in any direction, and
//! nobody waits for anybody.
//!
//! Place in the flow: `store::Replica <-> Session <-> frames <-> link <-> another server`. The session is pure; links
//! run it over a stream; the service keeps links to the members that can be reached.

mod frame;
#[cfg(test)]
mod hostile;
mod link;
mod members;
mod message;
mod relation;
mod relay;
mod service;
mod session;
mod shared;

pub use link::{Peer, Wire};
pub use members::{Member, Members};
pub use message::{Hello, Message, PROTOCOL};
pub use relation::Relation;
pub use relay::Neighbours;
pub use service::{Dialer, Handle, Options, Service};
pub use session::{Session, Standing, Task, Want};
pub use shared::LinkState;
