//! The image of every pod's sandbox, made of our own program, so that a node needs no registry to start a pod.
use super::archive::{File, Image, oci_archive};
use std::io;

/// The image's reference, as containerd's `sandbox_image`.
pub const REFERENCE: &str = "eyot.dev/pause:1";

/// Compiled by the build script from `embedded/pause/pause.rs`.
static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));

/// The image as an archive.
pub fn archive() -> io::Result<Vec<u8>> {
    let files = [File { path: "pause", mode: 0o755, data: PROGRAM }];
    oci_archive(&Image { reference: REFERENCE, files: &files, entrypoint: &["/pause"] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Child, Command};
    use std::time::{Duration, Instant};

    fn start(dir: &tempfile::TempDir) -> Child {
        let path = dir.path().join("pause");
        std::fs::write(&path, PROGRAM).expect("write");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("mode");
        Command::new(path).spawn().expect("it starts")
    }

    #[test]
    fn pauses_until_told_to_leave() {
        let dir = tempfile::tempdir().expect("dir");
        let mut child = start(&dir);
        std::thread::sleep(Duration::from_millis(50));
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).expect("kill");
        std::thread::sleep(Duration::from_millis(50));
        assert!(child.try_wait().expect("wait").is_none(), "other signals mean nothing to it");
        let asked = Instant::now();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("kill");
        assert!(child.wait().expect("wait").success());
        assert!(asked.elapsed() < Duration::from_secs(2));
    }

    #[test]
    fn is_small() {
        assert!(archive().expect("archive").len() < 64 * 1024);
    }
}
