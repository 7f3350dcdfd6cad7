//! The trait that replication is written against.
pub use crate::changes::Content;
use crate::{Result, Revision};
use async_trait::async_trait;
use bytes::Bytes;
use crdt::Actor;

/// One thing to tell a peer.
#[derive(Clone, Debug, PartialEq)]
pub struct Numbered {
    /// This server's own number of it: peers ask for what is above the greatest that they have.
    pub number: u64,
    /// The log's position that it was derived from; its high bits are the hybrid time.
    pub position: u64,
    pub key: Bytes,
    /// `metadata.uid`; empty for what is no Kubernetes object.
    pub life: String,
    /// Counts how often the document's history was folded: changes of different epochs don't mix.
    pub epoch: u32,
    pub content: Content,
    pub bytes: Bytes,
}

impl Numbered {
    /// The hybrid time of the write.
    pub fn time(&self) -> u64 {
        Revision::from_u64(self.position).clock()
    }
}

/// A store as replication sees it.
#[async_trait]
pub trait Replica: Send + Sync {
    /// The name of this incarnation in documents and version vectors.
    fn actor(&self) -> Actor;

    /// Every write up to this position of the log has been derived.
    fn derived(&self) -> u64;

    /// Up to `limit` things after `number`, in order; complete: what is missing was superseded by what follows.
    async fn changes_since(&self, number: u64, limit: usize) -> Result<Vec<Numbered>>;

    /// All that there is of one key.
    async fn changes_of(&self, key: &[u8]) -> Result<Vec<Numbered>>;
}
