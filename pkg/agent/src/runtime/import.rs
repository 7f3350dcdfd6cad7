//! Image archives that lie in a directory are imported, at start and when they appear, each version of a file once.
use super::ctr::Ctr;
use super::grpc::Containerd;
use notify::{RecursiveMode, Watcher};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Archives looked at in the directory; more are left alone, in order of name.
const MAX_ARCHIVES: usize = 1000;

/// A file younger than this may still be written.
const SETTLE: Duration = Duration::from_millis(1000);

/// At start young files are waited for, each look a [`SETTLE`] after the one before.
const FIRST_LOOKS: usize = 5;

/// Looked at again after this even without a notice, for file systems that send none.
const RESCAN: Duration = Duration::from_secs(300);

const ENDINGS: [&str; 5] = [".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.zstd"];

/// One version of an archive file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Version {
    size_bytes: u64,
    /// Nanoseconds since 1970.
    modified_ns: u64,
}

/// What became of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Imported {
    version: Version,
    references: Vec<String>,
}

/// The names of all images that a record tells of; none when there is no record.
pub fn references(record: &Path) -> BTreeSet<String> {
    let known =
        fs::read(record).ok().and_then(|bytes| serde_json::from_slice::<BTreeMap<String, Imported>>(&bytes).ok());
    known.into_iter().flatten().flat_map(|(_, imported)| imported.references).collect()
}

/// The directory and what is known of it.
pub struct Importer {
    dir: PathBuf,
    /// Where [`Self::imported`] is kept, beside containerd's content so that it vanishes with it.
    record: PathBuf,
    ctr: Ctr,
    containerd: Containerd,
    imported: BTreeMap<String, Imported>,
    /// Versions that could not be imported: said once, tried again when the file changes or at the next start.
    failed: BTreeMap<String, Version>,
}

impl Importer {
    pub fn new(dir: &Path, record: &Path, ctr: Ctr, containerd: Containerd) -> Self {
        // A record that can't be read costs a second import, no more.
        let imported = fs::read(record).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        let failed = BTreeMap::new();
        Self { dir: dir.to_owned(), record: record.to_owned(), ctr, containerd, imported, failed }
    }

    /// Forgets archives whose images have been removed from containerd since.
    pub async fn verify(&mut self) {
        let mut gone = BTreeSet::new();
        for (name, imported) in &self.imported {
            for reference in &imported.references {
                if matches!(self.containerd.image_digest(reference).await, Ok(None)) {
                    gone.insert(name.clone());
                }
            }
        }
        self.imported.retain(|name, _| !gone.contains(name));
    }

    /// Imports what lies there already, also what was put there just now: an installer starts the node right after that.
    pub async fn start(&mut self) {
        for _ in 0..FIRST_LOOKS {
            if self.scan().await > SETTLE {
                return;
            }
            tokio::time::sleep(SETTLE).await;
        }
    }

    /// Imports what is due; returns when to look again.
    async fn scan(&mut self) -> Duration {
        let found = match list(&self.dir) {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(dir = %self.dir.display(), %error, "image archives can't be listed");
                return RESCAN;
            }
        };
        self.imported.retain(|name, _| found.contains_key(name));
        self.failed.retain(|name, _| found.contains_key(name));
        let (due, again) = self.due(&found, now_ns());
        for name in due {
            self.import(&name, found[&name].clone()).await;
        }
        again
    }

    /// The archives to import now, and when to look again.
    fn due(&self, found: &BTreeMap<String, Version>, now_ns: u64) -> (Vec<String>, Duration) {
        let known = |name: &String, version: &Version| {
            self.imported.get(name).is_some_and(|i| i.version == *version) || self.failed.get(name) == Some(version)
        };
        let settled = |version: &Version| now_ns.saturating_sub(version.modified_ns) >= SETTLE.as_nanos() as u64;
        let new = found.iter().filter(|(name, version)| !known(name, version));
        let (due, young): (Vec<_>, Vec<_>) = new.partition(|(_, version)| settled(version));
        let again = if young.is_empty() { RESCAN } else { SETTLE };
        (due.into_iter().map(|(name, _)| name.clone()).collect(), again)
    }

    async fn import(&mut self, name: &str, version: Version) {
        match self.ctr.import_file(&self.dir.join(name)).await {
            Ok(references) => {
                tracing::info!(archive = name, images = ?references, "image archive imported");
                self.imported.insert(name.to_owned(), Imported { version, references });
                if let Err(error) = self.save() {
                    tracing::warn!(record = %self.record.display(), %error, "imports can't be recorded");
                }
            }
            Err(error) => {
                tracing::warn!(archive = name, %error, "image archive not imported");
                self.failed.insert(name.to_owned(), version);
            }
        }
    }

    fn save(&self) -> io::Result<()> {
        let new = self.record.with_extension("new");
        fs::write(&new, serde_json::to_vec(&self.imported)?)?;
        fs::rename(new, &self.record)
    }

    /// Imports what appears until `stop`.
    pub async fn follow(&mut self, stop: CancellationToken) {
        let (changed, mut changes) = mpsc::channel(1);
        // Dropping the watcher ends it. Without one (out of inotify instances) the rescan remains.
        let _watcher = watch(&self.dir, changed)
            .inspect_err(|error| tracing::warn!(dir = %self.dir.display(), %error, "directory can't be watched"));
        let mut again = SETTLE;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(()) = changes.recv() => {}
                () = tokio::time::sleep(again) => {}
            }
            again = self.scan().await;
        }
    }
}

fn watch(dir: &Path, changed: mpsc::Sender<()>) -> notify::Result<notify::RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // A full channel means that a scan is due already. Reading an archive is no change.
        if event.is_ok_and(|event| !event.kind.is_access() || is_close_write(&event)) {
            let _ = changed.try_send(());
        }
    })?;
    watcher.watch(dir, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

fn is_close_write(event: &notify::Event) -> bool {
    use notify::event::{AccessKind, AccessMode, EventKind};
    event.kind == EventKind::Access(AccessKind::Close(AccessMode::Write))
}

fn list(dir: &Path) -> io::Result<BTreeMap<String, Version>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        // A link may point to nothing, a file may vanish: neither is an archive.
        let Ok(metadata) = fs::metadata(entry.path()) else { continue };
        if metadata.is_file() && is_archive(&name) {
            let modified_ns = metadata.modified().map(ns).unwrap_or_default();
            found.insert(name, Version { size_bytes: metadata.len(), modified_ns });
        }
    }
    while found.len() > MAX_ARCHIVES {
        found.pop_last();
    }
    Ok(found)
}

fn is_archive(name: &str) -> bool {
    !name.starts_with('.') && ENDINGS.iter().any(|ending| name.ends_with(ending))
}

fn now_ns() -> u64 {
    ns(SystemTime::now())
}

fn ns(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn importer(dir: &Path) -> Importer {
        let socket = dir.join("none.sock");
        let containerd = Containerd::lazy(&socket).expect("lazy");
        Importer::new(dir, &dir.join("record.json"), Ctr::new(&socket, "overlayfs"), containerd)
    }

    #[tokio::test]
    async fn each_version_once_and_not_while_it_is_written() {
        let dir = tempfile::tempdir().expect("dir");
        let mut importer = importer(dir.path());
        let version = |size_bytes, modified_ns| Version { size_bytes, modified_ns };
        let found = BTreeMap::from([
            ("a.tar".to_owned(), version(1, SECOND)),
            ("b.tar.gz".to_owned(), version(2, SECOND)),
            ("c.tar.zst".to_owned(), version(3, 100 * SECOND - 1)),
        ]);
        assert_eq!(importer.due(&found, 100 * SECOND), (vec!["a.tar".into(), "b.tar.gz".into()], SETTLE));
        let imported = Imported { version: version(1, SECOND), references: Vec::new() };
        importer.imported.insert("a.tar".to_owned(), imported);
        importer.failed.insert("b.tar.gz".to_owned(), version(9, SECOND));
        assert_eq!(importer.due(&found, 102 * SECOND), (vec!["b.tar.gz".into(), "c.tar.zst".into()], RESCAN));
    }

    #[tokio::test]
    async fn looks_only_at_archives() {
        let dir = tempfile::tempdir().expect("dir");
        for name in ["a.tar", "b.tgz", "c.tar.zst", ".d.tar", "e.tar.part", "f.txt"] {
            fs::write(dir.path().join(name), "x").expect("write");
        }
        fs::create_dir(dir.path().join("g.tar")).expect("dir");
        let names: Vec<_> = list(dir.path()).expect("list").into_keys().collect();
        assert_eq!(names, ["a.tar", "b.tgz", "c.tar.zst"]);
    }

    #[tokio::test]
    async fn a_failure_is_remembered() {
        let dir = tempfile::tempdir().expect("dir");
        fs::write(dir.path().join("a.tar"), "no archive").expect("write");
        let old = SystemTime::now() - Duration::from_secs(60);
        fs::File::options().write(true).open(dir.path().join("a.tar")).expect("open").set_modified(old).expect("time");
        let mut importer = importer(dir.path());
        assert_eq!(importer.scan().await, RESCAN);
        assert!(importer.failed.contains_key("a.tar") && importer.imported.is_empty());
    }

    #[tokio::test]
    async fn what_was_put_there_just_before_the_start_is_imported_first() {
        let dir = tempfile::tempdir().expect("dir");
        fs::write(dir.path().join("a.tar"), "no archive").expect("write");
        let mut importer = importer(dir.path());
        importer.start().await;
        assert!(importer.failed.contains_key("a.tar"), "it was not looked at");
    }
}
