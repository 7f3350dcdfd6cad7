//! Reads of the past, on a connection of their own and off the runtime's threads.
use crate::log::{Log, Record};
use crate::watch::change;
use crate::{Change, Entry, Page, Range, Result, Revision};
use api::summary::Summarize;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

pub struct Reader {
    log: Arc<Mutex<Log>>,
    summarize: Arc<dyn Summarize>,
}

impl Reader {
    pub fn new(log: Log, summarize: Arc<dyn Summarize>) -> Self {
        Self { log: Arc::new(Mutex::new(log)), summarize }
    }

    async fn run<T: Send + 'static>(&self, read: impl FnOnce(&Log) -> Result<T> + Send + 'static) -> Result<T> {
        let log = self.log.clone();
        let done = tokio::task::spawn_blocking(move || read(&log.lock())).await;
        // The only other outcome is a panic in the read, which is ours to pass on.
        done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    /// A key at a revision; `newest` is what it holds now.
    pub async fn get(&self, key: Bytes, at: Revision, newest: Option<Arc<Entry>>) -> Result<Option<Arc<Entry>>> {
        let page = self.list(Range::key(key), at, 1, newest.into_iter().collect()).await?;
        Ok(page.entries.into_iter().next())
    }

    /// A range at a revision; `newest` is what it holds now, or held at a moment after that revision.
    pub async fn list(&self, range: Range, at: Revision, limit: usize, newest: Vec<Arc<Entry>>) -> Result<Page> {
        let limit = if limit == 0 { usize::MAX } else { limit };
        let (past, count) = self.run(move |log| existed(log, &range, at, limit, newest)).await?;
        let entries: Vec<_> = past.iter().filter_map(|past| past.entry(&*self.summarize)).collect();
        Ok(Page { revision: at, more: count > entries.len() as u64, entries, count })
    }

    pub async fn after(&self, position: u64, up_to: Revision, limit: usize) -> Result<Vec<Record>> {
        self.run(move |log| {
            let mut records = Vec::new();
            log.after(position, up_to, limit, |record| records.push(record))?;
            Ok(records)
        })
        .await
    }

    /// The records as changes, each with what was before it.
    pub async fn changes(&self, records: Vec<Record>) -> Result<Vec<Arc<Change>>> {
        let summarize = self.summarize.clone();
        self.run(move |log| {
            let each = |record: &Record| {
                let parent = if record.parent == 0 { None } else { log.at_position(record.parent)? };
                let previous = parent.and_then(|parent| entry(&parent, &*summarize));
                Ok(change(record, entry(record, &*summarize), previous))
            };
            records.iter().map(each).collect()
        })
        .await
    }
}

/// What a key held at a revision.
enum Past {
    /// What it held later, too.
    Same(Arc<Entry>),
    Other(Record),
}

impl Past {
    fn entry(&self, summarize: &dyn Summarize) -> Option<Arc<Entry>> {
        match self {
            Self::Same(entry) => Some(entry.clone()),
            Self::Other(record) => entry(record, summarize),
        }
    }
}

/// The first `limit` of what existed in a range at a revision, in order of keys, and how much did. `newest` is the range
/// as it was at a moment since.
fn existed(log: &Log, range: &Range, at: Revision, limit: usize, newest: Vec<Arc<Entry>>) -> Result<(Vec<Past>, u64)> {
    let mut way: BTreeMap<Bytes, Way> = BTreeMap::new();
    // A life that has ended since is found from its end. Asked after `newest` was taken: what was deleted meanwhile is
    // in both.
    way.extend(log.deleted(&range.start, &range.end, at)?.into_iter().map(|(key, end)| (key, Way::From(end))));
    for entry in newest {
        match entry.mod_revision <= at {
            true => drop(way.insert(entry.key.clone(), Way::Is(entry))),
            false => drop(way.entry(entry.key.clone()).or_insert(Way::From(entry.position()))),
        }
    }
    let (mut found, mut count) = (Vec::new(), 0);
    for way in way.into_values() {
        match way {
            // Past the limit it is only counted.
            Way::Is(_) if found.len() == limit => count += 1,
            Way::From(position) if found.len() == limit => count += u64::from(log.has_back(position, at)?),
            Way::Is(entry) => found.push(Past::Same(entry)),
            Way::From(position) => found.extend(log.back(position, at)?.map(Past::Other)),
        }
    }
    count += found.len() as u64;
    Ok((found, count))
}

/// How to find what a key held at a revision.
enum Way {
    Is(Arc<Entry>),
    /// From the row at this position, back through those before it.
    From(u64),
}

/// The entry that a record left; none for a deletion.
pub fn entry(record: &Record, summarize: &dyn Summarize) -> Option<Arc<Entry>> {
    let value = record.value.clone()?;
    Some(Arc::new(Entry {
        summary: summarize.summarize(&record.key, &value),
        key: record.key.clone(),
        value,
        create_revision: record.create_revision,
        mod_revision: record.revision,
        index: record.index,
        version: record.version,
        lease: record.lease,
    }))
}
