//! Rotation of a log that another process holds open for appending: copied aside, then cut to nothing.
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Size at which the log is rotated, in bytes.
pub const MAX_BYTES: u64 = 10 * 1024 * 1024;

/// Older logs that are kept, as `<name>.1` (newest) and up.
pub const KEEP: usize = 3;

/// Rotates `log` if it is larger than `max_bytes`. What is written between copy and cut is lost, as with
/// logrotate's copytruncate: the writer can't be told to open a new file.
pub fn rotate(log: &Path, max_bytes: u64, keep: usize) -> io::Result<bool> {
    match fs::metadata(log) {
        Ok(metadata) if metadata.len() > max_bytes => {}
        Ok(_) => return Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    }
    for number in (1..keep).rev() {
        let older = numbered(log, number);
        if older.exists() {
            fs::rename(older, numbered(log, number + 1))?;
        }
    }
    fs::copy(log, numbered(log, 1))?;
    File::options().write(true).open(log)?.set_len(0)?;
    Ok(true)
}

fn numbered(log: &Path, number: usize) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn keeps_the_newest_few_and_the_writer_goes_on() {
        let dir = tempfile::tempdir().expect("dir");
        let log = dir.path().join("x.log");
        assert!(!rotate(&log, 10, 2).expect("no log yet"));
        let mut writer = File::options().create(true).append(true).open(&log).expect("open");
        for round in 0..4 {
            writeln!(writer, "round {round} is long enough").expect("write");
            assert!(rotate(&log, 10, 2).expect("rotate"));
        }
        write!(writer, "tail").expect("write");
        assert!(!rotate(&log, 10, 2).expect("small"));
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).ok();
        assert_eq!(read("x.log").as_deref(), Some("tail"));
        assert_eq!(read("x.log.1").as_deref(), Some("round 3 is long enough\n"));
        assert_eq!(read("x.log.2").as_deref(), Some("round 2 is long enough\n"));
        assert_eq!(read("x.log.3"), None);
    }
}
