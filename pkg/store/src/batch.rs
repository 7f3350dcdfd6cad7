//! One group of transactions on its way to disk: each sees those before it, none is visible outside until all
//! are durable. Pure but for the time it is given.
use crate::log::Record;
use crate::staged::Staged;
use crate::state::{Overlay, State};
use crate::{Change, Compare, Entry, Field, LeaseId, Op, OpResult, Page, Range, Relation, Result, Revision, TxnResult};
use api::summary::{Summarize, Summary};
use bytes::Bytes;
use crdt::HybridClock;
use std::cmp::Ordering;
use std::sync::Arc;

/// An operation with the summary of its value, taken by the caller so that the one writer need not.
pub enum Single {
    Put {
        key: Bytes,
        value: Bytes,
        lease: Option<LeaseId>,
        summary: Summary,
    },
    Amend {
        key: Bytes,
        value: Option<(Bytes, Summary)>,
        lease: Option<Option<LeaseId>>,
    },
    /// Writes a key whose lease, if it has one, stays.
    Replace {
        key: Bytes,
        value: Bytes,
        summary: Summary,
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
    List {
        range: Range,
        limit: usize,
    },
}

pub enum Prepared {
    One(Single),
    Txn(PreparedTxn),
}

/// A transaction whose operations are prepared.
pub struct PreparedTxn {
    pub compare: Vec<Compare>,
    pub then: Vec<Prepared>,
    pub otherwise: Vec<Prepared>,
}

impl PreparedTxn {
    pub fn new(txn: crate::Txn, summarize: &dyn Summarize) -> Self {
        let prepare = |ops: Vec<Op>| ops.into_iter().map(|op| prepared(op, summarize)).collect();
        Self { compare: txn.compare, then: prepare(txn.then), otherwise: prepare(txn.otherwise) }
    }

    /// Whether neither branch writes.
    pub fn reads_only(&self) -> bool {
        self.then.iter().chain(&self.otherwise).all(|op| match op {
            Prepared::One(Single::Get { .. } | Single::List { .. }) => true,
            Prepared::One(_) => false,
            Prepared::Txn(txn) => txn.reads_only(),
        })
    }
}

fn prepared(op: Op, summarize: &dyn Summarize) -> Prepared {
    Prepared::One(match op {
        Op::Put { key, value, lease } => {
            let summary = summarize.summarize(&key, &value);
            Single::Put { key: exact(&key), value: exact(&value), lease, summary }
        }
        Op::Amend { key, value, lease } => {
            let summed = |value: Bytes| {
                let summary = summarize.summarize(&key, &value);
                (exact(&value), summary)
            };
            let value = value.map(summed);
            Single::Amend { key, value, lease }
        }
        Op::Delete { key } => Single::Delete { key },
        Op::DeleteRange { range } => Single::DeleteRange { range },
        Op::Get { key } => Single::Get { key },
        Op::List { range, limit } => Single::List { range, limit },
        Op::Txn(txn) => return Prepared::Txn(PreparedTxn::new(txn, summarize)),
    })
}

/// The same bytes in memory of their own: what is kept as long as the object shall hold neither the room that its writer left
/// for more, nor the request that it is a part of.
fn exact(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

/// A transaction whose compares are judged: what is left is to be done.
struct Path {
    succeeded: bool,
    steps: Vec<Step>,
}

enum Step {
    One(Single),
    Txn(Path),
}

/// The group under construction.
pub struct Batch<'a> {
    state: &'a State,
    clock: HybridClock,
    server: u16,
    overlay: Overlay,
    revision: Revision,
    pub records: Vec<Record>,
    pub changes: Vec<Vec<Arc<Change>>>,
    /// Whether it writes what peers wrote.
    pub merged: bool,
}

/// What a durable batch leaves to be made visible.
pub struct Done {
    pub clock: HybridClock,
    pub changes: Vec<Vec<Arc<Change>>>,
}

impl<'a> Batch<'a> {
    pub fn new(state: &'a State, clock: HybridClock, server: u16) -> Self {
        let revision = state.revision;
        let (records, changes) = (Vec::new(), Vec::new());
        Self { state, clock, server, overlay: Overlay::new(), revision, records, changes, merged: false }
    }

    /// Runs one transaction; `has_lease` knows which leases exist. A transaction that fails leaves nothing.
    pub fn run(&mut self, txn: PreparedTxn, now_ms: u64, has_lease: impl Fn(LeaseId) -> bool) -> Result<TxnResult> {
        let path = self.judge(txn);
        let next = self.next_revision(now_ms);
        let mut staged = Staged::new(self, next, &has_lease);
        let results = follow(&mut staged, path.steps)?;
        let (overlay, records, changes) = staged.into_parts();
        if !changes.is_empty() {
            self.clock = HybridClock::after(next.clock());
            self.revision = next;
            self.overlay.extend(overlay);
            self.records.extend(records);
            self.changes.push(changes);
        }
        Ok(TxnResult { succeeded: path.succeeded, revision: self.revision, results })
    }

    pub fn done(self) -> Done {
        Done { clock: self.clock, changes: self.changes }
    }

    fn next_revision(&self, now_ms: u64) -> Revision {
        let mut clock = self.clock;
        Revision::new(clock.tick(now_ms), self.server)
    }

    pub fn get(&self, key: &[u8]) -> Option<Arc<Entry>> {
        match self.overlay.get(key) {
            Some(entry) => entry.clone(),
            None => self.state.get(key),
        }
    }

    /// A page of what is stored, of what the batch has written and of what `newest` says beyond.
    pub fn page(&self, range: &Range, limit: usize, newest: &Overlay) -> Page {
        Page { revision: self.revision, ..self.state.page_with(range, limit, [&self.overlay, newest]) }
    }

    /// Chooses the branches of a transaction and of those within it.
    fn judge(&self, txn: PreparedTxn) -> Path {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { txn.then } else { txn.otherwise };
        let step = |op| match op {
            Prepared::One(op) => Step::One(op),
            Prepared::Txn(txn) => Step::Txn(self.judge(txn)),
        };
        Path { succeeded, steps: ops.into_iter().map(step).collect() }
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::ModRevision { key, revision } => {
                self.get(key).map_or(Revision::ZERO, |entry| entry.mod_revision) == *revision
            }
            Compare::Each { range, field, is } => {
                let entries = self.page(range, 0, &Overlay::new()).entries;
                match entries.is_empty() {
                    true => passes(None, field, *is),
                    false => entries.iter().all(|entry| passes(Some(entry), field, *is)),
                }
            }
        }
    }
}

fn follow<F: Fn(LeaseId) -> bool>(staged: &mut Staged<'_, F>, steps: Vec<Step>) -> Result<Vec<OpResult>> {
    let one = |step| match step {
        Step::One(op) => staged.apply(op),
        Step::Txn(path) => {
            follow(staged, path.steps).map(|results| OpResult::Txn { succeeded: path.succeeded, results })
        }
    };
    steps.into_iter().map(one).collect()
}

fn passes(entry: Option<&Arc<Entry>>, field: &Field, is: Relation) -> bool {
    let number = |read: fn(&Entry) -> i64, given: &i64| entry.map_or(0, |entry| read(entry)).cmp(given);
    let order = match field {
        Field::Version(given) => number(|entry| entry.version as i64, given),
        Field::CreateRevision(given) => number(|entry| entry.create_revision.get() as i64, given),
        Field::ModRevision(given) => number(|entry| entry.mod_revision.get() as i64, given),
        Field::Lease(given) => number(|entry| entry.lease.map_or(0, |lease| lease.0), given),
        Field::Value(given) => match entry {
            Some(entry) => entry.value.cmp(given),
            None => return false,
        },
    };
    match is {
        Relation::Equal => order == Ordering::Equal,
        Relation::NotEqual => order != Ordering::Equal,
        Relation::Greater => order == Ordering::Greater,
        Relation::Less => order == Ordering::Less,
    }
}
