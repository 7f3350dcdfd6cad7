//! A client that watches one server as Kubernetes' reflectors do: it keeps a copy of everything from events alone.
use bytes::Bytes;
use std::collections::BTreeMap;
use store::bare::{Bare, Seen, Watching};
use store::{Range, Revision};

/// The copy, and how far it has got.
pub struct Watcher {
    watching: Watching,
    reached: Revision,
    copy: BTreeMap<Bytes, (Revision, Bytes)>,
}

fn everything() -> Range {
    Range::prefix("/")
}

impl Watcher {
    /// Lists, and watches from there.
    pub fn new(bare: &Bare) -> store::Result<Self> {
        let reached = bare.revision();
        let listed = bare.list(&everything());
        let copy = listed.iter().map(|entry| (entry.key.clone(), (entry.mod_revision, entry.value.clone()))).collect();
        Ok(Self { watching: bare.watch(everything(), reached)?, reached, copy })
    }

    /// The server has died and is back: goes on after the last event, as a client with a resource version does.
    pub fn resume(&mut self, bare: &Bare) -> store::Result<()> {
        self.watching = bare.watch(everything(), self.reached)?;
        Ok(())
    }

    /// Takes in what has come, and says how much. What it then has must be what a list shows.
    ///
    /// # Errors
    /// Which of a watch's guarantees did not hold.
    pub fn follow(&mut self, bare: &Bare) -> Result<u64, String> {
        let events = match self.watching.take() {
            Ok(events) => events,
            // It was asked too seldom, and lists again.
            Err(store::Error::Compacted { .. }) => {
                *self = Self::new(bare).map_err(|error| error.to_string())?;
                return Ok(0);
            }
            Err(error) => return Err(error.to_string()),
        };
        let seen = events.len() as u64;
        events.into_iter().try_for_each(|event| self.take(event))?;
        self.compare(bare).map(|()| seen)
    }

    fn take(&mut self, event: Seen) -> Result<(), String> {
        let Seen { key, revision, value } = event;
        let name = || String::from_utf8_lossy(&key).into_owned();
        if revision < self.reached {
            return Err(format!("{}: {revision} came after {}", name(), self.reached));
        }
        self.reached = revision;
        let known = self.copy.get(&key);
        if known.is_some_and(|(last, _)| *last >= revision) {
            return Err(format!("{}: {revision} came twice", name()));
        }
        match value {
            None => match self.copy.remove(&key) {
                Some(_) => Ok(()),
                None => Err(format!("{}: deleted at {revision}, and never there", name())),
            },
            Some(value) => {
                if let Some((_, old)) = known
                    && uid(old) != uid(&value)
                {
                    return Err(format!("{}: another life at {revision}, and the one before did not end", name()));
                }
                self.copy.insert(key, (revision, value));
                Ok(())
            }
        }
    }

    fn compare(&self, bare: &Bare) -> Result<(), String> {
        let listed = bare.list(&everything());
        let same = listed.len() == self.copy.len()
            && listed.iter().zip(&self.copy).all(|(entry, (key, (revision, value)))| {
                entry.key == *key && entry.mod_revision == *revision && entry.value == *value
            });
        if same { Ok(()) } else { Err(format!("after all events up to {} it is not what a list shows", self.reached)) }
    }
}

/// `metadata.uid`, wherever in the text; none: it is no object.
fn uid(value: &[u8]) -> Option<&[u8]> {
    const FIELD: &[u8] = b"\"uid\":\"";
    let at = value.windows(FIELD.len()).position(|window| window == FIELD)? + FIELD.len();
    let end = value[at..].iter().position(|byte| *byte == b'"')?;
    Some(&value[at..at + end])
}
