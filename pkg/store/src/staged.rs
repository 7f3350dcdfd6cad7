//! One transaction being carried out on a batch: what it writes stays apart until all of it is known to succeed.
use crate::batch::{Batch, Single};
use crate::log::{MAX_OPS, Record};
use crate::state::Overlay;
use crate::watch::change;
use crate::{Change, Entry, Error, LeaseId, OpResult, Range, Result, Revision};
use api::summary::Summary;
use bytes::Bytes;
use std::sync::Arc;

pub struct Staged<'a, F> {
    batch: &'a Batch<'a>,
    revision: Revision,
    has_lease: &'a F,
    overlay: Overlay,
    records: Vec<Record>,
    changes: Vec<Arc<Change>>,
}

impl<'a, F: Fn(LeaseId) -> bool> Staged<'a, F> {
    pub fn new(batch: &'a Batch<'a>, revision: Revision, has_lease: &'a F) -> Self {
        Self { batch, revision, has_lease, overlay: Overlay::new(), records: Vec::new(), changes: Vec::new() }
    }

    pub fn into_parts(self) -> (Overlay, Vec<Record>, Vec<Arc<Change>>) {
        (self.overlay, self.records, self.changes)
    }

    pub fn apply(&mut self, op: Single) -> Result<OpResult> {
        Ok(match op {
            Single::Get { key } => OpResult::Get { entry: self.get(&key) },
            Single::List { range, limit } => OpResult::List(self.batch.page(&range, limit, &self.overlay)),
            Single::Delete { key } => OpResult::Delete { previous: self.delete(key)? },
            Single::DeleteRange { range } => OpResult::DeleteRange { previous: self.delete_range(&range)? },
            Single::Put { key, value, lease, summary } => self.put(key, value, lease, summary)?,
            Single::Replace { key, value, summary } => {
                let lease = self.get(&key).and_then(|before| before.lease);
                self.put(key, value, lease, summary)?
            }
            Single::Amend { key, value, lease } => {
                let Some(before) = self.get(&key) else {
                    return Err(Error::KeyNotFound { key: String::from_utf8_lossy(&key).into_owned() });
                };
                let (value, summary) = value.unwrap_or_else(|| (before.value.clone(), before.summary.clone()));
                self.put(key, value, lease.unwrap_or(before.lease), summary)?
            }
        })
    }

    fn get(&self, key: &[u8]) -> Option<Arc<Entry>> {
        match self.overlay.get(key) {
            Some(entry) => entry.clone(),
            None => self.batch.get(key),
        }
    }

    fn delete_range(&mut self, range: &Range) -> Result<Vec<Arc<Entry>>> {
        let entries = self.batch.page(range, 0, &self.overlay).entries;
        if entries.len() > MAX_OPS {
            return Err(Error::TooManyOps { ops: entries.len(), limit: MAX_OPS });
        }
        entries.iter().try_for_each(|entry| self.delete(entry.key.clone()).map(drop))?;
        Ok(entries)
    }

    fn delete(&mut self, key: Bytes) -> Result<Option<Arc<Entry>>> {
        let previous = self.get(&key);
        if previous.is_some() {
            self.write(key, None, previous.clone())?;
        }
        Ok(previous)
    }

    fn put(&mut self, key: Bytes, value: Bytes, lease: Option<LeaseId>, summary: Summary) -> Result<OpResult> {
        if let Some(lease) = lease.filter(|lease| !(self.has_lease)(*lease)) {
            return Err(Error::LeaseNotFound(lease));
        }
        let previous = self.get(&key);
        let entry = Arc::new(Entry {
            key: key.clone(),
            value,
            create_revision: previous.as_ref().map_or(self.revision, |entry| entry.create_revision),
            mod_revision: self.revision,
            index: self.changes.len() as u32,
            version: previous.as_ref().map_or(1, |entry| entry.version + 1),
            lease,
            summary,
        });
        self.write(key, Some(entry.clone()), previous.clone())?;
        Ok(OpResult::Put { entry, previous })
    }

    fn write(&mut self, key: Bytes, entry: Option<Arc<Entry>>, previous: Option<Arc<Entry>>) -> Result<()> {
        if self.overlay.contains_key(&key) {
            return Err(Error::DuplicateKey { key: String::from_utf8_lossy(&key).into_owned() });
        }
        if self.changes.len() == MAX_OPS {
            return Err(Error::TooManyOps { ops: MAX_OPS + 1, limit: MAX_OPS });
        }
        let record = Record {
            revision: self.revision,
            index: self.changes.len() as u32,
            key: key.clone(),
            value: entry.as_ref().map(|entry| entry.value.clone()),
            create_revision: entry.as_ref().map_or(Revision::ZERO, |entry| entry.create_revision),
            version: entry.as_ref().map_or(0, |entry| entry.version),
            lease: entry.as_ref().and_then(|entry| entry.lease),
            parent: previous.as_ref().map_or(0, |entry| entry.position()),
            merged: self.batch.merged,
        };
        self.changes.push(change(&record, entry.clone(), previous));
        self.records.push(record);
        self.overlay.insert(key, entry);
        Ok(())
    }
}
