//! containerd as a process that outlives us: its own session, known by pid and start time, adopted after a restart.
use super::archive::hex;
use procfs::process::Process as Proc;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What to run and where to remember it.
#[derive(Debug, Clone)]
pub struct Launch {
    pub program: PathBuf,
    pub config: PathBuf,
    pub log: PathBuf,
    pub pid_file: PathBuf,
}

/// What the pid file says. A pid alone may be another process by now; with its start time and the boot it is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    pid: i32,
    /// Clock ticks after boot, field 22 of /proc/PID/stat.
    start_ticks: u64,
    boot_id: String,
    /// Digest of the configuration that the process was started with.
    config_sha256: String,
}

/// A running containerd, ours by birth or by adoption.
pub struct Process {
    pub pid: i32,
    pidfd: AsyncFd<OwnedFd>,
    /// Present when it is our child and has to be buried.
    child: Option<Child>,
    config_sha256: String,
}

impl Launch {
    /// The containerd that an earlier run of ours left, if it still lives.
    pub fn adopt(&self) -> io::Result<Option<Process>> {
        let recorded = self.recorded();
        let Some(pid) = recorded.as_ref().map(|r| r.pid).or_else(|| self.search()) else { return Ok(None) };
        let Some(pidfd) = open(pid)? else { return Ok(None) };
        // Only now the pid can't be reused: look again that it is still the one we mean.
        if self.recorded().is_none() && self.search() != Some(pid) {
            return Ok(None);
        }
        let config_sha256 = recorded.map(|r| r.config_sha256).unwrap_or_default();
        Ok(Some(Process { pid, pidfd, child: None, config_sha256 }))
    }

    /// The pid of the containerd that an earlier run of ours left, if it still lives.
    pub fn pid(&self) -> Option<i32> {
        self.recorded().map(|record| record.pid).or_else(|| self.search())
    }

    /// Starts a new one in its own session, with its output appended to the log.
    pub fn spawn(&self) -> io::Result<Process> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.program);
        command.args(self.arguments()).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // SAFETY: setsid is async-signal-safe and touches no memory of the parent.
        unsafe { command.pre_exec(|| Ok(rustix::process::setsid().map(drop)?)) };
        let child = command.spawn()?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        let pidfd = open(pid)?.ok_or_else(|| io::Error::other("it ended at once"))?;
        let config_sha256 = self.config_sha256()?;
        self.record(pid, &config_sha256)?;
        Ok(Process { pid, pidfd, child: Some(child), config_sha256 })
    }

    /// Whether `process` runs with the configuration that is on disk now.
    pub fn is_current(&self, process: &Process) -> io::Result<bool> {
        Ok(process.config_sha256 == self.config_sha256()?)
    }

    fn arguments(&self) -> [OsString; 2] {
        ["--config".into(), self.config.clone().into()]
    }

    fn config_sha256(&self) -> io::Result<String> {
        Ok(hex(&fs::read(&self.config)?))
    }

    fn record(&self, pid: i32, config_sha256: &str) -> io::Result<()> {
        let start_ticks = start_ticks(pid).ok_or_else(|| io::Error::other("it ended at once"))?;
        let record = Record { pid, start_ticks, boot_id: boot_id()?, config_sha256: config_sha256.to_owned() };
        let new = self.pid_file.with_extension("new");
        fs::write(&new, serde_json::to_vec(&record)?)?;
        fs::rename(new, &self.pid_file)
    }

    /// The pid file's record, if it speaks of a living process of this boot.
    fn recorded(&self) -> Option<Record> {
        let record: Record = serde_json::from_slice(&fs::read(&self.pid_file).ok()?).ok()?;
        let lives = boot_id().ok()? == record.boot_id && start_ticks(record.pid) == Some(record.start_ticks);
        lives.then_some(record)
    }

    /// Without a pid file: the process that was started with our configuration file.
    fn search(&self) -> Option<i32> {
        let wanted = self.arguments();
        let ours = |process: &Proc| {
            let line = process.cmdline().unwrap_or_default();
            line.len() == 3 && wanted.iter().zip(&line[1..]).all(|(want, have)| want.as_os_str() == have.as_str())
        };
        procfs::process::all_processes().ok()?.flatten().find(ours).map(|process| process.pid)
    }
}

impl Process {
    /// Returns when the process has ended.
    pub async fn ended(&mut self) -> io::Result<()> {
        self.pidfd.readable().await?.retain_ready();
        if let Some(child) = &mut self.child {
            child.wait()?;
        }
        Ok(())
    }

    /// Asks it to end; containers keep running under their shims.
    pub fn terminate(&self) -> io::Result<()> {
        Ok(pidfd_send_signal(self.pidfd.get_ref(), Signal::TERM)?)
    }

    /// Ends it at once.
    pub fn kill(&self) -> io::Result<()> {
        Ok(pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL)?)
    }
}

fn open(pid: i32) -> io::Result<Option<AsyncFd<OwnedFd>>> {
    let Some(pid) = Pid::from_raw(pid) else { return Ok(None) };
    match pidfd_open(pid, PidfdFlags::NONBLOCK) {
        // SAFETY: an OwnedFd is a valid descriptor, and nobody else closes or replaces it while AsyncFd owns it.
        Ok(fd) => Ok(Some(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)),
        Err(rustix::io::Errno::SRCH) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// When the process started, if it lives (a zombie does not).
fn start_ticks(pid: i32) -> Option<u64> {
    let stat = Proc::new(pid).ok()?.stat().ok()?;
    (stat.state != 'Z').then_some(stat.starttime)
}

fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// A program that sleeps, called as containerd is.
    fn launch(dir: &tempfile::TempDir) -> Launch {
        let path = |name: &str| dir.path().join(name);
        let program = path("containerd");
        fs::write(&program, "#!/bin/sh\nwhile :; do read -t 1 x || sleep 1; done\n").expect("program");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&program, mode).expect("mode");
        fs::write(path("config.toml"), "version = 2\n").expect("config");
        Launch { program, config: path("config.toml"), log: path("log"), pid_file: path("pid") }
    }

    #[tokio::test]
    async fn adopts_what_it_started_and_nothing_else() {
        let dir = tempfile::tempdir().expect("dir");
        let launch = launch(&dir);
        assert!(launch.adopt().expect("adopt").is_none(), "nothing runs yet");
        let mut born = launch.spawn().expect("spawn");
        let adopted = launch.adopt().expect("adopt").expect("it lives");
        assert_eq!(adopted.pid, born.pid);
        assert!(launch.is_current(&adopted).expect("config"));
        fs::write(&launch.config, "version = 3\n").expect("config");
        assert!(!launch.is_current(&adopted).expect("config"), "started with another configuration");
        born.kill().expect("kill");
        tokio::time::timeout(Duration::from_secs(5), born.ended()).await.expect("it ends").expect("wait");
        assert!(launch.adopt().expect("adopt").is_none(), "it is dead");
    }

    #[tokio::test]
    async fn a_pid_that_went_to_another_process_is_not_adopted() {
        let dir = tempfile::tempdir().expect("dir");
        let launch = launch(&dir);
        let pid = i32::try_from(std::process::id()).expect("pid");
        let record = Record { pid, start_ticks: 1, boot_id: boot_id().expect("boot"), config_sha256: String::new() };
        fs::write(&launch.pid_file, serde_json::to_vec(&record).expect("json")).expect("pid file");
        assert!(launch.adopt().expect("adopt").is_none());
    }
}
