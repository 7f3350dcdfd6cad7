//! One server a data directory: an advisory lock that the kernel drops with the process.
use crate::files;
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{dir} is in use by process {pid}: stop it first, or give this one another --data-dir")]
    Held { dir: PathBuf, pid: String },
    #[error(transparent)]
    File(#[from] files::Error),
}

/// Held until dropped; the file says who holds it.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Takes the lock of a data directory.
pub fn take(dir: &Path) -> Result<Lock, Error> {
    files::private_dir(dir)?;
    let path = dir.join("lock");
    let at = |source| files::Error { path: path.clone(), source };
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(at)?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut pid = String::new();
        let _ = file.read_to_string(&mut pid);
        return Err(Error::Held { dir: dir.to_owned(), pid: pid.trim().to_owned() });
    }
    file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(at)?;
    Ok(Lock { _file: file })
}

/// The process that holds a data directory, if one does.
pub fn holder(dir: &Path) -> Option<u32> {
    let mut file = File::open(dir.join("lock")).ok()?;
    if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
        return None;
    }
    let mut pid = String::new();
    file.read_to_string(&mut pid).ok()?;
    pid.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_refused_and_told_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(holder(dir.path()), None);
        let lock = take(dir.path()).unwrap();
        let error = take(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        assert_eq!(holder(dir.path()), Some(std::process::id()));
        drop(lock);
        take(dir.path()).unwrap();
    }
}
