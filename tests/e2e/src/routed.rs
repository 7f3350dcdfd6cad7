//! Machines with nodes that share no link: each in a network namespace and a network of its own, with a router between them.
use crate::sites::{PATIENCE, PORT};
use crate::{binary, end_of, end_within, inside, ip, repository, run};
use anyhow::{Context, ensure};
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a machine's node may take to end.
const END: Duration = Duration::from_secs(40);

/// What a machine runs; its letter is its node's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A server with its node, of a site of its own. The first of all machines is one, and founds the cluster.
    Server,
    /// A node alone, which joins through the first machine.
    Agent,
}

/// Machines `a`, `b`, `c`… and the router.
pub struct Routed {
    dir: tempfile::TempDir,
    binary: PathBuf,
    /// What all names on the host begin with.
    name: String,
    /// The second number of all addresses.
    network: u8,
    machines: Vec<(Role, Option<Child>)>,
}

impl Routed {
    /// Starts machines one after the other, each with the demo image, and waits until all nodes are Ready; names and
    /// addresses derive from `number`.
    ///
    /// # Errors
    /// What kept one from starting, with the last lines of its log.
    pub fn start(number: u8, roles: &[Role]) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("eyot-routed-").tempdir()?;
        let (name, network) = (format!("er{number}"), 230 + number);
        let mut routed = Self { dir, binary: binary()?, name, network, machines: Vec::new() };
        ip(&["netns", "add", &routed.router()])?;
        let forward = ["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"];
        run(inside(&routed.router()).args(forward))?;
        let image = routed.dir.path().join("demo.tar");
        run(Command::new(repository().join("embedded/demo-image/build.sh")).arg(&image))?;
        for role in roles {
            let at = routed.machines.len();
            // From here on it is removed with the others, also when something of this fails.
            routed.machines.push((*role, None));
            routed.wire(at)?;
            let images = routed.data(at).join("agent/images");
            fs::create_dir_all(&images)?;
            fs::copy(&image, images.join("demo.tar"))?;
            routed.boot(at)?;
        }
        for at in 0..roles.len() {
            routed.wait_until_ready(at)?;
        }
        Ok(routed)
    }

    fn router(&self) -> String {
        format!("{}r", self.name)
    }

    fn letter(at: usize) -> char {
        char::from(b'a' + at as u8)
    }

    /// The namespace and the instance of a machine.
    pub fn namespace(&self, at: usize) -> String {
        format!("{}{}", self.name, Self::letter(at))
    }

    /// A machine's address, which is its node's.
    pub fn address(&self, at: usize) -> String {
        format!("10.{}.{at}.1", self.network)
    }

    fn data(&self, at: usize) -> PathBuf {
        self.dir.path().join(format!("{}-data", Self::letter(at)))
    }

    fn kubeconfig(&self, at: usize) -> PathBuf {
        self.dir.path().join(format!("{}.kubeconfig", Self::letter(at)))
    }

    /// A network of one machine and the router.
    fn wire(&self, at: usize) -> anyhow::Result<()> {
        let (namespace, router) = (self.namespace(at), self.router());
        let gateway = format!("10.{}.{at}.254", self.network);
        ip(&["netns", "add", &namespace])?;
        ip(&["-n", &router, "link", "add", &namespace, "type", "veth", "peer", "name", "eth0", "netns", &namespace])?;
        ip(&["-n", &router, "address", "add", &format!("{gateway}/24"), "dev", &namespace])?;
        ip(&["-n", &router, "link", "set", &namespace, "up"])?;
        ip(&["-n", &namespace, "address", "add", &format!("{}/24", self.address(at)), "dev", "eth0"])?;
        for link in ["lo", "eth0"] {
            ip(&["-n", &namespace, "link", "set", link, "up"])?;
        }
        ip(&["-n", &namespace, "route", "add", "default", "via", &gateway])
    }

    fn boot(&mut self, at: usize) -> anyhow::Result<()> {
        let (namespace, letter) = (self.namespace(at), Self::letter(at).to_string());
        let mut command = inside(&namespace);
        command.arg(&self.binary);
        match self.machines[at].0 {
            Role::Server => {
                command.arg("server").arg("-o").arg(self.kubeconfig(at));
                command.args(["--advertise-address", &self.address(at)]);
            }
            Role::Agent => drop(command.arg("agent")),
        }
        command.args(["--instance", &namespace, "--node-name", &letter, "--eviction-hard", ""]);
        command.arg("-d").arg(self.data(at));
        if at > 0 {
            let token = fs::read_to_string(self.data(0).join("server/token"))?;
            command.args(["--server", &format!("https://{}:{PORT}", self.address(0)), "--token", token.trim()]);
        }
        let log = fs::File::options().create(true).append(true).open(self.dir.path().join(format!("{letter}.log")))?;
        self.machines[at].1 = Some(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?);
        if self.machines[at].0 == Role::Server {
            self.until("it answers", || self.kubectl(at, &["get", "--raw", "/readyz"]).is_ok())
                .with_context(|| format!("the log of {letter} ends:\n{}", self.log(at)))?;
        }
        Ok(())
    }

    fn wait_until_ready(&self, at: usize) -> anyhow::Result<()> {
        let letter = Self::letter(at).to_string();
        let status = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
        let ready = || self.kubectl(0, &["get", "node", &letter, "-o", status]).is_ok_and(|status| status == "True");
        self.until("its node is Ready", ready).with_context(|| format!("the log of {letter} ends:\n{}", self.log(at)))
    }

    /// The last lines of a machine's log.
    pub fn log(&self, at: usize) -> String {
        end_of(&self.dir.path().join(format!("{}.log", Self::letter(at))))
    }

    /// kubectl on a server's machine, speaking to that server.
    ///
    /// # Errors
    /// kubectl fails; with what it said.
    pub fn kubectl(&self, at: usize, args: &[&str]) -> anyhow::Result<String> {
        let mut command = inside(&self.namespace(at));
        command.arg("kubectl").arg("--kubeconfig").arg(self.kubeconfig(at)).arg("--request-timeout=20s");
        run(command.args(args))
    }

    /// `kubectl apply` of this text.
    ///
    /// # Errors
    /// kubectl fails; with what it said.
    pub fn apply(&self, at: usize, manifest: &str) -> anyhow::Result<()> {
        let path = self.dir.path().join("manifest.json");
        fs::write(&path, manifest)?;
        self.kubectl(at, &["apply", "-f", &path.display().to_string()]).map(drop)
    }

    /// A program on a machine, in no pod.
    ///
    /// # Errors
    /// It fails; with what it said.
    pub fn on(&self, at: usize, command: &[&str]) -> anyhow::Result<String> {
        run(inside(&self.namespace(at)).args(command))
    }

    /// Waits until something holds.
    ///
    /// # Errors
    /// It does not within [`PATIENCE`].
    pub fn until(&self, what: &str, holds: impl Fn() -> bool) -> anyhow::Result<()> {
        let begun = Instant::now();
        while !holds() {
            ensure!(begun.elapsed() < PATIENCE, "it did not come true within {PATIENCE:?} that {what}");
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Ends a machine's process, removes what it made, and says what is left of its links and routes.
    ///
    /// # Errors
    /// The cleanup fails.
    pub fn end(&mut self, at: usize) -> anyhow::Result<String> {
        if let Some(child) = self.machines[at].1.take() {
            end_within(child, END);
        }
        let namespace = self.namespace(at);
        let mut command = inside(&namespace);
        run(command.arg(&self.binary).args(["cleanup", "--instance", &namespace]).arg("-d").arg(self.data(at)))?;
        Ok(self.on(at, &["ip", "-o", "link"])? + &self.on(at, &["ip", "route", "show", "proto", "143"])?)
    }
}

impl Drop for Routed {
    fn drop(&mut self) {
        for at in (0..self.machines.len()).rev() {
            if std::thread::panicking() {
                eprintln!("the log of {} ends:\n{}", Self::letter(at), self.log(at));
            }
            if let Err(error) = self.end(at) {
                eprintln!("cleaning up after {}: {error:#}", Self::letter(at));
            }
            let _ = ip(&["netns", "delete", &self.namespace(at)]);
        }
        let _ = ip(&["netns", "delete", &self.router()]);
    }
}
