//! How far this server is in what the others had when they made a revision.
use super::sites::Known;
use crdt::{Stamp, Vector};
use std::sync::Arc;
use store::{Replica, Revision, Store};
use tokio::sync::watch;

pub struct Watermarks {
    pub store: Arc<Store>,
    pub known: watch::Receiver<Vec<Known>>,
}

impl apiserver::Watermarks for Watermarks {
    fn passed(&self, revision: Revision) -> Option<bool> {
        passed(&self.known.borrow(), &self.store.vector(), revision)
    }
}

/// A revision's clock is the one that changes are stamped with, and what a server had before it told of a stamp comes before
/// that stamp on every way: who has a server's stamp has what it had.
fn passed(known: &[Known], vector: &Vector, revision: Revision) -> Option<bool> {
    let mut members = known.iter().map(|known| &known.member);
    let member = members.find(|member| member.number == revision.server() && !member.absent)?;
    let covers = |actor| vector.covers(Stamp { time: revision.clock(), actor });
    Some(member.actor.is_some_and(covers))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::sites::bare;
    use crdt::Actor;
    use sync::Member;

    #[test]
    fn a_revision_is_passed_when_its_servers_stamp_of_that_time_is_here() {
        let actor = Actor([7; 16]);
        let member = |number, actor, absent| {
            bare(Member { number, name: "s".into(), site: "s".into(), address: None, actor, absent })
        };
        let known = [member(1, Some(actor), false), member(2, None, false), member(3, Some(Actor([3; 16])), true)];
        let vector = [Stamp { time: 50, actor }].into_iter().collect::<Vector>();
        let ask = |clock, server| passed(&known, &vector, Revision::new(clock, server));
        assert_eq!((ask(50, 1), ask(51, 1)), (Some(true), Some(false)));
        assert_eq!(ask(1, 2), Some(false), "it has not told of itself yet");
        assert_eq!((ask(1, 3), ask(1, 4)), (None, None), "nobody waits for it");
    }
}
