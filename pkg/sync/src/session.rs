//! One conversation with a peer, without a network and without a clock: what to read from the store next, what to send,
//! what to do with what came. Both sides run the same.
use crate::message::{Hello, Message, PROTOCOL};
use bytes::Bytes;
use crdt::{Delta, Stamp, Vector};
use std::collections::VecDeque;
use store::{Begin, Row, SnapshotPage};

/// Bytes of changes in one message, about.
pub const MESSAGE_BYTES: usize = 128 << 10;
/// Bytes that may be under way unacknowledged.
pub const WINDOW_BYTES: usize = 1 << 20;
/// Messages that may be under way unacknowledged; a peer that sends more without waiting is refused.
pub const WINDOW_MESSAGES: usize = 128;

/// What the session wants from the store in order to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// [`store::Replica::begin`], then [`Session::began`].
    Begin(Vector),
    /// The vector first, then [`store::Replica::changes`], then [`Session::changes`].
    Changes { after: u64, have: Vector },
    /// [`store::Documents::page`], then [`Session::page`].
    Page { after: Option<Bytes> },
    /// Nothing until something happens.
    Nothing,
}

/// What is to be done with what came, in order; then [`Session::done`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    Receive(Vec<Row>),
    Join {
        page: SnapshotPage,
        seen: Vector,
    },
    Complete {
        seen: Vector,
        snapshot: bool,
        lows: Vec<(u16, u64)>,
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
    /// Sending whole documents; `seen` is what we had when that began.
    Pages {
        after: Option<Bytes>,
        seen: Vector,
    },
}

/// One side of a conversation.
pub struct Session {
    me: Hello,
    peer: Option<Hello>,
    /// What the peer has acknowledged.
    confirmed: Vector,
    /// What it will have once everything under way is taken in.
    sent: Vector,
    cursor: Cursor,
    /// There may be something new to send.
    news: bool,
    /// The peer is to hear from us even when nothing changed.
    heartbeat: bool,
    /// When the first of our writes was made that the peer can't be told yet: it rests on what the peer lacks.
    held: Option<u64>,
    /// The last vector that the peer was told.
    told: Vector,
    /// Sizes of what is under way.
    under_way: VecDeque<usize>,
    acknowledged: u64,
    received: u64,
    /// Bytes of changes and documents sent, for people.
    pub sent_bytes: u64,
}

impl Session {
    pub fn new(me: Hello) -> Self {
        Self {
            me,
            peer: None,
            confirmed: Vector::default(),
            sent: Vector::default(),
            cursor: Cursor::Waiting,
            news: true,
            heartbeat: false,
            held: None,
            told: Vector::default(),
            under_way: VecDeque::new(),
            acknowledged: 0,
            received: 0,
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

    /// What the peer has, as it last said.
    pub fn confirmed(&self) -> &Vector {
        &self.confirmed
    }

    /// The store has something new.
    pub fn wake(&mut self) {
        self.news = true;
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
        if self.is_full() {
            return Want::Nothing;
        }
        match &self.cursor {
            Cursor::Waiting => Want::Nothing,
            Cursor::Starting => Want::Begin(self.sent.clone()),
            Cursor::After(after) if self.news => Want::Changes { after: *after, have: self.sent.clone() },
            Cursor::After(_) => Want::Nothing,
            Cursor::Pages { after, .. } => Want::Page { after: after.clone() },
        }
    }

    /// The answer to [`Want::Begin`]; `seen` is what the documents hold that are to be sent, if they are.
    pub fn began(&mut self, begin: Begin, seen: Vector) {
        self.held = None;
        self.cursor = match begin {
            Begin::After(after) => Cursor::After(after),
            Begin::Snapshot => Cursor::Pages { after: None, seen },
        };
    }

    /// The answer to [`Want::Changes`]; `vector` is what we had before it was asked. `whole`: all that our documents hold is
    /// in it ([`store::Replica::is_whole`]).
    pub fn changes(
        &mut self,
        found: Option<(Vec<Row>, u64)>,
        vector: Vector,
        lows: Vec<(u16, u64)>,
        whole: bool,
    ) -> Option<Message> {
        let Some((mut rows, next)) = found else {
            self.cursor = Cursor::Starting;
            return None;
        };
        self.cursor = Cursor::After(next);
        let last = rows.is_empty();
        if !whole || self.held.is_some() {
            rows = self.without_held(rows);
        }
        if !last && rows.is_empty() {
            return None;
        }
        if last {
            self.news = false;
            let vector = self.tellable(vector);
            let silent = vector == self.told && !std::mem::take(&mut self.heartbeat);
            self.told = vector.clone();
            return (!silent).then(|| self.send(Message::Seen { vector, lows }, 0));
        }
        rows.iter().for_each(|row| self.sent.advance(row.stamp));
        let bytes = rows.iter().map(|row| row.key.len() + row.delta.len()).sum();
        Some(self.send(Message::Rows(rows), bytes))
    }

    /// What of these changes the peer can be told. Ours may rest on half a snapshot, and wait until the peer has what they
    /// rest on; others' come with their causes before them.
    fn without_held(&mut self, rows: Vec<Row>) -> Vec<Row> {
        let (me, mut known, mut told) = (self.me.actor, self.sent.clone(), Vec::new());
        for transaction in rows.chunk_by(|row, _| row.more) {
            let stamp = transaction[0].stamp;
            let rests = |row: &Row| Delta::decode(&row.delta).is_ok_and(|delta| known.includes(&delta.context));
            if stamp.actor == me && (self.held.is_some() || !transaction.iter().all(rests)) {
                self.held.get_or_insert(stamp.time);
                continue;
            }
            known.advance(stamp);
            told.extend_from_slice(transaction);
        }
        told
    }

    /// Up to where everything is told.
    fn tellable(&self, vector: Vector) -> Vector {
        let Some(held) = self.held else { return vector };
        let me = self.me.actor;
        let up_to = |stamp: Stamp| if stamp.actor == me { stamp.time.min(held - 1) } else { stamp.time };
        vector.iter().map(|stamp| Stamp { time: up_to(stamp), ..stamp }).collect()
    }

    /// The answer to [`Want::Page`].
    pub fn page(&mut self, page: SnapshotPage) -> Option<Message> {
        let Cursor::Pages { seen, .. } = &self.cursor else { return None };
        let seen = seen.clone();
        self.cursor = match &page.up_to {
            Some(key) => Cursor::Pages { after: Some(key.clone()), seen: seen.clone() },
            None => Cursor::Starting,
        };
        if page.up_to.is_none() {
            self.sent.merge(&seen);
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
    pub fn receive(&mut self, message: Message) -> Result<Task, String> {
        if self.peer.is_none() && !matches!(message, Message::Hello(_) | Message::Bye { .. }) {
            return Err("it spoke before it had said who it is".into());
        }
        match message {
            Message::Hello(hello) => self.meet(hello).map(|()| Task::Nothing),
            Message::Rows(rows) => Ok(Task::Receive(rows)),
            Message::Page { page, seen } => Ok(Task::Join { page, seen }),
            Message::Seen { vector, lows } => Ok(Task::Complete { seen: vector, snapshot: false, lows }),
            Message::Ack { count, vector } => self.confirm(count, &vector).map(|()| Task::Nothing),
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
        self.confirmed = hello.vector.clone();
        self.sent = hello.vector.clone();
        self.cursor = Cursor::Starting;
        self.peer = Some(hello);
        Ok(())
    }

    fn confirm(&mut self, count: u64, vector: &Vector) -> Result<(), String> {
        if count < self.acknowledged || count - self.acknowledged > self.under_way.len() as u64 {
            return Err(format!("it acknowledged {count} messages, which were never sent"));
        }
        self.under_way.drain(..(count - self.acknowledged) as usize);
        self.acknowledged = count;
        self.confirmed.merge(vector);
        self.sent.merge(vector);
        if self.held.is_some() && matches!(self.cursor, Cursor::After(_)) {
            // What was held may go now.
            (self.cursor, self.news) = (Cursor::Starting, true);
        }
        Ok(())
    }

    /// What was asked for is done and durable; `vector` is what we have now.
    pub fn done(&mut self, vector: Vector) -> Message {
        self.received += 1;
        Message::Ack { count: self.received, vector }
    }
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
        }
    }

    fn met() -> Session {
        let mut session = Session::new(hello(1));
        assert_eq!(session.receive(Message::Hello(hello(2))), Ok(Task::Nothing));
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
            Session::new(hello(1)).receive(Message::Hello(theirs)).unwrap_err()
        };
        assert!(refuse(|hello| hello.cluster = [8; 16]).contains("another cluster"));
        assert!(refuse(|hello| hello.actor = Actor([1; 16])).contains("copy"));
        assert!(refuse(|hello| hello.number = 1).contains("number 1"));
        assert!(refuse(|hello| hello.protocol = 9).contains("protocol 9"));
        assert!(Session::new(hello(1)).receive(Message::Rows(Vec::new())).is_err());
        assert!(met().receive(Message::Hello(hello(2))).is_err());
        assert!(met().receive(Message::Ack { count: 1, vector: Vector::default() }).is_err());
    }

    #[test]
    fn a_slow_peer_stops_the_sender_until_it_confirms() {
        let mut session = met();
        session.began(Begin::After(0), Vector::default());
        for n in 1..=8 {
            assert!(matches!(session.want(), Want::Changes { .. }), "after {n}");
            session.changes(Some((vec![row(n, MESSAGE_BYTES)], n)), Vector::default(), Vec::new(), true).unwrap();
        }
        assert_eq!(session.want(), Want::Nothing);
        session.receive(Message::Ack { count: 1, vector: Vector::default() }).unwrap();
        assert!(matches!(session.want(), Want::Changes { after: 8, .. }));
    }

    #[test]
    fn heartbeats_to_a_silent_peer_have_a_bound() {
        let mut session = met();
        session.began(Begin::After(0), Vector::default());
        for _ in 0..WINDOW_MESSAGES {
            session.beat();
            assert!(session.changes(Some((Vec::new(), 0)), Vector::default(), Vec::new(), true).is_some());
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
        let found = vec![first.clone(), ours, relayed.clone(), later];
        let message = session.changes(Some((found, 3)), Vector::default(), Vec::new(), false);
        assert_eq!(message, Some(Message::Rows(vec![first, relayed])), "others' go on, ours in order or not at all");
        let vector: Vector = [Stamp { time: 9, actor: Actor([1; 16]) }].into_iter().collect();
        let seen = session.changes(Some((Vec::new(), 3)), vector, Vec::new(), true);
        let told: Vector = [Stamp { time: 6, actor: Actor([1; 16]) }].into_iter().collect();
        assert_eq!(seen, Some(Message::Seen { vector: told, lows: Vec::new() }));
        let has = [theirs.stamp].into_iter().collect();
        session.receive(Message::Ack { count: 1, vector: has }).unwrap();
        assert!(matches!(session.want(), Want::Begin(have) if have.get(Actor([1; 16])) == 4), "from there on, again");
    }

    #[test]
    fn what_is_no_longer_kept_is_sent_as_documents_and_then_changes_go_on() {
        let mut session = met();
        session.began(Begin::After(5), Vector::default());
        let vector: Vector = [Stamp { time: 9, actor: Actor([1; 16]) }].into_iter().collect();
        assert_eq!(session.changes(None, Vector::default(), Vec::new(), true), None);
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
    fn an_idle_peer_hears_only_what_is_new_or_a_heartbeat() {
        let mut session = met();
        session.began(Begin::After(0), Vector::default());
        let vector: Vector = [Stamp { time: 9, actor: Actor([1; 16]) }].into_iter().collect();
        let none = Some((Vec::new(), 0));
        assert!(matches!(session.changes(none.clone(), vector.clone(), Vec::new(), true), Some(Message::Seen { .. })));
        assert_eq!(session.want(), Want::Nothing);
        session.wake();
        assert_eq!(session.changes(none.clone(), vector.clone(), Vec::new(), true), None);
        session.beat();
        assert!(matches!(session.changes(none, vector, Vec::new(), true), Some(Message::Seen { .. })));
    }
}
