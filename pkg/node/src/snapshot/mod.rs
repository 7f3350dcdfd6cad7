//! Snapshots of this server's store, in files: taken while it runs, put back while it does not.
mod import;
mod scheduled;

use crate::{files, lock};
use anyhow::{Context, bail};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub use import::Imported;
pub use scheduled::Scheduled;
pub(crate) use scheduled::run as run_scheduled;

const SUFFIX: &str = ".db";
/// How a file's name tells when it was taken, in UTC, so that names sort by time.
const TIME: &str = "%Y%m%dT%H%M%SZ";
/// Length of a time so written, with the dash before it.
const TIME_LENGTH: usize = "-20260102T030405Z".len();

/// What a SQLite database begins with, what kine's has in its schema, and where that stands at the latest.
const SQLITE: &[u8] = b"SQLite format 3\0";
const KINE: &[u8] = b"CREATE TABLE kine";
const SCHEMA_BYTES: u64 = 8192;

/// A snapshot that is there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Taken {
    /// When, as in its name.
    pub time: String,
    /// What it was called.
    pub name: String,
    pub path: PathBuf,
    pub size_bytes: u64,
}

/// Where snapshots are kept unless told otherwise.
pub fn default_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("server/snapshots")
}

/// Takes a snapshot called `name`; returns its file.
///
/// # Errors
/// There is no store, or no space.
pub fn save(data_dir: &Path, dir: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '.';
    if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
        bail!("the name {name:?}: use letters, digits, dashes, dots and underscores");
    }
    files::private_dir(dir)?;
    let time = jiff::Timestamp::now().strftime(TIME);
    let path = dir.join(format!("{name}-{time}{SUFFIX}"));
    if path.exists() {
        bail!("{} is there already", path.display());
    }
    store::snapshot::save(&store_dir(data_dir), &path)?;
    Ok(path)
}

/// All snapshots of a directory, the oldest first.
///
/// # Errors
/// The directory can't be read; one that is missing has none.
pub fn list(dir: &Path) -> anyhow::Result<Vec<Taken>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| dir.display().to_string())?,
    };
    let mut all = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| dir.display().to_string())?.path();
        if let Some((name, time)) = parts(&path) {
            let size_bytes = std::fs::metadata(&path).with_context(|| path.display().to_string())?.len();
            all.push(Taken { time, name, path, size_bytes });
        }
    }
    all.sort();
    Ok(all)
}

/// Name and time out of a file's name; none: it is no snapshot of ours.
fn parts(path: &Path) -> Option<(String, String)> {
    let stem = path.file_name()?.to_str()?.strip_suffix(SUFFIX)?;
    let (name, time) = stem.split_at_checked(stem.len().checked_sub(TIME_LENGTH)?)?;
    let time = time.strip_prefix('-')?;
    let digits = time.len() == TIME_LENGTH - 1 && time.ends_with('Z') && time.as_bytes()[8] == b'T';
    (digits && !name.is_empty()).then(|| (name.to_owned(), time.to_owned()))
}

/// Deletes all but the newest `keep` snapshots called `name`; returns what is gone.
///
/// # Errors
/// A file can't be deleted.
pub fn prune(dir: &Path, name: &str, keep: usize) -> anyhow::Result<Vec<PathBuf>> {
    let mut same: Vec<_> = list(dir)?.into_iter().filter(|taken| taken.name == name).collect();
    same.truncate(same.len().saturating_sub(keep));
    for taken in &same {
        std::fs::remove_file(&taken.path).with_context(|| taken.path.display().to_string())?;
    }
    Ok(same.into_iter().map(|taken| taken.path).collect())
}

/// What restoring did.
#[derive(Debug)]
pub struct Restored {
    /// Where the store before it is kept.
    pub replaced: Option<PathBuf>,
    /// What was taken over, if the snapshot was an etcd's.
    pub imported: Option<Imported>,
}

/// Puts a snapshot, ours or one of etcd, in the place of the store of a server that does not run.
///
/// # Errors
/// The server runs, or the file is damaged or can't be read whole: then nothing is touched.
pub fn restore(data_dir: &Path, dir: &Path, file: &Path) -> anyhow::Result<Restored> {
    // A bare name is one of the list.
    let listed = dir.join(file);
    let file = if file.exists() || !listed.exists() { file } else { &listed };
    let _lock = lock::take(&data_dir.join("server"))?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let store = store_dir(data_dir);
    if is_kine(file)? {
        bail!(
            "{} is a database of k3s (kine), which can't be read: let k3s run on etcd and take a snapshot",
            file.display()
        );
    }
    if !etcd::snapshot::is_snapshot(file)? {
        return Ok(Restored { replaced: store::snapshot::restore(file, &store, now)?, imported: None });
    }
    let (staging, imported) = import::stage(file, &store)?;
    Ok(Restored { replaced: store::snapshot::install(&staging, &store, now)?, imported: Some(imported) })
}

/// Whether a file is the database in which k3s keeps a single server's objects.
fn is_kine(file: &Path) -> anyhow::Result<bool> {
    let mut head = Vec::new();
    let read = std::fs::File::open(file).and_then(|file| file.take(SCHEMA_BYTES).read_to_end(&mut head));
    read.with_context(|| file.display().to_string())?;
    Ok(head.starts_with(SQLITE) && head.windows(KINE.len()).any(|found| found == KINE))
}

fn store_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("server/store")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_a_name_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let names =
            ["a-20260101T000000Z.db", "a-20260103T000000Z.db", "a-20260102T000000Z.db", "b-c-20250101T000000Z.db"];
        for name in names.iter().chain(&["a-20260104T000000Z.part", "notes.db", "-20260101T000000Z.db"]) {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        let all = list(dir.path()).unwrap();
        let found: Vec<_> = all.iter().map(|taken| (taken.name.as_str(), &taken.time[..8])).collect();
        assert_eq!(found, [("b-c", "20250101"), ("a", "20260101"), ("a", "20260102"), ("a", "20260103")]);
        assert_eq!(prune(dir.path(), "a", 1).unwrap().len(), 2);
        assert_eq!(list(dir.path()).unwrap().len(), 2);
        assert!(prune(dir.path(), "none", 0).unwrap().is_empty() && list(&dir.path().join("none")).unwrap().is_empty());
    }

    #[test]
    fn odd_names_and_missing_stores_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(save(dir.path(), dir.path(), "../x").is_err() && save(dir.path(), dir.path(), "").is_err());
        assert!(save(dir.path(), &dir.path().join("snapshots"), "x").is_err());
        assert!(restore(dir.path(), dir.path(), Path::new("/none")).is_err());
        let kine = dir.path().join("state.db");
        std::fs::write(&kine, [SQLITE, b" .. ", KINE, b" (id INTEGER)"].concat()).unwrap();
        let error = restore(dir.path(), dir.path(), &kine).unwrap_err().to_string();
        assert!(error.contains("kine") && !dir.path().join("server/store").exists(), "{error}");
    }
}
