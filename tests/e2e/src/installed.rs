//! A machine without systemd on which `install.sh` is run: its files, mounts and network are its own, its processes are the
//! host's.
use crate::sites::{Sites, unwire};
use crate::{inside, repository, run};
use anyhow::{Context, ensure};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// Its place among the servers of [`Sites`].
const AT: usize = 20;
/// Makes the machine's own places out of a directory, and stays: the mounts live as long.
const MOUNT: &str = "set -e
cp -a /etc \"$1/etc\"
rm -rf \"$1/etc/eyot\"
mkdir -p \"$1/lib\" \"$1/bin\" \"$1/log\"
mount --bind \"$1/etc\" /etc
mount --bind \"$1/lib\" /var/lib
mount --bind \"$1/log\" /var/log
mount --bind \"$1/bin\" /usr/local/bin
mount -t tmpfs tmpfs /run
echo ready
exec sleep infinity";

/// The machine.
pub struct Machine {
    dir: PathBuf,
    namespace: String,
    anchor: Child,
}

impl Machine {
    /// Makes its place beside the servers; nothing is installed.
    ///
    /// # Errors
    /// The host refuses.
    pub fn place(sites: &Sites) -> anyhow::Result<Self> {
        let (dir, namespace) = (sites.dir().join("machine"), sites.namespace(AT));
        // Where the installer looks for what is built.
        fs::create_dir_all(dir.join("target/dist"))?;
        std::os::unix::fs::symlink(sites.binary(), dir.join("target/dist/eyot"))?;
        let wired = sites.wire(AT, sites.backbone());
        let mut anchor = inside(&namespace);
        anchor.args(["unshare", "--mount", "--propagation", "private"]);
        anchor.args(["bash", "-c", MOUNT, "bash"]).arg(&dir);
        let anchor = anchor.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        // From here on all of it is removed, also when something of this fails.
        let mut machine = Self { dir, namespace, anchor };
        wired?;
        let mut line = String::new();
        BufReader::new(machine.anchor.stdout.take().context("no output")?).read_line(&mut line)?;
        ensure!(line == "ready\n", "the machine has no places of its own");
        Ok(machine)
    }

    /// A program on the machine, started as a user would.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.anchor.id())).args(["--mount", "--net", program]);
        // Host-wide names of its own; all other settings are what is asked for.
        command.env("EYOT_INSTANCE", &self.namespace).env("CARGO_TARGET_DIR", self.dir.join("target"));
        command.env("INSTALL_EYOT_SKIP_BUILD", "true").env_remove("EYOT_URL").env_remove("EYOT_TOKEN");
        command.current_dir("/").stdin(Stdio::null());
        command
    }

    /// Runs the installer for a node of this cluster; what it said, or that it failed and what it said.
    ///
    /// # Errors
    /// It fails.
    pub fn install(&self, url: &str, token: &str, flags: &str) -> anyhow::Result<String> {
        let mut install = self.command(&repository().join("install.sh").canonicalize()?.display().to_string());
        // What outlives it must not keep its output open.
        install.env("EYOT_URL", url).env("EYOT_TOKEN", token).env("INSTALL_EYOT_EXEC", flags);
        // Which is not for the servers of these tests.
        install.env("HTTPS_PROXY", "http://proxy.invalid:3128").env("NO_PROXY", "10.0.0.0/8");
        run(&mut install)
    }

    /// Runs the uninstaller.
    ///
    /// # Errors
    /// It fails.
    pub fn uninstall(&self) -> anyhow::Result<String> {
        run(&mut self.command("/usr/local/bin/eyot-uninstall.sh"))
    }

    /// What `sh` prints there.
    ///
    /// # Errors
    /// It fails.
    pub fn sh(&self, script: &str) -> anyhow::Result<String> {
        run(self.command("sh").args(["-c", script]))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the machine's log ends:\n{}", self.sh("tail -n 30 /var/log/eyot.log").unwrap_or_default());
        }
        if self.dir.join("bin/eyot-uninstall.sh").exists()
            && let Err(error) = self.uninstall()
        {
            eprintln!("cleaning up after the installer: {error:#}");
        }
        let _ = self.anchor.kill();
        let _ = self.anchor.wait();
        unwire(&self.namespace);
    }
}
