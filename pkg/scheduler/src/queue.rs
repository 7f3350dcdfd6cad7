//! Pods that wait: those to try now by priority, those that back off after a failed try, and those that nothing
//! will help until the cluster changes.
use crate::framework::Plugins;
use crate::pod::PodInfo;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::Arc;

/// First wait after a failed try; doubles with each.
const INITIAL_BACKOFF_MS: u64 = 1_000;
/// Longest wait between tries.
const MAX_BACKOFF_MS: u64 = 10_000;
/// A pod that nothing woke is tried again after this, lest an event was missed.
const MAX_UNSCHEDULABLE_MS: u64 = 5 * 60 * 1_000;
/// How often such pods are looked for.
const SWEEP_MS: u64 = 30_000;

/// Where a waiting pod stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// To be tried; entered when added, woken or done backing off, left by [`Queue::pop`].
    Active,
    /// Tried and failed; goes to `Active` at the time.
    Backoff { until_ms: u64 },
    /// No node fits; left when an event wakes one of these filters.
    Unschedulable { since_ms: u64, plugins: Plugins },
    /// Has scheduling gates; left when they are gone.
    Gated,
    /// Decided on, and its binding on the way.
    InFlight,
}

#[derive(Debug)]
struct Waiting {
    pod: Arc<PodInfo>,
    place: Place,
    attempts: u32,
    last_try_ms: u64,
    /// Counts moves: an entry of a heap with another number is stale.
    moves: u64,
}

/// Higher priority first, then who waits longest.
type ActiveKey = (i32, Reverse<u64>, Reverse<u64>);

#[derive(Debug, Default)]
pub struct Queue {
    pods: HashMap<Arc<str>, Waiting>,
    active: BinaryHeap<(ActiveKey, Arc<str>, u64)>,
    backoff: BinaryHeap<Reverse<(u64, Arc<str>, u64)>>,
    unschedulable: HashSet<Arc<str>>,
    /// Orders pods that came in the same millisecond.
    sequence: u64,
    last_sweep_ms: u64,
}

impl Queue {
    /// Adds a pod, or takes note of its new version.
    pub fn upsert(&mut self, pod: Arc<PodInfo>, now_ms: u64) {
        let uid = pod.uid.clone();
        let gated = pod.is_gated();
        let Some(waiting) = self.pods.get_mut(&uid) else {
            let place = if gated { Place::Gated } else { Place::Active };
            self.pods.insert(uid.clone(), Waiting { pod, place, attempts: 0, last_try_ms: now_ms, moves: 0 });
            if !gated {
                self.activate(&uid, now_ms);
            }
            return;
        };
        let changed = waiting.pod.object.spec != pod.object.spec || waiting.pod.labels() != pod.labels();
        waiting.pod = pod;
        match waiting.place {
            Place::Gated if !gated => self.activate(&uid, now_ms),
            // Its own change may be what makes it fit.
            Place::Unschedulable { .. } if changed => self.retry(&uid, now_ms),
            Place::Active if changed => self.activate(&uid, now_ms),
            _ => {}
        }
    }

    /// A waiting pod as last seen.
    pub fn get(&self, uid: &str) -> Option<&Arc<PodInfo>> {
        self.pods.get(uid).map(|waiting| &waiting.pod)
    }

    pub fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        self.unschedulable.remove(uid);
        self.pods.remove(uid).map(|waiting| waiting.pod)
    }

    /// The next pod to try; it is in flight until one of the calls below.
    pub fn pop(&mut self, now_ms: u64) -> Option<Arc<PodInfo>> {
        while let Some((_, uid, moves)) = self.active.pop() {
            if let Some(waiting) = self.pods.get_mut(&uid).filter(|w| w.moves == moves && w.place == Place::Active) {
                waiting.place = Place::InFlight;
                waiting.attempts += 1;
                waiting.last_try_ms = now_ms;
                return Some(waiting.pod.clone());
            }
        }
        None
    }

    /// No node fits, by these filters.
    pub fn reject(&mut self, uid: &Arc<str>, plugins: Plugins, now_ms: u64) {
        if let Some(waiting) = self.pods.get_mut(uid) {
            waiting.place = Place::Unschedulable { since_ms: now_ms, plugins };
            self.unschedulable.insert(uid.clone());
        }
    }

    /// The try failed for a reason that may pass by itself.
    pub fn fail(&mut self, uid: &Arc<str>, now_ms: u64) {
        if self.pods.contains_key(uid) {
            self.retry(uid, now_ms);
        }
    }

    /// Tries again the pods that one of these filters rejected.
    pub fn wake(&mut self, plugins: Plugins, now_ms: u64) {
        let woken = |uid: &&Arc<str>| match self.pods.get(*uid).map(|waiting| waiting.place) {
            // Rejected by none: there were no nodes at all.
            Some(Place::Unschedulable { plugins: by, .. }) => by == 0 || by & plugins != 0,
            _ => true,
        };
        let woken: Vec<Arc<str>> = self.unschedulable.iter().filter(woken).cloned().collect();
        for uid in woken {
            self.retry(&uid, now_ms);
        }
    }

    /// Moves what has waited long enough.
    pub fn tick(&mut self, now_ms: u64) {
        while let Some(Reverse((until_ms, ..))) = self.backoff.peek() {
            if *until_ms > now_ms {
                break;
            }
            let Some(Reverse((_, uid, moves))) = self.backoff.pop() else { break };
            if self.pods.get(&uid).is_some_and(|w| w.moves == moves && matches!(w.place, Place::Backoff { .. })) {
                self.activate(&uid, now_ms);
            }
        }
        if now_ms >= self.last_sweep_ms + SWEEP_MS {
            self.last_sweep_ms = now_ms;
            self.sweep(now_ms);
        }
    }

    fn sweep(&mut self, now_ms: u64) {
        let old = |uid: &&Arc<str>| match self.pods.get(*uid).map(|waiting| waiting.place) {
            Some(Place::Unschedulable { since_ms, .. }) => since_ms + MAX_UNSCHEDULABLE_MS <= now_ms,
            _ => true,
        };
        let old: Vec<Arc<str>> = self.unschedulable.iter().filter(old).cloned().collect();
        for uid in old {
            self.retry(&uid, now_ms);
        }
    }

    /// When [`Self::tick`] has something to do next.
    pub fn next_tick_ms(&self) -> Option<u64> {
        let backoff = self.backoff.peek().map(|Reverse((until_ms, ..))| *until_ms);
        let sweep = (!self.unschedulable.is_empty()).then_some(self.last_sweep_ms + SWEEP_MS);
        backoff.into_iter().chain(sweep).min()
    }

    pub fn len(&self) -> usize {
        self.pods.len()
    }

    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    /// Uids of all pods that wait.
    pub fn uids(&self) -> impl Iterator<Item = &Arc<str>> {
        self.pods.keys()
    }

    /// To `Active`, or first to the rest of the backoff.
    fn retry(&mut self, uid: &Arc<str>, now_ms: u64) {
        self.unschedulable.remove(uid);
        let Some(waiting) = self.pods.get_mut(uid) else { return };
        let until_ms = waiting.last_try_ms + backoff_ms(waiting.attempts);
        if until_ms <= now_ms {
            return self.activate(uid, now_ms);
        }
        waiting.moves += 1;
        waiting.place = Place::Backoff { until_ms };
        self.backoff.push(Reverse((until_ms, uid.clone(), waiting.moves)));
    }

    fn activate(&mut self, uid: &Arc<str>, now_ms: u64) {
        self.unschedulable.remove(uid);
        let Some(waiting) = self.pods.get_mut(uid) else { return };
        self.sequence += 1;
        waiting.moves += 1;
        waiting.place = Place::Active;
        let key = (waiting.pod.priority, Reverse(now_ms), Reverse(self.sequence));
        self.active.push((key, uid.clone(), waiting.moves));
    }
}

fn backoff_ms(attempts: u32) -> u64 {
    if attempts == 0 {
        return 0;
    }
    INITIAL_BACKOFF_MS.saturating_mul(1 << (attempts - 1).min(16)).min(MAX_BACKOFF_MS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;
    use serde_json::json;

    fn named(name: &str, priority: i32) -> Arc<PodInfo> {
        pod(name, json!({}), json!({"spec": {"priority": priority}}))
    }

    fn pop(queue: &mut Queue, now_ms: u64) -> Option<String> {
        queue.tick(now_ms);
        queue.pop(now_ms).map(|pod| pod.name.to_string())
    }

    #[test]
    fn priority_then_age() {
        let mut queue = Queue::default();
        for (at, (name, priority)) in [("a", 0), ("b", 5), ("c", 0), ("d", 5)].into_iter().enumerate() {
            queue.upsert(named(name, priority), at as u64);
        }
        let order: Vec<String> = std::iter::from_fn(|| pop(&mut queue, 10)).collect();
        assert_eq!(order, ["b", "d", "a", "c"]);
    }

    #[test]
    fn backoff_doubles_up_to_its_bound() {
        let mut queue = Queue::default();
        queue.upsert(named("a", 0), 0);
        let mut now = 0;
        for wait in [1_000, 2_000, 4_000, 8_000, 10_000, 10_000] {
            assert_eq!(pop(&mut queue, now).as_deref(), Some("a"));
            queue.fail(&"a".into(), now);
            assert_eq!(queue.next_tick_ms(), Some(now + wait));
            assert_eq!(pop(&mut queue, now + wait - 1), None);
            now += wait;
        }
    }

    #[test]
    fn only_what_may_help_wakes() {
        let mut queue = Queue::default();
        queue.upsert(named("a", 0), 0);
        pop(&mut queue, 0);
        queue.reject(&"a".into(), 0b10, 0);
        queue.wake(0b01, 5_000);
        assert_eq!(pop(&mut queue, 5_000), None);
        queue.wake(0b11, 5_000);
        assert_eq!(pop(&mut queue, 5_000).as_deref(), Some("a"));
        // Within its backoff it waits that out first.
        queue.reject(&"a".into(), 0b10, 5_000);
        queue.wake(0b10, 5_100);
        assert_eq!(pop(&mut queue, 5_100), None);
        assert_eq!(pop(&mut queue, 7_000).as_deref(), Some("a"));
    }

    #[test]
    fn forgotten_pods_are_tried_again() {
        let mut queue = Queue::default();
        queue.upsert(named("a", 0), 0);
        pop(&mut queue, 0);
        queue.reject(&"a".into(), 1, 0);
        assert_eq!(pop(&mut queue, MAX_UNSCHEDULABLE_MS - 1), None);
        assert_eq!(pop(&mut queue, MAX_UNSCHEDULABLE_MS + SWEEP_MS).as_deref(), Some("a"));
    }

    #[test]
    fn gates_hold_until_they_are_gone() {
        let mut queue = Queue::default();
        queue.upsert(pod("a", json!({}), json!({"spec": {"schedulingGates": [{"name": "g"}]}})), 0);
        assert_eq!(pop(&mut queue, 1), None);
        queue.upsert(named("a", 0), 2);
        assert_eq!(pop(&mut queue, 2).as_deref(), Some("a"));
    }

    #[test]
    fn a_change_of_status_wakes_nothing() {
        let mut queue = Queue::default();
        queue.upsert(named("a", 0), 0);
        pop(&mut queue, 0);
        queue.reject(&"a".into(), 1, 0);
        queue.upsert(pod("a", json!({}), json!({"spec": {"priority": 0}, "status": {"phase": "Pending"}})), 20_000);
        assert_eq!(pop(&mut queue, 20_000), None);
        queue.upsert(pod("a", json!({"cpu": "1"}), json!({"spec": {"priority": 0}})), 20_000);
        assert_eq!(pop(&mut queue, 20_000).as_deref(), Some("a"));
    }

    #[test]
    fn removed_pods_are_gone_from_everywhere() {
        let mut queue = Queue::default();
        queue.upsert(named("a", 0), 0);
        queue.upsert(named("b", 0), 0);
        pop(&mut queue, 0);
        queue.fail(&"a".into(), 0);
        queue.remove("a");
        queue.remove("b");
        assert_eq!(pop(&mut queue, 60_000), None);
        assert!(queue.is_empty());
    }
}
