//! A store on its caller's thread and clock, for simulations: the same writer and the same replicator, without threads
//! between them, so that a run can be repeated from its seed.
use crate::batch::PreparedTxn;
pub use crate::changes::{Documents, Sizes};
use crate::hub::Queue;
use crate::log::MAX_OPS;
use crate::replicator::{Merger, Replicator};
use crate::state::State;
use crate::store::{Options, Parts};
use crate::writer::{Merge, Merged, Shared, Writer};
use crate::{
    Begin, ConflictRecord, Entry, Pruned, Range, Result, Revision, Row, SnapshotPage, Txn, TxnResult, WatchItem, Whole,
};
use api::summary::Summarize;
use bytes::Bytes;
use crdt::{Actor, Vector};
use std::cell::RefCell;
use std::sync::Arc;

/// One server's store. Dropping it is a crash: what was acknowledged is on disk.
pub struct Bare {
    pub(crate) writer: RefCell<Writer>,
    pub(crate) replicator: Replicator,
    summarize: Arc<dyn Summarize>,
    now_ms: Arc<dyn Fn() -> u64 + Send + Sync>,
}

impl Merger for RefCell<Writer> {
    fn merge(&self, merge: Merge) -> Result<Merged> {
        self.borrow_mut().merge(merge)
    }

    fn tick(&self) -> Result<u64> {
        Ok(self.borrow_mut().tick())
    }
}

/// A watch without waiting.
pub struct Watching {
    shared: Arc<Shared>,
    id: u64,
    queue: Arc<Queue>,
    /// What the log had.
    missed: Vec<Seen>,
}

/// One change that a watcher sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub key: Bytes,
    pub revision: Revision,
    /// None: deleted.
    pub value: Option<Bytes>,
}

impl Watching {
    /// All that has come since it was last asked.
    ///
    /// # Errors
    /// It asked so seldom that it was cut off.
    pub fn take(&mut self) -> Result<Vec<Seen>> {
        let mut all = std::mem::take(&mut self.missed);
        while let Some(WatchItem::Changes(changes)) = self.queue.take()? {
            all.extend(changes.iter().map(|change| Seen {
                key: change.key.clone(),
                revision: change.revision,
                value: change.entry.as_ref().map(|entry| entry.value.clone()),
            }));
        }
        Ok(all)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.shared.hub.unregister(self.id, &self.queue);
    }
}

impl Bare {
    /// Opens or makes a store, whose first incarnation is `fresh`; `now_ms` says the milliseconds since the Unix epoch. The caller sees to it that nobody
    /// else has it open.
    pub fn open(options: &Options, fresh: Actor, now_ms: Arc<dyn Fn() -> u64 + Send + Sync>) -> Result<Self> {
        std::fs::create_dir_all(&options.dir)
            .map_err(|source| crate::Error::Io { path: options.dir.display().to_string(), source })?;
        let clock = now_ms.clone();
        let parts = Parts::open(options, fresh, Box::new(|| ()), Box::new(move || clock()))?;
        let (writer, mut replicator) = (RefCell::new(parts.writer), parts.replicator);
        replicator.enable(&writer, now_ms())?;
        Ok(Self { writer, replicator, summarize: options.summarize.clone(), now_ms })
    }

    pub fn actor(&self) -> Actor {
        self.replicator.actor()
    }

    pub fn vector(&self) -> Vector {
        self.replicator.replicated.vector.read().clone()
    }

    /// See [`crate::Replica::is_whole`].
    pub fn is_whole(&self) -> bool {
        self.replicator.replicated.is_whole((self.now_ms)())
    }

    /// Forgets all changes but the newest, so many of so many bytes, as when there are too many: who lacks them gets whole
    /// documents.
    pub fn keep_changes(&mut self, most: u32, most_bytes: u64) -> Result<bool> {
        self.replicator.forget_changes(0, most.into(), most_bytes)
    }

    pub fn revision(&self) -> Revision {
        self.replicator.shared.state.read().revision
    }

    /// Runs a transaction; what it returns is durable.
    pub fn txn(&mut self, txn: Txn) -> Result<TxnResult> {
        let prepared = PreparedTxn::new(txn, &*self.summarize);
        let mut results = self.writer.borrow_mut().commit(vec![prepared], false)?;
        results.pop().expect("one transaction has one result")
    }

    pub fn get(&self, key: &[u8]) -> Option<Arc<Entry>> {
        self.replicator.shared.state.read().get(key)
    }

    /// All entries of a range.
    pub fn list(&self, range: &Range) -> Vec<Arc<Entry>> {
        let state: &State = &self.replicator.shared.state.read();
        state.page(range, 0).entries
    }

    /// Derives some of what was written. True: nothing more waits.
    pub fn derive(&mut self) -> Result<bool> {
        self.replicator.derive()
    }

    pub fn begin(&self, have: &Vector) -> Result<Begin> {
        self.replicator.replicated.begin(&self.replicator.changes, have)
    }

    pub fn changes(&self, after: u64, have: &Vector, limit_bytes: usize) -> Result<Option<(Vec<Row>, u64)>> {
        self.replicator.replicated.kept(&self.replicator.changes, after, have, limit_bytes)
    }

    pub fn receive(&mut self, rows: &[Row]) -> Result<()> {
        self.replicator.receive(rows, &self.writer, (self.now_ms)())
    }

    /// All documents as they are now.
    pub fn documents(&self) -> Result<Documents> {
        self.replicator.changes.documents()
    }

    /// What is kept for and of peers.
    pub fn sizes(&self) -> Result<Sizes> {
        self.replicator.changes.sizes()
    }

    /// Follows a range from after a revision on.
    pub fn watch(&self, range: Range, after: Revision) -> Result<Watching> {
        let shared = self.replicator.shared.clone();
        let registered = shared.hub.register(range.clone(), after)?;
        let mut missed = Vec::new();
        if let Some(up_to) = registered.catch_up_to {
            let last_position = after.get() + MAX_OPS as u64 - 1;
            self.replicator.log.after(last_position, up_to, usize::MAX >> 1, |record| {
                missed.push(Seen { key: record.key, revision: record.revision, value: record.value });
            })?;
            missed.retain(|seen| range.contains(&seen.key));
        }
        Ok(Watching { shared, id: registered.id, queue: registered.queue, missed })
    }

    pub fn join(&mut self, page: &SnapshotPage, seen: &Vector) -> Result<()> {
        self.replicator.join(page, seen, &self.writer, (self.now_ms)())
    }

    pub fn complete(&mut self, seen: &Vector, whole: Option<&Whole>) -> Result<()> {
        self.replicator.complete(seen, whole, &self.writer, (self.now_ms)())
    }

    /// See [`crate::Replica::stage`].
    pub fn stage(&mut self, page: &SnapshotPage, seen: &Vector) -> Result<()> {
        self.replicator.stage(page, seen, (self.now_ms)())
    }

    /// See [`crate::Replica::adopt`].
    pub fn adopt(&mut self, seen: Vector, whole: Whole, fresh: Actor) -> Result<()> {
        self.replicator.adopt(seen, whole, fresh, &self.writer, (self.now_ms)())
    }

    /// See [`crate::Replica::owed`].
    pub fn owed(&self) -> Vector {
        self.replicator.replicated.owed.read().late((self.now_ms)())
    }

    /// See [`crate::Replica::pruned`].
    pub fn pruned(&self) -> Pruned {
        self.replicator.replicated.pruned.read().clone()
    }

    /// See [`crate::Replica::is_empty`].
    pub fn is_empty(&self) -> Result<bool> {
        self.replicator.changes.is_empty()
    }

    pub fn tick(&mut self) -> Result<()> {
        self.replicator.tick(&self.writer)
    }

    pub fn stable(&mut self, time: u64) -> Result<bool> {
        self.replicator.forget(time)
    }

    pub fn conflicts(&self, after: u64, limit: usize) -> Result<Vec<ConflictRecord>> {
        self.replicator.changes.conflicts(after, limit)
    }

    /// See [`crate::Store::has_ended`].
    pub fn has_ended(&self, uid: &str) -> Result<bool> {
        self.replicator.changes.has_ended(uid)
    }

    pub fn sequence(&self) -> u64 {
        *self.replicator.replicated.newest.borrow()
    }
}
