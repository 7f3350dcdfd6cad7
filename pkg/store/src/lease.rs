//! Leases: which keys die when nobody renews. Wall clocks play no part: a lease runs on the monotonic clock of
//! its server, and after a restart it has its whole time again.
use crate::{Change, Error, Lease, LeaseId, Result};
use bytes::Bytes;
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

struct Held {
    ttl: Duration,
    deadline: Instant,
    keys: BTreeSet<Bytes>,
}

/// All leases of a store. Pure: `now` is an argument.
#[derive(Default)]
pub struct Leases {
    held: HashMap<LeaseId, Held>,
    /// The same leases in the order in which they end.
    deadlines: BTreeSet<(Instant, LeaseId)>,
}

impl Leases {
    pub fn restore(leases: Vec<(LeaseId, Duration)>, now: Instant) -> Self {
        let mut restored = Self::default();
        for (id, ttl) in leases {
            restored.grant(id, ttl, now);
        }
        restored
    }

    pub fn contains(&self, id: LeaseId) -> bool {
        self.held.contains_key(&id)
    }

    pub fn ids(&self) -> Vec<LeaseId> {
        let mut ids: Vec<_> = self.held.keys().copied().collect();
        ids.sort();
        ids
    }

    pub fn grant(&mut self, id: LeaseId, ttl: Duration, now: Instant) -> Lease {
        let deadline = now + ttl;
        if let Some(before) = self.held.insert(id, Held { ttl, deadline, keys: BTreeSet::new() }) {
            self.deadlines.remove(&(before.deadline, id));
        }
        self.deadlines.insert((deadline, id));
        Lease { id, granted_ttl: ttl, remaining: ttl, keys: Vec::new() }
    }

    pub fn keep_alive(&mut self, id: LeaseId, now: Instant) -> Result<Lease> {
        let held = self.held.get_mut(&id).ok_or(Error::LeaseNotFound(id))?;
        self.deadlines.remove(&(held.deadline, id));
        held.deadline = now + held.ttl;
        self.deadlines.insert((held.deadline, id));
        self.get(id, now)
    }

    pub fn get(&self, id: LeaseId, now: Instant) -> Result<Lease> {
        let held = self.held.get(&id).ok_or(Error::LeaseNotFound(id))?;
        let remaining = held.deadline.saturating_duration_since(now);
        Ok(Lease { id, granted_ttl: held.ttl, remaining, keys: held.keys.iter().cloned().collect() })
    }

    pub fn remove(&mut self, id: LeaseId) {
        if let Some(held) = self.held.remove(&id) {
            self.deadlines.remove(&(held.deadline, id));
        }
    }

    /// Puts a key under a lease without a change, when state is loaded.
    pub fn attach(&mut self, id: LeaseId, key: Bytes) {
        if let Some(held) = self.held.get_mut(&id) {
            held.keys.insert(key);
        }
    }

    /// Follows a change: the key leaves its old lease and joins its new one.
    pub fn follow(&mut self, change: &Change) {
        let lease = |entry: &Option<std::sync::Arc<crate::Entry>>| entry.as_ref().and_then(|entry| entry.lease);
        if let Some(held) = lease(&change.previous).and_then(|id| self.held.get_mut(&id)) {
            held.keys.remove(&change.key);
        }
        if let Some(id) = lease(&change.entry) {
            self.attach(id, change.key.clone());
        }
    }

    pub fn expired(&self, now: Instant) -> Vec<LeaseId> {
        self.deadlines.iter().take_while(|(deadline, _)| *deadline <= now).map(|(_, id)| *id).collect()
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ends_unless_it_is_kept_alive() {
        let (start, ttl, id) = (Instant::now(), Duration::from_secs(10), LeaseId(7));
        let mut leases = Leases::default();
        leases.grant(id, ttl, start);
        leases.keep_alive(id, start + Duration::from_secs(9)).unwrap();
        assert!(leases.expired(start + Duration::from_secs(18)).is_empty());
        assert_eq!(leases.expired(start + Duration::from_secs(19)), [id]);
        leases.remove(id);
        assert!(matches!(leases.get(id, start), Err(Error::LeaseNotFound(_))));
    }

    #[test]
    fn leases_end_in_the_order_of_their_deadlines() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut leases = Leases::restore(vec![(LeaseId(1), 5 * second), (LeaseId(2), 2 * second)], start);
        leases.grant(LeaseId(3), 3 * second, start);
        assert_eq!(leases.next_deadline(), Some(start + 2 * second));
        leases.keep_alive(LeaseId(2), start + 2 * second).unwrap();
        assert_eq!(leases.next_deadline(), Some(start + 3 * second));
        assert_eq!(leases.expired(start + 4 * second), [LeaseId(3), LeaseId(2)]);
        leases.remove(LeaseId(3));
        leases.grant(LeaseId(2), 9 * second, start);
        assert_eq!(leases.next_deadline(), Some(start + 5 * second));
        leases.remove(LeaseId(1));
        leases.remove(LeaseId(2));
        assert_eq!(leases.next_deadline(), None);
    }
}
