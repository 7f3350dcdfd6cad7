//! Snapshots of a store in one file: everything at one moment, taken while writing goes on, and put back only whole.
//!
//! A file is a SQLite database and then the SHA-256 of it, as etcd's snapshots end. What peers will be told is not
//! in it: a restored store is another incarnation, with a name of its own, and derives that anew.
use crate::log::{Log, explain};
use crate::store::{DATABASE, lock, private};
use crate::{Error, Result, Revision};
use crdt::HybridClock;
use rusqlite::{Connection, OpenFlags};
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const DIGEST_BYTES: u64 = 32;
/// Read at once.
const CHUNK_BYTES: usize = 1 << 20;
/// How long taking a snapshot waits for a writer's lock.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// Writes everything that the store in `dir` holds now to the file `to`, which appears whole or not at all. A server
/// may run on the store meanwhile, and is not held up.
pub fn save(dir: &Path, to: &Path) -> Result<()> {
    let part = to.with_extension("part");
    remove(&part)?;
    let saved = copy_database(&dir.join(DATABASE), &part).and_then(|()| seal(&part)).and_then(|()| {
        std::fs::rename(&part, to).map_err(|e| io(to, e))?;
        sync_dir(to)
    });
    saved.inspect_err(|_| drop(remove(&part)))
}

/// One read transaction of SQLite: consistent, and without what compaction left free.
fn copy_database(from: &Path, to: &Path) -> Result<()> {
    let sql = || {
        let source = Connection::open_with_flags(from, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        source.busy_timeout(LOCK_WAIT)?;
        source.execute("VACUUM INTO ?", [to.to_string_lossy()]).map(drop)
    };
    // Before SQLite complains of what isn't there, in its own words.
    std::fs::metadata(from).map_err(|e| io(from, e))?;
    sql().map_err(|e| explain(from, e))?;
    private(to)
}

fn seal(path: &Path) -> Result<()> {
    let mut file = OpenOptions::new().read(true).append(true).open(path).map_err(|e| io(path, e))?;
    let length = file.metadata().map_err(|e| io(path, e))?.len();
    let digest = digest(&mut file, length, &mut std::io::sink()).map_err(|e| io(path, e))?;
    file.write_all(&digest).and_then(|()| file.sync_all()).map_err(|e| io(path, e))
}

/// The digest of the next `length` bytes, which also go to `out`.
fn digest(from: &mut impl Read, length: u64, out: &mut impl Write) -> std::io::Result<[u8; 32]> {
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; CHUNK_BYTES]);
    let mut from = from.take(length);
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().into()),
            read => {
                hasher.update(&buffer[..read]);
                out.write_all(&buffer[..read])?;
            }
        }
    }
}

/// Makes the snapshot the store in `dir`, on which no server may run. Returns where the store before it is now.
pub fn restore(from: &Path, dir: &Path, now_ms: u64) -> Result<Option<PathBuf>> {
    let staging = staging(dir)?;
    unpack(from, &staging.join(DATABASE)).inspect_err(|_| drop(std::fs::remove_dir_all(&staging)))?;
    install(&staging, dir, now_ms)
}

/// An empty directory beside the store in `dir`, to make there what is to take its place.
pub fn staging(dir: &Path) -> Result<PathBuf> {
    let staging = beside(dir, "restoring");
    if staging.exists() {
        std::fs::remove_dir_all(&staging).map_err(|e| io(&staging, e))?;
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&staging).map_err(|e| io(&staging, e))?;
    Ok(staging)
}

/// Puts the store in `staging`, which is closed, in the place of that in `dir`, on which no server may run. Returns where
/// the store before it is now. What was revision before is compacted from then on, so that no watch goes on as if
/// nothing had happened. What can't be put there is deleted.
pub fn install(staging: &Path, dir: &Path, now_ms: u64) -> Result<Option<PathBuf>> {
    let had = dir.exists();
    let _lock = if had { Some(lock(dir)?) } else { None };
    renew(&staging.join(DATABASE), now_ms).inspect_err(|_| drop(std::fs::remove_dir_all(staging)))?;
    let replaced = beside(dir, &format!("replaced-{now_ms}"));
    if had {
        std::fs::rename(dir, &replaced).map_err(|e| io(&replaced, e))?;
    }
    std::fs::rename(staging, dir).map_err(|e| io(dir, e))?;
    sync_dir(dir)?;
    Ok(had.then_some(replaced))
}

/// Copies the database out of a snapshot, if that is whole.
fn unpack(from: &Path, to: &Path) -> Result<()> {
    let mut file = File::open(from).map_err(|e| io(from, e))?;
    let length = file.metadata().map_err(|e| io(from, e))?.len();
    let damaged = |what: &str| Error::Corrupt { path: from.display().to_string(), what: what.into() };
    let content = length.checked_sub(DIGEST_BYTES).ok_or_else(|| damaged("it is too short for a snapshot"))?;
    let mut out = File::create(to).map_err(|e| io(to, e))?;
    private(to)?;
    let found = digest(&mut file, content, &mut out).map_err(|e| io(to, e))?;
    let mut wanted = [0; DIGEST_BYTES as usize];
    file.seek(std::io::SeekFrom::Start(content)).and_then(|_| file.read_exact(&mut wanted)).map_err(|e| io(from, e))?;
    match found == wanted {
        true => out.sync_all().map_err(|e| io(to, e)),
        false => Err(damaged("its content is not what was saved")),
    }
}

/// Reads every value once, so that damage is found now, and begins a new history.
fn renew(database: &Path, now_ms: u64) -> Result<()> {
    let log = Log::open(database)?;
    log.current(|_| ())?;
    let last = log.last_position()?;
    let newest = log.at_position(last)?.map_or(Revision::ZERO, |record| record.revision);
    let newest = newest.max(Revision::from_u64(log.meta("compacted")?.unwrap_or(0)));
    if newest.is_zero() {
        return Ok(());
    }
    let clock = HybridClock::at(now_ms).max(newest.clock() + 1);
    log.set_meta("compacted", Revision::new(clock, newest.server()).get())
}

fn beside(dir: &Path, suffix: &str) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{suffix}"));
    dir.with_file_name(name)
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io(path, error)),
        _ => Ok(()),
    }
}

/// A name is durable when its directory is.
fn sync_dir(path: &Path) -> Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(|e| io(parent, e))
}

fn io(path: &Path, source: std::io::Error) -> Error {
    Error::Io { path: path.display().to_string(), source }
}
