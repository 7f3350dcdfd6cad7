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
    /// The span that was there before, and whose name it therefore does not get. It ends with that one at the latest.
    pub under: Option<usize>,
}

impl Life {
    pub fn new(uid: &str) -> Self {
        Self { uid: uid.to_owned(), ..Self::default() }
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

    /// Takes in aliases. Those of forgotten births are of no use.
    pub fn stand_for(&mut self, aliases: impl IntoIterator<Item = (Stamp, String)>) {
        self.aliases.extend(aliases);
        self.aliases.sort();
        self.aliases.dedup();
        self.aliases.retain(|(birth, _)| self.births.contains(birth));
    }

    /// Nothing in it was ever there for all.
    pub fn is_unknown(&self) -> bool {
        self.births.is_empty() && self.deaths.is_empty()
    }
}

/// After all that is ever written.
pub(crate) const NEVER: Stamp = Stamp { time: u64::MAX, actor: crate::Actor([u8::MAX; 16]) };

fn insert(stamps: &mut Vec<Stamp>, stamp: Stamp) {
    if let Err(at) = stamps.binary_search(&stamp) {
        stamps.insert(at, stamp);
    }
}

/// The spans of all lives, the oldest first. A name is had by one life at a time, the one that was there first; what was
/// made beside it never follows it. A function of the set of lives, so that all servers agree.
#[derive(Debug, Default)]
pub(crate) struct Course {
    pub spans: Vec<Span>,
    /// By life: the span that has not ended.
    open: Vec<Option<usize>>,
    holder: Option<usize>,
}

impl Course {
    pub fn of(lives: &[Life]) -> Self {
        // One write may end one life, or the same, and begin another: deaths come first.
        let mut events: Vec<(Stamp, bool, usize)> = Vec::new();
        for (n, life) in lives.iter().enumerate() {
            events.extend(life.deaths.iter().map(|death| (*death, false, n)));
            events.extend(life.births.iter().map(|birth| (*birth, true, n)));
        }
        events.sort();
        let mut course = Self { open: vec![None; lives.len()], ..Self::default() };
        for (stamp, birth, life) in events {
            match (birth, course.open[life]) {
                (true, None) => course.begin(life, stamp),
                (false, Some(span)) => course.end(span, stamp),
                _ => {}
            }
        }
        course
    }

    fn begin(&mut self, life: usize, begin: Stamp) {
        let span = self.spans.len();
        self.spans.push(Span { life, begin, end: None, under: self.holder });
        self.open[life] = Some(span);
        self.holder.get_or_insert(span);
    }

    fn end(&mut self, span: usize, end: Stamp) {
        for (n, other) in self.spans.iter_mut().enumerate() {
            if other.end.is_none() && (n == span || other.under == Some(span)) {
                other.end = Some(end);
                self.open[other.life] = None;
            }
        }
        self.holder.take_if(|holder| *holder == span);
    }

    /// The span that has the name.
    pub fn holder(&self) -> Option<Span> {
        self.holder.map(|holder| self.spans[holder])
    }

    /// The span of a life that has not ended.
    pub fn open(&self, life: usize) -> Option<Span> {
        self.open[life].map(|span| self.spans[span])
    }

    /// When a life that is there began: none of its fields is older.
    pub fn since(&self, life: usize) -> Stamp {
        self.open(life).map_or(NEVER, |span| span.begin)
    }

    /// When a life last ended.
    pub fn last_end(&self, life: usize) -> Stamp {
        self.spans.iter().filter(|span| span.life == life).filter_map(|span| span.end).max().unwrap_or_default()
    }
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
        let spans = Course::of(lives).spans;
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
    fn whoever_yields_ends_with_whom_it_yields_to_and_may_be_made_again() {
        let course = Course::of(&[life(&[10], &[15]), life(&[12, 18], &[])]);
        assert_eq!(course.since(1), at(18));
        assert_eq!(course.holder().map(|span| span.life), Some(1));
    }

    #[test]
    fn a_life_that_yields_makes_nobody_yield() {
        assert_eq!(effective(&[life(&[10], &[15]), life(&[12], &[20]), life(&[16], &[])]), [(0, 10), (2, 16)]);
    }

    #[test]
    fn the_same_uid_may_live_again() {
        let again = life(&[10, 18], &[15]);
        assert_eq!(Course::of(std::slice::from_ref(&again)).since(0), at(18));
        assert_eq!(effective(&[again, life(&[16], &[17])]), [(0, 10), (1, 16), (0, 18)]);
    }
}
