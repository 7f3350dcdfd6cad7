//! Who belongs to the cluster, what all of them have, and whom to dial. Pure.
use crdt::{Actor, Vector};
use std::collections::BTreeMap;

/// Links that a server keeps open by itself: with more members than that, changes travel through others.
const DIALLED: usize = 8;

/// A server of the cluster, as its `servers.eyot.dev` object says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub number: u16,
    pub name: String,
    pub site: String,
    /// Where it can be dialled, as `HOST:PORT`; none: it only dials.
    pub address: Option<String>,
    /// Its present incarnation; none: it has not told yet.
    pub actor: Option<Actor>,
    /// It has been away too long: others no longer keep changes for it.
    pub absent: bool,
}

/// The members and how far each is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    members: BTreeMap<u16, Member>,
    /// By number: the time up to which the member has everything of every member.
    lows: BTreeMap<u16, u64>,
}

impl Members {
    /// Takes over who belongs to the cluster now.
    pub fn set(&mut self, members: impl IntoIterator<Item = Member>) {
        self.members = members.into_iter().map(|member| (member.number, member)).collect();
        self.lows.retain(|number, _| self.members.contains_key(number));
    }

    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    pub fn get(&self, number: u16) -> Option<&Member> {
        self.members.get(&number)
    }

    /// Takes in how far members are; what is older than what is known changes nothing.
    pub fn observe(&mut self, lows: impl IntoIterator<Item = (u16, u64)>) {
        for (number, low) in lows.into_iter().filter(|(number, _)| self.members.contains_key(number)) {
            let known = self.lows.entry(number).or_default();
            *known = low.max(*known);
        }
    }

    /// Takes in what a member has itself.
    pub fn observe_vector(&mut self, number: u16, vector: &Vector) {
        let low = self.members.values().filter(|member| !member.absent).map(|member| match member.actor {
            Some(actor) => vector.get(actor),
            None => 0,
        });
        self.observe(low.min().map(|low| (number, low)));
    }

    pub fn lows(&self) -> Vec<(u16, u64)> {
        self.lows.iter().map(|(number, low)| (*number, *low)).collect()
    }

    /// The lowest number of those members whose news up to a time somebody with this vector has; `me`, if there is none.
    pub fn side(&self, me: u16, vector: &Vector, time: u64) -> u16 {
        let heard = |member: &&Member| member.actor.is_some_and(|actor| vector.get(actor) >= time.max(1));
        self.members.values().find(heard).map_or(me, |member| member.number)
    }

    /// What members have is learned anew.
    pub fn forget_lows(&mut self) {
        self.lows.clear();
    }

    /// The time up to which every member has everything. Members that have been away too long don't count.
    pub fn stable(&self) -> u64 {
        let counted = self.members.values().filter(|member| !member.absent);
        counted.map(|member| self.lows.get(&member.number).copied().unwrap_or(0)).min().unwrap_or(0)
    }

    /// Whom a server keeps links to: those with addresses, the nearest numbers after its own first, so that the links of
    /// all make a ring with chords.
    pub fn to_dial(&self, me: u16) -> Vec<&Member> {
        let after = self.members.range(me..).chain(self.members.range(..me)).map(|(_, member)| member);
        let others = after.filter(|member| member.number != me && member.address.is_some());
        others.take(DIALLED).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crdt::Stamp;

    fn member(number: u16) -> Member {
        Member {
            number,
            name: number.to_string(),
            site: "s".into(),
            address: Some(format!("10.0.0.{number}:6443")),
            actor: Some(Actor([number as u8; 16])),
            absent: false,
        }
    }

    fn vector(times: &[(u8, u64)]) -> Vector {
        times.iter().map(|(n, time)| Stamp { time: *time, actor: Actor([*n; 16]) }).collect()
    }

    #[test]
    fn stable_is_what_everybody_has_of_everybody() {
        let mut members = Members::default();
        members.set([member(1), member(2)]);
        members.observe_vector(1, &vector(&[(1, 50), (2, 30)]));
        assert_eq!(members.stable(), 0, "the second has not told");
        members.observe_vector(2, &vector(&[(1, 20), (2, 60)]));
        assert_eq!(members.stable(), 20);
        members.observe([(2, 10), (9, 5)]);
        assert_eq!(members.stable(), 20, "older news and strangers");
    }

    #[test]
    fn a_new_member_holds_forgetting_up_and_an_absent_one_does_not() {
        let mut members = Members::default();
        members.set([member(1)]);
        members.observe_vector(1, &vector(&[(1, 50)]));
        assert_eq!(members.stable(), 50);
        members.set([member(1), member(2)]);
        assert_eq!(members.stable(), 0);
        members.set([member(1), Member { absent: true, ..member(2) }]);
        assert_eq!(members.stable(), 50);
    }

    #[test]
    fn a_side_is_named_by_the_lowest_number_that_was_heard() {
        let mut members = Members::default();
        members.set([member(1), member(2), member(3)]);
        assert_eq!(members.side(3, &vector(&[(1, 20), (2, 50), (3, 60)]), 40), 2);
        assert_eq!(members.side(3, &vector(&[(1, 20)]), 40), 3, "nobody was");
    }

    #[test]
    fn everybody_dials_a_few_after_itself() {
        let mut members = Members::default();
        members.set((1..=20).map(member));
        let numbers: Vec<u16> = members.to_dial(18).into_iter().map(|member| member.number).collect();
        assert_eq!(numbers, [19, 20, 1, 2, 3, 4, 5, 6]);
        members.set([member(1), Member { address: None, ..member(2) }]);
        assert!(members.to_dial(1).is_empty());
    }
}
