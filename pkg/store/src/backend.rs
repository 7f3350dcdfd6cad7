//! The trait that everything above the store is written against.
use crate::Revision;
use api::summary::Summary;
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// A key and what is stored under it at some revision. Values are the bytes that were written; nothing here
/// parses them.
#[derive(Debug)]
pub struct Entry {
    pub key: Bytes,
    pub value: Bytes,
    pub create_revision: Revision,
    pub mod_revision: Revision,
    /// Position of its last change within that revision.
    pub index: u32,
    /// Writes since the key was created, 1 at birth.
    pub version: u64,
    pub lease: Option<LeaseId>,
    /// Taken once at commit.
    pub summary: Summary,
}

impl Entry {
    /// The position of its last change in the log.
    pub(crate) fn position(&self) -> u64 {
        self.mod_revision.get() + u64::from(self.index)
    }

    /// The same entry with another reading of what is stored.
    pub fn with_value(&self, value: Bytes, summary: Summary) -> Self {
        Self {
            key: self.key.clone(),
            value,
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
            index: self.index,
            version: self.version,
            lease: self.lease,
            summary,
        }
    }
}

/// One key's change as applied on this server.
#[derive(Clone, Debug)]
pub struct Change {
    pub revision: Revision,
    /// Position within the revision: a transaction may change several keys.
    pub index: u32,
    pub key: Bytes,
    /// The entry after the change; none: deleted.
    pub entry: Option<Arc<Entry>>,
    /// The entry before it; none: created.
    pub previous: Option<Arc<Entry>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub i64);

#[derive(Clone, Debug)]
pub struct Lease {
    pub id: LeaseId,
    pub granted_ttl: Duration,
    pub remaining: Duration,
    pub keys: Vec<Bytes>,
}

/// Keys from `start` up to, not including, `end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    pub start: Bytes,
    /// Empty: to the end of the key space.
    pub end: Bytes,
}

impl Range {
    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        let mut end = start.to_vec();
        while let Some(last) = end.pop() {
            if last < 0xff {
                end.push(last + 1);
                break;
            }
        }
        Self { start, end: end.into() }
    }

    /// One key alone.
    pub fn key(key: impl Into<Bytes>) -> Self {
        let start = key.into();
        let mut end = start.to_vec();
        end.push(0);
        Self { start, end: end.into() }
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && (self.end.is_empty() || key < &self.end[..])
    }
}

/// A page of a range at one revision.
#[derive(Clone, Debug)]
pub struct Page {
    /// The revision that the page shows: the one asked for, or the current one.
    pub revision: Revision,
    pub entries: Vec<Arc<Entry>>,
    /// Keys in the range at that revision, whatever the limit.
    pub count: u64,
    pub more: bool,
}

/// What must hold for a transaction's `then` to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key was last changed at this revision; [`Revision::ZERO`]: it does not exist. A revision that
    /// another server made never equals a local one: the compare fails, nothing is corrupted.
    ModRevision { key: Bytes, revision: Revision },
    /// Every key of the range passes; of a range without keys, one that has nothing must pass.
    Each { range: Range, field: Field, is: Relation },
}

/// What is compared, with the number or bytes that it is compared to. A key that does not exist has zeros, and
/// no value: comparing its value never holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    Version(i64),
    CreateRevision(i64),
    ModRevision(i64),
    Lease(i64),
    Value(Bytes),
}

/// How what is stored must stand to what was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    Equal,
    NotEqual,
    Greater,
    Less,
}

#[derive(Clone, Debug)]
pub enum Op {
    Put {
        key: Bytes,
        value: Bytes,
        lease: Option<LeaseId>,
    },
    /// Writes a key that must exist; what is none stays as it is.
    Amend {
        key: Bytes,
        value: Option<Bytes>,
        lease: Option<Option<LeaseId>>,
    },
    Delete {
        key: Bytes,
    },
    DeleteRange {
        range: Range,
    },
    Get {
        key: Bytes,
    },
    /// At most `limit` entries (0: all), as the operations before it left them.
    List {
        range: Range,
        limit: usize,
    },
    /// Its compares are judged, like those of the whole, before anything is written.
    Txn(Txn),
}

/// If all compares hold then `then`, else `otherwise`; atomically, at one revision. Two writes of one key in a
/// transaction are refused.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    pub compare: Vec<Compare>,
    pub then: Vec<Op>,
    pub otherwise: Vec<Op>,
}

#[derive(Clone, Debug)]
pub enum OpResult {
    Put {
        entry: Arc<Entry>,
        previous: Option<Arc<Entry>>,
    },
    /// `previous` is none when there was nothing to delete.
    Delete {
        previous: Option<Arc<Entry>>,
    },
    DeleteRange {
        previous: Vec<Arc<Entry>>,
    },
    Get {
        entry: Option<Arc<Entry>>,
    },
    List(Page),
    Txn {
        succeeded: bool,
        results: Vec<OpResult>,
    },
}

#[derive(Clone, Debug)]
pub struct TxnResult {
    pub succeeded: bool,
    /// The transaction's own revision if it wrote, else the current one.
    pub revision: Revision,
    pub results: Vec<OpResult>,
}

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchFrom {
    /// Everything after the moment of the call.
    Now,
    /// Everything after this revision, which may lie in the past down to the compacted one.
    After(Revision),
    /// Everything from this revision on, itself included. One below the first that any server could make means
    /// from the beginning, as long as nothing was compacted.
    At(Revision),
}

/// What a watch yields, in the order of revisions, each change once.
#[derive(Clone, Debug)]
pub enum WatchItem {
    /// All changes of one or more whole revisions, in order; never a part of a revision.
    Changes(Vec<Arc<Change>>),
    /// Nothing in the range changed up to this revision. Sent when asked for, and now and then by itself.
    Progress(Revision),
}

/// A running watch. Dropping it ends it.
#[async_trait]
pub trait Watch: Send {
    /// The next item. A watcher that fell behind by more than its bounded buffer gets
    /// [`Error::Compacted`] once and then `None`; so does one whose store is closing ([`Error::Closed`]).
    /// Dropping the future before it is ready loses nothing.
    async fn next(&mut self) -> Option<Result<WatchItem>>;
    /// Asks for a [`WatchItem::Progress`] at or after the current revision.
    fn request_progress(&mut self);
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The revision is older than what is kept.
    #[error("revision {requested} is compacted; the oldest kept is {compacted}")]
    Compacted { requested: Revision, compacted: Revision },
    /// The revision is above the current one, whoever made it.
    #[error("revision {requested} is in the future; the current one is {current}")]
    Future { requested: Revision, current: Revision },
    /// The revision was made by another server: it names no point in this server's log.
    #[error("revision {requested} was made by server {server}, not here")]
    Foreign { requested: Revision, server: u16 },
    #[error("value of {key} is {size_bytes} bytes, more than the {limit_bytes} allowed")]
    TooLarge { key: String, size_bytes: usize, limit_bytes: usize },
    #[error("key {key} is written twice in one transaction")]
    DuplicateKey { key: String },
    #[error("{ops} writes in one transaction are more than the {limit} allowed")]
    TooManyOps { ops: usize, limit: usize },
    #[error("key {key} does not exist")]
    KeyNotFound { key: String },
    #[error("lease {0:?} does not exist")]
    LeaseNotFound(LeaseId),
    #[error("lease {0:?} exists already")]
    LeaseExists(LeaseId),
    /// The disk is full: nothing was written, reads go on. Writes succeed again when there is space.
    #[error("no space left for {path}")]
    NoSpace { path: String },
    /// Damage was found; what is damaged is never served.
    #[error("{path} is damaged: {what}")]
    Corrupt { path: String, what: String },
    /// What is stored can't be understood, though it is whole: encrypted, or of a kind that nobody here knows.
    #[error("the value of {key} can't be read: {what}")]
    Unreadable { key: String, what: String },
    /// The store is elsewhere, and can't be reached. Of a write nobody knows whether it was done.
    #[error("the store can't be reached: {what}")]
    Unavailable { what: String },
    /// The queue of waiting writes is full.
    #[error("too many writes are waiting ({limit})")]
    Busy { limit: usize },
    /// A peer's clock is wrong, or this server's: its writes would win over everybody's for that long.
    #[error("a change of server {actor} is stamped {} s ahead of this server's clock", ahead_ms / 1000)]
    Ahead { actor: crdt::Actor, ahead_ms: u64 },
    #[error("the store is closing")]
    Closed,
    #[error("{path} is in use by another process")]
    InUse { path: String },
    /// A batch failed for a reason that the log of the process tells in full; nothing of it was written.
    #[error("the write failed: {what}")]
    Failed { what: String },
    #[error("{path}: {source}")]
    Sqlite { path: String, source: rusqlite::Error },
    #[error("{path}: {source}")]
    Io { path: String, source: std::io::Error },
}

pub type Result<T> = std::result::Result<T, Error>;

/// A store as the API sees it. Revisions are opaque to the caller: it compares and hands them back.
#[async_trait]
pub trait Backend: Send + Sync {
    /// The newest revision that is durable and visible.
    fn current_revision(&self) -> Revision;

    /// The newest revision of all, which a store that others write to may have to ask for; [`Backend::current_revision`] is
    /// at least that afterwards.
    async fn latest(&self) -> Result<Revision> {
        Ok(self.current_revision())
    }

    /// Whether a revision that is not in the future may be a point in this store's history; another server's is none.
    fn is_own(&self, _revision: Revision) -> bool {
        true
    }

    /// The oldest revision that can still be read or watched from.
    fn compacted_revision(&self) -> Revision;

    /// The entry at `at`, or now.
    async fn get(&self, key: &[u8], at: Option<Revision>) -> Result<Option<Arc<Entry>>>;

    /// Entries of the range in key order at `at`, or now; at most `limit` (0: all).
    async fn list(&self, range: &Range, at: Option<Revision>, limit: usize) -> Result<Page>;

    /// Runs a transaction. When this returns `Ok` its writes are durable.
    async fn txn(&self, txn: Txn) -> Result<TxnResult>;

    /// Starts a watch.
    async fn watch(&self, range: Range, from: WatchFrom) -> Result<Box<dyn Watch>>;

    async fn lease_grant(&self, id: Option<LeaseId>, ttl: Duration) -> Result<Lease>;
    /// Deletes the lease and its keys, as one revision.
    async fn lease_revoke(&self, id: LeaseId) -> Result<Revision>;
    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Lease>;
    async fn lease(&self, id: LeaseId) -> Result<Lease>;
    async fn leases(&self) -> Result<Vec<LeaseId>>;

    /// Forgets what is older than `revision`.
    async fn compact(&self, revision: Revision) -> Result<()>;

    /// Returns when what [`Backend::compact`] forgot is gone from the disk.
    async fn compacted(&self, revision: Revision) -> Result<()>;

    /// Bytes on disk.
    async fn size_bytes(&self) -> Result<u64>;
}
