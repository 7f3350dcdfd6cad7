//! One conversation with a peer, without a network and without a clock: what to read from the store next, what to send,
//! what to do with what came. Both sides run the same.
use crate::message::{Hello, Message, PROTOCOL};
use crate::relation::Relation;
use crate::relay::{Course, Neighbours, Relay, TELL_MS, TELL_SOON_MS};
use bytes::Bytes;
use crdt::{Actor, Delta, Stamp, Vector};
use std::collections::{BTreeMap, VecDeque};
use store::{Begin, Row, SnapshotPage};

/// Bytes of changes in one message, about.
pub const MESSAGE_BYTES: usize = 128 << 10;
/// Bytes that may be under way unacknowledged.
pub const WINDOW_BYTES: usize = 1 << 20;
/// Messages that may be under way unacknowledged; a peer that sends more without waiting is refused.
pub const WINDOW_MESSAGES: usize = 128;
/// What comes is acknowledged so soon, together with what came before.
const ACK_MS: u64 = 200;
/// The rest of a snapshot is waited for so long before others are asked what is to be done.
const HOLD_MS: u64 = 30_000;
/// So many messages, or a message of so many bytes, are acknowledged at once: the sender's window is to stay open.
pub const ACK_MESSAGES: u64 = WINDOW_MESSAGES as u64 / 4;
const ACK_BYTES: usize = MESSAGE_BYTES / 4;

/// What the session wants from the store in order to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// [`store::Replica::begin`], then [`Session::began`].
    Begin(Vector),
    /// The vector first, then [`store::Replica::changes`], then [`Session::changes`].
    Changes { after: u64, have: Vector },
    /// [`store::Replica::documents`], then [`Session::began`] with a snapshot.
    Documents,
    /// [`store::Documents::page`], then [`Session::page`].
    Page { after: Option<Bytes> },
    /// Nothing until something happens.
    Nothing,
}

/// How things stand on this server when a session is asked.
#[derive(Clone, Debug)]
pub struct Standing<'a> {
    /// What we had before anything else was asked.
    pub vector: Vector,
    /// By server number: the time up to which that member is known to have everything of everybody.
    pub lows: Vec<(u16, u64)>,
    /// All that our documents hold was in the vector ([`store::Replica::is_whole`]).
    pub whole: bool,
    /// The rest of a snapshot does not come ([`store::Replica::owed`]).
    pub late: bool,
    pub neighbours: &'a Neighbours,
    /// Milliseconds on a clock that never goes back.
    pub now_ms: u64,
}

/// What is to be done with what came, in order; then [`Session::done`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    Receive(Vec<Row>),
    Join {
        page: SnapshotPage,
        seen: Vector,
    },
    /// To put aside; after the last page, to take over all of them. The conversation ends with that.
    Adopt {
        page: SnapshotPage,
        seen: Vector,
    },
    Complete {
        seen: Vector,
        lows: Vec<(u16, u64)>,
        links: Option<Vec<Actor>>,
    },
    /// Nothing to do and nothing to acknowledge.
    Nothing,
}

/// Where sending has got to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Cursor {
    /// The peer has not said what it has.
    Waiting,
    Starting,
    After(u64),
    /// Sending whole documents; `seen` is what we had when that began. `again`: the peer has got something meanwhile, and
    /// may lack nothing any more but changes.
    Pages {
        after: Option<Bytes>,
        seen: Vector,
        again: bool,
    },
}

/// One side of a conversation.
pub struct Session {
    me: Hello,
    peer: Option<Hello>,
    relation: Relation,
    /// What the peer has acknowledged.
    confirmed: Vector,
    /// What it will have once everything under way is taken in.
    sent: Vector,
    cursor: Cursor,
    /// There may be something new to send.
    news: bool,
    /// The same, and the peer may want to know what of it we have.
    woken: bool,
    /// The peer is to hear from us even when nothing changed.
    heartbeat: bool,
    /// By writer, when the first of its writes was made that the peer can't be told yet: it rests on what the peer lacks.
    waits: BTreeMap<Actor, u64>,
    /// Something was sent since it was last looked what of that can be told.
    progress: bool,
    /// Others' changes that are held back.
    relay: Relay,
    /// The last vector that the peer was told, as what was sent.
    told: Vector,
    /// The same, as what we have.
    acked: Vector,
    /// The peer has not been told yet that all we had has been sent.
    unsaid: bool,
    /// Until when whole documents are not given, because ours are not all there.
    held: Option<u64>,
    /// Until when the rest of a snapshot is waited for here.
    late: Option<u64>,
    /// Our links, as the peer was told.
    links: Vec<Actor>,
    /// Sizes of what is under way.
    under_way: VecDeque<usize>,
    acknowledged: u64,
    received: u64,
    /// Of these the peer knows.
    answered: u64,
    /// When the peer is to be told what we have taken in.
    ack_due_ms: Option<u64>,
    /// Bytes of changes and documents sent, for people.
    pub sent_bytes: u64,
}

impl Session {
    pub fn new(me: Hello) -> Self {
        Self {
            acked: me.vector.clone(),
            links: me.links.clone(),
            me,
            peer: None,
            relation: Relation::Merge,
            confirmed: Vector::default(),
            sent: Vector::default(),
            cursor: Cursor::Waiting,
            news: true,
            woken: false,
            heartbeat: false,
            waits: BTreeMap::new(),
            progress: false,
            relay: Relay::default(),
            told: Vector::default(),
            unsaid: true,
            held: None,
            late: None,
            under_way: VecDeque::new(),
            acknowledged: 0,
            received: 0,
            answered: 0,
            ack_due_ms: None,
            sent_bytes: 0,
        }
    }

    /// The first message to send.
    pub fn hello(&self) -> Message {
        Message::Hello(self.me.clone())
    }

    /// Who is at the other end, once it has said so.
    pub fn peer(&self) -> Option<&Hello> {
        self.peer.as_ref()
    }

    /// What is to be done with the peer, once it has said who it is. Who takes says [`Message::Take`] when it is ready to.
    pub fn relation(&self) -> Relation {
        self.relation
    }

    /// What the peer has, as it last said.
    pub fn confirmed(&self) -> &Vector {
        &self.confirmed
    }

    /// The store has something new.
    pub fn wake(&mut self) {
        (self.news, self.woken) = (true, true);
    }

    /// The peer is to hear from us now, so that it knows how far we are and that we are there.
    pub fn beat(&mut self) {
        (self.news, self.heartbeat) = (true, true);
    }

    fn is_full(&self) -> bool {
        self.under_way.len() >= WINDOW_MESSAGES || self.under_way.iter().sum::<usize>() >= WINDOW_BYTES
    }

    /// What to read next in order to send it.
    pub fn want(&self) -> Want {
        if self.is_full() || self.held.is_some() {
            return Want::Nothing;
        }
        match &self.cursor {
            Cursor::Waiting => Want::Nothing,
            Cursor::Starting if self.relation == Relation::Give => Want::Documents,
            Cursor::Starting | Cursor::Pages { again: true, .. } => Want::Begin(self.sent.clone()),
            Cursor::After(after) if self.news => Want::Changes { after: *after, have: self.sent.clone() },
            Cursor::After(_) => Want::Nothing,
            Cursor::Pages { after, .. } => Want::Page { after: after.clone() },
        }
    }

    /// The answer to [`Want::Begin`]; `seen` is what the documents hold that are to be sent, if they are.
    pub fn began(&mut self, begin: Begin, seen: Vector) {
        self.waits.clear();
        self.cursor = match begin {
            Begin::After(after) => Cursor::After(after),
            Begin::Snapshot => Cursor::Pages { after: None, seen, again: false },
        };
    }

    /// Whether whole documents are being sent.
    pub fn is_paging(&self) -> bool {
        matches!(self.cursor, Cursor::Pages { .. })
    }

    /// Whether whole documents wait until ours are all there: half of them are never given.
    pub fn hold(&mut self, standing: &Standing<'_>) -> bool {
        if !standing.whole {
            self.held = Some(standing.now_ms + HOLD_MS);
        }
        self.held.is_some()
    }

    /// The answer to [`Want::Begin`] while they are, and are still needed.
    pub fn go_on(&mut self) {
        if let Cursor::Pages { again, .. } = &mut self.cursor {
            *again = false;
        }
    }

    /// The answer to [`Want::Changes`].
    pub fn changes(&mut self, found: Option<(Vec<Row>, u64)>, standing: &Standing<'_>) -> Option<Message> {
        let Some((mut rows, next)) = found else {
            self.cursor = Cursor::Starting;
            return None;
        };
        self.cursor = Cursor::After(next);
        if rows.is_empty() && !self.waits.is_empty() && std::mem::take(&mut self.progress) {
            // What waited may go now.
            self.cursor = Cursor::Starting;
            return None;
        }
        if rows.is_empty() {
            self.news = false;
            return self.seen(standing);
        }
        rows = self.tellable_now(&rows, standing);
        if rows.is_empty() {
            return None;
        }
        self.progress = true;
        rows.iter().for_each(|row| self.sent.advance(row.stamp));
        let bytes = rows.iter().map(|row| row.key.len() + row.delta.len()).sum();
        Some(self.send(Message::Rows(rows), bytes))
    }

    /// All is sent: said when that is new, when our links are, and with every heartbeat.
    fn seen(&mut self, standing: &Standing<'_>) -> Option<Message> {
        let links = standing.neighbours.direct();
        let links = (self.links != links).then_some(links);
        let (unsaid, beats) = (std::mem::take(&mut self.unsaid), std::mem::take(&mut self.heartbeat));
        if !unsaid && !beats && links.is_none() {
            return None;
        }
        links.iter().for_each(|links| self.links.clone_from(links));
        let all = self.tellable(&standing.vector);
        let vector = since(&all, &self.told);
        self.told.merge(&vector);
        self.acked.merge(&vector);
        Some(self.send(Message::Seen { vector, lows: standing.lows.clone(), links }, 0))
    }

    /// What of these changes the peer is told now, in this order. Others' may be held back, since it has them from elsewhere.
    /// What rests on what the peer lacks waits, with all that its writer wrote later: on what is held back, until that is
    /// sent; else until it is clear that the peer has it. Causes come first, but not those of what was written here while a
    /// snapshot was half in, nor of what others then wrote on top of it.
    fn tellable_now(&mut self, rows: &[Row], standing: &Standing<'_>) -> Vec<Row> {
        let (me, Some(peer)) = (self.me.actor, self.peer.as_ref().map(|hello| hello.actor)) else { return Vec::new() };
        let (mut known, mut told) = (self.sent.clone(), Vec::new());
        for transaction in rows.chunk_by(|row, _| row.more) {
            let stamp = transaction[0].stamp;
            if self.waits.contains_key(&stamp.actor) {
                continue;
            }
            let course = match stamp.actor == me {
                true => Course::Tell,
                false => self.relay.course(stamp, me, peer, standing.neighbours, standing.now_ms),
            };
            if course == Course::Hold {
                continue;
            }
            let context = context(transaction);
            if course == Course::Again || self.relay.pass_causes(&context) {
                self.cursor = Cursor::Starting;
                break;
            }
            // What is not known here either was owed by somebody who is gone.
            let comes = |stamp: Stamp| !standing.whole || standing.vector.covers(stamp);
            if context.iter().any(|cause| !known.covers(cause) && comes(cause)) {
                self.waits.insert(stamp.actor, stamp.time);
                continue;
            }
            known.advance(stamp);
            told.extend_from_slice(transaction);
        }
        told
    }

    /// What changes with time and with others: to be called before the session is asked what it wants.
    ///
    /// # Errors
    /// The conversation is over: whoever meets anew may find another way.
    pub fn look(&mut self, standing: &Standing<'_>) -> Result<(), String> {
        let now_ms = standing.now_ms;
        match self.relation {
            Relation::Wait => drop(self.held.get_or_insert(now_ms + HOLD_MS)),
            _ => drop(self.held.take_if(|_| standing.whole)),
        }
        // Who has waited long enough counts as whole, and goes on as it is.
        if standing.late && !standing.whole && self.relation == Relation::Merge && self.peer.is_some() {
            // Whoever hears of that may have a whole store to give.
            let wait_ms = if self.me.owed.is_empty() { 0 } else { HOLD_MS };
            self.late.get_or_insert(now_ms + wait_ms);
        }
        if [self.held, self.late].into_iter().flatten().any(|until_ms| until_ms <= now_ms) {
            return Err("the rest of a snapshot does not come".into());
        }
        if self.relation == Relation::Merge {
            self.look_around(standing);
        }
        Ok(())
    }

    fn look_around(&mut self, standing: &Standing<'_>) {
        let now_ms = standing.now_ms;
        let Some(peer) = self.peer.as_ref().map(|hello| hello.actor) else { return };
        if matches!(self.cursor, Cursor::After(_)) && self.relay.release(now_ms) {
            (self.cursor, self.news) = (Cursor::Starting, true);
        }
        if !std::mem::take(&mut self.woken) {
            return;
        }
        let others = since(&standing.vector, &self.acked);
        let others = others.iter().filter(|stamp| stamp.actor != self.me.actor && stamp.actor != peer);
        let soon = |stamp: Stamp| if standing.neighbours.hears(stamp.actor) { TELL_MS } else { TELL_SOON_MS };
        if let Some(soon) = others.map(soon).min() {
            self.ack_by(now_ms + soon);
        }
    }

    /// Links are others now, ours or those of others.
    pub fn rethink(&mut self, neighbours: &Neighbours, now_ms: u64) {
        if let Some(peer) = &self.peer {
            self.relay.rethink(self.me.actor, peer.actor, neighbours, now_ms);
        }
        self.news |= self.links != neighbours.direct();
    }

    /// When the session is to be looked at again, if nothing happens before.
    pub fn due_ms(&self) -> Option<u64> {
        let held = if matches!(self.cursor, Cursor::After(_)) { self.relay.due_ms() } else { None };
        [held, self.held, self.late, self.ack_due_ms].into_iter().flatten().min()
    }

    fn ack_by(&mut self, due_ms: u64) {
        self.ack_due_ms = Some(self.ack_due_ms.map_or(due_ms, |known| known.min(due_ms)));
    }

    /// What is to be acknowledged by now.
    pub fn ack(&mut self, standing: &Standing<'_>) -> Option<Message> {
        self.ack_due_ms.take_if(|due_ms| *due_ms <= standing.now_ms)?;
        // What is taken over is known when all of it is.
        let merges = self.relation == Relation::Merge;
        let vector = if merges { since(&standing.vector, &self.acked) } else { Vector::default() };
        if vector.is_empty() && self.answered == self.received {
            return None;
        }
        self.acked.merge(&vector);
        self.answered = self.received;
        Some(Message::Ack { count: self.received, vector })
    }

    /// Up to where everything is told.
    fn tellable(&self, vector: &Vector) -> Vector {
        let waits = |stamp: Stamp| self.waits.get(&stamp.actor).map_or(u64::MAX, |first| first - 1);
        let told = |stamp: Stamp| Stamp { time: stamp.time.min(waits(stamp)), ..stamp };
        vector.iter().map(|stamp| told(self.relay.tellable(stamp))).collect()
    }

    /// The answer to [`Want::Page`].
    pub fn page(&mut self, page: SnapshotPage) -> Option<Message> {
        let Cursor::Pages { seen, .. } = &self.cursor else { return None };
        let seen = seen.clone();
        self.cursor = match &page.up_to {
            Some(key) => Cursor::Pages { after: Some(key.clone()), seen: seen.clone(), again: false },
            None if self.relation == Relation::Give => Cursor::Waiting,
            None => Cursor::Starting,
        };
        if page.up_to.is_none() && self.relation == Relation::Merge {
            self.sent.merge(&seen);
            self.unsaid = true;
        }
        let bytes = page.documents.iter().map(|(key, document)| key.len() + document.len()).sum();
        Some(self.send(Message::Page { page, seen }, bytes))
    }

    fn send(&mut self, message: Message, bytes: usize) -> Message {
        self.under_way.push_back(bytes);
        self.sent_bytes += bytes as u64;
        message
    }

    /// What a message asks for. The error says why the conversation is over.
    ///
    /// # Errors
    /// The peer is no member of ours, breaks the protocol, or says farewell.
    pub fn receive(&mut self, message: Message, now_ms: u64) -> Result<Task, String> {
        if self.peer.is_none() && !matches!(message, Message::Hello(_) | Message::Bye { .. }) {
            return Err("it spoke before it had said who it is".into());
        }
        let (giver, taker) = (self.relation == Relation::Give, self.relation == Relation::Take);
        match message {
            Message::Take if giver && self.cursor == Cursor::Waiting => {
                self.cursor = Cursor::Starting;
                Ok(Task::Nothing)
            }
            Message::Page { page, seen } if taker => Ok(Task::Adopt { page, seen }),
            Message::Take => Err("it asks for a store that is not its to take".into()),
            Message::Rows(_) | Message::Page { .. } | Message::Seen { .. } if giver || taker => {
                Err("it tells of changes where one store is to be taken for the other".into())
            }
            Message::Hello(hello) => self.meet(hello).map(|()| Task::Nothing),
            Message::Rows(rows) => {
                self.has(&rows.iter().map(|row| row.stamp).collect(), now_ms);
                Ok(Task::Receive(rows))
            }
            Message::Page { page, seen } => Ok(Task::Join { page, seen }),
            Message::Seen { vector, lows, links } => {
                self.has(&vector, now_ms);
                Ok(Task::Complete { seen: vector, lows, links })
            }
            Message::Ack { count, vector } => self.confirm(count, &vector, now_ms).map(|()| Task::Nothing),
            Message::Bye { reason } => Err(format!("it left: {reason}")),
        }
    }

    fn meet(&mut self, hello: Hello) -> Result<(), String> {
        if hello.protocol != PROTOCOL {
            return Err(format!("it speaks protocol {}, and this server {PROTOCOL}", hello.protocol));
        }
        if hello.cluster != self.me.cluster {
            return Err("it belongs to another cluster".into());
        }
        if hello.actor == self.me.actor {
            return Err("it is this server itself, or a copy of its disk: a copy must begin with an empty store".into());
        }
        if hello.number == self.me.number {
            return Err(format!("both servers have the number {}: one of them must join anew", hello.number));
        }
        if self.peer.is_some() {
            return Err("it said twice who it is".into());
        }
        self.relation = Relation::of(&self.me, &hello);
        if self.relation == Relation::Merge {
            self.confirmed = hello.vector.clone();
            self.sent = hello.vector.clone();
            self.cursor = Cursor::Starting;
        }
        self.peer = Some(hello);
        Ok(())
    }

    fn confirm(&mut self, count: u64, vector: &Vector, now_ms: u64) -> Result<(), String> {
        if count < self.acknowledged || count - self.acknowledged > self.under_way.len() as u64 {
            return Err(format!("it acknowledged {count} messages, which were never sent"));
        }
        self.under_way.drain(..(count - self.acknowledged) as usize);
        self.acknowledged = count;
        self.has(vector, now_ms);
        Ok(())
    }

    /// The peer has this, as it says itself or shows.
    fn has(&mut self, vector: &Vector, now_ms: u64) {
        self.confirmed.merge(vector);
        let new = !self.sent.includes(vector);
        if let Cursor::Pages { again, .. } = &mut self.cursor {
            *again |= new;
        }
        if new && !self.waits.is_empty() && matches!(self.cursor, Cursor::After(_)) {
            // What waited may go now.
            (self.cursor, self.news) = (Cursor::Starting, true);
        }
        self.sent.merge(vector);
        self.relay.confirm(&self.sent, now_ms);
    }

    /// What was asked for is done and durable. It is acknowledged with what follows it closely.
    pub fn done(&mut self, task: &Task, now_ms: u64) {
        self.received += 1;
        let many = self.received - self.answered >= ACK_MESSAGES;
        self.ack_by(if many || task.bytes() >= ACK_BYTES { now_ms } else { now_ms + ACK_MS });
    }
}

impl Task {
    fn bytes(&self) -> usize {
        match self {
            Self::Receive(rows) => rows.iter().map(|row| row.key.len() + row.delta.len()).sum(),
            Self::Join { page, .. } | Self::Adopt { page, .. } => {
                page.documents.iter().map(|(key, document)| key.len() + document.len()).sum()
            }
            Self::Complete { .. } | Self::Nothing => 0,
        }
    }
}

/// What a transaction rests on.
fn context(transaction: &[Row]) -> Vector {
    let mut all = Vector::default();
    for delta in transaction.iter().filter_map(|row| Delta::decode(&row.delta).ok()) {
        all.merge(&delta.context);
    }
    all
}

/// What of a vector is not in another.
fn since(vector: &Vector, known: &Vector) -> Vector {
    vector.iter().filter(|stamp| !known.covers(*stamp)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crdt::{Actor, Document};

    fn hello(n: u8) -> Hello {
        Hello {
            protocol: PROTOCOL,
            cluster: [7; 16],
            actor: Actor([n; 16]),
            number: u16::from(n),
            name: n.to_string(),
            version: "test".into(),
            vector: Vector::default(),
            owed: Vector::default(),
            pruned: store::Pruned::default(),
            empty: false,
            side: u16::from(n),
            links: Vec::new(),
        }
    }

    static ALONE: std::sync::LazyLock<Neighbours> = std::sync::LazyLock::new(Neighbours::default);

    fn standing(vector: Vector, whole: bool) -> Standing<'static> {
        Standing { vector, lows: Vec::new(), whole, late: false, neighbours: &ALONE, now_ms: 0 }
    }

    fn met() -> Session {
        let mut session = Session::new(hello(1));
        assert_eq!(session.receive(Message::Hello(hello(2)), 0), Ok(Task::Nothing));
        session
    }

    fn row(time: u64, bytes: usize) -> Row {
        let stamp = Stamp { time, actor: Actor([1; 16]) };
        Row { stamp, more: false, key: Bytes::from_static(b"k"), delta: vec![0; bytes].into() }
    }

    #[test]
    fn strangers_copies_and_chatterers_are_refused() {
        let refuse = |change: fn(&mut Hello)| {
            let mut theirs = hello(2);
            change(&mut theirs);
            Session::new(hello(1)).receive(Message::Hello(theirs), 0).unwrap_err()
        };
        assert!(refuse(|hello| hello.cluster = [8; 16]).contains("another cluster"));
        assert!(refuse(|hello| hello.actor = Actor([1; 16])).contains("copy"));
        assert!(refuse(|hello| hello.number = 1).contains("number 1"));
        assert!(refuse(|hello| hello.protocol = 9).contains("protocol 9"));
        assert!(Session::new(hello(1)).receive(Message::Rows(Vec::new()), 0).is_err());
        assert!(met().receive(Message::Hello(hello(2)), 0).is_err());
        assert!(met().receive(Message::Ack { count: 1, vector: Vector::default() }, 0).is_err());
    }

    #[test]
    fn a_slow_peer_stops_the_sender_until_it_confirms() {
        let mut session = met();
        session.began(Begin::After(0), Vector::default());
        for n in 1..=8 {
            assert!(matches!(session.want(), Want::Changes { .. }), "after {n}");
            session.changes(Some((vec![row(n, MESSAGE_BYTES)], n)), &standing(Vector::default(), true)).unwrap();
        }
        assert_eq!(session.want(), Want::Nothing);
        session.receive(Message::Ack { count: 1, vector: Vector::default() }, 0).unwrap();
        assert!(matches!(session.want(), Want::Changes { after: 8, .. }));
    }

    #[test]
    fn heartbeats_to_a_silent_peer_have_a_bound() {
        let mut session = met();
        session.began(Begin::After(0), Vector::default());
        for _ in 0..WINDOW_MESSAGES {
            session.beat();
            assert!(session.changes(Some((Vec::new(), 0)), &standing(Vector::default(), true)).is_some());
        }
        session.beat();
        assert_eq!(session.want(), Want::Nothing);
    }

    /// A write by `actor` to a key of which it knows what is in the document.
    fn write(document: &mut Document, actor: u8, time: u64) -> Row {
        let stamp = Stamp { time, actor: Actor([actor; 16]) };
        let delta = document.write(b"k", Some(time.to_string().as_bytes()), stamp).unwrap();
        Row { stamp, more: false, key: Bytes::from_static(b"k"), delta: delta.encode().into() }
    }

    #[test]
    fn a_write_on_half_a_snapshot_waits_until_the_peer_has_what_it_rests_on() {
        let mut session = met();
        session.began(Begin::After(0), Vector::default());
        let mut document = Document::default();
        let first = write(&mut document, 1, 4);
        let theirs = write(&mut document, 3, 5);
        let (ours, later) = (write(&mut document, 1, 7), write(&mut Document::default(), 1, 9));
        let relayed = write(&mut Document::default(), 4, 8);
        let on_ours = {
            let mut known = document.clone();
            write(&mut known, 5, 10)
        };
        let waiting = vec![ours.clone(), later.clone(), on_ours.clone()];
        let found = vec![first.clone(), ours, relayed.clone(), later, on_ours];
        let message = session.changes(Some((found, 3)), &standing(Vector::default(), false));
        assert_eq!(message, Some(Message::Rows(vec![first, relayed])), "others' go on, ours in order or not at all");
        let vector: Vector = [Stamp { time: 9, actor: Actor([1; 16]) }].into_iter().collect();
        assert_eq!(session.changes(Some((Vec::new(), 3)), &standing(vector.clone(), false)), None);
        assert!(matches!(session.want(), Want::Begin(_)), "what was sent may be what was waited for");
        session.began(Begin::After(0), Vector::default());
        assert_eq!(session.changes(Some((waiting, 3)), &standing(Vector::default(), false)), None);
        let seen = session.changes(Some((Vec::new(), 3)), &standing(vector, true));
        let told: Vector = [Stamp { time: 6, actor: Actor([1; 16]) }].into_iter().collect();
        assert_eq!(seen, Some(Message::Seen { vector: told, lows: Vec::new(), links: None }));
        let has = [theirs.stamp].into_iter().collect();
        session.receive(Message::Ack { count: 1, vector: has }, 0).unwrap();
        assert!(matches!(session.want(), Want::Begin(have) if have.get(Actor([1; 16])) == 4), "from there on, again");
    }

    #[test]
    fn what_is_no_longer_kept_is_sent_as_documents_and_then_changes_go_on() {
        let mut session = met();
        session.began(Begin::After(5), Vector::default());
        let vector: Vector = [Stamp { time: 9, actor: Actor([1; 16]) }].into_iter().collect();
        assert_eq!(session.changes(None, &standing(Vector::default(), true)), None);
        assert!(matches!(session.want(), Want::Begin(_)));
        session.began(Begin::Snapshot, vector.clone());
        assert_eq!(session.want(), Want::Page { after: None });
        let page = SnapshotPage { up_to: Some("a".into()), ..SnapshotPage::default() };
        session.page(page).unwrap();
        assert_eq!(session.want(), Want::Page { after: Some("a".into()) });
        session.page(SnapshotPage::default()).unwrap();
        assert_eq!(session.want(), Want::Begin(vector));
    }

    #[test]
    fn documents_are_sent_only_as_long_as_the_peer_needs_them() {
        let mut session = met();
        session.began(Begin::Snapshot, Vector::default());
        let page = SnapshotPage { up_to: Some("a".into()), ..SnapshotPage::default() };
        session.page(page).unwrap();
        session.receive(Message::Ack { count: 1, vector: Vector::default() }, 0).unwrap();
        assert_eq!(session.want(), Want::Page { after: Some("a".into()) });
        let has: Vector = [Stamp { time: 5, actor: Actor([3; 16]) }].into_iter().collect();
        session.receive(Message::Ack { count: 1, vector: has.clone() }, 0).unwrap();
        assert_eq!(session.want(), Want::Begin(has.clone()), "somebody else sent it something");
        assert!(session.is_paging());
        session.go_on();
        assert_eq!(session.want(), Want::Page { after: Some("a".into()) });
        session
            .receive(
                Message::Seen {
                    vector: [Stamp { time: 6, actor: Actor([3; 16]) }].into_iter().collect(),
                    lows: Vec::new(),
                    links: None,
                },
                0,
            )
            .unwrap();
        session.began(Begin::After(7), Vector::default());
        assert!(!session.is_paging() && matches!(session.want(), Want::Changes { after: 7, .. }));
    }

    #[test]
    fn an_idle_peer_hears_only_what_is_new_or_a_heartbeat() {
        let mut session = met();
        session.began(Begin::After(0), Vector::default());
        let vector: Vector = [Stamp { time: 9, actor: Actor([1; 16]) }].into_iter().collect();
        let none = Some((Vec::new(), 0));
        assert!(matches!(session.changes(none.clone(), &standing(vector.clone(), true)), Some(Message::Seen { .. })));
        assert_eq!(session.want(), Want::Nothing);
        session.wake();
        assert_eq!(session.changes(none.clone(), &standing(vector.clone(), true)), None);
        session.beat();
        assert!(matches!(session.changes(none, &standing(vector, true)), Some(Message::Seen { .. })));
    }
}
