//! The log of one server's changes in SQLite, and every statement on it.
//!
//! A row's position is its revision plus its index in the transaction: the low bits of a revision are the same
//! for all of one server's, so positions of different revisions never meet. `parent` is the position of the
//! key's row before this one; a row that is somebody's parent is superseded, which makes compaction a walk.
use crate::damage::check_wal;
use crate::{Error, LeaseId, Result, Revision};
use bytes::Bytes;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, params};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Most writes in one transaction, and the bits below the clock that positions may use.
pub const MAX_OPS: usize = 1 << (Revision::LOW_BITS - 1);
/// SQLite's page cache, per connection.
const CACHE_KIB: i64 = 2048;
/// What the write-ahead log may keep of the disk once it is begun anew: while somebody reads for long, as a snapshot does,
/// it grows with all that is written meanwhile.
pub const WAL_KEEP_BYTES: i64 = 16 << 20;
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
        self.connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        self.connection.pragma_update(None, "journal_mode", "WAL")?;
        self.connection.pragma_update(None, "synchronous", "FULL")?;
        self.connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
        self.connection.pragma_update(None, "journal_size_limit", WAL_KEEP_BYTES)?;
        self.connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL, crc INTEGER) WITHOUT ROWID;
             CREATE TABLE IF NOT EXISTS lease (id INTEGER PRIMARY KEY, ttl_ms INTEGER NOT NULL, crc INTEGER);
             CREATE TABLE IF NOT EXISTS log (
                 position INTEGER PRIMARY KEY,
                 idx INTEGER NOT NULL,
                 key BLOB NOT NULL,
                 value BLOB,
                 create_revision INTEGER NOT NULL,
                 version INTEGER NOT NULL,
                 lease INTEGER,
                 parent INTEGER NOT NULL,
                 crc INTEGER NOT NULL,
                 merged INTEGER NOT NULL DEFAULT 0);
             CREATE INDEX IF NOT EXISTS log_key ON log (key, position);",
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
            .prepare_cached("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")
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

    /// The newest record of every key that exists, in order of keys.
    pub fn current(&self, each: impl FnMut(Record)) -> Result<()> {
        self.select(
            "SELECT * FROM log WHERE position IN (SELECT max(position) FROM log GROUP BY key) AND value NOT NULL",
            [],
            each,
        )
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

    /// A key's newest record at or before a revision; a deletion counts as one.
    pub fn get(&self, key: &[u8], at: Revision) -> Result<Option<Record>> {
        let mut found = None;
        self.select(
            "SELECT * FROM log WHERE key = ? AND position <= ? ORDER BY position DESC LIMIT 1",
            params![key, end_of(at)],
            |record| found = Some(record),
        )?;
        Ok(found)
    }

    /// The record at a position.
    pub fn at_position(&self, position: u64) -> Result<Option<Record>> {
        let mut found = None;
        self.select("SELECT * FROM log WHERE position = ?", [position as i64], |record| found = Some(record))?;
        Ok(found)
    }

    /// Positions of what existed in a range of keys at a revision, in order of keys; no value is read. An empty `end`
    /// means no end.
    pub fn positions(&self, start: &[u8], end: &[u8], at: Revision) -> Result<Vec<u64>> {
        let read = || {
            // The inner select walks the index alone; `typeof` looks at a row's header, not at its value.
            let mut statement = self.connection.prepare_cached(
                "SELECT newest.position FROM (
                     SELECT key, max(position) AS position FROM log
                     WHERE key >= ?1 AND (length(?2) = 0 OR key < ?2) AND position <= ?3 GROUP BY key) AS newest
                 JOIN log ON log.position = newest.position
                 WHERE typeof(log.value) <> 'null' ORDER BY newest.key",
            )?;
            let rows = statement.query_map(params![start, end, end_of(at)], |row| row.get::<_, i64>(0))?;
            rows.map(|position| position.map(|position| position as u64)).collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(|e| self.explain(e))
    }

    /// Up to `limit` records after a position, in order.
    pub fn after(&self, position: u64, up_to: Revision, limit: usize, each: impl FnMut(Record)) -> Result<()> {
        self.select(
            "SELECT * FROM log WHERE position > ? AND position <= ? ORDER BY position LIMIT ?",
            params![position as i64, end_of(up_to), limit as i64],
            each,
        )
    }

    /// Whether a key was written after a revision.
    pub fn wrote_after(&self, key: &[u8], after: Revision) -> Result<bool> {
        self.connection
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM log WHERE key = ? AND position > ?)")
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

    /// One step of compaction: of at most `limit` records after `from` and up to `target`, deletes what they
    /// superseded, and themselves if they are deletions. Returns where it got to; none: nothing is left to do.
    pub fn compact_step(&self, from: u64, target: Revision, limit: usize) -> Result<Option<u64>> {
        let mut seen = Vec::new();
        let mut step = || -> rusqlite::Result<()> {
            let mut rows = self.connection.prepare_cached(
                "SELECT position, parent, value IS NULL FROM log
                 WHERE position > ? AND position <= ? ORDER BY position LIMIT ?",
            )?;
            let mut rows = rows.query(params![from as i64, end_of(target), limit as i64])?;
            while let Some(row) = rows.next()? {
                seen.push((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, bool>(2)?));
            }
            let mut delete = self.connection.prepare_cached("DELETE FROM log WHERE position = ?")?;
            for (position, parent, is_deletion) in &seen {
                if *parent != 0 {
                    delete.execute([parent])?;
                }
                if *is_deletion {
                    delete.execute([position])?;
                }
            }
            Ok(())
        };
        step().map_err(|e| self.explain(e))?;
        Ok(seen.last().map(|(position, ..)| *position as u64))
    }

    /// Gives up to `pages` free pages back to the file system.
    pub fn vacuum_step(&self, pages: u32) -> Result<()> {
        let run = || {
            let mut statement = self.connection.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
            let mut rows = statement.query([])?;
            while rows.next()?.is_some() {}
            Ok(())
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
