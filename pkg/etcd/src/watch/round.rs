//! A round of asking all watches of a stream how far they are, so that one answer can be given for all: everything
//! up to a revision was told, and nothing later was. Pure.
use std::collections::HashSet;
use std::sync::Arc;
use store::{Change, Revision};

/// Batches of changes that wait for the end of a round; at more the round is given up.
const HELD: usize = 256;

/// Changes of one watch, by its serial number.
pub type Batch = (u64, Vec<Arc<Change>>);

/// Entered when the client asks; left when all watches have answered, or given up.
pub struct Round {
    /// What the answer will say.
    pub target: Revision,
    waiting: HashSet<u64>,
    held: Vec<Batch>,
}

impl Round {
    /// `target` must not be below anything told already.
    pub fn new(target: Revision, watches: impl IntoIterator<Item = u64>) -> Self {
        Self { target, waiting: watches.into_iter().collect(), held: Vec::new() }
    }

    pub fn is_complete(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether the round must be given up: too much waits for it.
    pub fn is_overfull(&self) -> bool {
        self.held.len() > HELD
    }

    /// A watch has told everything up to `revision`. Whether it was this round that asked.
    pub fn answered(&mut self, serial: u64, revision: Revision) -> bool {
        revision >= self.target && self.waiting.remove(&serial)
    }

    /// A watch ended: it has nothing more to tell.
    pub fn gone(&mut self, serial: u64) {
        self.waiting.remove(&serial);
    }

    /// Keeps back what is later than the target; returns what may be told now.
    pub fn hold(&mut self, serial: u64, mut changes: Vec<Arc<Change>>) -> Vec<Arc<Change>> {
        let later = changes.split_off(changes.partition_point(|change| change.revision <= self.target));
        if !later.is_empty() {
            self.held.push((serial, later));
        }
        changes
    }

    /// What was kept back, in order.
    pub fn into_held(self) -> Vec<Batch> {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(n: u64) -> Arc<Change> {
        let revision = Revision::from_u64(n);
        Arc::new(Change { revision, index: 0, key: "a".into(), entry: None, previous: None })
    }

    #[test]
    fn it_ends_when_all_have_answered_for_the_target() {
        let mut round = Round::new(Revision::from_u64(10), [1, 2, 3]);
        assert!(!round.answered(1, Revision::from_u64(8)), "that was another question");
        assert!(round.answered(1, Revision::from_u64(10)) && round.answered(2, Revision::from_u64(12)));
        assert!(!round.answered(2, Revision::from_u64(14)), "it has answered already");
        assert!(!round.is_complete());
        round.gone(3);
        assert!(round.is_complete());
    }

    #[test]
    fn what_is_later_waits() {
        let mut round = Round::new(Revision::from_u64(10), [1]);
        assert_eq!(round.hold(1, vec![change(8), change(10), change(12)]).len(), 2);
        assert!(round.hold(1, vec![change(14)]).is_empty());
        let held = round.into_held();
        assert_eq!(held.iter().map(|(_, changes)| changes[0].revision.get()).collect::<Vec<_>>(), [12, 14]);
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut round = Round::new(Revision::from_u64(1), [1]);
        for _ in 0..=HELD {
            assert!(!round.is_overfull());
            round.hold(1, vec![change(2)]);
        }
        assert!(round.is_overfull());
    }
}
