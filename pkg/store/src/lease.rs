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
}

impl Leases {
    pub fn restore(leases: Vec<(LeaseId, Duration)>, now: Instant) -> Self {
        let held = leases.into_iter().map(|(id, ttl)| (id, Held { ttl, deadline: now + ttl, keys: BTreeSet::new() }));
        Self { held: held.collect() }
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
        self.held.insert(id, Held { ttl, deadline: now + ttl, keys: BTreeSet::new() });
        Lease { id, granted_ttl: ttl, remaining: ttl, keys: Vec::new() }
    }

    pub fn keep_alive(&mut self, id: LeaseId, now: Instant) -> Result<Lease> {
        let held = self.held.get_mut(&id).ok_or(Error::LeaseNotFound(id))?;
        held.deadline = now + held.ttl;
        self.get(id, now)
    }

    pub fn get(&self, id: LeaseId, now: Instant) -> Result<Lease> {
        let held = self.held.get(&id).ok_or(Error::LeaseNotFound(id))?;
        let remaining = held.deadline.saturating_duration_since(now);
        Ok(Lease { id, granted_ttl: held.ttl, remaining, keys: held.keys.iter().cloned().collect() })
    }

    pub fn remove(&mut self, id: LeaseId) {
        self.held.remove(&id);
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
        self.held.iter().filter(|(_, held)| held.deadline <= now).map(|(id, _)| *id).collect()
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.held.values().map(|held| held.deadline).min()
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
}
