//! When which key is worked on: pure, with the time as an argument.
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Pause before the first retry of a key; each further failure doubles it. Upstream's default for controllers.
pub const FIRST_RETRY: Duration = Duration::from_millis(5);
/// The longest pause between two retries. Shorter than upstream's 1000 s: nobody waits a quarter of an hour for a
/// controller that could have gone on.
pub const LAST_RETRY: Duration = Duration::from_secs(60);

/// A key is in any of these states: idle (nowhere), delayed (`later`), due (`due`), worked on (`working`), or
/// worked on and due again (`working` and `again`).
pub(super) struct Schedule<K> {
    due: VecDeque<K>,
    queued: HashSet<K>,
    working: HashSet<K>,
    again: HashSet<K>,
    later: BTreeSet<(Instant, K)>,
    later_of: HashMap<K, Instant>,
    failures: HashMap<K, u32>,
}

impl<K> Default for Schedule<K> {
    fn default() -> Self {
        Self {
            due: VecDeque::new(),
            queued: HashSet::new(),
            working: HashSet::new(),
            again: HashSet::new(),
            later: BTreeSet::new(),
            later_of: HashMap::new(),
            failures: HashMap::new(),
        }
    }
}

impl<K: Clone + Eq + Hash + Ord> Schedule<K> {
    pub(super) fn add(&mut self, key: K) {
        if self.working.contains(&key) {
            self.again.insert(key);
        } else if self.queued.insert(key.clone()) {
            self.due.push_back(key);
        }
    }

    pub(super) fn add_at(&mut self, key: K, at: Instant) {
        match self.later_of.get(&key).copied() {
            Some(earlier) if earlier <= at => return,
            Some(later) => _ = self.later.remove(&(later, key.clone())),
            None => {}
        }
        self.later_of.insert(key.clone(), at);
        self.later.insert((at, key));
    }

    pub(super) fn retry(&mut self, key: K, now: Instant) {
        let failures = self.failures.entry(key.clone()).or_default();
        let pause = FIRST_RETRY.saturating_mul(1 << (*failures).min(20)).min(LAST_RETRY);
        *failures = failures.saturating_add(1);
        self.add_at(key, now + pause);
    }

    pub(super) fn forget(&mut self, key: &K) {
        self.failures.remove(key);
    }

    pub(super) fn failures(&self, key: &K) -> u32 {
        self.failures.get(key).copied().unwrap_or_default()
    }

    pub(super) fn take(&mut self, now: Instant) -> Option<K> {
        while self.later.first().is_some_and(|(at, _)| *at <= now) {
            let (_, key) = self.later.pop_first()?;
            self.later_of.remove(&key);
            self.add(key);
        }
        let key = self.due.pop_front()?;
        self.queued.remove(&key);
        self.working.insert(key.clone());
        Some(key)
    }

    pub(super) fn done(&mut self, key: &K) {
        self.working.remove(key);
        if self.again.remove(key) {
            self.add(key.clone());
        }
    }

    /// When the next delayed key falls due.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.later.first().map(|(at, _)| *at)
    }

    pub(super) fn len(&self) -> usize {
        self.due.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_key_is_queued_once_and_never_worked_on_twice_at_once() {
        let mut schedule = Schedule::default();
        let now = Instant::now();
        schedule.add("a");
        schedule.add("a");
        assert_eq!(schedule.take(now), Some("a"));
        schedule.add("a");
        assert_eq!(schedule.take(now), None, "it is being worked on");
        schedule.done(&"a");
        assert_eq!(schedule.take(now), Some("a"), "what came meanwhile is not lost");
        schedule.done(&"a");
        assert_eq!(schedule.take(now), None);
    }

    #[test]
    fn retries_wait_longer_each_time_until_forgotten() {
        let mut schedule = Schedule::default();
        let now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..16 {
            schedule.retry("a", now);
            let at = schedule.wake_at().unwrap();
            pauses.push(at - now);
            assert_eq!(schedule.take(at), Some("a"));
            schedule.done(&"a");
        }
        assert_eq!(pauses[..3], [5, 10, 20].map(Duration::from_millis));
        assert_eq!(pauses[15], LAST_RETRY);
        schedule.forget(&"a");
        schedule.retry("a", now);
        assert_eq!(schedule.wake_at(), Some(now + FIRST_RETRY));
    }

    #[test]
    fn of_two_delays_the_earlier_counts() {
        let mut schedule = Schedule::default();
        let now = Instant::now();
        let second = Duration::from_secs(1);
        schedule.add_at("a", now + 3 * second);
        schedule.add_at("a", now + second);
        schedule.add_at("a", now + 2 * second);
        assert_eq!(schedule.wake_at(), Some(now + second));
        assert_eq!(schedule.take(now + second), Some("a"));
        schedule.done(&"a");
        assert_eq!(schedule.take(now + 9 * second), None);
    }

    proptest! {
        /// Whatever the order of calls: after an add the key is handed out again, and never while worked on.
        #[test]
        fn no_add_is_lost(steps in prop::collection::vec((0u8..4, 0u8..3), 0..200)) {
            let mut schedule = Schedule::default();
            let now = Instant::now();
            let (mut owed, mut working) = (HashSet::new(), HashSet::new());
            for (what, key) in steps {
                match what {
                    0 => { schedule.add(key); owed.insert(key); }
                    1 => { schedule.add_at(key, now); owed.insert(key); }
                    2 => if let Some(key) = schedule.take(now) {
                        prop_assert!(working.insert(key), "handed out twice");
                        prop_assert!(owed.remove(&key), "handed out without an add");
                    },
                    _ => { schedule.done(&key); working.remove(&key); }
                }
            }
            for key in working { schedule.done(&key); }
            while let Some(key) = schedule.take(now) {
                prop_assert!(owed.remove(&key));
                schedule.done(&key);
            }
            prop_assert!(owed.is_empty());
        }
    }
}
