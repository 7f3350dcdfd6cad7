//! A queue of keys to reconcile: each key at most once in it, never worked on twice at the same time, retried with
//! growing pauses. The rules are in [`schedule`]; this is the asynchronous shell.
mod schedule;

pub use schedule::{FIRST_RETRY, LAST_RETRY};

use parking_lot::Mutex;
use schedule::Schedule;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// A cloneable handle to one queue. Its size is bounded by the number of distinct keys.
pub struct WorkQueue<K> {
    inner: Arc<Inner<K>>,
}

struct Inner<K> {
    schedule: Mutex<Schedule<K>>,
    changed: Notify,
}

impl<K> Clone for WorkQueue<K> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<K: Clone + Eq + Hash + Ord> Default for WorkQueue<K> {
    fn default() -> Self {
        Self { inner: Arc::new(Inner { schedule: Mutex::new(Schedule::default()), changed: Notify::new() }) }
    }
}

impl<K: Clone + Eq + Hash + Ord> WorkQueue<K> {
    pub fn new() -> Self {
        Self::default()
    }

    /// Work on `key` as soon as somebody is free; a key that is being worked on is taken up again afterwards.
    pub fn add(&self, key: K) {
        self.change(|schedule| schedule.add(key));
    }

    /// Work on `key` after `delay`, or earlier when it is added otherwise. The earliest time asked for counts.
    pub fn add_after(&self, key: K, delay: Duration) {
        self.change(|schedule| schedule.add_at(key, Instant::now() + delay));
    }

    /// The key failed: work on it again after a pause that doubles from [`FIRST_RETRY`] to [`LAST_RETRY`].
    pub fn retry(&self, key: K) {
        self.change(|schedule| schedule.retry(key, Instant::now()));
    }

    /// The key succeeded: its next failure starts with the shortest pause again.
    pub fn forget(&self, key: &K) {
        self.inner.schedule.lock().forget(key);
    }

    /// How often the key failed since it was last forgotten.
    pub fn failures(&self, key: &K) -> u32 {
        self.inner.schedule.lock().failures(key)
    }

    /// Keys that are due now.
    pub fn len(&self) -> usize {
        self.inner.schedule.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next key; it counts as worked on until [`Self::done`]. Cancelling this future loses nothing.
    pub async fn next(&self) -> K {
        loop {
            let changed = self.inner.changed.notified();
            let (key, wake_at) = {
                let mut schedule = self.inner.schedule.lock();
                (schedule.take(Instant::now()), schedule.wake_at())
            };
            match (key, wake_at) {
                (Some(key), _) => {
                    // Another waiter may have more to take: one notice can stand for many keys.
                    self.inner.changed.notify_one();
                    return key;
                }
                (None, Some(at)) => {
                    let _ = tokio::time::timeout_at(at.into(), changed).await;
                }
                (None, None) => changed.await,
            }
        }
    }

    /// The work that [`Self::next`] handed out is over, well or not.
    pub fn done(&self, key: &K) {
        self.change(|schedule| schedule.done(key));
    }

    fn change(&self, change: impl FnOnce(&mut Schedule<K>)) {
        change(&mut self.inner.schedule.lock());
        self.inner.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_waiter_wakes_for_new_and_for_delayed_keys() {
        let queue = WorkQueue::new();
        let waiting = tokio::spawn({
            let queue = queue.clone();
            async move { (queue.next().await, queue.next().await) }
        });
        queue.add_after("late", Duration::from_millis(20));
        queue.add("now");
        assert_eq!(waiting.await.unwrap(), ("now", "late"));
    }

    #[tokio::test]
    async fn several_waiters_share_the_keys() {
        let queue = WorkQueue::new();
        let waiters: Vec<_> = (0..8)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move { queue.next().await })
            })
            .collect();
        (0..8).for_each(|n| queue.add(n));
        let mut seen = Vec::new();
        for waiter in waiters {
            seen.push(tokio::time::timeout(Duration::from_secs(5), waiter).await.expect("woken").unwrap());
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..8).collect::<Vec<_>>());
    }
}
