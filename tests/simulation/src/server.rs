//! One server: a store on a virtual clock that may be wrong, and its conversations.
use crdt::{Actor, Vector};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use store::bare::Bare;
use store::{Begin, Revision};
use sync::{Hello, Member, Members, Message, PROTOCOL, Session, Task, Want};

/// Bytes in one message: small, so that transfers take many.
const MESSAGE_BYTES: usize = 4 << 10;
const CLUSTER: [u8; 16] = [1; 16];

struct Nothing;

impl api::summary::Summarize for Nothing {
    fn summarize(&self, _: &[u8], _: &[u8]) -> api::summary::Summary {
        api::summary::Summary::default()
    }
}

/// Everybody's clock, as it would be if nobody's were wrong: milliseconds since the Unix epoch.
pub type Clock = Arc<AtomicU64>;

pub struct Server {
    pub number: u16,
    pub bare: Bare,
    dir: PathBuf,
    clock: Clock,
    /// How far this server's clock is wrong.
    pub skew_ms: Arc<AtomicI64>,
    pub members: Members,
    pub sessions: BTreeMap<u16, Session>,
    /// The newest revision that was seen.
    pub revision: Revision,
    /// It has had everything of a member that was ready; one that joins is not written before.
    pub ready: bool,
}

fn open(dir: &Path, number: u16, clock: &Clock, skew_ms: &Arc<AtomicI64>) -> Bare {
    let (clock, skew_ms) = (clock.clone(), skew_ms.clone());
    let now = move || clock.load(Ordering::Relaxed).saturating_add_signed(skew_ms.load(Ordering::Relaxed));
    let keep = Duration::from_secs(300);
    // Named by its number, not by chance: a seed says all that happens.
    let actor = Actor([number as u8; 16]);
    let options = store::Options { dir: dir.into(), server: number, summarize: Arc::new(Nothing), keep };
    Bare::open(&options, actor, Arc::new(now)).expect("a store opens")
}

impl Server {
    pub fn new(root: &Path, number: u16, clock: &Clock) -> Self {
        let (dir, skew_ms) = (root.join(number.to_string()), Arc::new(AtomicI64::new(0)));
        let bare = open(&dir, number, clock, &skew_ms);
        let revision = bare.revision();
        let (members, sessions) = (Members::default(), BTreeMap::new());
        Self { number, bare, dir, clock: clock.clone(), skew_ms, members, sessions, revision, ready: false }
    }

    /// Dies and comes back: what was acknowledged is there, conversations are not.
    pub fn crash(&mut self) {
        self.sessions.clear();
        self.bare = open(&self.dir, self.number, &self.clock, &self.skew_ms);
    }

    pub fn name(&self) -> String {
        format!("server-{}", self.number)
    }

    pub fn set_members(&mut self, members: &[Member]) {
        self.members.set(members.iter().cloned());
    }

    pub fn member(&self) -> Member {
        Member {
            number: self.number,
            name: self.name(),
            site: self.name(),
            address: Some(self.name()),
            actor: Some(self.bare.actor()),
            absent: false,
        }
    }

    /// Begins a conversation; returns what to say first.
    pub fn meet(&mut self, peer: u16) -> Message {
        let hello = Hello {
            protocol: PROTOCOL,
            cluster: CLUSTER,
            actor: self.bare.actor(),
            number: self.number,
            name: self.name(),
            version: "simulated".into(),
            vector: self.bare.vector(),
        };
        let session = Session::new(hello);
        let first = session.hello();
        self.sessions.insert(peer, session);
        first
    }

    /// One thing to say to a peer, if there is one.
    pub fn speak(&mut self, peer: u16) -> store::Result<Option<Message>> {
        let vector = self.bare.vector();
        self.members.observe_vector(self.number, &vector);
        let lows = self.members.lows();
        let Some(session) = self.sessions.get_mut(&peer) else { return Ok(None) };
        loop {
            let message = match session.want() {
                Want::Nothing => return Ok(None),
                Want::Begin(have) => {
                    let begin: Begin = self.bare.begin(&have)?;
                    session.began(begin, vector.clone());
                    continue;
                }
                Want::Changes { after, have } => {
                    let found = self.bare.changes(after, &have, MESSAGE_BYTES)?;
                    let more = matches!(&found, None | Some((_, _)) if found.as_ref().is_none_or(|(rows, _)| !rows.is_empty()));
                    match session.changes(found, vector.clone(), lows.clone()) {
                        None if more => continue,
                        message => message,
                    }
                }
                Want::Page { after } => session.page(self.bare.page(after.as_deref(), MESSAGE_BYTES)?),
            };
            return Ok(message);
        }
    }

    /// Takes in what a peer said; returns the answer. An error text: the conversation is over.
    pub fn listen(&mut self, peer: u16, peer_ready: bool, message: Message) -> Result<Option<Message>, String> {
        let Some(session) = self.sessions.get_mut(&peer) else { return Ok(None) };
        let failed = |error: store::Error| error.to_string();
        match session.receive(message)? {
            Task::Nothing => {
                let confirmed = session.confirmed().clone();
                self.members.observe_vector(peer, &confirmed);
                return Ok(None);
            }
            Task::Receive(rows) => self.bare.receive(&rows).map_err(failed)?,
            Task::Join { page, seen } => {
                self.bare.join(&page, &seen).map_err(failed)?;
                if page.up_to.is_none() {
                    self.bare.complete(&seen, true).map_err(failed)?;
                }
            }
            Task::Complete { seen, snapshot, lows } => {
                self.bare.complete(&seen, snapshot).map_err(failed)?;
                self.members.observe(lows);
                self.ready |= peer_ready;
            }
        }
        self.sessions.values_mut().for_each(Session::wake);
        let vector: Vector = self.bare.vector();
        Ok(self.sessions.get_mut(&peer).map(|session| session.done(vector)))
    }
}
