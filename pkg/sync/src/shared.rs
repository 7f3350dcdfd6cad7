//! What the links of a server share: who is a member and what all have, how the links stand, and who hears whom.
use crate::members::Members;
use crate::message::Hello;
use crate::relay::Neighbours;
use crdt::Vector;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use store::Replica;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A link as it stands.
#[derive(Clone, Debug)]
pub struct LinkState {
    pub number: u16,
    pub name: String,
    pub version: String,
    pub dialled: bool,
    pub connected: bool,
    /// Everything that the peer had when the link was made is here.
    pub complete: bool,
    /// What the peer has, as it last said.
    pub confirmed: Vector,
    /// Bytes of changes and documents sent on this link, before compression.
    pub sent_bytes: u64,
    token: CancellationToken,
}

/// What links share.
pub(crate) struct Shared {
    pub replica: Arc<dyn Replica>,
    /// This server's.
    number: u16,
    pub members: Mutex<Members>,
    links: Mutex<BTreeMap<u16, LinkState>>,
    changed: watch::Sender<u64>,
    pub neighbours: watch::Sender<Arc<Neighbours>>,
    /// Held by the link on which another's store is taken over.
    pub taking: Arc<tokio::sync::Mutex<()>>,
}

impl Shared {
    pub fn new(replica: Arc<dyn Replica>, number: u16) -> Self {
        Self {
            replica,
            number,
            members: Mutex::default(),
            links: Mutex::default(),
            changed: watch::Sender::new(0),
            neighbours: watch::Sender::default(),
            taking: Arc::default(),
        }
    }

    /// All links there are or were, by number.
    pub fn links(&self) -> Vec<LinkState> {
        self.links.lock().values().cloned().collect()
    }

    /// Wakes when a link is made or lost.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub fn lows(&self) -> Vec<(u16, u64)> {
        let mut members = self.members.lock();
        members.observe_vector(self.number, &self.replica.vector());
        members.lows()
    }

    pub fn forget_lows(&self) {
        self.members.lock().forget_lows();
    }

    pub fn observe(&self, lows: Vec<(u16, u64)>) {
        self.members.lock().observe(lows);
    }

    /// A peer has said who it is. Of two links between the same servers the one that the lower number dialled stays, and of
    /// two such the younger.
    ///
    /// # Errors
    /// Why there is no link: it is no member, or not any more, or there is a link that goes before this one.
    pub fn met(&self, hello: &Hello, dialled: bool, token: &CancellationToken) -> Result<(), &'static str> {
        if self.members.lock().get(hello.number).is_none() {
            return Err("it is no member of the cluster, as far as is known here");
        }
        let by_lower = |dialled: bool| dialled == (self.number < hello.number);
        let mut links = self.links.lock();
        if let Some(old) = links.get(&hello.number).filter(|old| old.connected) {
            if by_lower(old.dialled) && !by_lower(dialled) {
                return Err("there is a link already");
            }
            old.token.cancel();
        }
        let state = LinkState {
            number: hello.number,
            name: hello.name.clone(),
            version: hello.version.clone(),
            dialled,
            connected: true,
            complete: false,
            confirmed: hello.vector.clone(),
            sent_bytes: 0,
            token: token.clone(),
        };
        tracing::info!(peer = hello.name, number = hello.number, dialled, "linked");
        links.insert(hello.number, state);
        self.rewire(|neighbours| neighbours.meet(hello.actor, &hello.links));
        drop(links);
        self.announce();
        Ok(())
    }

    /// Ends links to servers that are no members any more.
    pub fn part_with_strangers(&self) {
        let members = self.members.lock();
        self.links.lock().retain(|number, link| {
            let stays = members.get(*number).is_some();
            if !stays {
                link.token.cancel();
            }
            stays
        });
    }

    pub fn progress(&self, number: u16, confirmed: &Vector, sent_bytes: u64) {
        if let Some(link) = self.links.lock().get_mut(&number) {
            link.confirmed.merge(confirmed);
            link.sent_bytes = sent_bytes;
        }
        self.members.lock().observe_vector(number, confirmed);
    }

    pub fn completed(&self, number: u16) {
        if let Some(link) = self.links.lock().get_mut(&number).filter(|link| !link.complete) {
            link.complete = true;
            self.announce();
        }
    }

    pub fn parted(&self, hello: &Hello, token: &CancellationToken) {
        let mut links = self.links.lock();
        if let Some(link) = links.get_mut(&hello.number).filter(|link| !token.is_cancelled() && link.connected) {
            link.connected = false;
        }
        if links.get(&hello.number).is_none_or(|link| !link.connected) {
            self.rewire(|neighbours| neighbours.part(hello.actor));
        }
        drop(links);
        self.announce();
    }

    /// Who hears whom has changed.
    pub fn rewire(&self, change: impl FnOnce(&mut Neighbours)) {
        self.neighbours.send_modify(|known| change(Arc::make_mut(known)));
    }

    pub fn linked(&self, number: u16) -> bool {
        self.links.lock().get(&number).is_some_and(|link| link.connected)
    }

    fn announce(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}
