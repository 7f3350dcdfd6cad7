//! The log of one server's changes in SQLite, and every statement on it.
//!
//! A row's position is its revision plus its index in the transaction: the low bits of a revision are the same
//! for all of one server's, so positions of different revisions never meet. `parent` is the position of the
//! key's row before this one in the same life, so that a key's history is a walk from its newest row, which memory knows,
//! or from a deletion, of which alone there is an index. A row that is somebody's parent is superseded.
use crate::checkpoint::{CHECKPOINT_PAGES, Checkpoint};
use crate::damage::check_wal;
use crate::{Error, LeaseId, Result, Revision};
use bytes::Bytes;
use rusqlite::hooks::Wal;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, params};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Most writes in one transaction, and the bits below the clock that positions may use.
pub const MAX_OPS: usize = 1 << (Revision::LOW_BITS - 1);
/// Of new databases: fewer frames of the write-ahead log, each with its own two writes, than with SQLite's 4 KiB.
const PAGE_BYTES: u32 = 8192;
/// SQLite's page cache, per connection.
const CACHE_KIB: i64 = 2048;
/// What the write-ahead log may keep of the disk once it is begun anew: while somebody reads for long, as a snapshot does,
/// it grows with all that is written meanwhile.
pub const WAL_KEEP_BYTES: i64 = 16 << 20;
/// A row as [`read`] takes it. By name, because older databases have the columns in another order.
const COLUMNS: &str = "position, idx, key, value, create_revision, version, lease, parent, crc, merged";
/// Free pages that stay for what is written next, of all pages: giving each back at once would move others for nothing.
const KEEP_FREE: u64 = 4;
/// And so many at least.
const KEEP_FREE_PAGES: u64 = 512;
/// How long a connection waits for another's lock.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// One change as the log keeps it.
#[derive(Clone, Debug)]
pub struct Record {
    pub revision: Revision,
    pub index: u32,
    pub key: Bytes,
    /// None: the key was deleted.
    pub value: Option<Bytes>,
    pub create_revision: Revision,
    pub version: u64,
    pub lease: Option<LeaseId>,
    /// Position of the key's change before this one; 0: there was none.
    pub parent: u64,
    /// What peers wrote, merged: there is nothing in it to tell them.
    pub merged: bool,
}

impl Record {
    pub fn position(&self) -> u64 {
        self.revision.get() + u64::from(self.index)
    }
}

/// The last position that a revision can have.
fn end_of(revision: Revision) -> i64 {
    (revision.get() + MAX_OPS as u64 - 1) as i64
}

/// One connection to the log.
pub struct Log {
    connection: Connection,
    path: PathBuf,
}

impl Log {
    /// Opens or creates the database.
    pub fn open(path: &Path) -> Result<Self> {
        let connection = Connection::open(path).map_err(|e| explain(path, e))?;
        let log = Self { connection, path: path.to_owned() };
        log.prepare().map_err(|e| log.explain(e))?;
        Ok(log)
    }

    /// The same, after a look for damage: in the write-ahead log, in the structure of tables and index, and in what is
    /// not read with each row anyway.
    pub fn open_checked(path: &Path) -> Result<Self> {
        check_wal(path)?;
        let log = Self::open(path)?;
        let found = log.connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get::<_, String>(0));
        match found.map_err(|e| log.explain(e))?.as_str() {
            "ok" => log.check_meta().map(|()| log),
            what => Err(log.corrupt(what.to_owned())),
        }
    }

    /// A name that is another would otherwise be a value that is not there.
    fn check_meta(&self) -> Result<()> {
        let all = || {
            let mut select = self.connection.prepare("SELECT name, value, crc FROM meta")?;
            let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            rows.collect::<rusqlite::Result<Vec<(String, i64, Option<u32>)>>>()
        };
        let damaged = |(name, value, crc): &(String, i64, Option<u32>)| {
            crc.is_some_and(|crc| crc != checksum(name.as_bytes(), Some(&value.to_le_bytes())))
        };
        match all().map_err(|e| self.explain(e))?.iter().find(|row| damaged(row)) {
            Some((name, ..)) => Err(self.corrupt(format!("the value of {name} is not what was written"))),
            None => Ok(()),
        }
    }

    fn prepare(&self) -> rusqlite::Result<()> {
        self.connection.busy_timeout(LOCK_WAIT)?;
        self.connection.set_prepared_statement_cache_capacity(32);
        self.connection.pragma_update(None, "page_size", PAGE_BYTES)?;
        self.connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        self.connection.pragma_update(None, "journal_mode", "WAL")?;
        self.connection.pragma_update(None, "synchronous", "FULL")?;
        self.connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        self.connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
        self.connection.pragma_update(None, "journal_size_limit", WAL_KEEP_BYTES)?;
        self.connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL, crc INTEGER) WITHOUT ROWID;
             CREATE TABLE IF NOT EXISTS lease (id INTEGER PRIMARY KEY, ttl_ms INTEGER NOT NULL, crc INTEGER);
             CREATE TABLE IF NOT EXISTS log (
                 position INTEGER PRIMARY KEY,
                 idx INTEGER NOT NULL,
                 key BLOB NOT NULL,
                 create_revision INTEGER NOT NULL,
                 version INTEGER NOT NULL,
                 lease INTEGER,
                 parent INTEGER NOT NULL,
                 crc INTEGER NOT NULL,
                 merged INTEGER NOT NULL DEFAULT 0,
                 -- Last: what is before it is read without the pages that it may fill.
                 value BLOB);
             CREATE INDEX IF NOT EXISTS log_deleted ON log (key, position) WHERE value IS NULL;
             -- Older databases have an index of all rows by key, of which each write changed another page.
             DROP INDEX IF EXISTS log_key;",
        )?;
        self.migrate()
    }

    /// Adds what databases of before lack: checksums of the small tables, and the mark of what was merged.
    fn migrate(&self) -> rusqlite::Result<()> {
        for (table, column) in
            [("meta", "crc INTEGER"), ("lease", "crc INTEGER"), ("log", "merged INTEGER NOT NULL DEFAULT 0")]
        {
            let name = column.split(' ').next().unwrap_or_default();
            let known = "SELECT count(*) FROM pragma_table_info(?) WHERE name = ?";
            if self.connection.query_row(known, [table, name], |row| row.get::<_, i64>(0))? == 0 {
                self.connection.execute_batch(&format!("ALTER TABLE {table} ADD COLUMN {column}"))?;
            }
        }
        Ok(())
    }

    pub fn explain(&self, error: rusqlite::Error) -> Error {
        explain(&self.path, error)
    }

    fn corrupt(&self, what: String) -> Error {
        Error::Corrupt { path: self.path.display().to_string(), what }
    }

    /// From now on the write-ahead log is moved to the database by a thread, not within commits.
    pub fn checkpoint_beside(&mut self, checkpoint: Checkpoint) -> Result<()> {
        let hook = move |wal: &mut Wal, pages: i32| {
            checkpoint.committed(wal, pages.unsigned_abs());
            Ok(())
        };
        let set = self.connection.wal_hook(Some(hook));
        set.map_err(|e| self.explain(e))
    }

    pub fn begin(&self) -> Result<()> {
        self.connection.execute_batch("BEGIN IMMEDIATE").map_err(|e| self.explain(e))
    }

    pub fn commit(&self) -> Result<()> {
        self.connection.execute_batch("COMMIT").map_err(|e| self.explain(e))
    }

    /// Undoes what was begun; a failed commit may have done so already.
    pub fn rollback(&self) {
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::error!(path = %self.path.display(), %error, "rolling back a failed batch");
        }
    }

    pub fn append(&self, record: &Record) -> Result<()> {
        let value = record.value.as_deref();
        self.connection
            .prepare_cached(
                "INSERT INTO log (position, idx, key, value, create_revision, version, lease, parent, crc, merged)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )
            .and_then(|mut insert| {
                insert.execute(params![
                    record.position() as i64,
                    record.index,
                    &record.key[..],
                    value,
                    record.create_revision.get() as i64,
                    record.version as i64,
                    record.lease.map(|lease| lease.0),
                    record.parent as i64,
                    seal(record),
                    record.merged,
                ])
            })
            .map(drop)
            .map_err(|e| self.explain(e))
    }

    /// The newest record of every key that exists, in the order in which they were written.
    pub fn current(&self, each: impl FnMut(Record)) -> Result<()> {
        let mut newest: Vec<u64> = self.newest()?.into_values().collect();
        newest.sort_unstable();
        let mut each = each;
        for position in newest {
            match self.at_position(position)? {
                Some(record) => each(record),
                None => return Err(self.corrupt(format!("the row at {position} was there a moment ago"))),
            }
        }
        Ok(())
    }

    /// Positions of what exists, by key. Each row must go on where its key's row before it ended: what is lost, or
    /// under another name, shows here; what is newest is checked when it is read.
    fn newest(&self) -> Result<HashMap<Vec<u8>, u64>> {
        let mut newest = HashMap::new();
        let mut walk = || -> rusqlite::Result<Option<i64>> {
            let mut rows = self.connection.prepare("SELECT position, key, parent, value IS NULL FROM log")?;
            let mut rows = rows.query([])?;
            while let Some(row) = rows.next()? {
                let (position, parent): (i64, i64) = (row.get(0)?, row.get(2)?);
                let key = row.get_ref(1)?.as_blob()?;
                // Compaction takes away the beginning of a history.
                if newest.get(key).is_some_and(|known| *known != parent as u64) {
                    return Ok(Some(position));
                }
                match row.get(3)? {
                    true => drop(newest.remove(key)),
                    false => drop(newest.insert(key.to_vec(), position as u64)),
                }
            }
            Ok(None)
        };
        match walk().map_err(|e| self.explain(e))? {
            Some(position) => {
                Err(self.corrupt(format!("the row at {position} does not follow its key's row before it")))
            }
            None => Ok(newest),
        }
    }

    /// The newest position in the log, 0 when it is empty.
    pub fn last_position(&self) -> Result<u64> {
        let last =
            self.connection.query_row("SELECT coalesce(max(position), 0) FROM log", [], |row| row.get::<_, i64>(0));
        last.map(|position| position as u64).map_err(|e| self.explain(e))
    }

    /// Whether anything was written up to a revision.
    pub fn has_any(&self, up_to: Revision) -> Result<bool> {
        let found = self
            .connection
            .query_row("SELECT min(position) <= ? FROM log", [end_of(up_to)], |row| row.get::<_, Option<bool>>(0));
        found.map(Option::unwrap_or_default).map_err(|e| self.explain(e))
    }

    /// The newest record at or before a revision, on the way back from the row at `position` through what was before.
    pub fn back(&self, position: u64, to: Revision) -> Result<Option<Record>> {
        let mut at = position;
        while at != 0 {
            match self.at_position(at)? {
                Some(record) if record.position() as i64 > end_of(to) => at = record.parent,
                found => return Ok(found),
            }
        }
        Ok(None)
    }

    /// Whether there is such a record; no value is read.
    pub fn has_back(&self, position: u64, to: Revision) -> Result<bool> {
        let mut at = position;
        let mut walk = || -> rusqlite::Result<bool> {
            let mut parent = self.connection.prepare_cached("SELECT parent FROM log WHERE position = ?")?;
            while at as i64 > end_of(to) {
                at = parent.query_row([at as i64], |row| row.get::<_, i64>(0)).optional()?.unwrap_or(0) as u64;
            }
            Ok(at != 0)
        };
        walk().map_err(|e| self.explain(e))
    }

    /// The keys of a range that were deleted after a revision, each with the position of its first deletion since. An
    /// empty `end` means no end.
    pub fn deleted(&self, start: &[u8], end: &[u8], after: Revision) -> Result<Vec<(Bytes, u64)>> {
        let until = if end.is_empty() { "" } else { "AND key < ?3" };
        let read = || -> rusqlite::Result<Vec<_>> {
            let mut statement = self.connection.prepare_cached(&format!(
                "SELECT key, min(position) FROM log INDEXED BY log_deleted
                 WHERE value IS NULL AND position > ?1 AND key >= ?2 {until} GROUP BY key"
            ))?;
            let row =
                |row: &Row<'_>| Ok((Bytes::copy_from_slice(row.get_ref(0)?.as_blob()?), row.get::<_, i64>(1)? as u64));
            match end.is_empty() {
                true => statement.query_map(params![end_of(after), start], row)?.collect(),
                false => statement.query_map(params![end_of(after), start, end], row)?.collect(),
            }
        };
        read().map_err(|e| self.explain(e))
    }

    /// The record at a position.
    pub fn at_position(&self, position: u64) -> Result<Option<Record>> {
        let mut found = None;
        let sql = format!("SELECT {COLUMNS} FROM log WHERE position = ?");
        self.select(&sql, [position as i64], |record| found = Some(record))?;
        Ok(found)
    }

    /// Up to `limit` records after a position, in order.
    pub fn after(&self, position: u64, up_to: Revision, limit: usize, each: impl FnMut(Record)) -> Result<()> {
        self.select(
            &format!("SELECT {COLUMNS} FROM log WHERE position > ? AND position <= ? ORDER BY position LIMIT ?"),
            params![position as i64, end_of(up_to), limit as i64],
            each,
        )
    }

    /// Whether a key was deleted after a revision.
    pub fn deleted_after(&self, key: &[u8], after: Revision) -> Result<bool> {
        self.connection
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM log INDEXED BY log_deleted
                 WHERE value IS NULL AND key = ? AND position > ?)",
            )
            .and_then(|mut select| select.query_row(params![key, end_of(after)], |row| row.get(0)))
            .map_err(|e| self.explain(e))
    }

    fn select(&self, sql: &str, params: impl rusqlite::Params, mut each: impl FnMut(Record)) -> Result<()> {
        let mut statement = self.connection.prepare_cached(sql).map_err(|e| self.explain(e))?;
        let mut rows = statement.query(params).map_err(|e| self.explain(e))?;
        while let Some(row) = rows.next().map_err(|e| self.explain(e))? {
            let (record, crc) = read(row).map_err(|e| self.explain(e))?;
            // Older rows are sealed by their key and value alone.
            if crc != seal(&record) && crc != checksum(&record.key, record.value.as_deref()) {
                let key = String::from_utf8_lossy(&record.key).into_owned();
                return Err(
                    self.corrupt(format!("the value of {key} at revision {} is not what was written", record.revision))
                );
            }
            each(record);
        }
        Ok(())
    }

    pub fn meta(&self, name: &str) -> Result<Option<u64>> {
        self.connection
            .query_row("SELECT value FROM meta WHERE name = ?", [name], |row| row.get::<_, i64>(0))
            .optional()
            .map(|value| value.map(|value| value as u64))
            .map_err(|e| self.explain(e))
    }

    pub fn set_meta(&self, name: &str, value: u64) -> Result<()> {
        let crc = checksum(name.as_bytes(), Some(&value.to_le_bytes()));
        self.connection
            .execute("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", params![name, value as i64, crc])
            .map(drop)
            .map_err(|e| self.explain(e))
    }

    pub fn leases(&self) -> Result<Vec<(LeaseId, Duration)>> {
        let all = || {
            let mut statement = self.connection.prepare("SELECT id, ttl_ms, crc FROM lease")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            rows.collect::<rusqlite::Result<Vec<(i64, i64, Option<u32>)>>>()
        };
        let lease = |(id, ttl_ms, crc): (i64, i64, Option<u32>)| match crc {
            Some(crc) if crc != lease_seal(id, ttl_ms) => {
                Err(self.corrupt(format!("lease {id} is not what was granted")))
            }
            _ => Ok((LeaseId(id), Duration::from_millis(ttl_ms as u64))),
        };
        all().map_err(|e| self.explain(e))?.into_iter().map(lease).collect()
    }

    pub fn put_lease(&self, id: LeaseId, ttl: Duration) -> Result<()> {
        let ttl_ms = ttl.as_millis() as i64;
        self.connection
            .execute("INSERT INTO lease VALUES (?, ?, ?)", params![id.0, ttl_ms, lease_seal(id.0, ttl_ms)])
            .map(drop)
            .map_err(|e| self.explain(e))
    }

    pub fn delete_lease(&self, id: LeaseId) -> Result<()> {
        self.connection.execute("DELETE FROM lease WHERE id = ?", [id.0]).map(drop).map_err(|e| self.explain(e))
    }

    /// What the next rows after `from` and up to `target`, `limit` at most, make superfluous: those that they superseded,
    /// and themselves if they are deletions. Also where that got to; none: there is nothing up to the target.
    pub fn superfluous(&self, from: u64, target: Revision, limit: usize) -> Result<(Vec<u64>, Option<u64>)> {
        let (mut found, mut reached) = (Vec::new(), None);
        let mut look = || -> rusqlite::Result<()> {
            let mut rows = self.connection.prepare_cached(
                "SELECT position, parent, value IS NULL FROM log
                 WHERE position > ? AND position <= ? ORDER BY position LIMIT ?",
            )?;
            let mut rows = rows.query(params![from as i64, end_of(target), limit as i64])?;
            while let Some(row) = rows.next()? {
                let (position, parent): (i64, i64) = (row.get(0)?, row.get(1)?);
                found.extend(Some(parent as u64).filter(|parent| *parent != 0));
                found.extend(row.get::<_, bool>(2)?.then_some(position as u64));
                reached = Some(position as u64);
            }
            Ok(())
        };
        look().map_err(|e| self.explain(e))?;
        Ok((found, reached))
    }

    /// Deletes rows; those that are gone already don't matter.
    pub fn delete(&self, positions: &[u64]) -> Result<()> {
        let run = || -> rusqlite::Result<()> {
            let mut delete = self.connection.prepare_cached("DELETE FROM log WHERE position = ?")?;
            positions.iter().try_for_each(|position| delete.execute([*position as i64]).map(drop))
        };
        run().map_err(|e| self.explain(e))
    }

    /// Gives up to `pages` free pages back to the file system, if there are more than are kept for what is written next.
    /// True: there are still.
    pub fn vacuum_step(&self, pages: u32) -> Result<bool> {
        let count = |name: &str| self.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let run = || -> rusqlite::Result<bool> {
            let (free, all) = (count("freelist_count")? as u64, count("page_count")? as u64);
            let keep = (all / KEEP_FREE).max(KEEP_FREE_PAGES);
            if free <= keep {
                return Ok(false);
            }
            let mut statement = self.connection.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
            let mut rows = statement.query([])?;
            while rows.next()?.is_some() {}
            Ok(free > keep + u64::from(pages))
        };
        run().map_err(|e| self.explain(e))
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<(Record, u32)> {
    let bytes = |index| Ok::<_, rusqlite::Error>(row.get_ref(index)?.as_blob_or_null()?.map(Bytes::copy_from_slice));
    let (position, index): (i64, u32) = (row.get(0)?, row.get(1)?);
    let record = Record {
        revision: Revision::from_u64(position as u64 - u64::from(index)),
        index,
        key: bytes(2)?.unwrap_or_default(),
        value: bytes(3)?,
        create_revision: Revision::from_u64(row.get::<_, i64>(4)? as u64),
        version: row.get::<_, i64>(5)? as u64,
        lease: row.get::<_, Option<i64>>(6)?.map(LeaseId),
        parent: row.get::<_, i64>(7)? as u64,
        merged: row.get(9)?,
    };
    Ok((record, row.get(8)?))
}

/// Over everything that a row says.
fn seal(record: &Record) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(checksum(&record.key, record.value.as_deref()));
    let lease = record.lease.map_or(0, |lease| lease.0 as u64);
    let numbers = [
        record.revision.get(),
        record.index.into(),
        record.create_revision.get(),
        record.version,
        lease,
        record.parent,
    ];
    numbers.iter().for_each(|number| hasher.update(&number.to_le_bytes()));
    // An empty value is not none.
    hasher.update(&[u8::from(record.value.is_some()), u8::from(record.lease.is_some()) | u8::from(record.merged) << 1]);
    hasher.finalize()
}

fn lease_seal(id: i64, ttl_ms: i64) -> u32 {
    checksum(&id.to_le_bytes(), Some(&ttl_ms.to_le_bytes()))
}

pub(crate) fn checksum(key: &[u8], value: Option<&[u8]>) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(value.unwrap_or_default());
    hasher.finalize()
}

/// SQLite's error in our terms.
pub(crate) fn explain(path: &Path, error: rusqlite::Error) -> Error {
    let at = path.display().to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => Error::NoSpace { path: at },
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            Error::Corrupt { path: at, what: error.to_string() }
        }
        _ => Error::Sqlite { path: at, source: error },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(position: u64, key: &'static str, value: Option<&'static str>, parent: u64) -> Record {
        Record {
            revision: Revision::from_u64(position),
            index: 0,
            key: key.into(),
            value: value.map(Bytes::from),
            create_revision: Revision::from_u64(position),
            version: 1,
            lease: None,
            parent,
            merged: false,
        }
    }

    fn names(log: &Log) -> Result<Vec<(Bytes, Option<Bytes>)>> {
        let mut all = Vec::new();
        log.current(|record| all.push((record.key, record.value))).map(|()| all)
    }

    /// The columns of before, and the index that each write changed.
    const OLDER: &str = "CREATE TABLE log (
             position INTEGER PRIMARY KEY, idx INTEGER NOT NULL, key BLOB NOT NULL, value BLOB,
             create_revision INTEGER NOT NULL, version INTEGER NOT NULL, lease INTEGER, parent INTEGER NOT NULL,
             crc INTEGER NOT NULL);
         CREATE INDEX log_key ON log (key, position);";

    #[test]
    fn an_older_database_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        Connection::open(&path).unwrap().execute_batch(OLDER).unwrap();
        for _ in 0..2 {
            let log = Log::open_checked(&path).unwrap();
            let (first, second) = (log.last_position().unwrap() + 4096, log.last_position().unwrap() + 8192);
            let parent = log.newest().unwrap().get(&b"/a"[..]).copied().unwrap_or(0);
            log.append(&record(first, "/a", Some("1"), parent)).unwrap();
            log.append(&record(second, "/a", Some("2"), first)).unwrap();
            assert_eq!(names(&log).unwrap(), [("/a".into(), Some("2".into()))]);
            let back = log.back(second, Revision::from_u64(first)).unwrap().unwrap();
            assert_eq!(back.value.as_deref(), Some(&b"1"[..]));
        }
    }

    #[test]
    fn a_history_with_a_hole_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open_checked(&dir.path().join("store.db")).unwrap();
        let rows = [(4096, Some("1"), 0), (8192, Some("2"), 4096), (12288, None, 8192), (16384, Some("3"), 0)];
        for (position, value, parent) in rows {
            log.append(&record(position, "/a", value, parent)).unwrap();
        }
        log.append(&record(20480, "/b", Some("other"), 0)).unwrap();
        assert_eq!(names(&log).unwrap().len(), 2);
        // Compaction takes the oldest first: that is none.
        log.delete(&[4096]).unwrap();
        assert_eq!(names(&log).unwrap().len(), 2);
        log.delete(&[12288]).unwrap();
        assert!(matches!(names(&log), Err(Error::Corrupt { .. })), "the end of the first life is lost");
    }

    #[test]
    fn rows_are_found_from_either_end_of_a_life() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open_checked(&dir.path().join("store.db")).unwrap();
        let rows = [(4096, Some("1"), 0), (8192, None, 4096), (12288, Some("2"), 0), (16384, None, 12288)];
        for (position, value, parent) in rows {
            log.append(&record(position, "/a", value, parent)).unwrap();
        }
        let ended = |after, end: &str| log.deleted(b"/", end.as_bytes(), Revision::from_u64(after)).unwrap();
        assert_eq!(ended(4096, ""), [("/a".into(), 8192)]);
        assert_eq!(ended(8192, "/b"), [("/a".into(), 16384)]);
        assert_eq!(ended(4096, "/a"), []);
        assert!(log.deleted_after(b"/a", Revision::from_u64(12288)).unwrap());
        assert!(!log.deleted_after(b"/a", Revision::from_u64(16384)).unwrap());
        for (at, value) in [(4096, None), (8192, None), (12288, Some("2"))] {
            let back = log.back(16384, Revision::from_u64(at)).unwrap();
            assert_eq!(back.and_then(|record| record.value), value.map(Bytes::from), "its second life at {at}");
            assert_eq!(log.has_back(16384, Revision::from_u64(at)).unwrap(), value.is_some());
        }
        assert_eq!(log.superfluous(0, Revision::from_u64(12288), 9).unwrap(), (vec![4096, 8192], Some(12288)));
    }
}
