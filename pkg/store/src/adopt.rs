//! Taking over another's store. A server that was away until others had forgotten removals that it never heard of can't merge
//! with them change by change: what it has may be what was removed. It takes their documents for its own instead, and makes
//! what only it had anew on top of them, as writes of now, which merge as any others do.
//!
//! First all of the other's documents are put aside; until then nothing changes. Then, page by page, each key's two documents
//! are joined: what comes out is served, and the other's document kept. Last, whatever is served and is not what its document
//! says is told as a change. Each step can be done again after a crash.
use crate::changes::{Changes, Owed};
use crate::replica::{Row, SnapshotPage, Whole};
use crate::replicator::{Merger, Merging, Replicator, is_not_ahead};
use crate::writer::{Merge, Merged};
use crate::{Result, Revision};
use bytes::Bytes;
use crdt::{Actor, Document, Policy, Stamp, Vector};
use rusqlite::{OptionalExtension, params};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

/// Keys in one step: a transaction of what is then told.
const KEYS: usize = 200;
const ADOPTION: &str = "adoption";

/// How far a store is taken over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adoption {
    /// What the documents hold that were put aside.
    seen: Vector,
    whole: Whole,
    /// Who this server is from then on: what it said under its old name counts for nothing.
    fresh: Actor,
    progress: Progress,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Progress {
    /// Documents up to and with this key are the other's; none: none are.
    Joined(Option<Vec<u8>>),
    /// All are. What only this server had is being told.
    Telling,
}

impl Adoption {
    /// Whether the document of a key is the other's already; none once all are.
    pub fn is_adopted(&self, key: &[u8]) -> Option<bool> {
        match &self.progress {
            Progress::Joined(up_to) => Some(up_to.as_deref().is_some_and(|up_to| key <= up_to)),
            Progress::Telling => None,
        }
    }
}

impl Changes {
    pub fn adoption(&self) -> Result<Option<Adoption>> {
        self.noted(ADOPTION)
    }

    pub fn set_adoption(&self, adoption: Option<&Adoption>) -> Result<()> {
        self.set_noted(ADOPTION, &adoption)
    }

    /// Puts a page aside; the first page forgets what was there.
    fn stage(&self, page: &SnapshotPage) -> Result<()> {
        self.step(|changes| {
            if page.after.is_none() {
                changes.sql(|db| db.execute("DELETE FROM staged", []))?;
            }
            changes.sql(|db| {
                let mut insert = db.prepare_cached("INSERT OR REPLACE INTO staged VALUES (?, ?)")?;
                page.documents
                    .iter()
                    .try_for_each(|(key, bytes)| insert.execute(params![&key[..], &bytes[..]]).map(drop))
            })
        })
    }

    fn staged(&self, key: &[u8]) -> Result<Document> {
        let found: Option<Vec<u8>> = self.sql(|db| {
            db.prepare_cached("SELECT bytes FROM staged WHERE key = ?")?.query_row([key], |row| row.get(0)).optional()
        })?;
        let unreadable =
            |error| self.corrupt(format!("{} of a store put aside: {error}", String::from_utf8_lossy(key)));
        found.map_or(Ok(Document::default()), |bytes| Document::decode(&bytes).map_err(unreadable))
    }

    /// The next keys that either store knows.
    fn next_keys(&self, after: &[u8]) -> Result<BTreeSet<Bytes>> {
        self.sql(|db| {
            let mut select = db.prepare_cached(
                "SELECT key FROM document WHERE key > ?1 UNION SELECT key FROM staged WHERE key > ?1 ORDER BY key LIMIT ?2",
            )?;
            let keys = select.query_map(params![after, KEYS as i64], |row| row.get::<_, Vec<u8>>(0))?;
            keys.map(|key| key.map(Bytes::from)).collect()
        })
    }

    /// From now on nothing is told of what was known before.
    fn begin_adoption(&self, adoption: &Adoption) -> Result<()> {
        self.step(|changes| {
            changes.sql(|db| db.execute("DELETE FROM change", []))?;
            changes.set_adoption(Some(adoption))
        })
    }

    /// All documents are the other's: what is known is what it knew.
    fn switch(&self, adoption: &Adoption, owed: &Owed) -> Result<()> {
        self.step(|changes| {
            changes.sql(|db| db.execute_batch("DELETE FROM vector; DELETE FROM staged"))?;
            adoption.seen.iter().try_for_each(|stamp| changes.advance(stamp))?;
            adoption.whole.written.iter().try_for_each(|stamp| changes.raise_floor(stamp))?;
            changes.set_pruned(&adoption.whole.pruned)?;
            changes.set_owed(owed)?;
            changes.set_actor(adoption.fresh)?;
            changes.set_adoption(Some(adoption))
        })
    }
}

impl Replicator {
    /// See [`crate::Replica::stage`].
    pub fn stage(&mut self, page: &SnapshotPage, seen: &Vector, now_ms: u64) -> Result<()> {
        is_not_ahead(seen.iter(), now_ms)?;
        for (key, bytes) in &page.documents {
            Document::decode(bytes).map_err(|error| self.unreadable(key, &error))?;
        }
        self.changes.stage(page)
    }

    /// See [`crate::Replica::adopt`].
    pub fn adopt(&mut self, seen: Vector, whole: Whole, fresh: Actor, writer: &dyn Merger, now_ms: u64) -> Result<()> {
        is_not_ahead(seen.iter(), now_ms)?;
        self.derive_all()?;
        let adoption = Adoption { seen, whole, fresh, progress: Progress::Joined(None) };
        self.replicated.adopting.store(true, Ordering::Release);
        self.changes.begin_adoption(&adoption)?;
        self.adoption = Some(adoption);
        self.finish_adoption(writer, now_ms)
    }

    /// Goes on where taking over a store was interrupted, if it was.
    pub fn finish_adoption(&mut self, writer: &dyn Merger, now_ms: u64) -> Result<()> {
        while let Some(adoption) = self.adoption.clone() {
            match &adoption.progress {
                Progress::Joined(up_to) => {
                    let keys = self.changes.next_keys(up_to.as_deref().unwrap_or_default())?;
                    match keys.last().cloned() {
                        Some(last) => self.adopt_keys(&keys, adoption, last, writer, now_ms)?,
                        None => self.switch(adoption, now_ms)?,
                    }
                }
                Progress::Telling => {
                    self.tell_anew(&adoption, writer)?;
                    self.changes.set_adoption(None)?;
                    self.adoption = None;
                    self.replicated.adopting.store(false, Ordering::Release);
                    self.replicated.epoch.send_modify(|epoch| *epoch += 1);
                }
            }
        }
        Ok(())
    }

    fn adopt_keys(
        &mut self,
        keys: &BTreeSet<Bytes>,
        mut adoption: Adoption,
        last: Bytes,
        writer: &dyn Merger,
        now_ms: u64,
    ) -> Result<()> {
        adoption.progress = Progress::Joined(Some(last.to_vec()));
        self.merge(writer, now_ms, |replicator| replicator.joined(keys, &adoption))
    }

    /// The other's documents, and what comes of joining ours with them.
    fn joined(&self, keys: &BTreeSet<Bytes>, adoption: &Adoption) -> Result<Merging> {
        let mine = self.replicated.vector.read().clone();
        let mut merging = Merging { adoption: Some(adoption.clone()), ..Merging::default() };
        for key in keys {
            let theirs = self.changes.staged(key)?;
            let mut served = self.document_of(key)?;
            let conflicts = served.join(theirs.clone(), &mine, &adoption.seen);
            merging.conflicts.extend(conflicts.into_iter().map(|conflict| (key.clone(), conflict)));
            merging.served.insert(key.clone(), served);
            merging.documents.insert(key.clone(), theirs);
        }
        Ok(merging)
    }

    fn switch(&mut self, mut adoption: Adoption, now_ms: u64) -> Result<()> {
        adoption.progress = Progress::Telling;
        let owed = Owed::of(adoption.whole.owed.clone(), now_ms);
        self.changes.switch(&adoption, &owed)?;
        self.change_bytes = 0;
        *self.replicated.actor.write() = adoption.fresh;
        *self.replicated.vector.write() = adoption.seen.clone();
        *self.replicated.floor.write() = adoption.whole.written.clone();
        *self.replicated.pruned.write() = adoption.whole.pruned.clone();
        *self.replicated.owed.write() = owed;
        *self.replicated.tail.write() = crate::tail::Tail::default();
        self.adoption = Some(adoption);
        Ok(())
    }

    /// Tells what is served and is not what the documents say.
    fn tell_anew(&mut self, adoption: &Adoption, writer: &dyn Merger) -> Result<()> {
        let derived = self.shared.state.read().revision;
        writer.merge(Merge { derived, observed: adoption.seen.latest(), items: Vec::new() })?;
        let mut after = Bytes::new();
        loop {
            let time = writer.tick()?;
            // What was written before that is told before: a server's changes go out in the order of their times.
            let newest = self.shared.state.read().revision;
            let up_to = if newest.clock() <= time { newest } else { Revision::new(time, newest.server()) };
            while !self.derive_to(up_to)? {}
            let keys = self.keys_to_tell(&after)?;
            let Some(last) = keys.last().cloned() else { return Ok(()) };
            let told = self.tell_served(&keys, Stamp { time, actor: self.actor() })?;
            // What is an object's second name, say, can't be told: then what is told is served.
            let items = told.iter().filter_map(|(key, document)| self.item(key, document)).collect();
            if writer.merge(Merge { derived: up_to, observed: time, items })? == Merged::Done {
                after = last;
            }
        }
    }

    /// The next keys that are served or have a document.
    fn keys_to_tell(&self, after: &Bytes) -> Result<BTreeSet<Bytes>> {
        let mut keys = self.changes.next_keys(after)?;
        let state = self.shared.state.read();
        let bounds = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
        keys.extend(state.entries.range::<Bytes, _>(bounds).take(KEYS).map(|(key, _)| key.clone()));
        Ok(keys.into_iter().take(KEYS).collect())
    }

    /// Tells what is served where it is not what the documents say; returns these documents.
    fn tell_served(&mut self, keys: &BTreeSet<Bytes>, stamp: Stamp) -> Result<BTreeMap<Bytes, Document>> {
        let (mut documents, mut rows) = (BTreeMap::new(), Vec::new());
        for key in keys.iter().filter(|key| crdt::policy(key) != Policy::Local) {
            let entry = self.shared.state.read().get(key);
            if entry.as_ref().is_some_and(|entry| entry.mod_revision.clock() > stamp.time) {
                // It is written again, and will be told with that.
                continue;
            }
            let served = entry.as_ref().map(|entry| &entry.value[..]);
            let mut document = self.document_of(key)?;
            if document.says(key, served) {
                continue;
            }
            if let Some(delta) = document.write(key, served, stamp) {
                rows.push(Row { stamp, more: true, key: key.clone(), delta: delta.encode().into() });
            }
            documents.insert(key.clone(), document);
        }
        let Some(last) = rows.last_mut() else { return Ok(documents) };
        last.more = false;
        let told = self.changes.step(|changes| {
            documents.iter().try_for_each(|(key, document)| changes.set_document(key, document))?;
            changes.advance(stamp)?;
            rows.into_iter().map(|row| Ok((changes.add(&row)?, row))).collect::<Result<Vec<_>>>()
        })?;
        self.replicated.vector.write().advance(stamp);
        self.announce(told);
        Ok(documents)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bare::Bare;
    use crate::writer::{Merged, Writer};
    use crate::{Begin, Error, Op, Options, Range, Txn};
    use std::cell::{Cell, RefCell};
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;
    use std::time::Duration;

    const OBJECTS: usize = 2 * KEYS + 50;
    const LIMIT: usize = 64 << 10;

    struct Nothing;

    impl api::summary::Summarize for Nothing {
        fn summarize(&self, _: &[u8], _: &[u8]) -> api::summary::Summary {
            api::summary::Summary::default()
        }
    }

    /// A writer that fails after so many requests, as if the power went.
    struct Failing<'a> {
        writer: &'a RefCell<Writer>,
        left: Cell<u32>,
    }

    impl Failing<'_> {
        fn count(&self) -> Result<()> {
            self.left.set(self.left.get().checked_sub(1).ok_or(Error::Closed)?);
            Ok(())
        }
    }

    impl Merger for Failing<'_> {
        fn merge(&self, merge: Merge) -> Result<Merged> {
            self.count()?;
            Merger::merge(self.writer, merge)
        }

        fn tick(&self) -> Result<u64> {
            self.count()?;
            Merger::tick(self.writer)
        }
    }

    fn open(dir: &Path, server: u16, clock: &Arc<AtomicU64>) -> Bare {
        let clock = clock.clone();
        let options = Options {
            dir: dir.join(server.to_string()),
            server,
            summarize: Arc::new(Nothing),
            keep: Duration::from_secs(300),
        };
        Bare::open(&options, Actor([server as u8; 16]), Arc::new(move || clock.load(Ordering::Relaxed))).unwrap()
    }

    fn key(name: &str) -> Bytes {
        format!("/registry/configmaps/default/{name}").into()
    }

    fn put(name: &str, data: &str) -> Op {
        let object = format!(
            r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","namespace":"default","uid":"u-{name}"}},"data":{{{data}}}}}"#
        );
        Op::Put { key: key(name), value: object.into(), lease: None }
    }

    fn run(bare: &mut Bare, ops: Vec<Op>) {
        for op in ops {
            bare.txn(Txn { then: vec![op], ..Txn::default() }).unwrap();
        }
        while !bare.derive().unwrap() {}
    }

    fn tell(from: &Bare, to: &mut Bare) {
        let Begin::After(after) = from.begin(&to.vector()).unwrap() else { panic!("no longer kept") };
        let (rows, _) = from.changes(after, &to.vector(), usize::MAX >> 1).unwrap().unwrap();
        to.receive(&rows).unwrap();
    }

    fn all(bare: &Bare) -> BTreeMap<Bytes, serde_json::Value> {
        let read = |value: &[u8]| serde_json::from_slice(value).unwrap();
        bare.list(&Range::prefix("/")).iter().map(|entry| (entry.key.clone(), read(&entry.value))).collect()
    }

    /// One has forgotten a removal that the other, which was away, does not know of; both wrote meanwhile.
    fn parted(dir: &Path) -> (Bare, Bare) {
        let clock = Arc::new(AtomicU64::new(1_000_000));
        let (mut one, mut two) = (open(dir, 1, &clock), open(dir, 2, &clock));
        run(&mut one, (0..OBJECTS).map(|n| put(&format!("o{n}"), r#""a":"0""#)).collect());
        tell(&one, &mut two);
        clock.fetch_add(1000, Ordering::Relaxed);
        run(&mut two, vec![put("o1", r#""a":"0","b":"mine""#), Op::Delete { key: key("o2") }]);
        run(&mut two, vec![put("o3", r#""a":"mine""#), put("new", r#""a":"mine""#)]);
        run(&mut one, vec![Op::Delete { key: key("o3") }, put("o1", r#""a":"theirs""#), put("other", r#""a":"1""#)]);
        clock.fetch_add(1000, Ordering::Relaxed);
        one.tick().unwrap();
        while one.stable(one.vector().latest()).unwrap() {}
        assert!(!two.vector().includes(&one.pruned().writes), "it lacks what is forgotten");
        (one, two)
    }

    fn stage(from: &Bare, to: &mut Bare) -> (Vector, Whole) {
        let documents = from.documents().unwrap();
        let mut after = None;
        loop {
            let page = documents.page(after.as_deref(), LIMIT).unwrap();
            to.stage(&page, documents.seen()).unwrap();
            match page.whole {
                Some(whole) => return (documents.seen().clone(), whole),
                None => after = page.up_to,
            }
        }
    }

    fn check(one: &mut Bare, two: &mut Bare) {
        let served = all(two);
        assert_eq!(served[&key("o1")]["data"], serde_json::json!({"a": "theirs", "b": "mine"}));
        assert!(served.contains_key(&key("new")) && served.contains_key(&key("other")));
        assert!(!served.contains_key(&key("o2")) && !served.contains_key(&key("o3")));
        assert_eq!(served.len(), OBJECTS);
        let lost = two.conflicts(0, 10).unwrap();
        assert!(lost.iter().any(|record| record.key == key("o3")), "{lost:?}");
        assert!(two.vector().includes(&one.pruned().writes));
        two.tick().unwrap();
        tell(two, one);
        assert!(all(one) == served, "what only it had is told as changes");
    }

    #[test]
    fn what_only_it_had_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (mut one, mut two) = parted(dir.path());
        let before = all(&two);
        let (seen, whole) = stage(&one, &mut two);
        assert!(all(&two) == before, "until then nothing changes");
        let fresh = Actor([9; 16]);
        two.adopt(seen, whole, fresh).unwrap();
        assert_eq!(two.actor(), fresh);
        check(&mut one, &mut two);
        // Few keys differ, and few changes are told.
        assert!(two.sizes().unwrap().changes <= 4, "{:?}", two.sizes());
    }

    #[test]
    fn it_goes_on_wherever_it_was_interrupted() {
        for left in 0.. {
            let dir = tempfile::tempdir().unwrap();
            let (mut one, mut two) = parted(dir.path());
            let (seen, whole) = stage(&one, &mut two);
            let failing = Failing { writer: &two.writer, left: Cell::new(left) };
            let done = two.replicator.adopt(seen, whole, Actor([9; 16]), &failing, 1_002_000);
            drop(two);
            let mut two = open(dir.path(), 2, &Arc::new(AtomicU64::new(1_003_000)));
            check(&mut one, &mut two);
            if done.is_ok() {
                assert!(left > 8, "it was never interrupted");
                return;
            }
        }
    }
}
