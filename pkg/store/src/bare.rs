//! A store on its caller's thread and clock, for simulations: the same writer and the same replicator, without threads
//! between them, so that a run can be repeated from its seed.
use crate::batch::PreparedTxn;
use crate::replicator::{Merger, Replicator};
use crate::state::State;
use crate::store::{Options, Parts, begin, kept};
use crate::writer::{Merge, Merged, Writer};
use crate::{Begin, ConflictRecord, Entry, Range, Result, Revision, Row, SnapshotPage, Txn, TxnResult};
use api::summary::Summarize;
use crdt::{Actor, Vector};
use std::cell::RefCell;
use std::sync::Arc;

/// One server's store. Dropping it is a crash: what was acknowledged is on disk.
pub struct Bare {
    writer: RefCell<Writer>,
    replicator: Replicator,
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

impl Bare {
    /// Opens or makes a store, whose first incarnation is `fresh`; `now_ms` says the milliseconds since the Unix epoch. The caller sees to it that nobody
    /// else has it open.
    pub fn open(options: &Options, fresh: Actor, now_ms: Arc<dyn Fn() -> u64 + Send + Sync>) -> Result<Self> {
        std::fs::create_dir_all(&options.dir)
            .map_err(|source| crate::Error::Io { path: options.dir.display().to_string(), source })?;
        let clock = now_ms.clone();
        let parts = Parts::open(options, fresh, Box::new(|| ()), Box::new(move || clock()))?;
        let (writer, mut replicator) = (RefCell::new(parts.writer), parts.replicator);
        replicator.enable()?;
        Ok(Self { writer, replicator, summarize: options.summarize.clone(), now_ms })
    }

    pub fn actor(&self) -> Actor {
        self.replicator.actor
    }

    pub fn vector(&self) -> Vector {
        self.replicator.replicated.vector.read().clone()
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
        begin(&self.replicator.changes, have)
    }

    pub fn changes(&self, after: u64, have: &Vector, limit_bytes: usize) -> Result<Option<(Vec<Row>, u64)>> {
        kept(&self.replicator.changes, after, have, limit_bytes)
    }

    pub fn receive(&mut self, rows: &[Row]) -> Result<()> {
        self.replicator.receive(rows, &self.writer, (self.now_ms)())
    }

    pub fn page(&self, after: Option<&[u8]>, limit_bytes: usize) -> Result<SnapshotPage> {
        self.replicator.changes.page(after, limit_bytes)
    }

    pub fn join(&mut self, page: &SnapshotPage, seen: &Vector) -> Result<()> {
        self.replicator.join(page, seen, &self.writer, (self.now_ms)())
    }

    pub fn complete(&mut self, seen: &Vector, snapshot: bool) -> Result<()> {
        self.replicator.complete(seen, snapshot, &self.writer)
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

    pub fn sequence(&self) -> u64 {
        *self.replicator.replicated.newest.borrow()
    }
}
