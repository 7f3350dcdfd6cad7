//! What this server knows for and of its peers, in a database of its own so that deriving it never holds up the
//! writer: one document a key, and the changes of all servers that some member may still lack, in the order in which
//! they came here, which is an order in which they may go out: causes first.
use crate::log::{WAL_KEEP_BYTES, checksum, explain};
use crate::replica::{ConflictRecord, Pruned, Row, SnapshotPage, Whole};
use crate::{Error, Result};
use bytes::Bytes;
use crdt::{Actor, Conflict, Document, Stamp, Vector};
use rusqlite::{Connection, OptionalExtension, params};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// SQLite's page cache.
const CACHE_KIB: i64 = 1024;
/// The tables' shape; another begins anew from the log.
const VERSION: i64 = 2;
/// Conflicts remembered at most; the oldest are forgotten.
const CONFLICTS: i64 = 10_000;
/// Changes kept for members that lack them, at most; who lacks older ones gets whole documents.
pub const CHANGES: i64 = 500_000;
/// The same in bytes of keys and deltas: what one member that is away may make all others keep.
pub const CHANGES_BYTES: u64 = 256 << 20;
/// Ends of objects remembered at most, some 100 bytes each; the oldest are forgotten.
const ENDED: i64 = 200_000;
/// Rows deleted in one step.
const FORGET_ROWS: i64 = 2_000;
/// Free pages given back in one step.
const VACUUM_PAGES: u32 = 256;

pub struct Changes {
    connection: Connection,
    path: PathBuf,
}

/// All documents as they were at one moment, however long it takes to read them: a transaction of its own. What is
/// written meanwhile stays in the write-ahead log until it ends.
pub struct Documents {
    changes: Changes,
    seen: Vector,
    wal_most_bytes: u64,
}

impl Documents {
    /// What the documents hold, exactly: whoever merges them all has everything of it, and nothing that is later.
    pub fn seen(&self) -> &Vector {
        &self.seen
    }

    /// See [`Changes::page`].
    ///
    /// # Errors
    /// So much was written since they were opened that they must be opened anew.
    pub fn page(&self, after: Option<&[u8]>, limit_bytes: usize) -> Result<SnapshotPage> {
        let mut wal = self.changes.path.clone().into_os_string();
        wal.push("-wal");
        if std::fs::metadata(wal).is_ok_and(|file| file.len() > self.wal_most_bytes) {
            let what = format!("more than {} MiB were written while a peer took a snapshot", self.wal_most_bytes >> 20);
            return Err(Error::Failed { what });
        }
        self.changes.page(after, limit_bytes)
    }
}

/// A snapshot that is not all in: what is written now may rest on what no peer can be told yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owed {
    /// Known when the snapshot is in.
    pub vector: Vector,
    /// After this it is no longer waited for: whoever gave the snapshot may be gone for ever.
    pub until_ms: u64,
}

/// The rest of a snapshot is waited for as long after its last page: longer than most cuts of a link. What is told then of writes
/// that rest on it others may not understand.
const OWED_MS: u64 = 24 * 60 * 60 * 1000;
/// Pages come faster than that: a rest that does not is late, and may be nowhere any more.
const LATE_MS: u64 = 30_000;

impl Owed {
    pub fn of(vector: Vector, now_ms: u64) -> Self {
        Self { vector, until_ms: now_ms.saturating_add(OWED_MS) }
    }

    /// What is owed, if it is late.
    pub fn late(&self, now_ms: u64) -> Vector {
        let last_page_ms = self.until_ms.saturating_sub(OWED_MS);
        if last_page_ms.saturating_add(LATE_MS) <= now_ms { self.vector.clone() } else { Vector::default() }
    }
}

/// What may be written while documents of one moment are read: it stays in the write-ahead log until then.
const WAL_MOST_BYTES: u64 = 1 << 30;

/// What is kept, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    pub documents: u64,
    pub document_bytes: u64,
    /// Of the documents, those of which something may be forgotten some time.
    pub unpruned: u64,
    pub changes: u64,
    pub conflicts: u64,
}

/// A change that may be forgotten.
#[derive(Clone, Copy, Debug)]
pub struct Superfluous {
    sequence: i64,
    pub stamp: Stamp,
    pub bytes: u64,
}

/// How much of an actor's writing is known, and up to where it is no longer kept as changes.
#[derive(Clone, Debug, Default)]
pub struct Known {
    pub vector: Vector,
    pub floor: Vector,
}

impl Changes {
    pub fn open(path: &Path) -> Result<Self> {
        let connection = Connection::open(path).map_err(|e| explain(path, e))?;
        let changes = Self { connection, path: path.to_owned() };
        changes.sql(prepare)?;
        Ok(changes)
    }

    /// The documents as they are now.
    pub fn documents(&self) -> Result<Documents> {
        let changes = Self::open(&self.path)?;
        changes.sql(|db| db.execute_batch("BEGIN"))?;
        // The first read decides what moment it is.
        let seen = changes.known()?.vector;
        Ok(Documents { changes, seen, wal_most_bytes: WAL_MOST_BYTES })
    }

    pub fn sizes(&self) -> Result<Sizes> {
        let sql = "SELECT (SELECT count(*) FROM document), (SELECT coalesce(sum(length(bytes)), 0) FROM document),
                          (SELECT count(*) FROM change), (SELECT count(*) FROM conflict), (SELECT count(*) FROM unpruned)";
        self.sql(|db| {
            db.query_row(sql, [], |row| {
                let number = |column| row.get::<_, i64>(column).map(|number| number as u64);
                let (documents, document_bytes) = (number(0)?, number(1)?);
                Ok(Sizes {
                    documents,
                    document_bytes,
                    unpruned: number(4)?,
                    changes: number(2)?,
                    conflicts: number(3)?,
                })
            })
        })
    }

    pub(crate) fn sql<T>(&self, run: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        run(&self.connection).map_err(|e| explain(&self.path, e))
    }

    pub(crate) fn corrupt(&self, what: String) -> Error {
        Error::Corrupt { path: self.path.display().to_string(), what }
    }

    /// This incarnation's name: `fresh` on first use, and the same until another's store is taken over.
    pub fn actor(&self, fresh: Actor) -> Result<Actor> {
        self.sql(|db| {
            db.execute("INSERT OR IGNORE INTO meta VALUES ('actor', ?)", [&fresh.0[..]])?;
            db.query_row("SELECT value FROM meta WHERE name = 'actor'", [], |row| row.get(0)).map(Actor)
        })
    }

    /// Begins another incarnation.
    pub fn set_actor(&self, actor: Actor) -> Result<()> {
        self.sql(|db| db.execute("INSERT OR REPLACE INTO meta VALUES ('actor', ?)", [&actor.0[..]]).map(drop))
    }

    /// Position of the log up to which everything is derived.
    pub fn derived(&self) -> Result<u64> {
        let found = self.sql(|db| {
            db.query_row("SELECT value FROM meta WHERE name = 'derived'", [], |row| row.get::<_, i64>(0)).optional()
        })?;
        Ok(found.unwrap_or(0) as u64)
    }

    pub fn set_derived(&self, derived: u64) -> Result<()> {
        self.sql(|db| {
            db.prepare_cached("INSERT OR REPLACE INTO meta VALUES ('derived', ?)")?.execute([derived as i64]).map(drop)
        })
    }

    /// Something that is noted under a name; its default where nothing is.
    pub(crate) fn noted<T: DeserializeOwned + Default>(&self, name: &str) -> Result<T> {
        let found: Option<Vec<u8>> =
            self.sql(|db| db.query_row("SELECT value FROM meta WHERE name = ?", [name], |row| row.get(0)).optional())?;
        let read = |bytes: Vec<u8>| postcard::from_bytes(&bytes);
        found.map_or(Ok(T::default()), read).map_err(|error| self.corrupt(format!("what is noted as {name}: {error}")))
    }

    pub(crate) fn set_noted<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        let bytes = postcard::to_allocvec(value).expect("memory is the only limit of what is written there");
        self.sql(|db| {
            db.prepare_cached("INSERT OR REPLACE INTO meta VALUES (?, ?)")?.execute(params![name, bytes]).map(drop)
        })
    }

    /// What documents hold that came in whole, though not all of it is known yet; and until when that is waited for, in
    /// milliseconds since the Unix epoch.
    pub fn owed(&self) -> Result<Owed> {
        self.noted("owed")
    }

    pub fn set_owed(&self, owed: &Owed) -> Result<()> {
        self.set_noted("owed", owed)
    }

    /// What removals documents no longer tell of.
    pub fn pruned(&self) -> Result<Pruned> {
        self.noted("pruned")
    }

    pub fn set_pruned(&self, pruned: &Pruned) -> Result<()> {
        self.set_noted("pruned", pruned)
    }

    /// What is forgotten once removals up to a time are: to be asked before changes are.
    pub fn to_prune(&self, time: u64) -> Result<Pruned> {
        let mut pruned = self.pruned()?;
        let known = self.known()?;
        for Stamp { actor, .. } in known.vector.iter() {
            let last: Option<i64> = self.sql(|db| {
                db.prepare_cached("SELECT max(time) FROM change WHERE actor = ? AND time <= ?")?
                    .query_row(params![&actor.0[..], time as i64], |row| row.get(0))
            })?;
            let gone = known.floor.get(actor).min(time);
            pruned.writes.advance(Stamp { time: gone.max(last.unwrap_or(0) as u64), actor });
        }
        pruned.time = pruned.time.max(time);
        Ok(pruned)
    }

    /// Whether nothing is known of any key.
    pub fn is_empty(&self) -> Result<bool> {
        self.sql(|db| db.query_row("SELECT NOT EXISTS (SELECT 1 FROM document)", [], |row| row.get(0)))
    }

    /// Whether documents and changes are kept.
    pub fn is_enabled(&self) -> Result<bool> {
        self.sql(|db| db.query_row("SELECT count(*) FROM meta WHERE name = 'enabled'", [], |row| row.get(0)))
    }

    /// From now on they are, and everything is to be derived.
    pub fn enable(&self) -> Result<()> {
        self.step(|changes| {
            changes.set_derived(0)?;
            changes.sql(|db| db.execute("INSERT OR REPLACE INTO meta VALUES ('enabled', 1)", []).map(drop))
        })
    }

    /// Runs `work` in one transaction.
    pub fn step<T>(&self, work: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        self.sql(|db| db.execute_batch("BEGIN IMMEDIATE"))?;
        let done = work(self).and_then(|done| self.sql(|db| db.execute_batch("COMMIT")).map(|()| done));
        if done.is_err() && !self.connection.is_autocommit() {
            self.sql(|db| db.execute_batch("ROLLBACK"))?;
        }
        done
    }

    pub fn known(&self) -> Result<Known> {
        let mut known = Known::default();
        self.sql(|db| {
            let mut select = db.prepare("SELECT actor, time, floor FROM vector")?;
            let mut rows = select.query([])?;
            while let Some(row) = rows.next()? {
                let actor = Actor(row.get(0)?);
                known.vector.advance(Stamp { time: row.get::<_, i64>(1)? as u64, actor });
                known.floor.advance(Stamp { time: row.get::<_, i64>(2)? as u64, actor });
            }
            Ok(())
        })?;
        Ok(known)
    }

    pub fn advance(&self, stamp: Stamp) -> Result<()> {
        self.sql(|db| {
            db.prepare_cached(
                "INSERT INTO vector (actor, time) VALUES (?1, ?2)
                 ON CONFLICT (actor) DO UPDATE SET time = max(time, excluded.time)",
            )?
            .execute(params![&stamp.actor.0[..], stamp.time as i64])
            .map(drop)
        })
    }

    pub fn raise_floor(&self, stamp: Stamp) -> Result<()> {
        self.sql(|db| {
            db.prepare_cached(
                "INSERT INTO vector (actor, time, floor) VALUES (?1, 0, ?2)
                 ON CONFLICT (actor) DO UPDATE SET floor = max(floor, excluded.floor)",
            )?
            .execute(params![&stamp.actor.0[..], stamp.time as i64])
            .map(drop)
        })
    }

    /// What is known of a key; an empty document when nothing is.
    pub fn document(&self, key: &[u8]) -> Result<Document> {
        let found: Option<(Vec<u8>, u32)> = self.sql(|db| {
            let mut select = db.prepare_cached("SELECT bytes, crc FROM document WHERE key = ?")?;
            select.query_row([key], |row| Ok((row.get(0)?, row.get(1)?))).optional()
        })?;
        found.map_or_else(|| Ok(Document::default()), |(bytes, crc)| self.decode(key, &bytes, crc))
    }

    fn decode(&self, key: &[u8], bytes: &[u8], crc: u32) -> Result<Document> {
        let name = || String::from_utf8_lossy(key).into_owned();
        if checksum(key, Some(bytes)) != crc {
            return Err(self.corrupt(format!("the document of {} is not what was written", name())));
        }
        Document::decode(bytes).map_err(|error| self.corrupt(format!("the document of {}: {error}", name())))
    }

    pub fn set_document(&self, key: &[u8], document: &Document) -> Result<()> {
        document.ended().into_iter().try_for_each(|uid| self.note_end(uid))?;
        let bytes = document.encode();
        self.sql(|db| {
            db.prepare_cached("INSERT OR REPLACE INTO document VALUES (?, ?, ?)")?.execute(params![
                key,
                bytes,
                checksum(key, Some(&bytes))
            ])?;
            db.prepare_cached("INSERT OR IGNORE INTO unpruned VALUES (?)")?.execute([key]).map(drop)
        })
    }

    /// The next keys whose documents may hold what can be forgotten some time.
    pub fn unpruned(&self, after: Option<&[u8]>, most: usize) -> Result<Vec<Bytes>> {
        self.sql(|db| {
            let mut select = db.prepare_cached("SELECT key FROM unpruned WHERE key > ? ORDER BY key LIMIT ?")?;
            let keys =
                select.query_map(params![after.unwrap_or_default(), most as i64], |row| row.get::<_, Vec<u8>>(0))?;
            keys.map(|key| key.map(Bytes::from)).collect()
        })
    }

    /// There is nothing more to forget of a document until it changes.
    pub fn note_pruned(&self, key: &[u8]) -> Result<()> {
        self.sql(|db| db.prepare_cached("DELETE FROM unpruned WHERE key = ?")?.execute([key]).map(drop))
    }

    /// Documents forget ends that all members know; who asks later finds them here.
    fn note_end(&self, uid: &str) -> Result<()> {
        self.sql(|db| {
            db.prepare_cached("INSERT OR IGNORE INTO ended (uid) VALUES (?)")?.execute([uid])?;
            db.prepare_cached("DELETE FROM ended WHERE id <= (SELECT max(id) FROM ended) - ?")?
                .execute([ENDED])
                .map(drop)
        })
    }

    /// Whether an object of this uid, which is not there, was deleted. False may mean that it is not known (any more). A
    /// server that never had a peer has seen all there ever was.
    pub fn has_ended(&self, uid: &str) -> Result<bool> {
        let known = || {
            self.sql(|db| db.query_row("SELECT count(*) FROM ended WHERE uid = ?", [uid], |row| row.get::<_, bool>(0)))
        };
        Ok(!self.is_enabled()? || known()?)
    }

    pub fn forget_document(&self, key: &[u8]) -> Result<()> {
        self.sql(|db| db.prepare_cached("DELETE FROM document WHERE key = ?")?.execute([key]).map(drop))
    }

    /// Documents after a key, in order of keys, up to about `limit_bytes`.
    pub fn page(&self, after: Option<&[u8]>, limit_bytes: usize) -> Result<SnapshotPage> {
        let mut page = SnapshotPage { after: after.map(Bytes::copy_from_slice), ..SnapshotPage::default() };
        let mut bytes = 0;
        self.sql(|db| {
            let mut select = db.prepare_cached("SELECT key, bytes FROM document WHERE key > ? ORDER BY key")?;
            let mut rows = select.query([after.unwrap_or_default()])?;
            while let Some(row) = rows.next()? {
                if bytes >= limit_bytes {
                    page.up_to = page.documents.last().map(|(key, _)| Bytes::clone(key));
                    break;
                }
                let (key, document): (Vec<u8>, Vec<u8>) = (row.get(0)?, row.get(1)?);
                bytes += key.len() + document.len();
                page.documents.push((key.into(), document.into()));
            }
            Ok(())
        })?;
        if page.up_to.is_none() {
            page.whole = Some(Whole { written: self.written()?, pruned: self.pruned()?, owed: self.owed()?.vector });
        }
        Ok(page)
    }

    /// The last write of each actor, whether it is kept or not.
    fn written(&self) -> Result<Vector> {
        let known = self.known()?;
        let mut written = known.floor;
        for Stamp { actor, .. } in known.vector.iter() {
            let time: Option<i64> = self.sql(|db| {
                db.prepare_cached("SELECT max(time) FROM change WHERE actor = ?")?
                    .query_row([&actor.0[..]], |row| row.get(0))
            })?;
            written.advance(Stamp { time: time.unwrap_or(0) as u64, actor });
        }
        Ok(written)
    }

    /// Keys of all documents after one, up to and with another; none: no end.
    pub fn keys(&self, after: Option<&[u8]>, up_to: Option<&[u8]>) -> Result<Vec<Bytes>> {
        self.sql(|db| {
            let mut select =
                db.prepare_cached("SELECT key FROM document WHERE key > ?1 AND (?2 IS NULL OR key <= ?2)")?;
            let keys = select.query_map(params![after.unwrap_or_default(), up_to], |row| row.get::<_, Vec<u8>>(0))?;
            keys.map(|key| key.map(Bytes::from)).collect()
        })
    }

    /// Keeps a change; returns its sequence number.
    pub fn add(&self, row: &Row) -> Result<u64> {
        self.sql(|db| {
            db.prepare_cached("INSERT INTO change (actor, time, more, key, bytes, crc) VALUES (?, ?, ?, ?, ?, ?)")?
                .execute(params![
                    &row.stamp.actor.0[..],
                    row.stamp.time as i64,
                    row.more,
                    &row.key[..],
                    &row.delta[..],
                    checksum(&row.key, Some(&row.delta)),
                ])?;
            Ok(db.last_insert_rowid() as u64)
        })
    }

    /// The last sequence number given; 0: none.
    pub fn newest(&self) -> Result<u64> {
        self.sql(|db| {
            db.query_row("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'change'", [], |row| {
                row.get::<_, i64>(0)
            })
        })
        .map(|newest| newest as u64)
    }

    /// The sequence number before the first change that somebody who has `have` lacks; none: nothing is lacking.
    pub fn first_missing(&self, known: &Vector, have: &Vector) -> Result<Option<u64>> {
        let mut first: Option<i64> = None;
        for stamp in known.iter().filter(|stamp| !have.covers(*stamp)) {
            let found: Option<i64> = self.sql(|db| {
                db.prepare_cached("SELECT min(sequence) FROM change WHERE actor = ? AND time > ?")?
                    .query_row(params![&stamp.actor.0[..], have.get(stamp.actor) as i64], |row| row.get(0))
            })?;
            first = [first, found].into_iter().flatten().min();
        }
        Ok(first.map(|sequence| sequence as u64 - 1))
    }

    /// Changes after a sequence number that somebody who has `have` lacks, whole transactions, up to about
    /// `limit_bytes`; and the number of the last that was looked at.
    pub fn after(&self, sequence: u64, have: &Vector, limit_bytes: usize) -> Result<(Vec<Row>, u64)> {
        let (mut rows, mut bytes, mut reached) = (Vec::<Row>::new(), 0, sequence);
        let mut damaged = None;
        self.sql(|db| {
            let mut select = db.prepare_cached(
                "SELECT sequence, actor, time, more, key, bytes, crc FROM change WHERE sequence > ? ORDER BY sequence",
            )?;
            let mut found = select.query([sequence as i64])?;
            while let Some(row) = found.next()? {
                let stamp = Stamp { time: row.get::<_, i64>(2)? as u64, actor: Actor(row.get(1)?) };
                let whole = rows.last().is_none_or(|last| !last.more);
                if whole && bytes >= limit_bytes {
                    break;
                }
                reached = row.get::<_, i64>(0)? as u64;
                if have.covers(stamp) {
                    continue;
                }
                let (key, delta): (Vec<u8>, Vec<u8>) = (row.get(4)?, row.get(5)?);
                if checksum(&key, Some(&delta)) != row.get::<_, u32>(6)? {
                    damaged = Some(format!("change {reached} is not what was written"));
                    break;
                }
                bytes += key.len() + delta.len();
                rows.push(Row { stamp, more: row.get(3)?, key: key.into(), delta: delta.into() });
            }
            Ok(())
        })?;
        damaged.map_or(Ok((rows, reached)), |what| Err(self.corrupt(what)))
    }

    /// Bytes of keys and deltas of all changes that are kept.
    pub fn change_bytes(&self) -> Result<u64> {
        let sql = "SELECT coalesce(sum(length(key) + length(bytes)), 0) FROM change";
        self.sql(|db| db.query_row(sql, [], |row| row.get::<_, i64>(0))).map(|bytes| bytes as u64)
    }

    /// Changes that all members have (`stable`: everything up to that time), the oldest where there are more than `most`, and
    /// the oldest of together `excess_bytes`: some of them.
    pub fn superfluous(&self, stable: u64, most: i64, excess_bytes: u64) -> Result<Vec<Superfluous>> {
        let bound = (self.newest()? as i64).saturating_sub(most);
        let oldest: Vec<Superfluous> = self.sql(|db| {
            let mut select = db.prepare_cached(
                "SELECT sequence, actor, time, length(key) + length(bytes) FROM change ORDER BY sequence LIMIT ?",
            )?;
            let rows = select.query_map([FORGET_ROWS], |row| {
                let stamp = Stamp { actor: Actor(row.get(1)?), time: row.get::<_, i64>(2)? as u64 };
                Ok(Superfluous { sequence: row.get(0)?, stamp, bytes: row.get::<_, i64>(3)? as u64 })
            })?;
            rows.collect()
        })?;
        let mut excess_bytes = excess_bytes;
        let may_go = |change: &Superfluous| {
            let goes = change.sequence <= bound || change.stamp.time <= stable || excess_bytes > 0;
            excess_bytes = excess_bytes.saturating_sub(change.bytes);
            goes
        };
        Ok(oldest.into_iter().take_while(may_go).collect())
    }

    /// Forgets them; `floor` is the last of each actor. Returns whether there may be more.
    pub fn forget_changes(&self, gone: &[Superfluous], floor: &Vector) -> Result<bool> {
        self.step(|changes| {
            changes.sql(|db| {
                let mut delete = db.prepare_cached("DELETE FROM change WHERE sequence = ?")?;
                gone.iter().try_for_each(|change| delete.execute([change.sequence]).map(drop))
            })?;
            floor.iter().try_for_each(|stamp| changes.raise_floor(stamp))
        })?;
        self.vacuum()?;
        Ok(gone.len() as i64 == FORGET_ROWS)
    }

    fn vacuum(&self) -> Result<()> {
        self.sql(|db| {
            let mut vacuum = db.prepare(&format!("PRAGMA incremental_vacuum({VACUUM_PAGES})"))?;
            let mut rows = vacuum.query([])?;
            while rows.next()?.is_some() {}
            Ok(())
        })
    }

    pub fn add_conflict(&self, key: &[u8], at_ms: u64, conflict: &Conflict) -> Result<()> {
        let json = serde_json::to_vec(conflict).map_err(|error| Error::Failed { what: error.to_string() })?;
        self.sql(|db| {
            db.prepare_cached("INSERT INTO conflict (at_ms, key, json) VALUES (?, ?, ?)")?.execute(params![
                at_ms as i64,
                key,
                json
            ])?;
            db.prepare_cached("DELETE FROM conflict WHERE id <= (SELECT max(id) FROM conflict) - ?")?
                .execute([CONFLICTS])
                .map(drop)
        })
    }

    /// Conflicts after one, in the order in which they were found.
    pub fn conflicts(&self, after: u64, limit: usize) -> Result<Vec<ConflictRecord>> {
        self.sql(|db| {
            let mut select =
                db.prepare_cached("SELECT id, at_ms, key, json FROM conflict WHERE id > ? ORDER BY id LIMIT ?")?;
            let rows = select.query_map([after as i64, limit as i64], |row| {
                let json: Vec<u8> = row.get(3)?;
                let unreadable =
                    |error| rusqlite::Error::FromSqlConversionFailure(3, rusqlite::types::Type::Blob, error);
                Ok(ConflictRecord {
                    id: row.get::<_, i64>(0)? as u64,
                    at_ms: row.get::<_, i64>(1)? as u64,
                    key: row.get::<_, Vec<u8>>(2)?.into(),
                    conflict: serde_json::from_slice(&json).map_err(|error| unreadable(error.into()))?,
                })
            })?;
            rows.collect()
        })
    }
}

fn prepare(db: &Connection) -> rusqlite::Result<()> {
    db.busy_timeout(std::time::Duration::from_secs(10))?;
    db.set_prepared_statement_cache_capacity(32);
    db.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "cache_size", -CACHE_KIB)?;
    db.pragma_update(None, "journal_size_limit", WAL_KEEP_BYTES)?;
    let version: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version != VERSION {
        // All of it can be derived again, under another name.
        db.execute_batch(
            "BEGIN IMMEDIATE;
             DROP TABLE IF EXISTS meta; DROP TABLE IF EXISTS change; DROP TABLE IF EXISTS vector;
             DROP TABLE IF EXISTS document; DROP TABLE IF EXISTS conflict; DROP TABLE IF EXISTS ended;
             DROP TABLE IF EXISTS unpruned;",
        )?;
        db.execute_batch(&format!(
            "CREATE TABLE meta (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
             CREATE TABLE vector (
                 actor BLOB PRIMARY KEY, time INTEGER NOT NULL, floor INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
             CREATE TABLE document (key BLOB PRIMARY KEY, bytes BLOB NOT NULL, crc INTEGER NOT NULL);
             CREATE TABLE change (
                 sequence INTEGER PRIMARY KEY AUTOINCREMENT,
                 actor BLOB NOT NULL,
                 time INTEGER NOT NULL,
                 more INTEGER NOT NULL,
                 key BLOB NOT NULL,
                 bytes BLOB NOT NULL,
                 crc INTEGER NOT NULL);
             CREATE INDEX change_stamp ON change (actor, time);
             CREATE TABLE conflict (id INTEGER PRIMARY KEY AUTOINCREMENT, at_ms INTEGER NOT NULL, key BLOB NOT NULL, json BLOB NOT NULL);
             PRAGMA user_version = {VERSION};
             COMMIT"
        ))?;
    }
    db.execute_batch(
        "CREATE TABLE IF NOT EXISTS ended (id INTEGER PRIMARY KEY AUTOINCREMENT, uid TEXT NOT NULL UNIQUE);
         CREATE TABLE IF NOT EXISTS staged (key BLOB PRIMARY KEY, bytes BLOB NOT NULL);",
    )?;
    let kept = "SELECT count(*) FROM sqlite_master WHERE name = 'unpruned'";
    if !db.query_row(kept, [], |row| row.get::<_, bool>(0))? {
        db.execute_batch(
            "BEGIN IMMEDIATE;
             CREATE TABLE unpruned (key BLOB PRIMARY KEY) WITHOUT ROWID;
             INSERT INTO unpruned SELECT key FROM document;
             COMMIT",
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_reader_does_not_fill_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let changes = Changes::open(&dir.path().join("changes.db")).unwrap();
        let mut slow = changes.documents().unwrap();
        slow.wal_most_bytes = 1 << 20;
        let write = |n: u64| {
            let stamp = Stamp { time: n, actor: Actor([1; 16]) };
            let row = Row { stamp, more: false, key: Bytes::from_static(b"/k"), delta: vec![7; 100 << 10].into() };
            changes.add(&row).unwrap();
        };
        (1..=5).for_each(write);
        assert!(slow.page(None, 1 << 20).is_ok());
        (6..=15).for_each(write);
        assert!(slow.page(None, 1 << 20).unwrap_err().to_string().contains("1 MiB were written"));
        drop(slow);
        // And then the log can begin anew.
        changes.sql(|db| db.pragma_update(None, "wal_checkpoint", "TRUNCATE")).unwrap();
        assert!(changes.documents().unwrap().page(None, 1 << 20).is_ok());
    }
}
