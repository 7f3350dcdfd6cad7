//! The lives of one name: objects that were made, and deleted, under it.
use crate::place::Place;
use crate::{Stamp, Vector};

/// One object from its making to its deletion, and again if it is made anew with the same uid.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Life {
    pub uid: String,
    /// When it was made, in order. More than one before a death: by servers that did not know of each other.
    pub births: Vec<Stamp>,
    pub deaths: Vec<Stamp>,
    /// Uids of younger lives that are forgotten otherwise, each with the birth since when it stands for them.
    pub aliases: Vec<(Stamp, String)>,
    /// The object: its own is never set.
    pub root: Place,
}

/// A time from a birth to a death.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Span {
    /// Whose, as an index.
    pub life: usize,
    pub begin: Stamp,
    pub end: Option<Stamp>,
    /// The span that was there before, and whose name it therefore does not get.
    pub under: Option<usize>,
}

impl Life {
    pub fn new(uid: &str) -> Self {
        Self { uid: uid.to_owned(), ..Self::default() }
    }

    pub fn is_alive(&self) -> bool {
        self.births.last().is_some() && self.births.last() >= self.deaths.last()
    }

    /// The first birth since the last death: no field of the object is older. One write may end a life and begin it anew.
    pub fn since(&self) -> Stamp {
        let death = self.deaths.last();
        self.births.iter().find(|birth| Some(*birth) >= death).copied().unwrap_or(NEVER)
    }

    pub fn bear(&mut self, stamp: Stamp) {
        insert(&mut self.births, stamp);
    }

    /// All that was written before is gone.
    pub fn bury(&mut self, stamp: Stamp) {
        insert(&mut self.deaths, stamp);
        let before = Stamp { time: stamp.time.saturating_sub(1), ..NEVER };
        self.root.cleared = self.root.cleared.max(before);
        self.root.clear_inside(self.root.cleared);
    }

    pub fn last_death(&self) -> Stamp {
        self.deaths.last().copied().unwrap_or_default()
    }

    /// Takes in aliases. Those of past births are of no use.
    pub fn stand_for(&mut self, aliases: impl IntoIterator<Item = (Stamp, String)>) {
        self.aliases.extend(aliases);
        self.aliases.sort();
        self.aliases.dedup();
        let since = self.since();
        self.aliases.retain(|(birth, _)| *birth == since);
    }

    /// Nothing in it was ever there for all.
    pub fn is_unknown(&self) -> bool {
        self.births.is_empty() && self.deaths.is_empty()
    }

    fn spans(&self, life: usize) -> Vec<Span> {
        let mut spans: Vec<Span> = Vec::new();
        let mut after = Stamp::default();
        while let Some(begin) = self.births.iter().find(|birth| **birth >= after).copied() {
            let end = self.deaths.iter().find(|death| **death > begin).copied();
            spans.push(Span { life, begin, end, under: None });
            let Some(end) = end else { break };
            after = end;
        }
        spans
    }
}

/// After all that is ever written.
pub(crate) const NEVER: Stamp = Stamp { time: u64::MAX, actor: crate::Actor([u8::MAX; 16]) };

fn insert(stamps: &mut Vec<Stamp>, stamp: Stamp) {
    if let Err(at) = stamps.binary_search(&stamp) {
        stamps.insert(at, stamp);
    }
}

/// All spans of all lives, the oldest first, each with the one that it yields to: a name is had by one life at a time,
/// the one that was there first. A function of the set of lives, so that all servers agree.
pub(crate) fn spans(lives: &[Life]) -> Vec<Span> {
    let mut spans: Vec<Span> = lives.iter().enumerate().flat_map(|(n, life)| life.spans(n)).collect();
    spans.sort_by_key(|span| span.begin);
    for n in 1..spans.len() {
        let begin = spans[n].begin;
        let lasts = |span: &Span| span.under.is_none() && span.end.is_none_or(|end| end > begin);
        spans[n].under = spans[..n].iter().position(lasts);
    }
    spans
}

/// Two copies' stamps: what one lacks and yet has seen was forgotten there.
pub(crate) fn join_stamps(mine: &[Stamp], theirs: &[Stamp], known: &Vector, seen: &Vector) -> Vec<Stamp> {
    let kept = mine.iter().filter(|stamp| theirs.contains(stamp) || !seen.covers(**stamp));
    let taken = theirs.iter().filter(|stamp| !mine.contains(stamp) && !known.covers(**stamp));
    let mut all: Vec<Stamp> = kept.chain(taken).copied().collect();
    all.sort();
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Actor;

    fn at(time: u64) -> Stamp {
        Stamp { time, actor: Actor([1; 16]) }
    }

    fn life(births: &[u64], deaths: &[u64]) -> Life {
        let stamps = |times: &[u64]| times.iter().map(|time| at(*time)).collect();
        Life { births: stamps(births), deaths: stamps(deaths), ..Life::default() }
    }

    fn effective(lives: &[Life]) -> Vec<(usize, u64)> {
        let spans = spans(lives);
        spans.iter().filter(|span| span.under.is_none()).map(|span| (span.life, span.begin.time)).collect()
    }

    #[test]
    fn the_older_life_has_the_name() {
        assert_eq!(effective(&[life(&[12], &[]), life(&[10], &[])]), [(1, 10)]);
    }

    #[test]
    fn whoever_was_made_beside_an_older_life_does_not_follow_it() {
        assert_eq!(effective(&[life(&[10], &[15]), life(&[12], &[]), life(&[16], &[])]), [(0, 10), (2, 16)]);
    }

    #[test]
    fn a_life_that_yields_makes_nobody_yield() {
        assert_eq!(effective(&[life(&[10], &[15]), life(&[12], &[20]), life(&[16], &[])]), [(0, 10), (2, 16)]);
    }

    #[test]
    fn the_same_uid_may_live_again() {
        let again = life(&[10, 18], &[15]);
        assert!(again.is_alive());
        assert_eq!(again.since(), at(18));
        assert_eq!(effective(&[again, life(&[16], &[17])]), [(0, 10), (1, 16), (0, 18)]);
    }
}
