//! Image imports and mounts through `ctr`, which ships with containerd: CRI has no import of its own, and mounts from
//! containerd 2.1 on only; and the end of processes that CRI does not know of.
use super::grpc::NAMESPACE;
use super::programs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Bound of one import: a few GB on a slow disk.
const IMPORT_TIMEOUT: Duration = Duration::from_secs(20 * 60);

/// Bound of connecting to the socket; it is local.
const CONNECT_TIMEOUT: &str = "2s";

/// The label by which containerd's image collector spares an image.
const PINNED: &str = "io.cri-containerd.pinned=pinned";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("ctr is not installed; it comes with containerd (Debian package: containerd)")]
    Missing,
    #[error("could not run ctr")]
    Run(#[source] std::io::Error),
    #[error("ctr: {0}")]
    Failed(String),
    #[error("ctr did not finish within {} minutes", IMPORT_TIMEOUT.as_secs() / 60)]
    Timeout,
}

/// Runs `ctr` against one containerd.
#[derive(Debug, Clone)]
pub struct Ctr {
    socket: PathBuf,
    snapshotter: String,
}

impl Ctr {
    pub fn new(socket: &Path, snapshotter: &str) -> Self {
        Self { socket: socket.to_owned(), snapshotter: snapshotter.to_owned() }
    }

    /// Imports an archive file, plain or compressed with gzip or zstd; returns the references that it held.
    pub async fn import_file(&self, path: &Path) -> Result<Vec<String>, Error> {
        let path = path.display().to_string();
        let output = self.run(&["images", "import", "--snapshotter", &self.snapshotter, &path], &[]).await?;
        Ok(references(&output))
    }

    /// Imports an archive from memory and pins what it held.
    pub async fn import_pinned(&self, archive: &[u8]) -> Result<Vec<String>, Error> {
        let output = self.run(&["images", "import", "--snapshotter", &self.snapshotter, "-"], archive).await?;
        let references = references(&output);
        for reference in &references {
            self.run(&["images", "label", reference, PINNED], &[]).await?;
        }
        Ok(references)
    }

    /// Mounts what an image has, read-only. containerd keeps its part of it for a day or until the mount is gone for good;
    /// what is mounted is the image's own.
    pub async fn mount_image(&self, image: &str, target: &Path) -> Result<(), Error> {
        let target = target.display().to_string();
        // Left by a mount that a reboot ended; usually there is nothing.
        let _ = self.run(&["leases", "delete", &target], &[]).await;
        let _ = self.run(&["snapshots", "--snapshotter", &self.snapshotter, "remove", &target], &[]).await;
        self.run(&["images", "mount", "--snapshotter", &self.snapshotter, image, &target], &[]).await.map(drop)
    }

    /// Kills a container's process and forgets that it ran.
    pub async fn end_task(&self, id: &str) -> Result<(), Error> {
        self.run(&["tasks", "delete", "--force", id], &[]).await.map(drop)
    }

    async fn run(&self, arguments: &[&str], stdin: &[u8]) -> Result<String, Error> {
        let program = programs::find("ctr").ok_or(Error::Missing)?;
        let mut command = Command::new(program);
        command.arg("--address").arg(&self.socket).args([
            "--connect-timeout",
            CONNECT_TIMEOUT,
            "--namespace",
            NAMESPACE,
        ]);
        command.args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let run = async {
            let mut child = command.spawn()?;
            if let Some(mut pipe) = child.stdin.take() {
                // It may end before it has read everything; its exit status tells.
                let _ = pipe.write_all(stdin).await;
            }
            child.wait_with_output().await
        };
        let output =
            tokio::time::timeout(IMPORT_TIMEOUT, run).await.map_err(|_| Error::Timeout)?.map_err(Error::Run)?;
        if !output.status.success() {
            return Err(Error::Failed(reason(&output.stderr)));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// The last line that says anything, without ctr's own name.
fn reason(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it gives no reason");
    line.trim_start_matches("ctr: ").to_owned()
}

/// ctr says `unpacking <reference> (<digest>)...done` for each image; 2.x says `<reference> saved` as well.
fn references(output: &str) -> Vec<String> {
    let reference = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["unpacking", reference, ..] | [reference, "saved", ..] => Some(reference.to_owned()),
        _ => None,
    };
    let mut references: Vec<_> = output.lines().filter_map(reference).collect();
    references.dedup();
    references
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_was_imported() {
        let output = "unpacking eyot.dev/pause:1 (sha256:ab)...done\nunpacking eyot.dev/demo:1 (sha256:cd)...\n";
        assert_eq!(references(output), ["eyot.dev/pause:1", "eyot.dev/demo:1"]);
        assert_eq!(references(""), Vec::<String>::new());
    }

    #[test]
    fn says_why_it_failed_in_one_line() {
        assert_eq!(reason(b"time=x level=warning\nctr: unrecognized image format\n\n"), "unrecognized image format");
        assert_eq!(reason(b""), "it gives no reason");
    }
}
