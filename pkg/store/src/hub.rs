//! Who watches what. The writer publishes each revision once, whole, after it is durable; a watcher that is too
//! slow is cut off rather than let memory grow.
use crate::{Change, Error, Range, Result, Revision, WatchItem};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// Changes that wait for one watcher at most; one that falls further behind must start again.
const WAITING: usize = 8192;
/// Bytes of new values that wait for one watcher at most.
const WAITING_BYTES: usize = 16 << 20;
/// Recent changes kept so that a watch from a recent revision needs no disk.
const RECENT: usize = 2048;
/// Bytes of new values kept for that.
const RECENT_BYTES: usize = 4 << 20;

/// The resource that a watcher's range lies in (`/registry/pods/`), so that a change wakes only those who may care;
/// none: the range spans several.
type Bucket = Option<Bytes>;

/// The changes of one revision.
type Whole = Arc<[Arc<Change>]>;

/// All watchers of a store.
#[derive(Default)]
pub struct Hub {
    inner: Mutex<Inner>,
    /// The revision up to which everything has been put into all queues.
    published: Arc<AtomicU64>,
}

#[derive(Default)]
struct Inner {
    watchers: HashMap<Bucket, HashMap<u64, Arc<Queue>>>,
    next_id: u64,
    recent: VecDeque<Whole>,
    recent_changes: usize,
    recent_bytes: usize,
    /// Everything after this revision is in `recent`.
    recent_after: Revision,
    revision: Revision,
    closed: bool,
}

/// One watcher's side of the hub.
pub struct Queue {
    range: Range,
    bucket: Bucket,
    waiting: Mutex<Waiting>,
    notify: Notify,
    published: Arc<AtomicU64>,
}

#[derive(Default)]
struct Waiting {
    changes: VecDeque<Arc<Change>>,
    bytes: usize,
    ended: Option<End>,
}

/// Why a watch ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// It fell behind, and has seen everything up to here at most.
    Slow(Revision),
    Closed,
}

/// What registering found: the queue, and what else the watcher has to read first.
pub struct Registered {
    pub id: u64,
    pub queue: Arc<Queue>,
    /// The log must be read from where the watch begins up to here; none: all is in the queue already.
    pub catch_up_to: Option<Revision>,
}

/// The key up to its third slash.
fn resource(key: &Bytes) -> Bucket {
    let mut slashes = key.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    slashes.nth(2).map(|at| key.slice(..=at))
}

fn bucket_of(range: &Range) -> Bucket {
    let bucket = resource(&range.start)?;
    (!range.end.is_empty() && range.end <= Range::prefix(bucket.clone()).end).then_some(bucket)
}

fn size(change: &Change) -> usize {
    change.entry.as_ref().map_or(0, |entry| entry.value.len())
}

impl Hub {
    pub fn new(revision: Revision) -> Self {
        let inner = Inner { revision, recent_after: revision, ..Inner::default() };
        Self { inner: Mutex::new(inner), published: Arc::new(AtomicU64::new(revision.get())) }
    }

    /// Adds a watcher of everything after `after`.
    pub fn register(&self, range: Range, after: Revision) -> Result<Registered> {
        let mut inner = self.inner.lock();
        if inner.closed {
            return Err(Error::Closed);
        }
        let queue = Arc::new(Queue {
            bucket: bucket_of(&range),
            range,
            waiting: Mutex::default(),
            notify: Notify::new(),
            published: self.published.clone(),
        });
        let catch_up_to = (after < inner.recent_after).then_some(inner.revision);
        if catch_up_to.is_none() {
            let later = inner.recent.partition_point(|whole| whole[0].revision <= after);
            for whole in inner.recent.range(later..) {
                queue.push(whole);
            }
        }
        let id = inner.next_id;
        inner.next_id += 1;
        inner.watchers.entry(queue.bucket.clone()).or_default().insert(id, queue.clone());
        Ok(Registered { id, queue, catch_up_to })
    }

    pub fn unregister(&self, id: u64, queue: &Queue) {
        let mut inner = self.inner.lock();
        if let Some(bucket) = inner.watchers.get_mut(&queue.bucket) {
            bucket.remove(&id);
            if bucket.is_empty() {
                inner.watchers.remove(&queue.bucket);
            }
        }
    }

    /// Tells all watchers of revisions that are durable, in order. `visible` runs under the same lock as the
    /// delivery, so that whoever reads the new revision and then watches misses nothing.
    pub fn publish(&self, revisions: Vec<Vec<Arc<Change>>>, visible: impl FnOnce()) {
        let mut inner = self.inner.lock();
        visible();
        for changes in revisions {
            let whole: Whole = changes.into();
            let Some(first) = whole.first() else { continue };
            inner.revision = first.revision;
            let touched: BTreeSet<Bucket> = whole.iter().map(|change| resource(&change.key)).chain([None]).collect();
            for bucket in touched {
                if let Some(watchers) = inner.watchers.get_mut(&bucket) {
                    watchers.retain(|_, queue| queue.push(&whole));
                }
            }
            inner.remember(whole);
        }
        self.published.store(inner.revision.get(), Ordering::Release);
    }

    /// Ends all watches; later ones are refused.
    pub fn close(&self) {
        let mut inner = self.inner.lock();
        inner.closed = true;
        inner.watchers.drain().flat_map(|(_, bucket)| bucket).for_each(|(_, queue)| queue.end(End::Closed));
    }
}

impl Inner {
    fn remember(&mut self, whole: Whole) {
        self.recent_changes += whole.len();
        self.recent_bytes += whole.iter().map(|change| size(change)).sum::<usize>();
        self.recent.push_back(whole);
        while self.recent_changes > RECENT || self.recent_bytes > RECENT_BYTES {
            let Some(old) = self.recent.pop_front() else { break };
            self.recent_changes -= old.len();
            self.recent_bytes -= old.iter().map(|change| size(change)).sum::<usize>();
            self.recent_after = old[0].revision;
        }
    }
}

impl Queue {
    /// Puts in what is in the range; false: the watcher is cut off and needs nothing more.
    fn push(&self, whole: &Whole) -> bool {
        let mut inside = whole.iter().filter(|change| self.range.contains(&change.key)).peekable();
        if inside.peek().is_none() {
            return true;
        }
        let mut waiting = self.waiting.lock();
        for change in inside {
            waiting.bytes += size(change);
            waiting.changes.push_back(change.clone());
        }
        let fits = waiting.changes.len() <= WAITING && waiting.bytes <= WAITING_BYTES;
        if !fits {
            let first = waiting.changes.front().map_or(Revision::ZERO, |change| change.revision);
            *waiting = Waiting { ended: Some(End::Slow(first)), ..Waiting::default() };
        }
        self.notify.notify_one();
        fits
    }

    fn end(&self, end: End) {
        self.waiting.lock().ended.get_or_insert(end);
        self.notify.notify_one();
    }

    /// What waits now; `Ok(None)`: nothing.
    pub fn take(&self) -> Result<Option<WatchItem>> {
        let mut waiting = self.waiting.lock();
        if !waiting.changes.is_empty() {
            waiting.bytes = 0;
            return Ok(Some(WatchItem::Changes(waiting.changes.drain(..).collect())));
        }
        match waiting.ended {
            Some(End::Slow(at)) => Err(Error::Compacted { requested: at, compacted: at }),
            Some(End::Closed) => Err(Error::Closed),
            None => Ok(None),
        }
    }

    /// The revision up to which the watcher has everything once its queue is empty. Read it before
    /// [`Queue::take`].
    pub fn seen(&self) -> Revision {
        Revision::from_u64(self.published.load(Ordering::Acquire))
    }

    pub fn range(&self) -> &Range {
        &self.range
    }

    /// Returns when something may have arrived.
    pub async fn arrived(&self) {
        self.notify.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_within_one_resource_has_its_bucket() {
        let pods = Some(Bytes::from("/registry/pods/"));
        assert_eq!(resource(&"/registry/pods/default/p".into()), pods);
        assert_eq!(bucket_of(&Range::prefix("/registry/pods/")), pods);
        assert_eq!(bucket_of(&Range::key("/registry/pods/default/p")), pods);
        assert_eq!(bucket_of(&Range::prefix("/registry/pod")), None);
        assert_eq!(bucket_of(&Range { start: "/registry/pods/a".into(), end: "/registry/z".into() }), None);
        assert_eq!(bucket_of(&Range { start: "/registry/pods/a".into(), end: Bytes::new() }), None);
    }
}
