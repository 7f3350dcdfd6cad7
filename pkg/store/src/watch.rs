//! A watch: first what the log has, then what the hub delivers, without a gap or a repetition between.
use crate::hub::Queue;
use crate::log::Record;
use crate::reader::Reader;
use crate::writer::Shared;
use crate::{Change, Error, Result, Revision, Watch, WatchItem};
use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;

/// Records read from the log at once while catching up: more than one revision can have, or it would never be seen
/// whole.
const CHUNK: usize = crate::log::MAX_OPS + 1;
/// An idle watch says how far it is this often.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// Where reading the log has got to.
struct CatchUp {
    /// Position of the last record read.
    at: u64,
    up_to: Revision,
}

pub struct Watcher {
    shared: Arc<Shared>,
    id: u64,
    queue: Arc<Queue>,
    reader: Arc<Reader>,
    catch_up: Option<CatchUp>,
    progress_wanted: bool,
    ended: bool,
}

impl Watcher {
    /// A watch of all after `after`, which is a whole revision, or, when `inclusive`, of all from the number after it.
    pub fn new(
        shared: Arc<Shared>,
        reader: Arc<Reader>,
        range: crate::Range,
        after: Revision,
        inclusive: bool,
    ) -> Result<Self> {
        let registered = shared.hub.register(range, after)?;
        let last_position = if inclusive { after.get() } else { after.get() + crate::log::MAX_OPS as u64 - 1 };
        let catch_up = registered.catch_up_to.map(|up_to| CatchUp { at: last_position, up_to });
        let (id, queue) = (registered.id, registered.queue);
        Ok(Self { shared, id, queue, reader, catch_up, progress_wanted: false, ended: false })
    }

    /// The next changes of the log that are in the range; none: caught up.
    async fn log_next(&mut self) -> Result<Option<WatchItem>> {
        while let Some(catch_up) = &self.catch_up {
            let mut records = self.reader.after(catch_up.at, catch_up.up_to, CHUNK).await?;
            let whole = records.len() < CHUNK;
            if !whole {
                // The last revision may be cut: leave it to the next read.
                let last = records.last().map(|record| record.revision);
                records.retain(|record| Some(record.revision) != last);
            }
            let (up_to, from) = (catch_up.up_to, Revision::from_u64(catch_up.at + 1));
            let at = records.last().map_or(catch_up.at, Record::position);
            records.retain(|record| self.queue.range().contains(&record.key));
            // Only then forward: whoever drops this future at the await gets the same records again.
            let changes = self.reader.changes(records).await?;
            // Compaction may have passed by meanwhile, and then there are gaps.
            let compacted = *self.shared.compacted.read();
            if from < compacted {
                return Err(Error::Compacted { requested: from, compacted });
            }
            self.catch_up = (!whole).then_some(CatchUp { at, up_to });
            if !changes.is_empty() {
                return Ok(Some(WatchItem::Changes(changes)));
            }
        }
        Ok(None)
    }

    async fn live(&mut self) -> Result<WatchItem> {
        let progress_at = tokio::time::Instant::now() + PROGRESS_EVERY;
        loop {
            let seen = self.queue.seen();
            if let Some(item) = self.queue.take()? {
                return Ok(item);
            }
            if std::mem::take(&mut self.progress_wanted) {
                return Ok(WatchItem::Progress(seen));
            }
            tokio::select! {
                () = self.queue.arrived() => {}
                () = tokio::time::sleep_until(progress_at) => self.progress_wanted = true,
            }
        }
    }

    async fn item(&mut self) -> Result<WatchItem> {
        match self.log_next().await? {
            Some(item) => Ok(item),
            None => self.live().await,
        }
    }
}

#[async_trait]
impl Watch for Watcher {
    async fn next(&mut self) -> Option<Result<WatchItem>> {
        if self.ended {
            return None;
        }
        let item = self.item().await;
        self.ended = item.is_err();
        Some(item)
    }

    fn request_progress(&mut self) {
        self.progress_wanted = true;
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.hub.unregister(self.id, &self.queue);
    }
}

/// A record and the one before it, as a change.
pub fn change(record: &Record, entry: Option<Arc<crate::Entry>>, previous: Option<Arc<crate::Entry>>) -> Arc<Change> {
    Arc::new(Change { revision: record.revision, index: record.index, key: record.key.clone(), entry, previous })
}
