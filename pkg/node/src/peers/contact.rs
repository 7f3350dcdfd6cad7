//! When each server was last heard of, by this server's own clock: others' clocks may be wrong.
use crdt::{Actor, Vector};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A server of which nothing new has come for so long is out of contact. Servers tell how far they are every five seconds.
pub const LOST: Duration = Duration::from_secs(20);

/// What was heard, directly or through others.
pub struct Contacts {
    begun: Instant,
    heard: Mutex<BTreeMap<Actor, (u64, Option<Instant>)>>,
}

impl Contacts {
    /// What `vector` has was heard before this process began.
    pub fn new(vector: &Vector, now: Instant) -> Self {
        let known = vector.iter().map(|stamp| (stamp.actor, (stamp.time, None)));
        Self { begun: now, heard: Mutex::new(known.collect()) }
    }

    /// Takes in how far everybody is now.
    pub fn observe(&self, vector: &Vector, now: Instant) {
        let mut heard = self.heard.lock();
        for stamp in vector.iter() {
            let (time, at) = heard.entry(stamp.actor).or_insert((0, None));
            if stamp.time > *time {
                (*time, *at) = (stamp.time, Some(now));
            }
        }
    }

    /// For how long nothing has come from a server; since this process began, if nothing came at all.
    pub fn silence(&self, actor: Actor, now: Instant) -> Duration {
        let at = self.heard.lock().get(&actor).and_then(|(_, at)| *at);
        now.saturating_duration_since(at.unwrap_or(self.begun))
    }

    /// Whether anything has come lately.
    pub fn is_up(&self, actor: Actor, now: Instant) -> bool {
        let heard = self.heard.lock().get(&actor).is_some_and(|(_, at)| at.is_some());
        heard && self.silence(actor, now) < LOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crdt::Stamp;

    #[test]
    fn contact_is_news_not_knowledge() {
        let (actor, begun) = (Actor([1; 16]), Instant::now());
        let at = |time| [Stamp { time, actor }].into_iter().collect::<Vector>();
        let contacts = Contacts::new(&at(5), begun);
        assert!(!contacts.is_up(actor, begun), "known from before is no contact");
        let later = begun + Duration::from_secs(100);
        contacts.observe(&at(5), later);
        assert_eq!(contacts.silence(actor, later), Duration::from_secs(100));
        contacts.observe(&at(6), later);
        assert!(contacts.is_up(actor, later + LOST / 2));
        assert!(!contacts.is_up(actor, later + LOST));
    }
}
