//! Keeps the documents: follows the log and derives what peers will be told, and merges what they tell. One owner does
//! both, so that a local write is always compared with the document that its writer saw.
//!
//! A merge is first written to the log, marked as merged, if none of its keys was written here meanwhile; only then are
//! the documents kept. A crash between the two loses nothing: the mark keeps the deriver from telling others' writes as
//! this server's, and peers tell again what was not confirmed.
use crate::adopt::Adoption;
use crate::changes::{CHANGES, CHANGES_BYTES, Changes, Owed};
use crate::log::{Log, MAX_OPS, Record};
use crate::replica::{Begin, Pruned, Row, SnapshotPage, Whole};
use crate::tail::Tail;
use crate::writer::{Merge, MergeItem, Merged, Shared};
use crate::{Error, Result, Revision};
use api::summary::Summarize;
use bytes::Bytes;
use crdt::{Actor, Conflict, Delta, Document, HybridClock, Policy, Stamp, Vector};
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Rows of the log in one step, and one fsync: more than one revision can have.
const STEP_ROWS: usize = MAX_OPS + 1;
/// How often a merge is begun anew because its keys are being written here.
const ATTEMPTS: usize = 100;
/// How often a server alone notes how far its log is.
const NOTE_EVERY: Duration = Duration::from_secs(1);
/// Documents looked through in one step for what may be forgotten.
const PRUNE_DOCUMENTS: usize = 200;
/// A change stamped further ahead of this server's clock is refused.
pub const MAX_AHEAD_MS: u64 = 10 * 60 * 1000;

/// The writer as the replicator sees it.
pub trait Merger {
    fn merge(&self, merge: Merge) -> Result<Merged>;
    /// All that is written from now on is later than what this returns.
    fn tick(&self) -> Result<u64>;
}

/// What the replicator shows others.
pub struct Replicated {
    /// This incarnation.
    pub actor: RwLock<Actor>,
    pub vector: RwLock<Vector>,
    /// Position of the log up to which everything is derived; compaction reads it.
    pub derived: Arc<AtomicU64>,
    /// Of each actor, up to where its changes are no longer kept.
    pub floor: RwLock<Vector>,
    /// The newest changes.
    pub tail: RwLock<Tail>,
    /// Sequence number of the newest change; what came up to there is in the vector.
    pub newest: tokio::sync::watch::Sender<u64>,
    /// Of a snapshot that is half in.
    pub owed: RwLock<Owed>,
    pub pruned: RwLock<Pruned>,
    /// How often another's store was taken over.
    pub epoch: tokio::sync::watch::Sender<u64>,
    /// One is being taken over: what there is is half of two stores.
    pub adopting: AtomicBool,
}

impl Replicated {
    /// See [`crate::Replica::is_whole`].
    pub fn is_whole(&self, now_ms: u64) -> bool {
        let owed = self.owed.read();
        owed.vector.is_empty() || owed.until_ms <= now_ms
    }

    /// Changes that a peer lacks; none when some of them are no longer kept.
    pub fn recent(&self, after: u64, have: &Vector, limit_bytes: usize) -> Option<Option<(Vec<Row>, u64)>> {
        if self.adopting.load(Ordering::Acquire) {
            return None;
        }
        let found = self.tail.read().after(after, have, limit_bytes)?;
        Some(self.unless_forgotten(found, have))
    }

    /// The same from where older ones are, too.
    pub fn kept(
        &self,
        changes: &Changes,
        after: u64,
        have: &Vector,
        limit_bytes: usize,
    ) -> Result<Option<(Vec<Row>, u64)>> {
        self.is_one()?;
        match self.recent(after, have, limit_bytes) {
            Some(found) => Ok(found),
            None => Ok(self.unless_forgotten(changes.after(after, have, limit_bytes)?, have)),
        }
    }

    /// Asked after they were read: what was forgotten meanwhile counts.
    fn unless_forgotten(&self, found: (Vec<Row>, u64), have: &Vector) -> Option<(Vec<Row>, u64)> {
        have.includes(&self.floor.read()).then_some(found)
    }

    /// Whether what there is belongs together.
    pub fn is_one(&self) -> Result<()> {
        match self.adopting.load(Ordering::Acquire) {
            false => Ok(()),
            true => Err(Error::Failed { what: "another server's store is being taken over".into() }),
        }
    }

    /// Where sending to a peer begins.
    pub fn begin(&self, changes: &Changes, have: &Vector) -> Result<Begin> {
        self.is_one()?;
        // First: what comes meanwhile is after it.
        let newest = *self.newest.borrow();
        if !have.includes(&self.floor.read()) {
            return Ok(Begin::Snapshot);
        }
        let known = self.vector.read().clone();
        let after = changes.first_missing(&known, have)?;
        Ok(Begin::After(after.map_or(newest, |after| after.min(newest))))
    }

    fn raise_floor(&self, floor: &Vector) {
        self.floor.write().merge(floor);
    }

    /// Shows what has just been kept.
    fn announce(&self, rows: Vec<(u64, Row)>) {
        let Some(newest) = rows.last().map(|(newest, _)| *newest) else { return };
        self.tail.write().push(rows);
        self.newest.send_if_modified(|known| std::mem::replace(known, newest) != newest);
    }
}

pub struct Replicator {
    pub log: Log,
    pub changes: Changes,
    pub shared: Arc<Shared>,
    pub replicated: Arc<Replicated>,
    pub summarize: Arc<dyn Summarize>,
    /// Where looking for what may be forgotten up to a time has got to; none: it has not begun, or is done.
    pub pruning: Option<(Bytes, u64)>,
    /// Up to when all that may be forgotten is, as far as this process knows.
    pub pruned_to: u64,
    /// Another's store that is being taken over.
    pub adoption: Option<Adoption>,
    /// Bytes of the changes that are kept.
    pub change_bytes: u64,
    /// When it was last noted how far the log is.
    pub noted: Option<Instant>,
    /// Whether documents and changes are kept: a server alone has nobody to keep them for.
    pub enabled: bool,
}

/// Documents of some keys, merged and not yet kept.
#[derive(Default)]
pub(crate) struct Merging {
    pub documents: BTreeMap<Bytes, Document>,
    pub rows: Vec<Row>,
    pub conflicts: Vec<(Bytes, Conflict)>,
    pub vector: Vector,
    /// What whole documents hold, which is known when all of them are in.
    pub owed: Vector,
    /// How far another's store is taken over with them.
    pub adoption: Option<Adoption>,
    /// What is to be served, where it is not what the documents say.
    pub served: BTreeMap<Bytes, Document>,
}

impl Replicator {
    pub(crate) fn actor(&self) -> Actor {
        *self.replicated.actor.read()
    }

    /// Keeps documents and changes from now on, of everything that there is; lasts. Finishes what was interrupted.
    pub fn enable(&mut self, writer: &dyn Merger, now_ms: u64) -> Result<()> {
        if self.enabled {
            return self.finish_adoption(writer, now_ms);
        }
        self.changes.enable()?;
        self.replicated.derived.store(0, Ordering::Release);
        self.enabled = true;
        self.derive_all().map(drop)
    }

    /// Notes how far the log is: what is missing of it later was lost. Now and then: each note is a sync of its own,
    /// beside the writer's.
    fn note(&mut self) -> Result<bool> {
        let reached = self.shared.state.read().revision.get() + MAX_OPS as u64 - 1;
        if reached <= self.replicated.derived.load(Ordering::Acquire) {
            return Ok(true);
        }
        if self.noted.is_some_and(|noted| noted.elapsed() < NOTE_EVERY) {
            return Ok(false);
        }
        self.changes.set_derived(reached)?;
        self.replicated.derived.fetch_max(reached, Ordering::AcqRel);
        self.noted = Some(Instant::now());
        Ok(true)
    }

    /// Derives the next rows of the log. True: nothing more waits.
    pub fn derive(&mut self) -> Result<bool> {
        if !self.enabled {
            return self.note();
        }
        let up_to = self.shared.state.read().revision;
        self.derive_to(up_to)
    }

    /// The same, up to a revision. True: all up to there is derived.
    pub(crate) fn derive_to(&mut self, up_to: Revision) -> Result<bool> {
        let from = self.replicated.derived.load(Ordering::Acquire);
        let mut records = Vec::new();
        self.log.after(from, up_to, STEP_ROWS, |record| records.push(record))?;
        let whole = records.len() < STEP_ROWS;
        if !whole {
            // The last revision may be cut: leave it to the next step.
            let last = records.last().map(|record| record.revision);
            records.retain(|record| Some(record.revision) != last);
        }
        let reached = match (whole, records.last()) {
            (false, Some(last)) => last.position(),
            _ => up_to.get() + MAX_OPS as u64 - 1,
        };
        if !records.is_empty() {
            let last = records.last().map(|record| Stamp { time: record.revision.clock(), actor: self.actor() });
            // What peers wrote is kept already; that the log was read so far is noted with what follows.
            let rows = if !records.iter().any(is_told) {
                Vec::new()
            } else {
                self.changes.step(|changes| {
                    let mut told = Vec::new();
                    for rows in records.chunk_by(|a, b| a.revision == b.revision) {
                        told.extend(self.tell(changes, rows)?);
                    }
                    last.into_iter().try_for_each(|stamp| changes.advance(stamp))?;
                    changes.set_derived(reached)?;
                    Ok(told)
                })?
            };
            last.into_iter().for_each(|stamp| self.replicated.vector.write().advance(stamp));
            self.announce(rows);
        }
        self.replicated.derived.fetch_max(reached, Ordering::AcqRel);
        Ok(whole)
    }

    /// Notes what one transaction wrote; returns it with its sequence numbers.
    fn tell(&self, changes: &Changes, records: &[Record]) -> Result<Vec<(u64, Row)>> {
        let mut rows = Vec::new();
        for record in records.iter().filter(|record| is_told(record)) {
            let adopted = self.adoption.as_ref().and_then(|adoption| adoption.is_adopted(&record.key));
            if adopted == Some(true) {
                // What is served there is looked at when all is taken over.
                continue;
            }
            let mut document = self.document_of(&record.key)?;
            let stamp = Stamp { time: record.revision.clock(), actor: self.actor() };
            let Some(delta) = document.write(&record.key, record.value.as_deref(), stamp) else { continue };
            changes.set_document(&record.key, &document)?;
            if adopted == Some(false) {
                continue;
            }
            rows.push(Row { stamp, more: true, key: record.key.clone(), delta: delta.encode().into() });
        }
        if let Some(last) = rows.last_mut() {
            last.more = false;
        }
        rows.into_iter().map(|row| Ok((changes.add(&row)?, row))).collect()
    }

    /// A document; a damaged one is begun anew from what its key holds, which the log has checked.
    pub(crate) fn document_of(&self, key: &[u8]) -> Result<Document> {
        self.changes.document(key).or_else(|error| match error {
            Error::Corrupt { path, what } => {
                tracing::error!(path, what, "the document is begun anew");
                Ok(Document::default())
            }
            error => Err(error),
        })
    }

    pub(crate) fn derive_all(&mut self) -> Result<Revision> {
        loop {
            let revision = self.shared.state.read().revision;
            if self.derive()? {
                return Ok(revision);
            }
        }
    }

    /// Takes in what a peer told. What is known already is passed over.
    pub fn receive(&mut self, rows: &[Row], writer: &dyn Merger, now_ms: u64) -> Result<()> {
        not_ahead(rows, now_ms)?;
        self.merge(writer, now_ms, |replicator| replicator.merge_rows(rows))
    }

    fn merge_rows(&self, rows: &[Row]) -> Result<Merging> {
        let known = self.replicated.vector.read().clone();
        let mut merging = Merging::default();
        for transaction in rows.chunk_by(|row, next| row.more && row.stamp == next.stamp) {
            let stamp = transaction[0].stamp;
            // Two peers may have told it at the same time.
            if known.covers(stamp) || merging.vector.covers(stamp) {
                continue;
            }
            transaction.iter().try_for_each(|row| self.merge_row(row, &mut merging))?;
            merging.vector.advance(stamp);
        }
        Ok(merging)
    }

    fn merge_row(&self, row: &Row, merging: &mut Merging) -> Result<()> {
        let delta = Delta::decode(&row.delta).map_err(|error| self.unreadable(&row.key, &error))?;
        let document = match merging.documents.entry(row.key.clone()) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(new) => new.insert(self.document_of(&row.key)?),
        };
        let conflicts = document.merge(&delta);
        merging.conflicts.extend(conflicts.into_iter().map(|conflict| (row.key.clone(), conflict)));
        merging.rows.push(row.clone());
        Ok(())
    }

    pub(crate) fn unreadable(&self, key: &[u8], error: &crdt::Error) -> Error {
        Error::Failed { what: format!("what a peer says of {}: {error}", String::from_utf8_lossy(key)) }
    }

    /// Takes in whole documents of a peer that has `seen`.
    pub fn join(&mut self, page: &SnapshotPage, seen: &Vector, writer: &dyn Merger, now_ms: u64) -> Result<()> {
        is_not_ahead(seen.iter(), now_ms)?;
        self.merge(writer, now_ms, |replicator| replicator.merge_page(page, seen))
    }

    fn merge_page(&self, page: &SnapshotPage, seen: &Vector) -> Result<Merging> {
        let mine = self.replicated.vector.read().clone();
        let mut theirs: BTreeMap<Bytes, Document> = BTreeMap::new();
        for key in self.changes.keys(page.after.as_deref(), page.up_to.as_deref())? {
            theirs.insert(key, Document::default());
        }
        for (key, bytes) in &page.documents {
            let document = Document::decode(bytes).map_err(|error| self.unreadable(key, &error))?;
            theirs.insert(key.clone(), document);
        }
        let mut merging = Merging::default();
        for (key, theirs) in theirs {
            let mut document = self.document_of(&key)?;
            merging.owed.merge(theirs.version());
            let conflicts = document.join(theirs, &mine, seen);
            merging.conflicts.extend(conflicts.into_iter().map(|conflict| (key.clone(), conflict)));
            merging.documents.insert(key, document);
        }
        Ok(merging)
    }

    /// Makes what a merge comes to visible, then keeps it. Begins anew while its keys are being written here.
    pub(crate) fn merge(
        &mut self,
        writer: &dyn Merger,
        now_ms: u64,
        compute: impl Fn(&Self) -> Result<Merging>,
    ) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let derived = self.derive_all()?;
            let merging = compute(self)?;
            if merging.documents.is_empty() {
                return Ok(());
            }
            if self.show(&merging, derived, writer)? {
                return self.keep(merging, now_ms);
            }
        }
        Err(Error::Failed { what: format!("the keys of a merge were written {ATTEMPTS} times while it was made") })
    }

    /// Writes what the documents now say, where that differs from what is served. False: something else was written.
    fn show(&self, merging: &Merging, derived: Revision, writer: &dyn Merger) -> Result<bool> {
        let latest = |document: &Document| document.version().latest();
        let observed = merging.documents.values().map(latest).max().unwrap_or(0).max(merging.vector.latest());
        let shown = |key: &Bytes, document| merging.served.get(key).unwrap_or(document);
        let items: Vec<MergeItem> =
            merging.documents.iter().filter_map(|(key, document)| self.item(key, shown(key, document))).collect();
        let mut chunks: Vec<Vec<MergeItem>> = Vec::new();
        let mut items = items.into_iter().peekable();
        while items.peek().is_some() || chunks.is_empty() {
            chunks.push(items.by_ref().take(MAX_OPS).collect());
        }
        for items in chunks {
            if writer.merge(Merge { derived, observed, items })? == Merged::Stale {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(crate) fn item(&self, key: &Bytes, document: &Document) -> Option<MergeItem> {
        let current = self.shared.state.read().get(key);
        let bytes = current.as_ref().map(|entry| &entry.value[..]);
        if document.says(key, bytes) {
            return None;
        }
        let visible = document.visible(key, bytes);
        let replaces = bytes.is_some_and(|bytes| visible.life.is_some() && uid(bytes) != visible.life);
        let value = visible.value.map(|value| {
            let summary = self.summarize.summarize(key, &value);
            (Bytes::from(value), summary)
        });
        Some(MergeItem { key: key.clone(), value, replaces })
    }

    fn keep(&mut self, merging: Merging, now_ms: u64) -> Result<()> {
        let vector = self.known_with(merging.vector.iter());
        let mut owed = self.replicated.owed.read().clone();
        if !merging.owed.is_empty() {
            owed.vector.merge(&merging.owed);
            owed = Owed::of(owed.vector, now_ms);
        }
        let owed = if vector.includes(&owed.vector) { Owed::default() } else { owed };
        let rows = self.changes.step(|changes| {
            merging.documents.iter().try_for_each(|(key, document)| match document.is_empty() {
                true => changes.forget_document(key),
                false => changes.set_document(key, document),
            })?;
            let rows: Vec<(u64, Row)> =
                merging.rows.into_iter().map(|row| Ok((changes.add(&row)?, row))).collect::<Result<_>>()?;
            merging.conflicts.iter().try_for_each(|(key, conflict)| changes.add_conflict(key, now_ms, conflict))?;
            merging.vector.iter().try_for_each(|stamp| changes.advance(stamp))?;
            self.note_owed(changes, &owed, &vector)?;
            if let Some(adoption) = &merging.adoption {
                changes.set_adoption(Some(adoption))?;
            }
            Ok(rows)
        })?;
        *self.replicated.vector.write() = vector;
        *self.replicated.owed.write() = owed;
        if merging.adoption.is_some() {
            self.adoption = merging.adoption;
        }
        self.announce(rows);
        Ok(())
    }

    fn known_with(&self, stamps: impl Iterator<Item = Stamp>) -> Vector {
        let mut vector = self.replicated.vector.read().clone();
        stamps.for_each(|stamp| vector.advance(stamp));
        vector
    }

    /// With the vector, by which what is owed is judged.
    fn note_owed(&self, changes: &Changes, owed: &Owed, vector: &Vector) -> Result<()> {
        if *owed == *self.replicated.owed.read() {
            return Ok(());
        }
        vector.iter().try_for_each(|stamp| changes.advance(stamp))?;
        changes.set_owed(owed)
    }

    /// All that a peer had seen is in: as changes, or as a snapshot, which says what is true of the `whole`: what of that is new
    /// can't be told on as changes. The former is noted with the next tick: after a crash it is learned again.
    pub fn complete(&mut self, seen: &Vector, whole: Option<&Whole>, writer: &dyn Merger, now_ms: u64) -> Result<()> {
        is_not_ahead(seen.iter(), now_ms)?;
        let (known, me) = (self.replicated.vector.read().clone(), self.actor());
        let new = |stamp: &Stamp| stamp.actor != me && !known.covers(*stamp);
        if whole.is_none() && !seen.iter().any(|stamp| new(&stamp)) {
            return Ok(());
        }
        // What is written here from now on is later than all that others may have forgotten by now.
        let derived = self.shared.state.read().revision;
        if derived.clock() < seen.latest() {
            writer.merge(Merge { derived, observed: seen.latest(), items: Vec::new() })?;
        }
        let vector = self.known_with(seen.iter().filter(new));
        let owed = self.replicated.owed.read().clone();
        let owed = if vector.includes(&owed.vector) { Owed::default() } else { owed };
        let floor: Vector = whole.iter().flat_map(|whole| whole.written.iter()).filter(new).collect();
        let mut pruned = self.replicated.pruned.read().clone();
        whole.iter().for_each(|whole| pruned.merge(&whole.pruned));
        if whole.is_some() || owed != *self.replicated.owed.read() {
            self.replicated.raise_floor(&floor);
            self.changes.step(|changes| {
                floor.iter().try_for_each(|stamp| changes.raise_floor(stamp))?;
                vector.iter().try_for_each(|stamp| changes.advance(stamp))?;
                changes.set_pruned(&pruned)?;
                self.note_owed(changes, &owed, &vector)
            })?;
        }
        *self.replicated.vector.write() = vector;
        *self.replicated.owed.write() = owed;
        *self.replicated.pruned.write() = pruned;
        Ok(())
    }

    /// Moves this server's entry in the vector on to now, and notes the others' for good.
    pub fn tick(&mut self, writer: &dyn Merger) -> Result<()> {
        let time = writer.tick()?;
        self.derive_all()?;
        let vector = self.known_with(std::iter::once(Stamp { time, actor: self.actor() }));
        let derived = self.replicated.derived.load(Ordering::Acquire);
        self.changes.step(|changes| {
            vector.iter().try_for_each(|stamp| changes.advance(stamp))?;
            changes.set_derived(derived)
        })?;
        *self.replicated.vector.write() = vector;
        Ok(())
    }

    /// Forgets some of what is kept for members that may lack it. Returns whether there may be more.
    pub fn forget(&mut self, stable: u64) -> Result<bool> {
        if self.adoption.is_some() {
            return Ok(false);
        }
        if stable <= self.pruned_to {
            // A member is away. What came since is later, but there may be too much of it.
            return self.forget_changes(stable, CHANGES, CHANGES_BYTES);
        }
        // First: whoever meets this server meanwhile must know.
        let pruned = self.changes.to_prune(stable)?;
        *self.replicated.pruned.write() = pruned.clone();
        let more = self.forget_changes(stable, CHANGES, CHANGES_BYTES)?;
        let (after, begun_at) =
            self.pruning.clone().map_or((None, stable), |(after, begun_at)| (Some(after), begun_at));
        let keys = self.changes.unpruned(after.as_deref(), PRUNE_DOCUMENTS)?;
        self.changes.step(|changes| {
            changes.set_pruned(&pruned)?;
            keys.iter().try_for_each(|key| prune(changes, key, stable))
        })?;
        self.pruning = keys.last().filter(|_| keys.len() == PRUNE_DOCUMENTS).map(|last| (last.clone(), begun_at));
        if self.pruning.is_none() {
            self.pruned_to = begun_at;
        }
        Ok(more || self.pruned_to < stable)
    }

    /// Forgets changes up to a time, and all but the newest: so many, of so many bytes. Returns whether there may be more.
    pub fn forget_changes(&mut self, stable: u64, most: i64, most_bytes: u64) -> Result<bool> {
        let excess_bytes = self.change_bytes.saturating_sub(most_bytes);
        let gone = self.changes.superfluous(stable, most, excess_bytes)?;
        let floor: Vector = gone.iter().map(|change| change.stamp).collect();
        // First: whoever reads them meanwhile looks at it afterwards.
        self.replicated.raise_floor(&floor);
        let more = self.changes.forget_changes(&gone, &floor)?;
        let gone_bytes: u64 = gone.iter().map(|change| change.bytes).sum();
        self.change_bytes = self.change_bytes.saturating_sub(gone_bytes);
        Ok(more)
    }

    /// Shows what has just been kept.
    pub(crate) fn announce(&mut self, rows: Vec<(u64, Row)>) {
        self.change_bytes += rows.iter().map(|(_, row)| (row.key.len() + row.delta.len()) as u64).sum::<u64>();
        self.replicated.announce(rows);
    }
}

/// See [`is_not_ahead`].
pub fn not_ahead(rows: &[Row], now_ms: u64) -> Result<()> {
    is_not_ahead(rows.iter().map(|row| row.stamp), now_ms)
}

/// Whoever takes in what is stamped far ahead goes on from there itself: a wrong clock would spread.
pub(crate) fn is_not_ahead(stamps: impl Iterator<Item = Stamp>, now_ms: u64) -> Result<()> {
    let limit = HybridClock::at(now_ms.saturating_add(MAX_AHEAD_MS));
    match stamps.max_by_key(|stamp| stamp.time).filter(|stamp| stamp.time > limit) {
        None => Ok(()),
        Some(stamp) => {
            let ahead_ms = HybridClock::ms(stamp.time).saturating_sub(now_ms);
            Err(Error::Ahead { actor: stamp.actor, ahead_ms })
        }
    }
}

/// Whether peers are told of a row of the log by this server.
pub(crate) fn is_told(record: &Record) -> bool {
    !record.merged && crdt::policy(&record.key) != Policy::Local
}

fn prune(changes: &Changes, key: &[u8], stable: u64) -> Result<()> {
    let before = changes.document(key)?;
    let mut after = before.clone();
    match after.prune(stable) {
        false => changes.forget_document(key)?,
        true if after != before => changes.set_document(key, &after)?,
        true => {}
    }
    // What is younger can be forgotten later.
    if before.version().latest() <= stable { changes.note_pruned(key) } else { Ok(()) }
}

fn uid(object: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Object {
        metadata: Metadata,
    }
    #[derive(serde::Deserialize)]
    struct Metadata {
        uid: Option<String>,
    }
    serde_json::from_slice::<Object>(object).ok()?.metadata.uid
}
