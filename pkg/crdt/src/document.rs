//! All that servers know of one key.
use crate::{Conflict, Stamp, Vector};
use serde::{Deserialize, Serialize};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the bytes are no {what}: {source}")]
    Unreadable { what: &'static str, source: postcard::Error },
}

pub type Result<T> = std::result::Result<T, Error>;

/// One write to one key, as it travels between servers. It says only what changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    pub stamp: Stamp,
    /// What its writer had seen of this key. Everything in it arrives before the delta.
    pub context: Vector,
    value: Option<Vec<u8>>,
}

impl Delta {
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self> {
        decode(bytes, "change")
    }
}

/// What a document says at present.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Visible {
    /// None: nothing is there.
    pub value: Option<Vec<u8>>,
    /// `metadata.uid` of the life that is visible.
    pub life: Option<String>,
    /// Uids of younger lives of the same name that this one stands for.
    pub aliases: Vec<String>,
}

/// All that servers know of one key: a state that any two servers' copies merge into the same third, in any order
/// and however often. It doesn't grow with the number of writes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Document {
    version: Vector,
    register: Option<(Stamp, Option<Vec<u8>>)>,
}

impl Document {
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self> {
        decode(bytes, "document")
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.register.is_none()
    }

    /// The stamps of all writes that are in it, or were superseded in it.
    pub fn version(&self) -> &Vector {
        &self.version
    }

    /// Makes the document say `value`, as written by the stamp's actor; none: deleted. Returns what to tell others;
    /// none when it says so already. The stamp is above all in the document.
    pub fn write(&mut self, key: &[u8], value: Option<&[u8]>, stamp: Stamp) -> Option<Delta> {
        if self.says(key, value) {
            return None;
        }
        let delta = Delta { stamp, context: self.version.clone(), value: value.map(<[u8]>::to_vec) };
        self.merge(&delta);
        Some(delta)
    }

    /// Takes in one write of another server. What is known already changes nothing.
    pub fn merge(&mut self, delta: &Delta) -> Vec<Conflict> {
        self.version.advance(delta.stamp);
        if self.register.as_ref().is_none_or(|(stamp, _)| *stamp < delta.stamp) {
            self.register = Some((delta.stamp, delta.value.clone()));
        }
        Vec::new()
    }

    /// Takes in all that another server knows of the key. `mine` is what this server had seen of all keys, `seen` what
    /// the other had: what one lacks and yet has seen was removed there.
    pub fn join(&mut self, theirs: Self, mine: &Vector, seen: &Vector) -> Vec<Conflict> {
        let _ = (mine, seen);
        self.version.merge(&theirs.version);
        self.register = self.register.take().max(theirs.register);
        Vec::new()
    }

    /// What to serve. `current` is what is served now: parts of it that are this server's alone are kept.
    pub fn visible(&self, key: &[u8], current: Option<&[u8]>) -> Visible {
        let _ = (key, current);
        let value = self.register.as_ref().and_then(|(_, value)| value.clone());
        Visible { value, ..Visible::default() }
    }

    /// Whether serving `current` is right: bytes that mean the same are.
    pub fn says(&self, key: &[u8], current: Option<&[u8]>) -> bool {
        self.visible(key, current).value.as_deref() == current
    }

    /// Forgets what is only there to outlive older news, now that everything written up to `stable` is everywhere.
    /// Returns whether anything is left.
    pub fn prune(&mut self, stable: u64) -> bool {
        let gone = self.register.as_ref().is_none_or(|(stamp, value)| value.is_none() && stamp.time <= stable);
        !gone
    }
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    postcard::to_allocvec(value).expect("memory is the only limit of what is written there")
}

fn decode<T: for<'a> Deserialize<'a>>(bytes: &[u8], what: &'static str) -> Result<T> {
    postcard::from_bytes(bytes).map_err(|source| Error::Unreadable { what, source })
}
