//! Where all clients write down what they see, and what they know of each other.
use crate::history::{Call, Lease};
use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::StdRng;
use std::sync::atomic::{AtomicI64, Ordering};

#[derive(Default)]
pub struct Shared {
    calls: Mutex<Vec<Call>>,
    leases: Mutex<Vec<Lease>>,
    /// Revisions that the observer was told, the last ones.
    recent: Mutex<Vec<i64>>,
    seen: AtomicI64,
    compacted: AtomicI64,
    /// The revision after which nothing follows; 0: not yet.
    end: AtomicI64,
}

impl Shared {
    pub fn add(&self, call: Call) {
        self.calls.lock().push(call);
    }

    pub fn grant(&self, lease: Lease) {
        self.leases.lock().push(lease);
    }

    pub fn lease(&self, id: i64, change: impl FnMut(&mut Lease)) {
        self.leases.lock().iter_mut().filter(|lease| lease.id == id).for_each(change);
    }

    pub fn observed(&self, revision: i64) {
        self.seen.fetch_max(revision, Ordering::SeqCst);
        self.recent.lock().push(revision);
    }

    /// The last revision that the observer was told.
    pub fn seen(&self) -> i64 {
        self.seen.load(Ordering::SeqCst)
    }

    /// A revision that may be compacted, noted as such before anybody is asked.
    pub fn compactable(&self, random: &mut StdRng) -> Option<i64> {
        let mut recent = self.recent.lock();
        let revision = (!recent.is_empty()).then(|| recent[random.random_range(0..recent.len())])?;
        recent.retain(|seen| *seen > revision);
        self.compacted.fetch_max(revision, Ordering::SeqCst);
        Some(revision)
    }

    /// Some revision that was seen, and is not compacted for what is known here; 0: none.
    pub fn earlier(&self, random: &mut StdRng) -> i64 {
        let recent = self.recent.lock();
        if recent.is_empty() { 0 } else { recent[random.random_range(0..recent.len())] }
    }

    pub fn end(&self, revision: i64) {
        self.end.store(revision, Ordering::SeqCst);
    }

    /// Whether the last revision of all is told.
    pub fn is_over(&self, told: i64) -> bool {
        let end = self.end.load(Ordering::SeqCst);
        end != 0 && told >= end
    }

    pub fn take(&self) -> (Vec<Call>, Vec<Lease>, i64) {
        let calls = std::mem::take(&mut *self.calls.lock());
        (calls, std::mem::take(&mut *self.leases.lock()), self.compacted.load(Ordering::SeqCst))
    }
}
