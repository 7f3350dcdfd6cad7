//! A value that is replaced whole.
use crate::Stamp;

/// The last writer wins; of two at the same time, the greater actor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Register {
    pub stamp: Stamp,
    /// None: deleted.
    pub value: Option<Vec<u8>>,
}

impl Register {
    /// Commutative, associative and idempotent: one stamp is never given to two values.
    pub fn merge(self, other: Self) -> Self {
        if other.stamp > self.stamp { other } else { self }
    }
}
