//! Who tells whom what others wrote. A change goes at once from its writer to all that hear it directly. Whoever else
//! has it holds it back from such a peer, which will have it anyway, and tells it only when the peer still has not said
//! so after a while. Where the writer is further away, the peer's neighbours take turns. Pure.
use crdt::{Actor, Stamp, Vector};
use std::collections::{BTreeMap, BTreeSet};

/// How long a peer that hears a writer directly may take to have what that wrote, before others tell it: longer than it
/// takes to say so ([`TELL_MS`] and a round trip), shorter than it takes to find out that a link is dead.
const HOLD_DIRECT_MS: u64 = 2_000;
/// How long each of the neighbours of a peer that does not hear the writer waits for the one before it.
const TURN_MS: u64 = 250;
/// More turns nobody waits.
const MOST_TURNS: u64 = 4;
/// A peer hears at least so soon what this server has taken in of writers that it hears directly.
pub const TELL_MS: u64 = 500;
/// The same of writers that others had to tell of: somebody may be about to tell it once more.
pub const TELL_SOON_MS: u64 = 50;

/// The peers that this server is linked with, and whom each of these says to be linked with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Neighbours {
    links: BTreeMap<Actor, BTreeSet<Actor>>,
}

impl Neighbours {
    /// There is a link to a peer, which has links of its own.
    pub fn meet(&mut self, peer: Actor, links: &[Actor]) {
        self.links.insert(peer, links.iter().copied().collect());
    }

    /// A peer's links are others now.
    pub fn observe(&mut self, peer: Actor, links: &[Actor]) {
        if let Some(known) = self.links.get_mut(&peer) {
            *known = links.iter().copied().collect();
        }
    }

    pub fn part(&mut self, peer: Actor) {
        self.links.remove(&peer);
    }

    /// Whom this server hears directly.
    pub fn direct(&self) -> Vec<Actor> {
        self.links.keys().copied().collect()
    }

    /// Whether this server hears a writer directly.
    pub fn hears(&self, writer: Actor) -> bool {
        self.links.contains_key(&writer)
    }

    /// How long `me` waits before it tells a peer what somebody else wrote.
    fn patience_ms(&self, me: Actor, peer: Actor, writer: Actor) -> u64 {
        let Some(theirs) = self.links.get(&peer) else { return 0 };
        if theirs.contains(&writer) {
            return HOLD_DIRECT_MS;
        }
        // Who is known to have it from the writer itself goes first; where that is not known, anybody.
        let near = self.links.get(&writer);
        let mine = turn(writer, peer, me);
        let may = |other: &&Actor| **other != me && near.is_none_or(|near| near.contains(other));
        let before = theirs.iter().filter(may).filter(|other| turn(writer, peer, **other) < mine);
        (before.count() as u64).min(MOST_TURNS) * TURN_MS
    }
}

/// Whose turn it is to tell a peer of a writer: all neighbours find the same, another for each of the two.
fn turn(writer: Actor, peer: Actor, teller: Actor) -> (u64, Actor) {
    let bytes = writer.0.iter().chain(&peer.0).chain(&teller.0);
    let mixed = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3).rotate_left(23)
    });
    (mixed ^ (mixed >> 29), teller)
}

/// What is held back of one writer.
#[derive(Clone, Copy, Debug)]
struct Hold {
    /// Times of the first and the last change held back.
    first: u64,
    last: u64,
    patience_ms: u64,
    due_ms: u64,
}

/// What is held back from one peer.
#[derive(Debug, Default)]
pub(crate) struct Relay {
    held: BTreeMap<Actor, Hold>,
    /// What is held back no more.
    passed: Vector,
}

/// What is to become of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Course {
    /// The peer is told.
    Tell,
    /// It is held back.
    Hold,
    /// Others of the same writer were held back and are told first: look again from there.
    Again,
}

impl Relay {
    /// What is to become of somebody else's change.
    pub fn course(&mut self, stamp: Stamp, me: Actor, peer: Actor, neighbours: &Neighbours, now_ms: u64) -> Course {
        if self.passed.covers(stamp) {
            return Course::Tell;
        }
        let patience_ms = neighbours.patience_ms(me, peer, stamp.actor);
        match (self.held.get_mut(&stamp.actor), patience_ms) {
            (None, 0) => Course::Tell,
            (Some(_), 0) => {
                self.pass(stamp.actor);
                Course::Again
            }
            (Some(hold), _) => {
                (hold.first, hold.last) = (hold.first.min(stamp.time), hold.last.max(stamp.time));
                Course::Hold
            }
            (None, _) => {
                let due_ms = now_ms + patience_ms;
                let hold = Hold { first: stamp.time, last: stamp.time, patience_ms, due_ms };
                self.held.insert(stamp.actor, hold);
                Course::Hold
            }
        }
    }

    /// Holds back no longer what a change rests on. True: there was some of it.
    pub fn pass_causes(&mut self, context: &Vector) -> bool {
        let rests = |(actor, hold): (&Actor, &Hold)| (context.get(*actor) >= hold.first).then_some(*actor);
        let causes: Vec<Actor> = self.held.iter().filter_map(rests).collect();
        causes.iter().for_each(|actor| self.pass(*actor));
        !causes.is_empty()
    }

    fn pass(&mut self, actor: Actor) {
        if let Some(hold) = self.held.remove(&actor) {
            self.passed.advance(Stamp { time: hold.last, actor });
        }
    }

    /// The peer has so much now. What it got meanwhile, it got from others, and will get more.
    pub fn confirm(&mut self, has: &Vector, now_ms: u64) {
        self.held.retain(|actor, hold| hold.last > has.get(*actor));
        for (actor, hold) in &mut self.held {
            if has.get(*actor) >= hold.first {
                hold.first = has.get(*actor) + 1;
                hold.due_ms = now_ms + hold.patience_ms;
            }
        }
    }

    /// Links have changed: nobody is waited for longer than that makes sense.
    pub fn rethink(&mut self, me: Actor, peer: Actor, neighbours: &Neighbours, now_ms: u64) {
        for (actor, hold) in &mut self.held {
            hold.patience_ms = neighbours.patience_ms(me, peer, *actor);
            hold.due_ms = hold.due_ms.min(now_ms + hold.patience_ms);
        }
    }

    /// When something is to be told after all.
    pub fn due_ms(&self) -> Option<u64> {
        self.held.values().map(|hold| hold.due_ms).min()
    }

    /// Holds back no longer what is due. True: there was some of it.
    pub fn release(&mut self, now_ms: u64) -> bool {
        let due: Vec<Actor> =
            self.held.iter().filter(|(_, hold)| hold.due_ms <= now_ms).map(|(actor, _)| *actor).collect();
        due.iter().for_each(|actor| self.pass(*actor));
        !due.is_empty()
    }

    /// Up to where everything of a writer is told, of what we have.
    pub fn tellable(&self, stamp: Stamp) -> Stamp {
        let before = |hold: &Hold| stamp.time.min(hold.first - 1);
        Stamp { time: self.held.get(&stamp.actor).map_or(stamp.time, before), ..stamp }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actor(n: u8) -> Actor {
        Actor([n; 16])
    }

    fn stamp(n: u8, time: u64) -> Stamp {
        Stamp { time, actor: actor(n) }
    }

    fn neighbours(links: &[(u8, &[u8])]) -> Neighbours {
        let mut neighbours = Neighbours::default();
        for (peer, theirs) in links {
            let theirs: Vec<Actor> = theirs.iter().copied().map(actor).collect();
            neighbours.meet(actor(*peer), &theirs);
        }
        neighbours
    }

    /// Server 1 and peer 2, with a change of server 3.
    fn course(relay: &mut Relay, neighbours: &Neighbours, time: u64, now_ms: u64) -> Course {
        relay.course(stamp(3, time), actor(1), actor(2), neighbours, now_ms)
    }

    #[test]
    fn nobody_tells_of_a_writer_that_the_peer_hears_itself_unless_that_takes_too_long() {
        let mesh = neighbours(&[(2, &[1, 3]), (3, &[1, 2])]);
        let mut relay = Relay::default();
        assert_eq!(course(&mut relay, &mesh, 5, 0), Course::Hold);
        assert_eq!(course(&mut relay, &mesh, 7, 100), Course::Hold);
        assert_eq!(relay.tellable(stamp(3, 9)), stamp(3, 4));
        assert_eq!(relay.tellable(stamp(4, 9)), stamp(4, 9));
        relay.confirm(&[stamp(3, 5)].into_iter().collect(), 500);
        assert_eq!(relay.due_ms(), Some(500 + HOLD_DIRECT_MS), "it hears of it: the wait begins anew");
        assert!(!relay.release(HOLD_DIRECT_MS));
        assert!(relay.release(500 + HOLD_DIRECT_MS) && relay.due_ms().is_none());
        assert_eq!(course(&mut relay, &mesh, 7, 3000), Course::Tell);
        assert_eq!(course(&mut relay, &mesh, 8, 3000), Course::Hold, "what is newer waits again");
        relay.confirm(&[stamp(3, 8)].into_iter().collect(), 3100);
        assert_eq!(relay.due_ms(), None);
    }

    #[test]
    fn a_link_that_is_lost_is_not_waited_for() {
        let (mesh, line) = (neighbours(&[(2, &[1, 3]), (3, &[1, 2])]), neighbours(&[(2, &[1]), (3, &[1])]));
        let mut relay = Relay::default();
        assert_eq!(course(&mut relay, &mesh, 5, 0), Course::Hold);
        relay.rethink(actor(1), actor(2), &line, 10);
        assert!(relay.release(10));
        assert_eq!(course(&mut relay, &line, 9, 10), Course::Tell);
        assert_eq!(course(&mut relay, &mesh, 11, 20), Course::Hold);
        assert_eq!(course(&mut relay, &line, 12, 20), Course::Again, "in the writer's order");
        assert_eq!(course(&mut relay, &line, 11, 20), Course::Tell);
    }

    #[test]
    fn neighbours_take_turns_and_one_of_them_tells_at_once() {
        let all: Vec<u8> = (4..12).collect();
        let near: Vec<Actor> = all.iter().copied().map(actor).collect();
        let mut seen = Neighbours::default();
        seen.meet(actor(2), &near);
        let mut turns: Vec<u64> = near.iter().map(|me| seen.patience_ms(*me, actor(2), actor(3))).collect();
        turns.sort_unstable();
        assert_eq!(turns, [0, 1, 2, 3, 4, 4, 4, 4].map(|turn| turn * TURN_MS));
        let firsts = (12..60).filter(|writer| seen.patience_ms(actor(4), actor(2), actor(*writer)) == 0).count();
        assert!((1..20).contains(&firsts), "another for each writer: {firsts} of 48");
        seen.meet(actor(3), &[actor(4)]);
        assert_eq!(seen.patience_ms(actor(4), actor(2), actor(3)), 0, "nobody else has it from the writer");
    }

    #[test]
    fn causes_go_first() {
        let mesh = neighbours(&[(2, &[1, 3]), (3, &[1, 2])]);
        let mut relay = Relay::default();
        course(&mut relay, &mesh, 5, 0);
        assert!(!relay.pass_causes(&[stamp(3, 4), stamp(4, 9)].into_iter().collect()));
        assert!(relay.pass_causes(&[stamp(3, 5)].into_iter().collect()));
        assert_eq!(course(&mut relay, &mesh, 5, 1), Course::Tell);
    }
}
