//! What servers say to each other.
use crdt::{Actor, Vector};
use serde::{Deserialize, Serialize};
use store::{Pruned, Row, SnapshotPage};

/// Both sides must speak the same.
pub const PROTOCOL: u16 = 3;

/// The first message of each side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub protocol: u16,
    /// The cluster's identity: strangers are refused.
    pub cluster: [u8; 16],
    pub actor: Actor,
    /// The server's number in revisions.
    pub number: u16,
    /// The server's name among its members.
    pub name: String,
    /// The program's version, for people.
    pub version: String,
    /// What the server has.
    pub vector: Vector,
    /// What its documents hold besides: of a snapshot that is half in and whose rest is late.
    pub owed: Vector,
    /// What it has forgotten. Read before the vector: all members had that, or were no longer waited for.
    pub pruned: Pruned,
    /// It knows of no key.
    pub empty: bool,
    /// The lowest number of those whose news it has had since then; its own, if there is none.
    pub side: u16,
    /// Whom it hears directly.
    pub links: Vec<Actor>,
}

/// What travels. All but the first and the last two are acknowledged, in order, when they are durable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    Hello(Hello),
    /// The sender will take the receiver's store for its own: see [`crate::relation::Relation`]. It is sent in pages, and nothing
    /// else is.
    Take,
    /// Changes, causes first, transactions whole.
    Rows(Vec<Row>),
    /// Whole documents of a server that had seen this much when it began with them.
    Page {
        page: SnapshotPage,
        seen: Vector,
    },
    /// Everything that the sender had when its vector was this has been sent, or was held back only up to what this says. Of
    /// the vector there is what has changed since it was last told. By server number: the time up to which that member is
    /// known to have everything of everybody. Whom the sender hears directly, where that has changed.
    Seen {
        vector: Vector,
        lows: Vec<(u16, u64)>,
        links: Option<Vec<Actor>>,
    },
    /// So many messages are taken in, and this is what the receiver has: what has changed since it last told.
    Ack {
        count: u64,
        vector: Vector,
    },
    /// Why the sender goes.
    Bye {
        reason: String,
    },
}

impl Message {
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("memory is the only limit of what is written there")
    }

    /// # Errors
    /// The bytes are no message.
    pub fn decode(bytes: &[u8]) -> Result<Self, postcard::Error> {
        postcard::from_bytes(bytes)
    }
}
