//! Who wrote something and when, and how much of everybody's writing somebody has seen.
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// One incarnation of a server. A restored copy must take another, or two histories would share one name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Actor(pub [u8; 16]);

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// When and by whom something was written; later is greater. One actor never makes the same stamp twice, and each of
/// its stamps is above all that it has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stamp {
    /// A reading of the hybrid clock.
    pub time: u64,
    pub actor: Actor,
}

/// A version vector: of each actor, the time up to which everything that it wrote is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vector(BTreeMap<Actor, u64>);

impl Vector {
    pub fn get(&self, actor: Actor) -> u64 {
        self.0.get(&actor).copied().unwrap_or(0)
    }

    pub fn covers(&self, stamp: Stamp) -> bool {
        stamp.time <= self.get(stamp.actor)
    }

    /// Takes in that everything of an actor up to the stamp is known. Never goes back.
    pub fn advance(&mut self, stamp: Stamp) {
        let known = self.0.entry(stamp.actor).or_default();
        *known = stamp.time.max(*known);
    }

    /// Knows what either knew.
    pub fn merge(&mut self, other: &Self) {
        other.iter().for_each(|stamp| self.advance(stamp));
    }

    /// Whether all that the other knows is known.
    pub fn includes(&self, other: &Self) -> bool {
        other.iter().all(|stamp| self.covers(stamp))
    }

    /// The last known stamp of each actor.
    pub fn iter(&self) -> impl Iterator<Item = Stamp> {
        self.0.iter().map(|(actor, time)| Stamp { time: *time, actor: *actor })
    }

    /// The latest time of all.
    pub fn latest(&self) -> u64 {
        self.0.values().copied().max().unwrap_or(0)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Stamp> for Vector {
    fn from_iter<I: IntoIterator<Item = Stamp>>(stamps: I) -> Self {
        let mut vector = Self::default();
        stamps.into_iter().for_each(|stamp| vector.advance(stamp));
        vector
    }
}
