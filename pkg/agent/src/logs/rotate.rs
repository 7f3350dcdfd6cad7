//! Rotation: a log that is too large gets another name, and the runtime a new file.
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// When and how much (the kubelet's containerLogMaxSize and containerLogMaxFiles).
#[derive(Debug, Clone, Copy)]
pub struct Rotation {
    pub max_bytes: u64,
    /// Files of one container, the current one included.
    pub files: usize,
}

impl Default for Rotation {
    fn default() -> Self {
        Self { max_bytes: 10 << 20, files: 5 }
    }
}

/// Rotates every log below `root` that is too large. The containers' logs whose files are new: their runtime must
/// open them.
pub fn rotate_all(root: &Path, rotation: Rotation) -> io::Result<Vec<PathBuf>> {
    let mut rotated = Vec::new();
    for pod in subdirectories(root)? {
        for container in subdirectories(&pod)? {
            for log in current_logs(&container)? {
                if fs::metadata(&log)?.len() > rotation.max_bytes {
                    rotate(&log, rotation)?;
                    rotated.push(log);
                }
            }
        }
    }
    Ok(rotated)
}

fn subdirectories(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    Ok(entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect())
}

fn current_logs(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let all = fs::read_dir(dir)?.flatten().map(|entry| entry.path());
    Ok(all.filter(|path| path.extension().is_some_and(|extension| extension == "log")).collect())
}

/// `0.log` becomes `0.log.<time>`; the oldest go.
fn rotate(log: &Path, rotation: Rotation) -> io::Result<()> {
    let mut old = log.as_os_str().to_owned();
    old.push(format!(".{}", jiff::Zoned::now().strftime("%Y%m%d-%H%M%S%.f")));
    fs::rename(log, old)?;
    let mut all = rotated(log)?;
    all.sort();
    let surplus = (all.len() + 1).saturating_sub(rotation.files);
    all.iter().take(surplus).try_for_each(fs::remove_file)
}

fn rotated(log: &Path) -> io::Result<Vec<PathBuf>> {
    let prefix = format!("{}.", log.file_name().unwrap_or_default().to_string_lossy());
    let dir = log.parent().unwrap_or(Path::new("/"));
    let all = fs::read_dir(dir)?.flatten().map(|entry| entry.path());
    Ok(all.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_logs_are_rotated_and_the_oldest_go() {
        let root = tempfile::tempdir().expect("directory");
        let dir = root.path().join("ns_p_u/c");
        fs::create_dir_all(&dir).expect("made");
        let log = dir.join("0.log");
        let rotation = Rotation { max_bytes: 3, files: 3 };
        for n in 0..5 {
            fs::write(&log, format!("{n}{n}{n}{n}")).expect("written");
            assert_eq!(rotate_all(root.path(), rotation).expect("rotated"), std::slice::from_ref(&log));
        }
        fs::write(&log, "5").expect("written");
        assert!(rotate_all(root.path(), rotation).expect("nothing to do").is_empty());
        let mut kept: Vec<_> =
            rotated(&log).expect("list").iter().map(|p| fs::read_to_string(p).expect("text")).collect();
        kept.sort();
        assert_eq!(kept, ["3333", "4444"]);
    }
}
