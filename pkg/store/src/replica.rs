//! The trait that replication is written against, and what travels.
use crate::{Result, Revision};
use async_trait::async_trait;
use bytes::Bytes;
use crdt::{Actor, Conflict, Stamp, Vector};
use serde::{Deserialize, Serialize};

/// One key's part of one server's transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Whose and when; all rows of a transaction share it.
    pub stamp: Stamp,
    /// Another row of the same transaction follows.
    pub more: bool,
    pub key: Bytes,
    /// An encoded [`crdt::Delta`].
    pub delta: Bytes,
}

/// Whole documents of a range of keys: whatever is not among them the sender does not have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotPage {
    /// The range begins after this key; none: at the first.
    pub after: Option<Bytes>,
    /// The range ends with this key; none: it has no end.
    pub up_to: Option<Bytes>,
    /// Encoded [`crdt::Document`]s.
    pub documents: Vec<(Bytes, Bytes)>,
    /// In the last page alone.
    pub whole: Option<Whole>,
}

/// What is true of all of a snapshot's documents together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whole {
    /// Of each actor the last write that is in the documents, or was superseded in them.
    pub written: Vector,
    /// What they no longer tell of removals.
    pub pruned: Pruned,
    /// What they hold besides, of a snapshot that was half in.
    pub owed: Vector,
}

/// What a server has forgotten, believing that all have it: with who lacks some of it, nothing can be merged any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    /// Removals up to this time are forgotten.
    pub time: u64,
    /// Of each actor the last write up to that time.
    pub writes: Vector,
}

impl Pruned {
    /// What two that merge have forgotten together.
    pub fn merge(&mut self, other: &Self) {
        self.time = self.time.max(other.time);
        self.writes.merge(&other.writes);
    }
}

/// A conflict as this server found it.
#[derive(Clone, Debug, PartialEq)]
pub struct ConflictRecord {
    /// This server's own number of it, rising.
    pub id: u64,
    /// When it was found: milliseconds since the Unix epoch.
    pub at_ms: u64,
    pub key: Bytes,
    pub conflict: Conflict,
}

/// Where sending to a peer begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// After this sequence number.
    After(u64),
    /// Changes that the peer lacks are no longer kept: it needs whole documents.
    Snapshot,
}

/// All documents as they were at one moment: what a receiver then writes rests on nothing that it can't tell others.
#[async_trait]
pub trait Documents: Send + Sync {
    /// What they hold, exactly.
    fn seen(&self) -> &Vector;

    /// Documents after a key, up to about `limit_bytes`.
    async fn page(&self, after: Option<Bytes>, limit_bytes: usize) -> Result<SnapshotPage>;
}

/// A store as replication sees it.
#[async_trait]
pub trait Replica: Send + Sync {
    /// The name of this incarnation in documents and version vectors: another with each [`Replica::epoch`].
    fn actor(&self) -> Actor;

    /// Everything that this server has, durably. Its own entry is how far its writes are ready to be told.
    fn vector(&self) -> Vector;

    /// Whether all that its documents hold is in its vector. While a snapshot is half in, it is not: what is written then
    /// may rest on what a third server lacks, and is told when that has it.
    fn is_whole(&self) -> bool;

    /// Documents and changes are kept for peers from now on, and those of everything that there is are made first. A
    /// server that never had a peer has none.
    async fn enable(&self) -> Result<()>;

    /// Wakes whoever sends: the sequence number of the newest change.
    fn newest(&self) -> tokio::sync::watch::Receiver<u64>;

    /// How often this server has taken over another's store. What came before the last time is refused: it rests on what
    /// is no longer there.
    fn epoch(&self) -> tokio::sync::watch::Receiver<u64>;

    /// What documents hold besides, of a snapshot that is half in and whose rest is late.
    fn owed(&self) -> Vector;

    /// What removals are forgotten.
    fn pruned(&self) -> Pruned;

    /// Nothing is known of any key.
    async fn is_empty(&self) -> Result<bool>;

    /// Where to begin with a peer that has `have`.
    async fn begin(&self, have: Vector) -> Result<Begin>;

    /// Changes after a sequence number that a peer with `have` lacks, causes first and transactions whole, up to about
    /// `limit_bytes`; and the number to go on after. None: some that it lacks are no longer kept.
    async fn changes(&self, after: u64, have: Vector, limit_bytes: usize) -> Result<Option<(Vec<Row>, u64)>>;

    /// Takes in what a peer told, in its order; what is known already changes nothing. Durable and visible when it
    /// returns.
    async fn receive(&self, epoch: u64, rows: Vec<Row>) -> Result<()>;

    /// All documents as they are now, to be read in pages.
    async fn documents(&self) -> Result<Box<dyn Documents>>;

    /// Takes in a page of documents that hold `seen`.
    async fn join(&self, epoch: u64, page: SnapshotPage, seen: Vector) -> Result<()>;

    /// All that a peer with `seen` had is in: as changes, or as pages, of which the last said what is true of the `whole`. What
    /// of that is new can't be told on as changes.
    async fn complete(&self, epoch: u64, seen: Vector, whole: Option<Whole>) -> Result<()>;

    /// Puts a page of a store that is to be taken over aside; the first forgets what was there.
    async fn stage(&self, page: SnapshotPage, seen: Vector) -> Result<()>;

    /// Takes over the store that was put aside, which held `seen`. What only this server had is made anew on top of it, as
    /// writes of now. Goes on after a restart where it was interrupted.
    async fn adopt(&self, epoch: u64, seen: Vector, whole: Whole) -> Result<()>;

    /// Promises that all of this server's later writes are later than now: its entry in the vector moves on.
    async fn tick(&self) -> Result<()>;

    /// Every member has everything that was written up to this time: forgets what is kept for their sake. Returns
    /// whether there is more to forget.
    async fn stable(&self, time: u64) -> Result<bool>;

    /// Conflicts after one, in the order in which they were found.
    async fn conflicts(&self, after: u64, limit: usize) -> Result<Vec<ConflictRecord>>;

    /// Every write up to this revision is derived.
    fn derived(&self) -> Revision;
}
