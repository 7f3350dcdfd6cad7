//! What clients saw of a server: calls with their times and outcomes, and what watches told.
use eyot_etcd::proto::mvccpb;
use serde::Serialize;

/// A key as it was shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kv {
    pub key: String,
    pub value: String,
    pub create: i64,
    pub modified: i64,
    pub version: i64,
    pub lease: i64,
}

impl From<&mvccpb::KeyValue> for Kv {
    fn from(kv: &mvccpb::KeyValue) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            key: text(&kv.key),
            value: text(&kv.value),
            create: kv.create_revision,
            modified: kv.mod_revision,
            version: kv.version,
            lease: kv.lease,
        }
    }
}

/// Values are never written twice, so that one tells which call wrote it.
#[derive(Clone, Debug, Serialize)]
pub enum Write {
    Put { key: String, value: String, lease: i64 },
    Delete { key: String },
}

impl Write {
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

#[derive(Clone, Debug, Serialize)]
pub enum Request {
    /// All keys that begin with `prefix`, at most `limit` (0: all), now or at a revision of the past.
    List { prefix: String, limit: i64, at: Option<i64> },
    /// If each key was last changed at its revision (0: does not exist) then the writes, else a read of `otherwise`.
    /// A single write without a condition goes as Put or DeleteRange.
    Txn { guard: Vec<(String, i64)>, then: Vec<Write>, otherwise: Option<String> },
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Answer {
    pub revision: i64,
    pub succeeded: bool,
    /// What was read.
    pub kvs: Vec<Kv>,
    pub count: i64,
    /// What each write replaced.
    pub previous: Vec<Option<Kv>>,
}

#[derive(Clone, Debug, Serialize)]
pub enum Outcome {
    Done(Answer),
    /// The revision to read at was compacted.
    Compacted,
    /// Nobody answered: it may have happened, also later, or never.
    Unknown,
}

/// One call of one client. Times are microseconds since the run began.
#[derive(Clone, Debug, Serialize)]
pub struct Call {
    pub client: usize,
    pub called_us: u64,
    pub returned_us: u64,
    pub request: Request,
    pub outcome: Outcome,
}

/// A lease that was granted, and each time it was surely alive.
#[derive(Clone, Debug, Serialize)]
pub struct Lease {
    pub id: i64,
    pub ttl_s: i64,
    /// Calls of grant and keep-alive that were answered.
    pub alive_us: Vec<u64>,
    /// When it was first asked to be revoked.
    pub revoked_us: Option<u64>,
}

/// A change as a watch told it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    pub revision: i64,
    pub key: String,
    /// None: deleted.
    pub kv: Option<Kv>,
    /// What was before, when the watch asked for it.
    pub previous: Option<Kv>,
}

impl From<&mvccpb::Event> for Event {
    fn from(event: &mvccpb::Event) -> Self {
        let kv = event.kv.as_ref().map(Kv::from).expect("an event has its key");
        let (revision, key) = (kv.modified, kv.key.clone());
        let kv = (event.r#type() == mvccpb::event::EventType::Put).then_some(kv);
        Self { revision, key, kv, previous: event.prev_kv.as_ref().map(Kv::from) }
    }
}

/// One response of a watch; without events it is news of how far the watch is.
#[derive(Clone, Debug, Serialize)]
pub struct Told {
    pub at_us: u64,
    pub revision: i64,
    pub events: Vec<Event>,
}

/// One watch from its creation to its end, whatever ended it.
#[derive(Clone, Debug, Serialize)]
pub struct Session {
    pub prefix: String,
    pub prev_kv: bool,
    /// The first revision that is wanted.
    pub from: i64,
    pub told: Vec<Told>,
    /// It was refused or ended because that was compacted.
    pub compacted: bool,
}

/// Everything that was seen.
#[derive(Clone, Debug, Default, Serialize)]
pub struct History {
    pub calls: Vec<Call>,
    pub leases: Vec<Lease>,
    pub sessions: Vec<Session>,
    /// Sessions of one watch of everything from the beginning on, each resuming where the one before ended.
    pub observed: Vec<Session>,
    /// The highest revision that was ever asked to be compacted.
    pub compacted: i64,
}

/// Time since the run began.
#[derive(Clone, Copy, Debug)]
pub struct Clock(pub std::time::Instant);

impl Clock {
    pub fn now(self) -> std::time::Duration {
        self.0.elapsed()
    }

    pub fn now_us(self) -> u64 {
        self.now().as_micros() as u64
    }
}
