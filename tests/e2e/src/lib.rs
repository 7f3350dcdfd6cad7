//! A real server with real containers for tests: kept running as the installer's supervisor does, killed at will, and
//! removed with all its traces when dropped.
pub mod agents;
pub mod installed;
mod proxy;
pub mod routed;
pub mod sites;
pub mod way;

use anyhow::{Context, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take until its node is Ready, on a machine that is busy with other tests.
const READY: Duration = Duration::from_secs(90);
/// How long everything may take to end.
const END: Duration = Duration::from_secs(40);

/// One server with its node.
pub struct Cluster {
    dir: tempfile::TempDir,
    instance: String,
    binary: PathBuf,
    supervisor: Child,
}

impl Cluster {
    /// Starts a server with its own directory, ports and networks, all derived from `number`, and waits until its node
    /// is Ready. The demo image is on it.
    ///
    /// # Errors
    /// What kept it from becoming Ready, with the last lines of its log.
    pub fn start(number: u8) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("eyot-e2e-").tempdir()?;
        let (instance, binary) = (format!("e2e-{number}"), binary()?);
        let images = dir.path().join("data/agent/images");
        run(Command::new(repository().join("embedded/demo-image/build.sh")).arg(images.join("demo.tar")))?;
        let supervisor = supervise(dir.path(), &binary, &instance, number)?;
        let cluster = Self { dir, instance, binary, supervisor };
        cluster.wait_until_ready()?;
        Ok(cluster)
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    pub fn instance(&self) -> &str {
        &self.instance
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// A client with the admin's kubeconfig, as any user would make it.
    ///
    /// # Errors
    /// When the kubeconfig can't be used.
    pub async fn client(&self) -> anyhow::Result<kube::Client> {
        // A provider may be installed already: by the test before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = kube::config::Kubeconfig::read_from(self.kubeconfig())?;
        let config = kube::Config::from_custom_kubeconfig(config, &kube::config::KubeConfigOptions::default()).await?;
        Ok(kube::Client::try_from(config)?)
    }

    /// Runs kubectl and gives what it printed; an exit code other than 0 is an error that tells what it said.
    ///
    /// # Errors
    /// When kubectl fails.
    pub fn kubectl(&self, args: &[&str]) -> anyhow::Result<String> {
        run(Command::new("kubectl").arg("--kubeconfig").arg(self.kubeconfig()).args(args))
    }

    /// `kill -9` of the server; the supervisor starts it again after a moment.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&self) -> anyhow::Result<()> {
        run(Command::new("kill").args(["-9", &self.server()?.to_string()])).map(drop)
    }

    /// The process number of the server.
    ///
    /// # Errors
    /// When it does not run at the moment.
    pub fn server(&self) -> anyhow::Result<u32> {
        let supervisor = self.supervisor.id();
        let children = fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children"))?;
        let is_server = |pid: &u32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == self.binary);
        children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .find(is_server)
            .context("the server does not run")
    }

    /// # Errors
    /// When it takes too long.
    pub fn wait_until_ready(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        let mut status = Command::new(&self.binary);
        status.arg("status").arg("-d").arg(self.dir().join("data")).arg("--kubeconfig").arg(self.kubeconfig());
        while !status.output()?.status.success() {
            ensure!(begun.elapsed() < READY, "the node was not Ready within {READY:?}; the log ends:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// The last lines of the server's log.
    pub fn log(&self) -> String {
        end_of(&self.dir().join("log"))
    }

    /// Ends the server and removes what it made on the host, as the uninstaller does; then names what is left.
    ///
    /// # Errors
    /// When ending fails.
    pub fn end(&mut self) -> anyhow::Result<Vec<String>> {
        self.stop()?;
        let instance = &self.instance;
        let mut left = Vec::new();
        for (command, args) in
            [("ip", vec!["link"]), ("ip", vec!["netns"]), ("nft", vec!["list", "tables"]), ("mount", vec![])]
        {
            let text = run(Command::new(command).args(&args))?;
            left.extend(text.lines().filter(|line| line.contains(instance.as_str())).map(str::to_owned));
        }
        let cgroups =
            run(Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-name"]).arg(format!("*{instance}*")))?;
        left.extend(cgroups.lines().map(str::to_owned));
        left.extend(processes_with(instance));
        Ok(left)
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        if self.supervisor.try_wait()?.is_none() {
            run(Command::new("kill").arg(self.supervisor.id().to_string()))?;
            let begun = Instant::now();
            while self.supervisor.try_wait()?.is_none() {
                ensure!(begun.elapsed() < END, "the server did not end within {END:?}; the log ends:\n{}", self.log());
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        let mut cleanup = Command::new(&self.binary);
        run(cleanup.args(["cleanup", "--instance", &self.instance]).arg("-d").arg(self.dir().join("data")))?;
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the server's log ends:\n{}", self.log());
        }
        if let Err(error) = self.stop() {
            eprintln!("cleaning up {}: {error:#}", self.instance);
        }
    }
}

/// Runs a command and gives what it printed.
///
/// # Errors
/// When it can't be run or fails; with all that it said.
pub fn run(command: &mut Command) -> anyhow::Result<String> {
    let Output { status, stdout, stderr } =
        command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    let stdout = String::from_utf8_lossy(&stdout).into_owned();
    ensure!(status.success(), "{command:?}: {status}\n{stdout}{}", String::from_utf8_lossy(&stderr));
    Ok(stdout)
}

/// The root of the checkout.
pub fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The last lines of a log.
fn end_of(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// In a namespace's network alone: control groups must stay where they are.
fn inside(namespace: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{namespace}"));
    command
}

fn ip(args: &[&str]) -> anyhow::Result<()> {
    run(Command::new("ip").args(args)).map(drop)
}

/// The `eyot` built beside this test, or the one that `EYOT` names.
fn binary() -> anyhow::Result<PathBuf> {
    let path = match std::env::var_os("EYOT") {
        Some(path) => PathBuf::from(path),
        None => std::env::current_exe()?.ancestors().nth(2).context("where is this test?")?.join("eyot"),
    };
    path.canonicalize().with_context(|| format!("{}: build it with cargo build -p eyot", path.display()))
}

fn supervise(dir: &Path, binary: &Path, instance: &str, number: u8) -> anyhow::Result<Child> {
    let (config, number) = (dir.join("config.yaml"), u16::from(number));
    // How full this machine is must not matter.
    let settings = format!(
        "data-dir: {dir}/data\nwrite-kubeconfig: {dir}/kubeconfig\ninstance: {instance}\nhttps-listen-port: {}\n\
         agent-port: {}\ncluster-cidr: 10.{}.0.0/16\nservice-cidr: 10.{}.0.0/16\neviction-hard: \"\"\n",
        16_443 + number,
        16_543 + number,
        100 + number,
        150 + number,
        dir = dir.display()
    );
    fs::write(&config, settings)?;
    let script = fs::read_to_string(repository().join("packaging/eyot-supervise.sh"))?
        .replace("@BIN@", &binary.parent().context("no directory")?.display().to_string())
        .replace("@FLAGS@", &format!("server --config {}", config.display()))
        .replace("@PID@", &dir.join("pid").display().to_string())
        .replace("@LOG@", &dir.join("log").display().to_string());
    let path = dir.join("supervise.sh");
    fs::write(&path, script)?;
    let log = fs::File::options().create(true).append(true).open(dir.join("log"))?;
    Command::new("bash").arg(path).stdin(Stdio::null()).stderr(log).spawn().context("bash")
}

/// Asks a program to end, so that it leaves nothing behind, and kills it when it has not after this long.
fn end_within(mut child: Child, time: Duration) {
    let _ = run(Command::new("kill").arg(child.id().to_string()));
    let begun = Instant::now();
    while begun.elapsed() < time && matches!(child.try_wait(), Ok(None)) {
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// The numbers of the processes on this machine that are a `sleep` of so long: by it a pod's process is known.
pub fn sleeping(seconds: u32) -> Vec<String> {
    let line = format!("sleep\0{seconds}\0").into_bytes();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let sleeping = processes.filter(|entry| fs::read(entry.path().join("cmdline")).is_ok_and(|found| found == line));
    sleeping.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Command lines that name the instance.
fn processes_with(instance: &str) -> Vec<String> {
    let commands = fs::read_dir("/proc").into_iter().flatten().filter_map(|entry| {
        let line = fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    commands
        .filter(|line| line.contains(&format!("/{instance}/")) || line.contains(&format!("--instance {instance} ")))
        .collect()
}
