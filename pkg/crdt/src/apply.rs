//! One write taken into a tree of places, and what is lost by it.
use crate::edit::{Dot, Edit};
use crate::join::{self, Write};
use crate::place::{Name, Own, Place, What, item_of, spoken};
use crate::{Conflict, Stamp, Vector};
use serde_json::Value;

/// A write on its way into an object's life.
pub(crate) struct Apply<'a> {
    pub stamp: Stamp,
    /// What its writer had seen. What is not in it was written concurrently.
    pub context: &'a Vector,
    pub life: &'a str,
    /// What is older is not there.
    pub since: Stamp,
    path: Vec<Name>,
    /// Inside a place that is made anew: what its making hides is told when all of it is taken in.
    anew: bool,
    pub conflicts: Vec<Conflict>,
}

impl<'a> Apply<'a> {
    pub fn new(stamp: Stamp, context: &'a Vector, life: &'a str, since: Stamp) -> Self {
        Self { stamp, context, life, since, path: Vec::new(), anew: false, conflicts: Vec::new() }
    }

    /// Takes in the changes of an object's root. `quiet`: what is lost is told already.
    pub fn root(&mut self, root: &mut Place, edit: &Edit, quiet: bool) {
        self.fields(root, edit, true, quiet);
    }

    fn place(&mut self, place: &mut Place, name: &str, edit: &Edit, quiet: bool) {
        if quiet || self.anew || !edit.fresh {
            return self.write(place, name, edit, quiet);
        }
        let inside = self.unseen_inside(place, edit);
        self.anew = true;
        self.write(place, name, edit, quiet);
        self.anew = false;
        self.report_lost(inside, place);
    }

    /// What is in sight in a place that is made anew, and its maker did not know.
    fn unseen_inside(&self, place: &Place, edit: &Edit) -> Vec<Write> {
        let stays = |what: &What| edit.what.as_ref().is_some_and(|new| what.joins(new));
        match place.collection(self.since).is_some_and(|own| stays(&own.what)) {
            true => join::unseen(place, self.since, self.context),
            false => Vec::new(),
        }
    }

    /// Tells which of these writes went out of sight with what their places lay in, unless that is told already.
    fn report_lost(&mut self, writes: Vec<Write>, place: &Place) {
        for mut lost in join::lost(writes, self.life, place, self.since) {
            lost.path = self.spoken_path().chain([lost.path]).collect::<Vec<_>>().join(".");
            let told = |known: &Conflict| known.path == lost.path && known.loser == lost.loser;
            if !self.conflicts.iter().any(told) {
                self.conflicts.push(lost);
            }
        }
    }

    fn write(&mut self, place: &mut Place, name: &str, edit: &Edit, quiet: bool) {
        let mut told = quiet;
        if let Some(what) = &edit.what {
            let own = Own { stamp: self.stamp, what: what.clone(), hollow: edit.hollow };
            told |= self.own(place, name, edit, own, quiet);
        }
        if let Some(position) = edit.order {
            place.order = place.order.max(Some((self.stamp, position)));
        }
        match edit.dot {
            Some(Dot::Add) => place.mark(self.stamp, 0),
            Some(Dot::Count(amount)) if self.stamp > place.cleared => place.mark(self.stamp, amount),
            Some(Dot::Remove) => self.take_away(place, name, quiet),
            Some(Dot::Count(_)) | None => {}
        }
        if !edit.fields.is_empty() {
            let there = place.collection(self.since).is_some();
            self.fields(place, edit, there, told);
        }
    }

    /// Takes in what is written in the place itself. Returns whether it lost, and that was told.
    fn own(&mut self, place: &mut Place, name: &str, edit: &Edit, new: Own, quiet: bool) -> bool {
        let wins = place.own.as_ref().is_none_or(|mine| mine.order(&new).is_lt());
        let clash = place.own.as_ref().filter(|mine| !self.seen(mine.stamp) && !mine.what.joins(&new.what));
        let clash = clash.map(|mine| (mine.stamp, place.value(self.since)));
        if !quiet {
            self.report_own(place, name, edit, wins, clash.clone());
        }
        let clears = new.what.clears();
        if wins {
            place.own = Some(new);
        }
        if clears {
            place.cleared = place.cleared.max(self.stamp);
            place.clear_inside(place.cleared);
        }
        if edit.fresh {
            place.forget_inside(self.context);
        }
        clash.is_some() && !wins
    }

    fn report_own(
        &mut self,
        place: &Place,
        name: &str,
        edit: &Edit,
        wins: bool,
        clash: Option<(Stamp, Option<Value>)>,
    ) {
        let clears = edit.what.as_ref().is_some_and(What::clears);
        if clears && (clash.is_none() || !wins) {
            let until = (!wins).then_some(self.stamp);
            place.fields.iter().for_each(|(name, inner)| self.report_inside(inner, name, until));
        }
        let Some(mine) = clash else { return };
        let theirs = (self.stamp, edit.value(name));
        match wins {
            true => self.report(theirs, mine),
            false => self.report(mine, theirs),
        }
    }

    /// Tells what is seen inside a place that is cleared, and the clearer did not know. `until`: only what is no later.
    fn report_inside(&mut self, place: &Place, name: &str, until: Option<Stamp>) {
        if !place.is_visible(self.since) && !place.is_added(self.since) {
            return;
        }
        let lost = |stamp: &Stamp| !self.seen(*stamp) && until.is_none_or(|until| *stamp <= until);
        let own = place.own.as_ref().map(|own| own.stamp).filter(lost);
        let own = own.or_else(|| place.dots.iter().map(|(stamp, _)| *stamp).filter(lost).max());
        self.path.push(name.into());
        match own {
            Some(stamp) => {
                let item = || item_of(name).and_then(|key| serde_json::from_str(key).ok());
                self.report((self.stamp, None), (stamp, place.value(self.since).or_else(item)));
            }
            None => place.fields.iter().for_each(|(name, inner)| self.report_inside(inner, name, until)),
        }
        self.path.pop();
    }

    fn fields(&mut self, place: &mut Place, edit: &Edit, there: bool, quiet: bool) {
        for (name, inner) in &edit.fields {
            self.path.push(name.clone());
            let stays = there && self.stamp > place.cleared;
            if !quiet && !stays {
                let hider = place.own.as_ref().map_or(place.cleared, |own| own.stamp.max(place.cleared));
                self.report((hider, None), (self.stamp, inner.value(name)));
            }
            if self.stamp > place.cleared {
                place.fields.change(name, |place| self.place(place, name, inner, quiet || !there));
            }
            self.path.pop();
        }
    }

    /// Undoes the additions of a set's item that the writer has seen.
    fn take_away(&mut self, place: &mut Place, name: &str, quiet: bool) {
        place.dots.retain(|(stamp, _)| !self.context.covers(*stamp));
        let stays = place.dots.iter().map(|(stamp, _)| *stamp).max();
        if let (Some(stays), false) = (stays, quiet) {
            let item = item_of(name).and_then(|key| serde_json::from_str(key).ok());
            self.report((stays, item), (self.stamp, None));
        }
    }

    fn seen(&self, stamp: Stamp) -> bool {
        self.context.covers(stamp)
    }

    fn report(&mut self, winner: (Stamp, Option<Value>), loser: (Stamp, Option<Value>)) {
        if winner.1 != loser.1 {
            let path = self.spoken_path().collect::<Vec<_>>().join(".");
            self.conflicts.push(Conflict { life: self.life.to_owned(), path, winner, loser });
        }
    }

    fn spoken_path(&self) -> impl Iterator<Item = String> {
        self.path.iter().map(|name| spoken(name))
    }
}
