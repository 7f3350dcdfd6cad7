//! Reads of the past, on a connection of their own and off the runtime's threads.
use crate::log::{Log, Record};
use crate::watch::change;
use crate::{Change, Entry, Page, Range, Result, Revision};
use api::summary::Summarize;
use parking_lot::Mutex;
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

    pub async fn get(&self, key: Vec<u8>, at: Revision) -> Result<Option<Arc<Entry>>> {
        let record = self.run(move |log| log.get(&key, at)).await?;
        Ok(record.and_then(|record| entry(&record, &*self.summarize)))
    }

    pub async fn list(&self, range: Range, at: Revision, limit: usize) -> Result<Page> {
        let limit = if limit == 0 { usize::MAX } else { limit };
        let (records, count) = self
            .run(move |log| {
                let positions = log.positions(&range.start, &range.end, at)?;
                // None: compaction took it between the two reads; the caller checks for that.
                let records =
                    positions.iter().take(limit).filter_map(|position| log.at_position(*position).transpose());
                Ok((records.collect::<Result<Vec<_>>>()?, positions.len() as u64))
            })
            .await?;
        let entries: Vec<_> = records.iter().filter_map(|record| entry(record, &*self.summarize)).collect();
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
