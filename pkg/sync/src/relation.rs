//! Whether two servers can merge what they have, or one must take over the other's store. Pure: both come to the same.
use crate::message::Hello;

/// What a server does with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// Each tells what the other lacks.
    Merge,
    /// The peer takes this server's store for its own, and joins then.
    Give,
    /// This server takes the peer's.
    Take,
    /// Whoever would have to give has half a snapshot itself: it gets the rest elsewhere first.
    Wait,
}

impl Relation {
    /// Where one side has forgotten what the other lacks, the latter takes. Where both have, those give that have kept in touch
    /// with the lower number: all servers of one side come to the same, so that no two take from each other in turn. Who has
    /// half a snapshot, the rest of which does not come, takes a whole store, of which there always is one: half of one is never
    /// given.
    pub fn of(me: &Hello, peer: &Hello) -> Self {
        let gives = match (has_forgotten(me, peer), has_forgotten(peer, me)) {
            (true, true) => (me.side, me.number) < (peer.side, peer.number),
            (true, false) => true,
            (false, true) => false,
            (false, false) if has_the_whole(me, peer) => true,
            (false, false) if has_the_whole(peer, me) => false,
            (false, false) => return Self::Merge,
        };
        let giver = if gives { me } else { peer };
        match gives {
            _ if !giver.owed.is_empty() => Self::Wait,
            true => Self::Give,
            false => Self::Take,
        }
    }
}

/// Whether one has a whole store, and the other half a snapshot of which the one can't tell the rest, and else nothing of
/// servers that the one does not know.
fn has_the_whole(one: &Hello, other: &Hello) -> bool {
    let knows = other.vector.iter().all(|stamp| stamp.actor == other.actor || one.vector.get(stamp.actor) > 0);
    one.owed.is_empty() && !one.vector.includes(&other.owed) && knows
}

/// Whether one no longer knows of removals that the other never heard of, or that what the other wrote may be older than.
fn has_forgotten(one: &Hello, other: &Hello) -> bool {
    // Whoever has nothing can't bring back what was removed.
    if other.empty {
        return false;
    }
    let brings_old = other.vector.iter().any(|stamp| {
        let has = one.vector.get(stamp.actor);
        // Of a stranger, who is new, tells somebody who is none.
        has > 0 && has < one.pruned.time && stamp.time > has
    });
    brings_old || !other.vector.includes(&one.pruned.writes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::PROTOCOL;
    use crdt::{Actor, Stamp, Vector};
    use store::Pruned;

    fn vector(times: &[(u8, u64)]) -> Vector {
        times.iter().map(|(n, time)| Stamp { time: *time, actor: Actor([*n; 16]) }).collect()
    }

    fn hello(number: u8, has: &[(u8, u64)], time: u64, writes: &[(u8, u64)]) -> Hello {
        Hello {
            protocol: PROTOCOL,
            cluster: [7; 16],
            actor: Actor([number; 16]),
            number: u16::from(number),
            name: number.to_string(),
            version: "test".into(),
            vector: vector(has),
            owed: Vector::default(),
            pruned: Pruned { time, writes: vector(writes) },
            empty: false,
            side: u16::from(number),
            links: Vec::new(),
        }
    }

    fn both(one: &Hello, other: &Hello) -> (Relation, Relation) {
        (Relation::of(one, other), Relation::of(other, one))
    }

    #[test]
    fn who_lacks_nothing_that_is_forgotten_merges() {
        let one = hello(1, &[(1, 50), (2, 40)], 30, &[(1, 20), (2, 10)]);
        let two = hello(2, &[(1, 30), (2, 60)], 30, &[(1, 20), (2, 10)]);
        assert_eq!(both(&one, &two), (Relation::Merge, Relation::Merge));
    }

    #[test]
    fn who_was_away_takes() {
        let one = hello(1, &[(1, 50), (2, 10)], 45, &[(1, 40), (2, 10)]);
        let away = hello(2, &[(1, 9), (2, 10)], 5, &[(1, 4)]);
        assert_eq!(both(&one, &away), (Relation::Give, Relation::Take));
        // Nothing was written meanwhile but by itself.
        let one = hello(1, &[(1, 50), (2, 10)], 45, &[(1, 4), (2, 10)]);
        let away = hello(2, &[(1, 9), (2, 20)], 5, &[(1, 4)]);
        assert_eq!(both(&one, &away), (Relation::Give, Relation::Take));
    }

    #[test]
    fn of_two_that_waited_for_each_other_in_vain_the_lower_side_gives() {
        let one = Hello { side: 3, ..hello(7, &[(7, 50), (2, 10)], 45, &[(7, 40), (2, 10)]) };
        let two = Hello { side: 5, ..hello(2, &[(7, 9), (2, 60)], 55, &[(7, 9), (2, 50)]) };
        assert_eq!(both(&one, &two), (Relation::Give, Relation::Take));
    }

    #[test]
    fn who_has_half_of_what_a_whole_store_lacks_takes_that() {
        let one = hello(5, &[(1, 50), (2, 10)], 0, &[]);
        let half = Hello { owed: vector(&[(2, 20)]), ..hello(3, &[(1, 50), (2, 10)], 45, &[]) };
        assert_eq!(both(&one, &half), (Relation::Give, Relation::Take));
        let forgets = Hello { owed: vector(&[(2, 20)]), ..hello(3, &[(1, 60), (2, 10)], 65, &[(1, 60)]) };
        assert_eq!(both(&one, &forgets), (Relation::Wait, Relation::Wait));
        let rest = Hello { owed: vector(&[(2, 9)]), ..half };
        assert_eq!(both(&one, &rest), (Relation::Merge, Relation::Merge), "it will come");
    }

    #[test]
    fn a_new_server_joins_and_so_does_a_stranger_of_a_third() {
        let one = hello(1, &[(1, 50), (2, 50)], 45, &[(1, 40)]);
        let new = Hello { empty: true, ..hello(3, &[(3, 60)], 0, &[]) };
        assert_eq!(both(&one, &new), (Relation::Merge, Relation::Merge));
        let two = hello(2, &[(1, 50), (2, 60), (3, 70)], 45, &[(1, 40)]);
        assert_eq!(both(&one, &two), (Relation::Merge, Relation::Merge));
    }

    #[test]
    fn who_comes_with_another_history_takes() {
        let one = hello(1, &[(1, 50), (2, 50)], 45, &[(1, 40)]);
        let restored = hello(2, &[(9, 60)], 0, &[]);
        assert_eq!(both(&one, &restored), (Relation::Give, Relation::Take));
    }
}
