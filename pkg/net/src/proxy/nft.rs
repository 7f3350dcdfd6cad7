//! The `nft` program: takes a script as one transaction.
use std::io;
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Bound of one call; ten thousand Services take a second or two.
const TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("could not run nft (Debian package: nftables)")]
    Run(#[source] io::Error),
    #[error("nft did not finish within {} s", TIMEOUT.as_secs())]
    Timeout,
    #[error("nft refused the rules: {0}")]
    Refused(String),
}

/// Applies a script whole or not at all.
pub async fn apply(script: &str) -> Result<(), Error> {
    call(&["-f", "-"], script).await.map(drop)
}

/// Whether the table exists.
pub async fn has_table(table: &str) -> Result<bool, Error> {
    match call(&["list", "chain", "inet", table, "services"], "").await {
        Ok(_) => Ok(true),
        Err(Error::Refused(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Deletes the table if it exists.
pub async fn delete_table(table: &str) -> Result<(), Error> {
    apply(&format!("table inet {table}\ndelete table inet {table}\n")).await
}

/// All chains of the machine with their hooks and policies.
pub async fn list_chains() -> Result<String, Error> {
    call(&["list", "chains"], "").await
}

async fn call(arguments: &[&str], stdin: &str) -> Result<String, Error> {
    let output = tokio::time::timeout(TIMEOUT, run(arguments, stdin)).await;
    let output = output.map_err(|_| Error::Timeout)?.map_err(Error::Run)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    // nft shows the offending line below its first one; three lines tell which it is.
    Err(Error::Refused(text.lines().take(3).collect::<Vec<_>>().join(" | ")))
}

async fn run(arguments: &[&str], stdin: &str) -> io::Result<Output> {
    let mut command = Command::new(program());
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn()?;
    let pipe = child.stdin.take();
    let write = async {
        if let Some(mut pipe) = pipe {
            // It may refuse before it has read everything; its exit status tells.
            let _ = pipe.write_all(stdin.as_bytes()).await;
        }
    };
    let (output, ()) = tokio::join!(child.wait_with_output(), write);
    output
}

/// A service's PATH may lack the directories of administration programs.
fn program() -> &'static str {
    ["/usr/sbin/nft", "/sbin/nft"].into_iter().find(|path| std::path::Path::new(path).exists()).unwrap_or("nft")
}
