//! The one writer: a thread that owns the log, gathers what waits into one batch with one fsync, and answers only
//! when that is done. It also ends leases and compacts, between batches.
use crate::batch::{Batch, Done, Prepared, PreparedTxn, Single};
use crate::hub::Hub;
use crate::lease::Leases;
use crate::log::{Log, MAX_OPS};
use crate::state::State;
use crate::sweep::Sweep;
use crate::{Error, Lease, LeaseId, Result, Revision, TxnResult};
use api::summary::Summary;
use bytes::Bytes;
use crdt::HybridClock;
use parking_lot::RwLock;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{oneshot, watch};

/// Transactions in one batch at most.
const BATCH_TXNS: usize = 512;
/// Free pages given back to the file system after a step.
const VACUUM_PAGES: u32 = 64;
/// How often the store compacts by itself.
const COMPACT_EVERY: Duration = Duration::from_secs(60);
/// The writer wakes at least this often.
const IDLE: Duration = Duration::from_secs(1);
/// A pause between compaction steps when nothing else waits.
const STEP_PAUSE: Duration = Duration::from_millis(5);

/// How often compaction that waits for the deriver looks again.
const DERIVER_WAIT: Duration = Duration::from_millis(100);

/// Where an answer goes.
pub type Reply<T> = oneshot::Sender<Result<T>>;

/// What the writer is asked to do.
pub enum Command {
    Txn(PreparedTxn, Reply<TxnResult>),
    LeaseGrant(Option<LeaseId>, Duration, Reply<Lease>),
    LeaseRevoke(LeaseId, Reply<Revision>),
    LeaseKeepAlive(LeaseId, Reply<Lease>),
    Lease(LeaseId, Reply<Lease>),
    Leases(Reply<Vec<LeaseId>>),
    Compact(Revision, Reply<()>),
    Merge(Merge, Reply<Merged>),
    Tick(Reply<u64>),
    Close(Reply<()>),
}

/// What peers wrote, ready to be served: documents of which everything up to a revision is part.
pub struct Merge {
    /// Keys that were written here after this revision are not to be touched.
    pub derived: Revision,
    /// The latest time in what was merged: what is written here from now on is later.
    pub observed: u64,
    pub items: Vec<MergeItem>,
}

pub struct MergeItem {
    pub key: Bytes,
    /// None: deleted.
    pub value: Option<(Bytes, Summary)>,
    /// Another life takes the place: watchers see the one before it deleted.
    pub replaces: bool,
}

/// What came of a merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merged {
    Done,
    /// A key was written here meanwhile; nothing was merged.
    Stale,
}

/// What the writer shares with everybody else.
pub struct Shared {
    pub state: RwLock<State>,
    pub compacted: RwLock<Revision>,
    /// Position up to which compaction has swept the log.
    pub swept: watch::Sender<u64>,
    pub hub: Arc<Hub>,
}

pub struct Writer {
    pub log: Log,
    pub shared: Arc<Shared>,
    pub clock: HybridClock,
    pub server: u16,
    pub leases: Leases,
    /// History younger than this is kept.
    pub keep: Duration,
    pub sweep: Sweep,
    /// The revision that compaction is to reach.
    pub compact_to: Revision,
    /// Whether there are free pages to give back.
    pub vacuuming: bool,
    pub next_compaction: Instant,
    /// Position up to which changes are derived: what lies after it is not compacted.
    pub derived: Arc<AtomicU64>,
    /// Tells the replicator that there is more; dropped, that it may go.
    pub wake: Box<dyn Fn() + Send>,
    /// Milliseconds since the Unix epoch.
    pub now_ms: Box<dyn Fn() -> u64 + Send>,
}

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

impl Writer {
    /// Works until told to close or until nobody is left to ask.
    pub fn run(mut self, commands: &Receiver<Command>) {
        loop {
            let next = match commands.recv_timeout(self.patience()) {
                Ok(Command::Txn(txn, reply)) => self.batch((txn, reply), commands),
                Ok(command) => Some(command),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return self.shared.hub.close(),
            };
            match next {
                Some(Command::Close(reply)) => {
                    self.shared.hub.close();
                    // Whoever asked may have gone.
                    let _ = reply.send(Ok(()));
                    return;
                }
                Some(command) => self.other(command),
                None => {}
            }
            self.expire();
            self.compact_a_little();
        }
    }

    fn patience(&self) -> Duration {
        if self.compacting() || self.vacuuming {
            return STEP_PAUSE;
        }
        if self.sweep.swept() < self.compact_to.get() {
            return DERIVER_WAIT;
        }
        let until = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        self.leases.next_deadline().map_or(IDLE, until).min(IDLE)
    }

    /// Runs `first` and the transactions that wait behind it, then tells each its result. Returns the command
    /// that ended the batch, if one did.
    fn batch(&mut self, first: (PreparedTxn, Reply<TxnResult>), commands: &Receiver<Command>) -> Option<Command> {
        let mut waiting = vec![first];
        let mut next = None;
        while waiting.len() < BATCH_TXNS && next.is_none() {
            match commands.try_recv() {
                Ok(Command::Txn(txn, reply)) => waiting.push((txn, reply)),
                Ok(other) => next = Some(other),
                Err(_) => break,
            }
        }
        let (txns, replies): (Vec<_>, Vec<_>) = waiting.into_iter().unzip();
        match self.commit(txns, false) {
            Ok(results) => replies.into_iter().zip(results).for_each(|(reply, result)| drop(reply.send(result))),
            Err(error) => {
                tracing::error!(%error, "a batch of writes failed; none of them was acknowledged");
                replies.into_iter().for_each(|reply| drop(reply.send(Err(again(&error)))));
            }
        }
        next
    }

    /// Makes transactions durable, then visible. The outer error means that nothing happened.
    pub fn commit(&mut self, txns: Vec<PreparedTxn>, merged: bool) -> Result<Vec<Result<TxnResult>>> {
        let shared = self.shared.clone();
        let state = shared.state.read();
        let mut batch = Batch::new(&state, self.clock, self.server);
        let now = (self.now_ms)();
        batch.merged = merged;
        let results = txns.into_iter().map(|txn| batch.run(txn, now, |id| self.leases.contains(id))).collect();
        self.append(&batch)?;
        let done = batch.done();
        drop(state);
        self.publish(done);
        Ok(results)
    }

    fn append(&self, batch: &Batch<'_>) -> Result<()> {
        if batch.records.is_empty() {
            return Ok(());
        }
        self.log.begin()?;
        let written = batch.records.iter().try_for_each(|record| self.log.append(record));
        written.and_then(|()| self.log.commit()).inspect_err(|_| self.log.rollback())
    }

    fn publish(&mut self, done: Done) {
        self.clock = done.clock;
        done.changes.iter().flatten().for_each(|change| self.leases.follow(change));
        let all: Vec<_> = done.changes.iter().flatten().cloned().collect();
        let shared = &self.shared;
        shared.hub.publish(done.changes, || {
            let mut state = shared.state.write();
            for change in all {
                state.revision = change.revision;
                match &change.entry {
                    Some(entry) => state.entries.insert(change.key.clone(), entry.clone()),
                    None => state.entries.remove(&change.key),
                };
            }
        });
        (self.wake)();
    }

    fn other(&mut self, command: Command) {
        // Whoever asked may have gone: a reply that nobody takes is no error.
        match command {
            Command::LeaseGrant(id, ttl, reply) => drop(reply.send(self.grant(id, ttl))),
            Command::LeaseRevoke(id, reply) => drop(reply.send(self.revoke(id))),
            Command::LeaseKeepAlive(id, reply) => drop(reply.send(self.leases.keep_alive(id, Instant::now()))),
            Command::Lease(id, reply) => drop(reply.send(self.leases.get(id, Instant::now()))),
            Command::Leases(reply) => drop(reply.send(Ok(self.leases.ids()))),
            Command::Compact(revision, reply) => drop(reply.send(self.compact(revision))),
            Command::Merge(merge, reply) => drop(reply.send(self.merge(merge))),
            Command::Tick(reply) => drop(reply.send(Ok(self.tick()))),
            Command::Txn(..) | Command::Close(_) => unreachable!("the loop takes these itself"),
        }
    }

    /// Moves the clock on: all that is written from now on is later than what is returned.
    pub fn tick(&mut self) -> u64 {
        self.clock.tick((self.now_ms)())
    }

    /// Writes what peers wrote, unless one of the keys was written here meanwhile.
    pub fn merge(&mut self, merge: Merge) -> Result<Merged> {
        for item in &merge.items {
            if self.wrote_after(&item.key, merge.derived)? {
                return Ok(Merged::Stale);
            }
        }
        self.clock.observe(merge.observed);
        let (gone, come) = replacements(merge.items);
        let txns: Vec<_> = [gone, come].into_iter().filter(|ops| !ops.is_empty()).map(unconditional).collect();
        for result in self.commit(txns, true)? {
            result?;
        }
        Ok(Merged::Done)
    }

    fn wrote_after(&self, key: &[u8], derived: Revision) -> Result<bool> {
        match self.shared.state.read().entries.get(key) {
            Some(entry) => Ok(entry.mod_revision > derived),
            None => self.log.deleted_after(key, derived),
        }
    }

    fn grant(&mut self, id: Option<LeaseId>, ttl: Duration) -> Result<Lease> {
        let id = id.unwrap_or_else(|| LeaseId(rand::random_range(1..i64::MAX)));
        if self.leases.contains(id) {
            return Err(Error::LeaseExists(id));
        }
        self.log.put_lease(id, ttl)?;
        Ok(self.leases.grant(id, ttl, Instant::now()))
    }

    fn revoke(&mut self, id: LeaseId) -> Result<Revision> {
        let lease = self.leases.get(id, Instant::now())?;
        let mut revision = self.shared.state.read().revision;
        // One revision, unless there are more keys than a revision has places.
        for keys in lease.keys.chunks(MAX_OPS) {
            let then = keys.iter().map(|key| Prepared::One(Single::Delete { key: key.clone() })).collect();
            let txn = PreparedTxn { compare: Vec::new(), then, otherwise: Vec::new() };
            let mut results = self.commit(vec![txn], false)?;
            revision = results.pop().expect("one transaction has one result")?.revision;
        }
        self.log.delete_lease(id)?;
        self.leases.remove(id);
        Ok(revision)
    }

    fn expire(&mut self) {
        for id in self.leases.expired(Instant::now()) {
            if let Err(error) = self.revoke(id) {
                tracing::warn!(?id, %error, "an expired lease could not be ended; trying again");
            }
        }
    }

    fn compact(&mut self, revision: Revision) -> Result<()> {
        let compacted = *self.shared.compacted.read();
        let current = self.shared.state.read().revision;
        if revision <= compacted {
            return Err(Error::Compacted { requested: revision, compacted });
        }
        if revision > current {
            return Err(Error::Future { requested: revision, current });
        }
        self.log.set_meta("compacted", revision.get())?;
        *self.shared.compacted.write() = revision;
        self.compact_to = revision;
        Ok(())
    }

    /// Where compaction may go now: to its own goal, but not past what is derived.
    fn goal(&self) -> Revision {
        let derived = self.derived.load(Ordering::Acquire).saturating_sub(MAX_OPS as u64 - 1);
        self.compact_to.min(Revision::from_u64(derived))
    }

    fn compacting(&self) -> bool {
        self.sweep.swept() < self.goal().get()
    }

    /// Sets a new goal when it is time, and takes one step towards the present one.
    fn compact_a_little(&mut self) {
        if Instant::now() >= self.next_compaction {
            self.next_compaction = Instant::now() + COMPACT_EVERY;
            let old = (self.now_ms)().saturating_sub(self.keep.as_millis() as u64);
            let goal = Revision::new(HybridClock::at(old), self.server).min(self.shared.state.read().revision);
            // With nothing so old, a client may still ask for all from the beginning.
            let old = self.log.has_any(goal).and_then(|any| match any && goal > *self.shared.compacted.read() {
                true => self.compact(goal),
                false => Ok(()),
            });
            if let Err(error) = old {
                tracing::warn!(%error, "setting the goal of compaction");
            }
        }
        if (self.compacting() || self.vacuuming)
            && let Err(error) = self.compact_step()
        {
            tracing::warn!(%error, "compaction stopped; trying again later");
            self.compact_to = Revision::ZERO;
            self.vacuuming = false;
        }
    }

    fn compact_step(&mut self) -> Result<()> {
        if self.compacting() && self.sweep.step(&self.log, self.goal())? {
            self.shared.swept.send_replace(self.sweep.swept());
        }
        self.vacuuming = self.log.vacuum_step(VACUUM_PAGES)?;
        Ok(())
    }
}

/// What is to be deleted first, and what is to be written then.
fn replacements(items: Vec<MergeItem>) -> (Vec<Prepared>, Vec<Prepared>) {
    let (mut gone, mut come) = (Vec::new(), Vec::new());
    for MergeItem { key, value, replaces } in items {
        if replaces || value.is_none() {
            gone.push(Prepared::One(Single::Delete { key: key.clone() }));
        }
        if let Some((value, summary)) = value {
            come.push(Prepared::One(Single::Replace { key, value, summary }));
        }
    }
    (gone, come)
}

fn unconditional(then: Vec<Prepared>) -> PreparedTxn {
    PreparedTxn { compare: Vec::new(), then, otherwise: Vec::new() }
}

/// The same failure for another of those who wait on it.
fn again(error: &Error) -> Error {
    match error {
        Error::NoSpace { path } => Error::NoSpace { path: path.clone() },
        Error::Corrupt { path, what } => Error::Corrupt { path: path.clone(), what: what.clone() },
        other => Error::Failed { what: other.to_string() },
    }
}
