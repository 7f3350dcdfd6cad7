//! One group of transactions on its way to disk: each sees those before it, none is visible outside until all
//! are durable. Pure but for the time it is given.
use crate::log::{MAX_OPS, Record};
use crate::state::State;
use crate::watch::change;
use crate::{Change, Compare, Entry, Error, LeaseId, Op, OpResult, Result, Revision, TxnResult};
use api::summary::Summary;
use bytes::Bytes;
use crdt::HybridClock;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// An operation with the summary of its value, taken by the caller so that the one writer need not.
pub enum Prepared {
    Put { key: Bytes, value: Bytes, lease: Option<LeaseId>, summary: Summary },
    Delete { key: Bytes },
    Get { key: Bytes },
}

/// A transaction whose operations are prepared.
pub struct PreparedTxn {
    pub compare: Vec<Compare>,
    pub then: Vec<Prepared>,
    pub otherwise: Vec<Prepared>,
}

impl PreparedTxn {
    pub fn new(txn: crate::Txn, summarize: &dyn api::summary::Summarize) -> Result<Self> {
        let prepare = |ops: Vec<Op>| {
            check_keys(&ops)?;
            Ok(ops.into_iter().map(|op| prepared(op, summarize)).collect())
        };
        Ok(Self { compare: txn.compare, then: prepare(txn.then)?, otherwise: prepare(txn.otherwise)? })
    }
}

fn prepared(op: Op, summarize: &dyn api::summary::Summarize) -> Prepared {
    match op {
        Op::Put { key, value, lease } => {
            let summary = summarize.summarize(&key, &value);
            Prepared::Put { key, value, lease, summary }
        }
        Op::Delete { key } => Prepared::Delete { key },
        Op::Get { key } => Prepared::Get { key },
    }
}

fn check_keys(ops: &[Op]) -> Result<()> {
    let mut written = HashSet::new();
    for op in ops {
        if let Op::Put { key, .. } | Op::Delete { key } = op
            && !written.insert(key)
        {
            return Err(Error::DuplicateKey { key: String::from_utf8_lossy(key).into_owned() });
        }
    }
    match written.len() > MAX_OPS {
        true => Err(Error::TooManyOps { ops: written.len(), limit: MAX_OPS }),
        false => Ok(()),
    }
}

/// The group under construction.
pub struct Batch<'a> {
    state: &'a State,
    clock: HybridClock,
    server: u16,
    overlay: HashMap<Bytes, Option<Arc<Entry>>>,
    revision: Revision,
    pub records: Vec<Record>,
    pub changes: Vec<Vec<Arc<Change>>>,
}

/// What a durable batch leaves to be made visible.
pub struct Done {
    pub clock: HybridClock,
    pub changes: Vec<Vec<Arc<Change>>>,
}

impl<'a> Batch<'a> {
    pub fn new(state: &'a State, clock: HybridClock, server: u16) -> Self {
        let revision = state.revision;
        Self { state, clock, server, overlay: HashMap::new(), revision, records: Vec::new(), changes: Vec::new() }
    }

    /// Runs one transaction; `has_lease` knows which leases exist.
    pub fn run(&mut self, txn: PreparedTxn, now_ms: u64, has_lease: impl Fn(LeaseId) -> bool) -> Result<TxnResult> {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { txn.then } else { txn.otherwise };
        for op in &ops {
            if let Prepared::Put { lease: Some(lease), .. } = op
                && !has_lease(*lease)
            {
                return Err(Error::LeaseNotFound(*lease));
            }
        }
        let mut changes = Vec::new();
        let next = self.next_revision(now_ms);
        let results = ops.into_iter().map(|op| self.apply(op, next, &mut changes)).collect();
        if !changes.is_empty() {
            self.clock = HybridClock::after(next.clock());
            self.revision = next;
            self.changes.push(changes);
        }
        Ok(TxnResult { succeeded, revision: self.revision, results })
    }

    pub fn done(self) -> Done {
        Done { clock: self.clock, changes: self.changes }
    }

    fn next_revision(&self, now_ms: u64) -> Revision {
        let mut clock = self.clock;
        Revision::new(clock.tick(now_ms), self.server)
    }

    fn get(&self, key: &[u8]) -> Option<Arc<Entry>> {
        match self.overlay.get(key) {
            Some(entry) => entry.clone(),
            None => self.state.get(key),
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::ModRevision { key, revision } => {
                self.get(key).map_or(Revision::ZERO, |entry| entry.mod_revision) == *revision
            }
        }
    }

    fn apply(&mut self, op: Prepared, revision: Revision, changes: &mut Vec<Arc<Change>>) -> OpResult {
        match op {
            Prepared::Get { key } => OpResult::Get { entry: self.get(&key) },
            Prepared::Delete { key } => {
                let previous = self.get(&key);
                if previous.is_some() {
                    self.write(key, None, previous.clone(), revision, changes);
                }
                OpResult::Delete { previous }
            }
            Prepared::Put { key, value, lease, summary } => {
                let previous = self.get(&key);
                let entry = Arc::new(Entry {
                    key: key.clone(),
                    value,
                    create_revision: previous.as_ref().map_or(revision, |entry| entry.create_revision),
                    mod_revision: revision,
                    index: changes.len() as u32,
                    version: previous.as_ref().map_or(1, |entry| entry.version + 1),
                    lease,
                    summary,
                });
                self.write(key, Some(entry.clone()), previous.clone(), revision, changes);
                OpResult::Put { entry, previous }
            }
        }
    }

    fn write(
        &mut self,
        key: Bytes,
        entry: Option<Arc<Entry>>,
        previous: Option<Arc<Entry>>,
        revision: Revision,
        changes: &mut Vec<Arc<Change>>,
    ) {
        let record = Record {
            revision,
            index: changes.len() as u32,
            key: key.clone(),
            value: entry.as_ref().map(|entry| entry.value.clone()),
            create_revision: entry.as_ref().map_or(Revision::ZERO, |entry| entry.create_revision),
            version: entry.as_ref().map_or(0, |entry| entry.version),
            lease: entry.as_ref().and_then(|entry| entry.lease),
            parent: previous.as_ref().map_or(0, |entry| entry.mod_revision.get() + u64::from(entry.index)),
        };
        changes.push(change(&record, entry.clone(), previous));
        self.records.push(record);
        self.overlay.insert(key, entry);
    }
}
