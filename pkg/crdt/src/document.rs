//! One object's document.
use crate::encode::{self, Shape};
use crate::view::{self, View};
use crate::write;
use automerge::transaction::{CommitOptions, Transactable};
use automerge::{ActorId, Automerge, ReadDoc};
use serde_json::Value;

/// Where the object lies in the document's root.
pub(crate) const OBJECT: &str = "object";
/// Present once the object was deleted.
pub(crate) const DEAD: &str = "dead";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the document can't be read: {0}")]
    Load(String),
    #[error("the document can't be changed: {0}")]
    Write(#[from] automerge::AutomergeError),
    /// Only a JSON object can be a document.
    #[error("the value is no JSON object")]
    NotAnObject,
}

pub type Result<T> = std::result::Result<T, Error>;

/// One incarnation of a server. A restored copy must take another, or two histories would share one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Actor(pub [u8; 16]);

impl Actor {
    fn id(self) -> ActorId {
        ActorId::from(&self.0[..])
    }
}

/// An object as all servers' edits of it.
pub struct Document {
    pub(crate) doc: Automerge,
}

impl Document {
    /// An empty document whose edits are `actor`'s.
    pub fn new(actor: Actor) -> Self {
        Self { doc: Automerge::new().with_actor(actor.id()) }
    }

    /// A document out of what [`Document::save`] and [`Document::write`] gave, in any order.
    pub fn load<'a>(actor: Actor, chunks: impl IntoIterator<Item = &'a [u8]>) -> Result<Self> {
        let mut document = Self::new(actor);
        chunks.into_iter().try_for_each(|chunk| document.merge(chunk))?;
        Ok(document)
    }

    /// Makes the document say `object`, written at `time` (a reading of the hybrid clock). Returns the change;
    /// none when nothing differs.
    pub fn write(&mut self, object: &Value, shape: Shape<'_>, time: u64) -> Result<Option<Vec<u8>>> {
        let Value::Object(fields) = object else { return Err(Error::NotAnObject) };
        let fresh = self.doc.is_empty();
        self.change(time, |tx| match fresh {
            true => Ok(tx.init_root_from_hydrate(&encode::root(object, shape))?),
            false => write::root(tx, fields, shape),
        })
    }

    /// Notes that the object was deleted. Its last value stays, for conflict records.
    pub fn bury(&mut self, time: u64) -> Result<Option<Vec<u8>>> {
        self.change(time, |tx| Ok(tx.put(automerge::ROOT, DEAD, true)?))
    }

    fn change(
        &mut self,
        time: u64,
        edit: impl FnOnce(&mut automerge::transaction::Transaction<'_>) -> Result<()>,
    ) -> Result<Option<Vec<u8>>> {
        let mut tx = self.doc.transaction();
        edit(&mut tx)?;
        if tx.pending_ops() == 0 {
            tx.rollback();
            return Ok(None);
        }
        // The hybrid clock fits: it has 52 bits for the next thousand years.
        tx.commit_with(CommitOptions::default().with_time(time as i64));
        Ok(self.doc.get_last_local_change().map(|change| change.raw_bytes().to_vec()))
    }

    /// Takes in what another server, or an earlier run, gave. What is known already changes nothing; what lacks
    /// its predecessors waits for them.
    pub fn merge(&mut self, chunk: &[u8]) -> Result<()> {
        let unreadable = |error: &dyn std::fmt::Display| Error::Load(error.to_string());
        if let Ok(change) = automerge::Change::from_bytes(chunk.to_vec()) {
            return self.doc.apply_changes([change]).map_err(|error| unreadable(&error));
        }
        // Loading into a document would forget the changes that wait in it.
        let mut other = Automerge::load(chunk).map_err(|error| unreadable(&error))?;
        self.doc.merge(&mut other).map(drop).map_err(|error| unreadable(&error))
    }

    /// What all edits together say.
    pub fn view(&self) -> View {
        view::view(&self.doc)
    }

    /// Whether the object was deleted.
    pub fn is_dead(&self) -> bool {
        matches!(self.doc.get(automerge::ROOT, DEAD), Ok(Some(_)))
    }

    /// The whole document, history included.
    pub fn save(&self) -> Vec<u8> {
        self.doc.save_nocompress()
    }
}
