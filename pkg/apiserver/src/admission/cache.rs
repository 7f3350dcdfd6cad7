//! Configuration that admission reads on every write, parsed once a revision.
//!
//! Each read lists the stored entries, which the store holds in memory, and parses only those that changed since
//! the last: a changed configuration holds from the next request on, without a watch that could lag behind.
use crate::engine::{Result, from_store};
use arc_swap::ArcSwap;
use bytes::Bytes;
use std::sync::Arc;
use store::{Backend, Entry, Range, Revision};

/// What was parsed of the entries below a key prefix.
pub struct Cached<T> {
    prefix: &'static str,
    parse: fn(&Entry) -> Vec<Arc<T>>,
    state: ArcSwap<State<T>>,
}

struct State<T> {
    /// Key, revision and what the entry holds.
    entries: Vec<(Bytes, Revision, Vec<Arc<T>>)>,
    all: Arc<[Arc<T>]>,
}

impl<T> Cached<T> {
    /// `parse` gives nothing for an entry that can't be read.
    pub fn new(prefix: &'static str, parse: fn(&Entry) -> Vec<Arc<T>>) -> Self {
        let state = State { entries: Vec::new(), all: Arc::new([]) };
        Self { prefix, parse, state: ArcSwap::from_pointee(state) }
    }

    /// Everything stored now, in the order of keys.
    ///
    /// # Errors
    /// The store's, as a client sees it.
    pub async fn get(&self, backend: &dyn Backend) -> Result<Arc<[Arc<T>]>> {
        let page = backend.list(&Range::prefix(self.prefix.as_bytes()), None, 0).await.map_err(from_store)?;
        let known = self.state.load();
        let same = known.entries.len() == page.entries.len()
            && known.entries.iter().zip(&page.entries).all(|(k, e)| k.1 == e.mod_revision && k.0 == e.key);
        if same {
            return Ok(known.all.clone());
        }
        let next = self.update(&known, &page.entries);
        let all = next.all.clone();
        self.state.store(Arc::new(next));
        Ok(all)
    }

    fn update(&self, known: &State<T>, entries: &[Arc<Entry>]) -> State<T> {
        let parsed = |entry: &Arc<Entry>| {
            let before = known.entries.binary_search_by(|(key, ..)| key.cmp(&entry.key)).ok();
            let before = before.map(|at| &known.entries[at]).filter(|(_, revision, _)| *revision == entry.mod_revision);
            let items = before.map_or_else(|| (self.parse)(entry), |(.., items)| items.clone());
            (entry.key.clone(), entry.mod_revision, items)
        };
        let entries: Vec<_> = entries.iter().map(parsed).collect();
        let all = entries.iter().flat_map(|(.., items)| items.iter().cloned()).collect();
        State { entries, all }
    }
}

/// The stored object.
pub fn object(entry: &Entry) -> Option<serde_json::Value> {
    serde_json::from_slice(&entry.value)
        .inspect_err(|error| {
            let key = String::from_utf8_lossy(&entry.key);
            tracing::error!(%key, %error, "what is stored can't be read and has no effect");
        })
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::Bench;
    use serde_json::json;

    #[tokio::test]
    async fn what_changed_is_seen_at_once_and_the_rest_is_kept() {
        let bench = Bench::new();
        let cached: Cached<String> = Cached::new("/registry/mutatingwebhookconfigurations/", |entry| {
            object(entry).map(|o| Arc::new(o["v"].to_string())).into_iter().collect()
        });
        let at = |name: &str| format!("/registry/mutatingwebhookconfigurations/{name}");
        bench.store(&at("b"), json!({"v": 1})).await;
        let first = cached.get(&*bench.memory).await.unwrap();
        bench.store(&at("a"), json!({"v": 2})).await;
        let second = cached.get(&*bench.memory).await.unwrap();
        assert_eq!(second.iter().map(|v| v.as_str()).collect::<Vec<_>>(), ["2", "1"]);
        assert!(Arc::ptr_eq(&first[0], &second[1]), "an entry that did not change is not parsed again");
        bench.store(&at("b"), json!({"v": 3})).await;
        assert_eq!(*cached.get(&*bench.memory).await.unwrap()[1], "3");
    }
}
