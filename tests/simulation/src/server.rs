//! One server: a store on a virtual clock that may be wrong, and its conversations.
use crate::owners::Contacts;
use crate::watcher::Watcher;
use crdt::{Actor, Delta, Stamp};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use store::bare::{Bare, Documents};
use store::{Begin, Op, Revision, Row, Txn};
use sync::{Hello, Member, Members, Message, Neighbours, PROTOCOL, Relation, Session, Standing, Task, Want};

/// Bytes in one message: small, so that transfers take many.
const MESSAGE_BYTES: usize = 4 << 10;
const CLUSTER: [u8; 16] = [1; 16];
/// What a crash may tear: the end of the log, or of what follows from it.
const WALS: [&str; 2] = ["store.db-wal", "changes.db-wal"];

struct Nothing;

impl api::summary::Summarize for Nothing {
    fn summarize(&self, _: &[u8], _: &[u8]) -> api::summary::Summary {
        api::summary::Summary::default()
    }
}

/// Everybody's clock, as it would be if nobody's were wrong: milliseconds since the Unix epoch.
pub type Clock = Arc<AtomicU64>;

/// One side of a conversation.
pub struct Talk {
    session: Session,
    /// What came and can't be taken in yet: one of two clocks is far off.
    parked: VecDeque<Task>,
    /// What is being sent whole.
    documents: Option<Documents>,
}

pub struct Server {
    pub number: u16,
    pub bare: Bare,
    root: PathBuf,
    /// How often it died: each life has a directory of its own.
    life: u32,
    clock: Clock,
    /// How far this server's clock is wrong.
    pub skew_ms: Arc<AtomicI64>,
    pub members: Members,
    /// Who has left, and the write that says so: members are objects, and travel as all else does.
    left: Vec<(u16, Stamp)>,
    pub talks: BTreeMap<u16, Talk>,
    /// Whose store is being taken over, and whether it was asked for that.
    taking: Option<(u16, bool)>,
    /// It was just taken over.
    pub rebased: bool,
    /// Its conversations are over.
    pub anew: bool,
    /// Who hears whom, as far as is known here.
    neighbours: Neighbours,
    /// The newest revision that was seen.
    pub revision: Revision,
    /// It has had everything of a member that was ready; one that joins is not written before.
    pub ready: bool,
    /// Nobody writes here any more; it goes when another has all that was written here, up to this time.
    pub leaving: Option<u64>,
    pub contacts: Contacts,
    pub watcher: Watcher,
    /// The newest conflict that was read.
    pub conflict: u64,
    /// The newest change that sessions were woken for.
    sequence: u64,
}

fn open(dir: &Path, number: u16, clock: &Clock, skew_ms: &Arc<AtomicI64>) -> Bare {
    let (clock, skew_ms) = (clock.clone(), skew_ms.clone());
    let now = move || clock.load(Ordering::Relaxed).saturating_add_signed(skew_ms.load(Ordering::Relaxed));
    let keep = Duration::from_secs(300);
    // Named by its number, and counted where it begins anew, not by chance: a seed says all that happens.
    let mut actor = [0; 16];
    actor[..2].copy_from_slice(&number.to_be_bytes());
    let actor = Actor(actor);
    let options = store::Options { dir: dir.into(), server: number, summarize: Arc::new(Nothing), keep };
    Bare::open(&options, actor, Arc::new(now)).expect("a store opens")
}

impl Server {
    pub fn new(root: &Path, number: u16, clock: &Clock) -> Self {
        let skew_ms = Arc::new(AtomicI64::new(0));
        let bare = open(&dir(root, number, 0), number, clock, &skew_ms);
        let revision = bare.revision();
        let watcher = Watcher::new(&bare).expect("a store is watched");
        Self {
            number,
            bare,
            root: root.to_owned(),
            life: 0,
            clock: clock.clone(),
            skew_ms,
            members: Members::default(),
            left: Vec::new(),
            talks: BTreeMap::new(),
            taking: None,
            rebased: false,
            anew: false,
            neighbours: Neighbours::default(),
            revision,
            ready: false,
            leaving: None,
            contacts: Contacts::default(),
            watcher,
            conflict: 0,
            sequence: 0,
        }
    }

    /// Dies and comes back: what was acknowledged is there, conversations are not. `tear` chooses how many of so many
    /// bytes reach the disk of what was being written just then: a write to the log, or the documents that follow from it.
    pub fn crash(&mut self, op: Option<Op>, mut tear: impl FnMut(u64) -> u64) {
        self.talks.clear();
        self.taking = None;
        self.neighbours = Neighbours::default();
        let (old, new) = (dir(&self.root, self.number, self.life), dir(&self.root, self.number, self.life + 1));
        let lengths = || WALS.map(|wal| std::fs::metadata(old.join(wal)).map_or(0, |file| file.len()));
        // What is told follows from what is durable: the log is whole before documents are begun.
        let in_log = op.is_some();
        if in_log {
            while !self.bare.derive().expect("a store derives") {}
        }
        let before = lengths();
        match op {
            Some(op) => drop(self.bare.txn(Txn { then: vec![op], ..Txn::default() })),
            None => drop(self.bare.derive()),
        }
        let after = lengths();
        std::fs::create_dir_all(&new).expect("a directory is made");
        for file in std::fs::read_dir(&old).expect("a directory is read").flatten() {
            if !file.file_name().to_string_lossy().ends_with("-shm") {
                std::fs::copy(file.path(), new.join(file.file_name())).expect("a file is copied");
            }
        }
        let torn = usize::from(!in_log);
        if after[torn] > before[torn] {
            let kept = before[torn] + tear(after[torn] - before[torn]);
            let wal = std::fs::OpenOptions::new().write(true).open(new.join(WALS[torn]));
            wal.and_then(|wal| wal.set_len(kept)).expect("a file is cut");
        }
        self.life += 1;
        self.bare = open(&new, self.number, &self.clock, &self.skew_ms);
        std::fs::remove_dir_all(&old).expect("a directory is removed");
        self.watcher.resume(&self.bare).expect("a store is watched");
    }

    pub fn name(&self) -> String {
        format!("server-{}", self.number)
    }

    /// A member is there.
    pub fn add_members(&mut self, members: &[Member]) {
        let gone = |number: u16| self.left.iter().any(|(left, _)| *left == number);
        let mut all: BTreeMap<u16, Member> = self.members.iter().map(|one| (one.number, one.clone())).collect();
        all.extend(members.iter().filter(|one| !gone(one.number)).map(|one| (one.number, one.clone())));
        self.members.set(all.into_values());
    }

    /// Members that are away too long to be waited for.
    pub fn give_up(&mut self, away: impl Fn(u16) -> bool) {
        let members: Vec<Member> =
            self.members.iter().map(|member| Member { absent: away(member.number), ..member.clone() }).collect();
        self.members.set(members);
    }

    /// A member has left, as whoever has that write learns.
    pub fn hear_of_leaving(&mut self, number: u16, write: Stamp) {
        self.left.push((number, write));
        self.forget_left();
    }

    fn forget_left(&mut self) {
        if self.left.is_empty() {
            return;
        }
        let vector = self.bare.vector();
        // Whoever wrote that it left may have made the write anew, under another name.
        let gone = |number: u16| self.bare.get(&crate::owners::server_key(number)).is_none();
        let left = std::mem::take(&mut self.left).into_iter();
        let (known, waits): (Vec<_>, Vec<_>) = left.partition(|(number, write)| vector.covers(*write) || gone(*number));
        self.left = waits;
        if !known.is_empty() {
            let gone = |number: u16| known.iter().any(|(left, _)| *left == number);
            let all: Vec<Member> = self.members.iter().filter(|one| !gone(one.number)).cloned().collect();
            self.members.set(all);
        }
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
        let (pruned, owed, vector) = (self.bare.pruned(), self.bare.owed(), self.bare.vector());
        let side = self.members.side(self.number, &vector, pruned.time);
        let empty = self.bare.is_empty().expect("a store is read");
        let hello = Hello {
            protocol: PROTOCOL,
            cluster: CLUSTER,
            actor: self.bare.actor(),
            number: self.number,
            name: self.name(),
            version: "simulated".into(),
            vector,
            owed,
            pruned,
            empty,
            side,
            links: self.neighbours.direct(),
        };
        let session = Session::new(hello);
        let first = session.hello();
        self.talks.insert(peer, Talk { session, parked: VecDeque::new(), documents: None });
        first
    }

    /// A conversation is over.
    pub fn part(&mut self, peer: u16) {
        let talk = self.talks.remove(&peer);
        if self.taking.is_some_and(|(from, _)| from == peer) {
            self.taking = None;
            self.take_from_another();
        }
        if let Some(peer) = talk.as_ref().and_then(|talk| talk.session.peer()) {
            self.neighbours.part(peer.actor);
            self.rethink();
        }
    }

    /// One after the other.
    fn take_from_another(&mut self) {
        let takes = |talk: &Talk| talk.session.relation() == Relation::Take;
        let from = self.talks.iter().find(|(_, talk)| takes(talk)).map(|(peer, _)| *peer);
        if self.taking.is_none() {
            self.taking = from.map(|from| (from, false));
        }
    }

    fn rethink(&mut self) {
        let now = self.clock.load(Ordering::Relaxed);
        self.talks.values_mut().for_each(|talk| talk.session.rethink(&self.neighbours, now));
    }

    pub fn beat(&mut self) -> store::Result<()> {
        self.talks.values_mut().for_each(|talk| talk.session.beat());
        self.bare.tick()
    }

    /// What every link does when there are new changes.
    fn wake(&mut self) {
        let sequence = self.bare.sequence();
        if std::mem::replace(&mut self.sequence, sequence) != sequence {
            self.talks.values_mut().for_each(|talk| talk.session.wake());
        }
    }

    /// One thing to say to a peer, if there is one.
    pub fn speak(&mut self, peer: u16) -> store::Result<Option<Message>> {
        self.wake();
        let Some(talk) = self.talks.get_mut(&peer) else { return Ok(None) };
        if self.taking == Some((peer, false)) {
            self.taking = Some((peer, true));
            return Ok(Some(Message::Take));
        }
        let session = &mut talk.session;
        let vector = self.bare.vector();
        self.members.observe_vector(self.number, &vector);
        let (neighbours, now_ms) = (&self.neighbours, self.clock.load(Ordering::Relaxed));
        let whole = self.bare.is_whole();
        let late = !self.bare.owed().is_empty();
        let standing = Standing { vector, lows: self.members.lows(), whole, late, neighbours, now_ms };
        if session.look(&standing).is_err() {
            self.anew = true;
            return Ok(None);
        }
        loop {
            let message = match session.want() {
                Want::Nothing => return Ok(session.ack(&standing)),
                Want::Begin(have) => {
                    let begin = self.bare.begin(&have)?;
                    if begin == Begin::Snapshot && session.is_paging() {
                        session.go_on();
                    } else if begin == Begin::Snapshot && !session.hold(&standing) {
                        let documents = self.bare.documents()?;
                        session.began(begin, documents.seen().clone());
                        talk.documents = Some(documents);
                    } else if begin != Begin::Snapshot {
                        talk.documents = None;
                        session.began(begin, standing.vector.clone());
                    }
                    None
                }
                Want::Documents if session.hold(&standing) => None,
                Want::Documents => {
                    let documents = self.bare.documents()?;
                    session.began(Begin::Snapshot, documents.seen().clone());
                    talk.documents = Some(documents);
                    None
                }
                Want::Changes { after, have } => {
                    session.changes(self.bare.changes(after, &have, MESSAGE_BYTES)?, &standing)
                }
                Want::Page { after } => {
                    let documents = talk.documents.as_ref().expect("pages are of documents that were opened");
                    session.page(documents.page(after.as_deref(), MESSAGE_BYTES)?)
                }
            };
            if message.is_some() {
                return Ok(message);
            }
        }
    }

    /// Takes in what a peer said. An error text: the conversation is over.
    pub fn listen(&mut self, peer: u16, message: Message) -> Result<(), String> {
        let Some(talk) = self.talks.get_mut(&peer) else { return Ok(()) };
        let meeting = matches!(message, Message::Hello(_));
        match talk.session.receive(message, self.clock.load(Ordering::Relaxed))? {
            Task::Nothing => {
                let confirmed = talk.session.confirmed().clone();
                self.members.observe_vector(peer, &confirmed);
            }
            task => talk.parked.push_back(task),
        }
        if let Some(hello) = talk.session.peer().filter(|_| meeting) {
            self.neighbours.meet(hello.actor, &hello.links);
            self.rethink();
            self.take_from_another();
        }
        Ok(())
    }

    /// Does the next of what came, if it can be done now; returns whether there was something.
    pub fn work(&mut self, peer: u16, peer_ready: bool) -> Result<bool, String> {
        let Some(task) = self.talks.get(&peer).and_then(|talk| talk.parked.front().cloned()) else { return Ok(false) };
        if let Task::Receive(rows) = &task {
            self.causes_first(rows)?;
        }
        match self.perform(task.clone(), peer, peer_ready) {
            // It waits until its time has come.
            Err(store::Error::Ahead { .. }) => return Ok(false),
            done => done.map_err(|error| error.to_string())?,
        }
        let vector = self.bare.vector();
        let now = self.clock.load(Ordering::Relaxed);
        self.contacts.observe(&vector, now);
        self.forget_left();
        if let Some(talk) = self.talks.get_mut(&peer) {
            talk.parked.pop_front();
            talk.session.done(&task, now);
        }
        Ok(true)
    }

    /// Whatever a change rests on is here already, or comes before it.
    fn causes_first(&self, rows: &[Row]) -> Result<(), String> {
        let mut known = self.bare.vector();
        for row in rows {
            let delta = Delta::decode(&row.delta).map_err(|error| error.to_string())?;
            if !known.covers(row.stamp) && !known.includes(&delta.context) {
                let lacks = delta.context.iter().find(|stamp| !known.covers(*stamp));
                return Err(format!("{:?} of {} came before {lacks:?}", row.stamp, String::from_utf8_lossy(&row.key)));
            }
            if !row.more {
                known.advance(row.stamp);
            }
        }
        Ok(())
    }

    fn perform(&mut self, task: Task, peer: u16, peer_ready: bool) -> store::Result<()> {
        match task {
            Task::Nothing => Ok(()),
            Task::Receive(rows) => self.bare.receive(&rows),
            Task::Join { page, seen } => {
                self.bare.join(&page, &seen)?;
                if page.whole.is_some() { self.bare.complete(&seen, page.whole.as_ref()) } else { Ok(()) }
            }
            Task::Adopt { page, seen } => {
                self.bare.stage(&page, &seen)?;
                if let Some(whole) = page.whole {
                    let mut fresh = self.bare.actor();
                    fresh.0[15] += 1;
                    self.bare.adopt(seen, whole, fresh)?;
                    self.members.forget_lows();
                    self.rebased = true;
                }
                Ok(())
            }
            Task::Complete { seen, lows, links } => {
                self.bare.complete(&seen, None)?;
                self.members.observe(lows);
                let peer = self.talks.get(&peer).and_then(|talk| talk.session.peer());
                if let (Some(peer), Some(links)) = (peer, links) {
                    self.neighbours.observe(peer.actor, &links);
                    self.rethink();
                }
                self.ready |= peer_ready && self.bare.is_whole();
                Ok(())
            }
        }
    }
}

fn dir(root: &Path, number: u16, life: u32) -> PathBuf {
    root.join(format!("{number}-{life}"))
}
