//! Files that containers see change all at once: a directory of the new state, and one symlink that is swapped.
//!
//! The layout is the one that Kubernetes promises to containers: `<key> -> ..data/<key>`, `..data -> ..<time>`.
use rustix::fs::{Gid, Uid};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// One file to be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub content: Vec<u8>,
    pub mode: u32,
    /// The owner, where it is not root.
    pub uid: Option<u32>,
}

/// All files by their path within the volume.
pub type Payload = BTreeMap<String, File>;

/// Makes `dir` show exactly `payload`; `gid` is the pod's fsGroup. True when something changed.
pub fn write(dir: &Path, payload: &Payload, gid: Option<u32>) -> io::Result<bool> {
    fs::create_dir_all(dir)?;
    let old = fs::read_link(dir.join(DATA)).ok();
    if old.as_ref().is_some_and(|old| same(&dir.join(old), payload)) {
        return Ok(false);
    }
    let name = format!("..{}", jiff::Zoned::now().strftime("%Y_%m_%d_%H_%M_%S.%N"));
    let new = dir.join(&name);
    fs::create_dir(&new)?;
    set_group(&new, gid, 0o755)?;
    for (path, file) in payload {
        write_file(&new, path, file, gid)?;
    }
    let swap = dir.join(DATA_NEW);
    crate::files::remove_file(&swap)?;
    symlink(&name, &swap)?;
    fs::rename(&swap, dir.join(DATA))?;
    link_names(dir, payload)?;
    if let Some(old) = old {
        crate::files::remove_dir(&dir.join(old))?;
    }
    Ok(true)
}

fn write_file(root: &Path, path: &str, file: &File, gid: Option<u32>) -> io::Result<()> {
    let mut dir = root.to_owned();
    let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let Some(name) = parts.pop() else { return Err(io::Error::other("a file without a name")) };
    for part in parts {
        dir.push(part);
        if !dir.exists() {
            fs::create_dir(&dir)?;
            set_group(&dir, gid, 0o755)?;
        }
    }
    let path = dir.join(name);
    fs::write(&path, &file.content)?;
    let mode = if gid.is_some() { file.mode | 0o440 } else { file.mode };
    if file.uid.is_some() || gid.is_some() {
        let (uid, gid) = (file.uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        rustix::fs::chown(&path, uid, gid)?;
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(mode))
}

fn set_group(dir: &Path, gid: Option<u32>, mode: u32) -> io::Result<()> {
    if let Some(gid) = gid {
        rustix::fs::chown(dir, None, Some(Gid::from_raw(gid)))?;
        return fs::set_permissions(dir, fs::Permissions::from_mode(mode | 0o2550));
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(mode))
}

/// The links of first path elements that containers open; those of keys that are gone go.
fn link_names(dir: &Path, payload: &Payload) -> io::Result<()> {
    let wanted: BTreeSet<&str> = payload.keys().filter_map(|path| path.split('/').find(|p| !p.is_empty())).collect();
    for entry in fs::read_dir(dir)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !wanted.contains(name.as_str()) {
            fs::remove_file(entry.path())?;
        }
    }
    for name in wanted {
        let link = dir.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), link)?;
        }
    }
    Ok(())
}

fn same(dir: &Path, payload: &Payload) -> bool {
    let mut found = Vec::new();
    if list(dir, &PathBuf::new(), &mut found).is_err() || found.len() != payload.len() {
        return false;
    }
    found.iter().all(|path| {
        let file = payload.get(&path.to_string_lossy().into_owned());
        file.is_some_and(|file| fs::read(dir.join(path)).is_ok_and(|content| content == file.content))
    })
}

fn list(root: &Path, below: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => list(root, &path, found)?,
            false => found.push(path),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |text: &str| File { content: text.into(), mode: 0o640, uid: None };
        files.iter().map(|(path, text)| (path.to_string(), file(text))).collect()
    }

    #[test]
    fn containers_see_one_state_or_the_other() {
        let dir = tempfile::tempdir().expect("directory");
        let read = |path: &str| fs::read_to_string(dir.path().join(path)).ok();
        assert!(write(dir.path(), &payload(&[("a", "1"), ("sub/b", "2")]), None).expect("written"));
        assert_eq!((read("a"), read("sub/b")), (Some("1".into()), Some("2".into())));
        let mode = fs::metadata(dir.path().join("a")).expect("file").permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        let first = fs::read_link(dir.path().join(DATA)).expect("link");

        assert!(!write(dir.path(), &payload(&[("a", "1"), ("sub/b", "2")]), None).expect("unchanged"));
        assert_eq!(fs::read_link(dir.path().join(DATA)).expect("link"), first);

        assert!(write(dir.path(), &payload(&[("a", "3"), ("c", "4")]), None).expect("changed"));
        assert_eq!((read("a"), read("c"), read("sub/b")), (Some("3".into()), Some("4".into()), None));
        assert!(!dir.path().join(first).exists(), "the old state is removed");
        assert!(fs::symlink_metadata(dir.path().join("sub")).is_err());
    }
}
