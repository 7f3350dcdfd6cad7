//! The current state in memory: what a get or a list of now answers without touching SQLite.
use crate::{Entry, Page, Range, Revision};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// What was written beyond a state, by key; none: deleted.
pub type Overlay = BTreeMap<Bytes, Option<Arc<Entry>>>;

/// All entries by key, and the revision that they show.
#[derive(Default)]
pub struct State {
    pub revision: Revision,
    pub entries: BTreeMap<Bytes, Arc<Entry>>,
}

impl State {
    pub fn get(&self, key: &[u8]) -> Option<Arc<Entry>> {
        self.entries.get(key).cloned()
    }

    pub fn page(&self, range: &Range, limit: usize) -> Page {
        let limit = if limit == 0 { usize::MAX } else { limit };
        let mut inside = self.entries.range::<[u8], _>(bounds(range)).map(|(_, entry)| entry);
        let entries: Vec<_> = inside.by_ref().take(limit).cloned().collect();
        let rest = inside.count();
        Page { revision: self.revision, count: (entries.len() + rest) as u64, more: rest > 0, entries }
    }

    /// The same with what was written since, the later overlay winning.
    pub fn page_with(&self, range: &Range, limit: usize, overlays: [&Overlay; 2]) -> Page {
        let inside = |overlay: &Overlay| overlay.range::<[u8], _>(bounds(range)).next().is_some();
        if !overlays.into_iter().any(inside) {
            return self.page(range, limit);
        }
        let stored = self.entries.range::<[u8], _>(bounds(range));
        let mut merged: BTreeMap<&[u8], Option<&Arc<Entry>>> =
            stored.map(|(key, entry)| (&key[..], Some(entry))).collect();
        for overlay in overlays {
            let written = overlay.range::<[u8], _>(bounds(range));
            merged.extend(written.map(|(key, entry)| (&key[..], entry.as_ref())));
        }
        let mut entries: Vec<_> = merged.into_values().flatten().cloned().collect();
        let count = entries.len();
        entries.truncate(if limit == 0 { count } else { limit });
        Page { revision: self.revision, count: count as u64, more: count > entries.len(), entries }
    }
}

fn bounds(range: &Range) -> (Bound<&[u8]>, Bound<&[u8]>) {
    let end = if range.end.is_empty() { Bound::Unbounded } else { Bound::Excluded(&range.end[..]) };
    let start = match end {
        // A range that ends before it starts is empty, and must not panic.
        Bound::Excluded(end) if end < &range.start[..] => Bound::Included(end),
        _ => Bound::Included(&range.start[..]),
    };
    (start, end)
}
