//! Two copies of a tree of places as one.
use crate::place::{Own, Place, What, item_of, spoken};
use crate::{Conflict, Stamp, Vector};
use serde_json::Value;

/// What two copies' owners had seen of everything: what one lacks and yet has seen was removed there, and the removal
/// forgotten.
#[derive(Clone, Copy)]
pub(crate) struct Known<'a> {
    pub mine: &'a Vector,
    pub theirs: &'a Vector,
}

impl Known<'_> {
    /// What stays of something that one copy or both have.
    pub fn join<T>(
        self,
        mine: Option<T>,
        theirs: Option<T>,
        stamp: impl Fn(&T) -> Stamp,
        max: impl Fn(T, T) -> T,
    ) -> Option<T> {
        match (mine, theirs) {
            (Some(mine), Some(theirs)) => Some(max(mine, theirs)),
            (Some(mine), None) => Some(mine).filter(|mine| !self.theirs.covers(stamp(mine))),
            (None, Some(theirs)) => Some(theirs).filter(|theirs| !self.mine.covers(stamp(theirs))),
            (None, None) => None,
        }
    }

    pub fn place(self, mine: Place, theirs: Place) -> Place {
        let later = |mine: Own, theirs: Own| if mine.order(&theirs).is_lt() { theirs } else { mine };
        let mut joined = Place {
            own: self.join(mine.own, theirs.own, |own| own.stamp, later),
            cleared: mine.cleared.max(theirs.cleared),
            order: self.join(mine.order, theirs.order, |order| order.0, Ord::max),
            dots: self.dots(&mine.dots, &theirs.dots),
            ..Place::default()
        };
        let mut theirs = theirs.fields;
        for (name, inner) in mine.fields {
            let other = theirs.remove(&name).unwrap_or_default();
            joined.fields.change(&name, |place| *place = self.place(inner, other));
        }
        for (name, other) in theirs {
            joined.fields.change(&name, |place| *place = self.place(Place::default(), other));
        }
        joined.clear_inside(joined.cleared);
        joined
    }

    fn dots(self, mine: &[(Stamp, i64)], theirs: &[(Stamp, i64)]) -> Vec<(Stamp, i64)> {
        let of = |dots: &[(Stamp, i64)], dot: &Stamp| dots.iter().find(|(other, _)| other.actor == dot.actor).copied();
        let mut all: Vec<(Stamp, i64)> = Vec::new();
        for (stamp, _) in mine.iter().chain(theirs) {
            if of(&all, stamp).is_none() {
                all.extend(self.join(of(mine, stamp), of(theirs, stamp), |dot| dot.0, Ord::max));
            }
        }
        all.sort_by_key(|(stamp, _)| stamp.actor);
        all
    }
}

/// A write that is there, and whose loss must be told.
pub(crate) struct Write {
    path: Vec<String>,
    names: Vec<String>,
    pub stamp: Stamp,
    value: Option<Value>,
}

/// All writes in sight in a tree that `seen` does not cover.
pub(crate) fn unseen(root: &Place, since: Stamp, seen: &Vector) -> Vec<Write> {
    let mut all = Vec::new();
    collect(root, since, seen, &mut Vec::new(), &mut all);
    all
}

fn collect(place: &Place, since: Stamp, seen: &Vector, names: &mut Vec<String>, all: &mut Vec<Write>) {
    for (name, inner) in place.fields.iter() {
        names.push(name.to_string());
        let item = || item_of(name).and_then(|key| serde_json::from_str(key).ok());
        let own = inner.own.as_ref().filter(|own| own.stamp >= since && !own.what.joins(&What::Struct));
        let own = own.filter(|own| !own.what.is_soft() && own.what != What::Counter && !seen.covers(own.stamp));
        let own = own.map(|own| (own.stamp, inner.value(since)));
        let dots = inner.dots.iter().filter(|dot| inner.own.is_none() && !seen.covers(dot.0));
        let dots = dots.map(|dot| (dot.0, item()));
        for (stamp, value) in own.into_iter().chain(dots) {
            let path = names.iter().map(|name| spoken(name)).collect();
            all.push(Write { path, names: names.clone(), stamp, value });
        }
        if inner.collection(since).is_some() {
            collect(inner, since, seen, names, all);
        }
        names.pop();
    }
}

/// The writes that are no longer in sight, and whose place now says something else.
pub(crate) fn lost(writes: Vec<Write>, life: &str, root: &Place, since: Stamp) -> Vec<Conflict> {
    let report = |write: Write| {
        let winner = winner(&write, root, since)?;
        (winner.1 != write.value).then(|| Conflict {
            life: life.to_owned(),
            path: write.path.join("."),
            winner,
            loser: (write.stamp, write.value),
        })
    };
    writes.into_iter().filter_map(report).collect()
}

/// What is now where something was written; none: it is still there.
fn winner(write: &Write, root: &Place, since: Stamp) -> Option<(Stamp, Option<Value>)> {
    let mut place = root;
    let mut hider = root.cleared;
    for (n, name) in write.names.iter().enumerate() {
        if n > 0 && place.collection(since).is_none() {
            return Some((hider, None));
        }
        let Some(inner) = place.fields.get(name) else { return Some((hider, None)) };
        place = inner;
        hider = hider.max(place.cleared).max(place.own.as_ref().map_or(Stamp::default(), |own| own.stamp));
    }
    let late = write.stamp >= since;
    let there = late && place.own.as_ref().is_some_and(|own| own.stamp == write.stamp);
    let least = late && matches!(place.own.as_ref().map(|own| &own.what), Some(What::Least(_)));
    let added = late && place.dots.iter().any(|(stamp, _)| *stamp == write.stamp);
    (!there && !least && !added).then(|| (hider, place.value(since)))
}
