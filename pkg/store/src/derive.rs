//! Derives CRDT changes from the log, in order, off the acknowledgement's path: a thread of low priority that
//! follows the writer, notes how far it is, and goes on there after a restart. Compaction waits for it.
use crate::changes::{Changes, Content, Object};
use crate::log::{Log, MAX_OPS, Record};
use crate::writer::{Shared, now_ms};
use crate::{Numbered, Result, Revision};
use api::schema::Schemas;
use crdt::{Actor, Document, HybridClock, Policy, Shape};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

/// Rows of the log in one step, and one fsync.
const STEP_ROWS: usize = 256;
/// Edits of a document after which its history is folded: loading takes longer with each.
const FOLD_AFTER: usize = 64;
/// A pause after a step, so that a burst becomes one step and foreground work goes first.
const GATHER: Duration = Duration::from_millis(50);
/// After a failure.
const RETRY: Duration = Duration::from_secs(1);
/// How long a deletion is remembered for peers.
const REMEMBER_DELETIONS: Duration = Duration::from_secs(24 * 60 * 60);
const PRUNE_EVERY: Duration = Duration::from_secs(10 * 60);
/// Added to the thread's nice value.
const NICE: i32 = 10;

pub struct Deriver {
    pub log: Log,
    pub changes: Changes,
    pub actor: Actor,
    pub shared: Arc<Shared>,
    /// Position up to which everything is derived; compaction reads it.
    pub derived: Arc<AtomicU64>,
    pub next_prune: Instant,
}

impl Deriver {
    /// Works until the writer, which holds the other end of `wake`, is gone.
    pub fn run(mut self, wake: &Receiver<()>) {
        if let Err(error) = rustix::process::nice(NICE) {
            tracing::debug!(%error, "deriving changes at normal priority");
        }
        loop {
            let pause = match self.step() {
                Ok(false) => None,
                Ok(true) => Some(GATHER),
                Err(error) => {
                    tracing::warn!(%error, "deriving changes failed; trying again");
                    Some(RETRY)
                }
            };
            let gone = match pause {
                // Behind: on with it, unless the store closes.
                None => matches!(wake.try_recv(), Err(TryRecvError::Disconnected)),
                Some(pause) => {
                    std::thread::sleep(pause);
                    matches!(wake.recv_timeout(PRUNE_EVERY), Err(RecvTimeoutError::Disconnected))
                }
            };
            if gone {
                return;
            }
        }
    }

    /// Derives the next rows. True: nothing more waits.
    fn step(&mut self) -> Result<bool> {
        let (from, up_to) = (self.derived.load(Ordering::Acquire), self.shared.state.read().revision);
        let mut records = Vec::new();
        self.log.after(from, up_to, STEP_ROWS, |record| records.push(record))?;
        let whole = records.len() < STEP_ROWS;
        let reached = match records.last() {
            _ if whole => up_to.get() + MAX_OPS as u64 - 1,
            Some(last) => last.position(),
            None => from,
        };
        if !records.is_empty() {
            let records = if whole { records } else { newest(records) };
            self.changes.step(reached, |_| records.iter().try_for_each(|record| self.derive(record)))?;
        }
        self.derived.fetch_max(reached, Ordering::AcqRel);
        if Instant::now() >= self.next_prune {
            self.next_prune = Instant::now() + PRUNE_EVERY;
            let old = now_ms().saturating_sub(REMEMBER_DELETIONS.as_millis() as u64);
            self.changes.prune(Revision::new(HybridClock::at(old), 0).get())?;
        }
        Ok(whole)
    }

    fn derive(&self, record: &Record) -> Result<()> {
        match crdt::policy(&record.key) {
            Policy::Local => Ok(()),
            Policy::Register => self.register(record),
            Policy::Document => self.document(record),
        }
    }

    fn register(&self, record: &Record) -> Result<()> {
        self.changes.forget(&record.key)?;
        let object = Object { key: &record.key, life: "", epoch: 0 };
        self.changes.add(record.position(), object, Content::Register, record.value.as_deref().unwrap_or_default())
    }

    fn document(&self, record: &Record) -> Result<()> {
        let mut rows = self.changes.of(&record.key)?;
        rows.retain(|row| row.content != Content::Tombstone);
        let object = record.value.as_deref().and_then(|value| serde_json::from_slice::<Value>(value).ok());
        let Some(object) = object.filter(Value::is_object) else {
            return match (&record.value, rows.first()) {
                (None, Some(Numbered { content: Content::Change | Content::Snapshot, life, .. })) => {
                    self.bury(record, life)
                }
                (None, None) => Ok(()),
                _ => self.register(record),
            };
        };
        let life = object.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
        if let Some(old) = rows.first().filter(|old| old.life != life || old.content == Content::Register) {
            self.bury(record, &old.life)?;
            rows.clear();
        }
        self.edit(record, &object, life, &rows)
    }

    fn bury(&self, record: &Record, life: &str) -> Result<()> {
        self.changes.forget(&record.key)?;
        self.changes.add(record.position(), Object { key: &record.key, life, epoch: 0 }, Content::Tombstone, &[])
    }

    fn edit(&self, record: &Record, value: &Value, life: &str, rows: &[Numbered]) -> Result<()> {
        let object = Object { key: &record.key, life, epoch: rows.last().map_or(0, |row| row.epoch) };
        let made = Document::load(self.actor, rows.iter().map(|row| &row.bytes[..]))
            .and_then(|mut document| document.write(value, shape(value), record.revision.clock()));
        match made {
            Ok(None) => Ok(()),
            Ok(Some(change)) if rows.len() < FOLD_AFTER => {
                self.changes.add(record.position(), object, Content::Change, &change)
            }
            Ok(Some(_)) => self.fold(record, value, object),
            Err(error) => {
                let key = String::from_utf8_lossy(&record.key);
                tracing::error!(%key, %error, "the object's document is begun anew");
                self.fold(record, value, object)
            }
        }
    }

    /// Begins the document anew from what the object says now.
    fn fold(&self, record: &Record, value: &Value, object: Object<'_>) -> Result<()> {
        let mut document = Document::new(self.actor);
        let written = document.write(value, shape(value), record.revision.clock());
        if let Err(error) = written {
            let key = String::from_utf8_lossy(&record.key).into_owned();
            return Err(crate::Error::Failed { what: format!("the document of {key}: {error}") });
        }
        self.changes.forget(&record.key)?;
        let object = Object { epoch: object.epoch + 1, ..object };
        self.changes.add(record.position(), object, Content::Snapshot, &document.save())
    }
}

fn shape(value: &Value) -> Shape<'_> {
    Shape::of(value, Schemas::builtin())
}

/// Only each key's last row: what lies between is not worth catching up with.
fn newest(records: Vec<Record>) -> Vec<Record> {
    let last: HashMap<_, _> = records.iter().map(|record| (record.key.clone(), record.position())).collect();
    records.into_iter().filter(|record| last.get(&record.key) == Some(&record.position())).collect()
}
