//! The executor: makes, limits, reads and removes groups.
use super::plan::{self, Limits, V1_CONTROLLERS, V2_CONTROLLERS, Version};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Tries to remove a group whose last process is still leaving, and the pause between them.
const REMOVE_TRIES: u32 = 20;
const REMOVE_PAUSE: Duration = Duration::from_millis(10);

/// A file or directory of the hierarchy that could not be used.
#[derive(Debug, thiserror::Error)]
#[error("cgroup {path}")]
pub struct Error {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// The machine's hierarchy.
#[derive(Debug, Clone)]
pub struct Cgroups {
    root: PathBuf,
    version: Version,
}

impl Cgroups {
    /// What is mounted at `/sys/fs/cgroup`.
    pub fn detect() -> Self {
        Self::at(Path::new("/sys/fs/cgroup"))
    }

    pub(crate) fn at(root: &Path) -> Self {
        let version = if root.join("cgroup.controllers").exists() { Version::V2 } else { Version::V1 };
        Self { root: root.to_owned(), version }
    }

    pub fn version(&self) -> Version {
        self.version
    }

    /// Makes the group `path` (absolute within the hierarchy, such as `/eyotpods/burstable`) with its parents.
    pub fn create(&self, path: &str, limits: &Limits) -> Result<(), Error> {
        for dir in self.dirs(path) {
            // A controller that the kernel lacks has no hierarchy; runc says so where it matters.
            let Some(top) = self.top_of(&dir) else { continue };
            if top.exists() {
                fs::create_dir_all(&dir).map_err(failed(&dir))?;
            }
        }
        if self.version == Version::V2 {
            self.enable_controllers(path)?;
        }
        self.limit(path, limits)
    }

    /// Puts limits in force on an existing group.
    pub fn limit(&self, path: &str, limits: &Limits) -> Result<(), Error> {
        for write in plan::writes(self.version, limits) {
            let file = self.dir(write.controller, path).join(write.file);
            if file.exists() {
                fs::write(&file, &write.value).map_err(failed(&file))?;
            }
        }
        Ok(())
    }

    /// Removes a group and all below it. Gone already is success; processes in it are an error.
    pub fn remove(&self, path: &str) -> Result<(), Error> {
        self.everywhere(path).iter().try_for_each(|dir| remove_tree(dir).map_err(failed(dir)))
    }

    /// Ids of the processes in a group and all below it.
    pub fn processes_below(&self, path: &str) -> BTreeSet<i32> {
        let mut found = BTreeSet::new();
        self.everywhere(path).iter().for_each(|dir| find_processes(dir, &mut found));
        found
    }

    /// The names of the groups right below `path`.
    pub fn children(&self, path: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.dir("memory", path)) else { return Vec::new() };
        let dirs = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        dirs.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    pub(crate) fn dir(&self, controller: &str, path: &str) -> PathBuf {
        let path = path.trim_start_matches('/');
        match self.version {
            Version::V1 => self.root.join(controller).join(path),
            Version::V2 => self.root.join(path),
        }
    }

    fn dirs(&self, path: &str) -> Vec<PathBuf> {
        match self.version {
            Version::V1 => V1_CONTROLLERS.iter().map(|controller| self.dir(controller, path)).collect(),
            Version::V2 => vec![self.dir("", path)],
        }
    }

    /// The same path in every hierarchy: runc made it in all of them.
    fn everywhere(&self, path: &str) -> Vec<PathBuf> {
        if self.version == Version::V2 {
            return self.dirs(path);
        }
        let Ok(entries) = fs::read_dir(&self.root) else { return Vec::new() };
        entries.flatten().map(|entry| entry.path().join(path.trim_start_matches('/'))).collect()
    }

    /// The mount point that a group's directory lies under.
    fn top_of(&self, dir: &Path) -> Option<PathBuf> {
        match self.version {
            Version::V2 => Some(self.root.clone()),
            Version::V1 => {
                let controller = dir.strip_prefix(&self.root).ok()?.components().next()?;
                Some(self.root.join(controller))
            }
        }
    }

    /// Version 2 hands controllers down one level at a time.
    fn enable_controllers(&self, path: &str) -> Result<(), Error> {
        let mut dir = self.root.clone();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let known = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
            let wanted: Vec<_> = known
                .split_whitespace()
                .filter(|name| V2_CONTROLLERS.contains(name))
                .map(|name| format!("+{name}"))
                .collect();
            let file = dir.join("cgroup.subtree_control");
            fs::write(&file, wanted.join(" ")).map_err(failed(&file))?;
            dir.push(part);
        }
        let known = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
        let wanted: Vec<_> = known.split_whitespace().map(|name| format!("+{name}")).collect();
        let file = dir.join("cgroup.subtree_control");
        fs::write(&file, wanted.join(" ")).map_err(failed(&file))
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error { path, source }
}

/// The processes of the group at a directory, without those of groups below.
pub(crate) fn processes_of(dir: &Path) -> Vec<i32> {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

fn find_processes(dir: &Path, found: &mut BTreeSet<i32>) {
    // A group that is gone has none.
    let Ok(entries) = fs::read_dir(dir) else { return };
    // Zero is a process that this one can't name.
    found.extend(processes_of(dir).into_iter().filter(|pid| *pid > 0));
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        find_processes(&entry.path(), found);
    }
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(()) };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_tree(&entry.path())?;
    }
    for _ in 0..REMOVE_TRIES {
        match fs::remove_dir(dir) {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => {
                std::thread::sleep(REMOVE_PAUSE);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => return other,
        }
    }
    fs::remove_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_groups_are_made_limited_and_removed() {
        let cgroups = Cgroups::detect();
        let path = format!("/eyot-qos-test-{}", std::process::id());
        let child = format!("{path}/pod1");
        let limits = Limits { memory_bytes: Some(64 << 20), ..Limits::default() };
        if let Err(error) = cgroups.create(&child, &limits) {
            return eprintln!("skipped: {error}: {}", error.source);
        }
        let file = match cgroups.version() {
            Version::V1 => cgroups.dir("memory", &child).join("memory.limit_in_bytes"),
            Version::V2 => cgroups.dir("memory", &child).join("memory.max"),
        };
        let limit: u64 = fs::read_to_string(&file).expect("limit").trim().parse().expect("number");
        let children = cgroups.children(&path);
        cgroups.remove(&path).expect("an empty group can be removed");
        cgroups.remove(&path).expect("and is gone then");
        assert_eq!(limit, 64 << 20);
        assert_eq!(children, ["pod1"]);
        assert!(!file.exists());
    }
}
