//! What peers will be told: this server's changes, derived from the log, in a database of its own so that deriving
//! never holds up the writer.
//!
//! Rows are numbered in order and a number is never used again. What supersedes rows (a folded document, a
//! register's next value, a tombstone) deletes them and takes a new number, so "all after N" is always complete
//! and the table is as large as the objects, not as their history.
use crate::log::{WAL_KEEP_BYTES, explain};
use crate::{Numbered, Result};
use crdt::Actor;
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::path::{Path, PathBuf};

/// SQLite's page cache.
const CACHE_KIB: i64 = 1024;

/// What a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// An edit of a document.
    Change,
    /// A document whose earlier history was folded into it.
    Snapshot,
    /// A whole value; empty bytes: deleted.
    Register,
    /// The object of that life was deleted.
    Tombstone,
}

impl Content {
    const ALL: [Self; 4] = [Self::Change, Self::Snapshot, Self::Register, Self::Tombstone];

    fn code(self) -> i64 {
        self as i64
    }
}

pub struct Changes {
    connection: Connection,
    path: PathBuf,
}

impl Changes {
    pub fn open(path: &Path) -> Result<Self> {
        let connection = Connection::open(path).map_err(|e| explain(path, e))?;
        let changes = Self { connection, path: path.to_owned() };
        changes.sql(|db| {
            db.busy_timeout(std::time::Duration::from_secs(10))?;
            db.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
            db.pragma_update(None, "journal_mode", "WAL")?;
            db.pragma_update(None, "synchronous", "FULL")?;
            db.pragma_update(None, "cache_size", -CACHE_KIB)?;
            db.pragma_update(None, "journal_size_limit", WAL_KEEP_BYTES)?;
            db.execute_batch(
                "CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
                 CREATE TABLE IF NOT EXISTS change (
                     number INTEGER PRIMARY KEY AUTOINCREMENT,
                     position INTEGER NOT NULL,
                     key BLOB NOT NULL,
                     life TEXT NOT NULL,
                     epoch INTEGER NOT NULL,
                     content INTEGER NOT NULL,
                     bytes BLOB NOT NULL);
                 CREATE INDEX IF NOT EXISTS change_key ON change (key, number);",
            )
        })?;
        Ok(changes)
    }

    fn sql<T>(&self, run: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        run(&self.connection).map_err(|e| explain(&self.path, e))
    }

    /// This incarnation's name, made on first use.
    pub fn actor(&self) -> Result<Actor> {
        let fresh: [u8; 16] = rand::random();
        self.sql(|db| {
            db.execute("INSERT OR IGNORE INTO meta VALUES ('actor', ?)", [&fresh[..]])?;
            db.query_row("SELECT value FROM meta WHERE name = 'actor'", [], |row| row.get(0)).map(Actor)
        })
    }

    /// Position of the log up to which everything is derived.
    pub fn derived(&self) -> Result<u64> {
        let found = self.sql(|db| {
            db.query_row("SELECT value FROM meta WHERE name = 'derived'", [], |row| row.get::<_, i64>(0)).optional()
        })?;
        Ok(found.unwrap_or(0) as u64)
    }

    /// Runs `work` in one transaction that also notes how far it got.
    pub fn step(&self, derived: u64, work: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        self.sql(|db| db.execute_batch("BEGIN IMMEDIATE"))?;
        let done = work(self).and_then(|()| {
            self.sql(|db| {
                db.execute("INSERT OR REPLACE INTO meta VALUES ('derived', ?)", [derived as i64])?;
                db.execute_batch("COMMIT")
            })
        });
        if done.is_err() && !self.connection.is_autocommit() {
            self.sql(|db| db.execute_batch("ROLLBACK"))?;
        }
        done
    }

    pub fn add(&self, position: u64, object: Object<'_>, content: Content, bytes: &[u8]) -> Result<()> {
        self.sql(|db| {
            db.prepare_cached(
                "INSERT INTO change (position, key, life, epoch, content, bytes) VALUES (?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![position as i64, object.key, object.life, object.epoch, content.code(), bytes])
            .map(drop)
        })
    }

    /// Forgets all rows of a key but the tombstones of its earlier lives.
    pub fn forget(&self, key: &[u8]) -> Result<()> {
        let tombstone = Content::Tombstone.code();
        self.sql(|db| {
            db.prepare_cached("DELETE FROM change WHERE key = ? AND content <> ?")?
                .execute(params![key, tombstone])
                .map(drop)
        })
    }

    /// Forgets what was deleted before a position.
    pub fn prune(&self, before: u64) -> Result<()> {
        self.sql(|db| {
            db.execute(
                "DELETE FROM change WHERE position < ? AND (content = ? OR content = ? AND length(bytes) = 0)",
                params![before as i64, Content::Tombstone.code(), Content::Register.code()],
            )?;
            let mut vacuum = db.prepare("PRAGMA incremental_vacuum(256)")?;
            let mut rows = vacuum.query([])?;
            while rows.next()?.is_some() {}
            Ok(())
        })
    }

    /// All rows of a key, in order.
    pub fn of(&self, key: &[u8]) -> Result<Vec<Numbered>> {
        self.sql(|db| {
            let mut select = db.prepare_cached("SELECT * FROM change WHERE key = ? ORDER BY number")?;
            select.query_map([key], read)?.collect()
        })
    }

    /// Up to `limit` rows after a number, in order.
    pub fn since(&self, number: u64, limit: usize) -> Result<Vec<Numbered>> {
        self.sql(|db| {
            let mut select = db.prepare_cached("SELECT * FROM change WHERE number > ? ORDER BY number LIMIT ?")?;
            select.query_map([number as i64, limit as i64], read)?.collect()
        })
    }
}

/// Whose row it is.
#[derive(Clone, Copy)]
pub struct Object<'a> {
    pub key: &'a [u8],
    /// The object's uid: an object of the same name has another.
    pub life: &'a str,
    pub epoch: u32,
}

fn read(row: &Row<'_>) -> rusqlite::Result<Numbered> {
    let code: i64 = row.get(5)?;
    let content = usize::try_from(code).ok().and_then(|code| Content::ALL.get(code).copied());
    let content = content.ok_or(rusqlite::Error::IntegralValueOutOfRange(5, code))?;
    Ok(Numbered {
        number: row.get::<_, i64>(0)? as u64,
        position: row.get::<_, i64>(1)? as u64,
        key: row.get::<_, Vec<u8>>(2)?.into(),
        life: row.get(3)?,
        epoch: row.get(4)?,
        content,
        bytes: row.get::<_, Vec<u8>>(6)?.into(),
    })
}
