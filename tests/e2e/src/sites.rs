//! Several servers, each at a site of its own: a network namespace on one bridge, whose link can be cut.
use crate::proxy::{Asked, Proxy};
use crate::{binary, end_of, end_within, ip, run};
use anyhow::{Context, ensure};
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long something may take to come true, on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// How long a server may take to end.
const END: Duration = Duration::from_secs(30);
/// The port of every server's API.
pub(crate) const PORT: u16 = 6443;

/// Servers `a`, `b`, `c`… without nodes; the first is the founder.
pub struct Sites {
    dir: tempfile::TempDir,
    binary: PathBuf,
    /// What all names on the host begin with.
    name: String,
    /// The second number of all addresses.
    network: u8,
    servers: Vec<Option<Child>>,
    /// For each server, through which other it joins.
    through: Vec<usize>,
    /// What every server is told besides.
    flags: &'static [&'static str],
    /// The HTTP proxy of servers that begin from now on.
    proxy: Option<String>,
}

impl Sites {
    /// Starts `count` servers and waits until each answers; names and addresses derive from `number`.
    ///
    /// # Errors
    /// What kept one from starting, with the last lines of its log.
    pub fn start(number: u8, count: usize) -> anyhow::Result<Self> {
        Self::start_with(number, count, &[])
    }

    /// The same, with these flags for each.
    ///
    /// # Errors
    /// What kept one from starting, with the last lines of its log.
    pub fn start_with(number: u8, count: usize, flags: &'static [&'static str]) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("eyot-sites-").tempdir()?;
        let (name, network) = (format!("esite{number}"), 200 + number);
        let mut sites = Self {
            dir,
            binary: binary()?,
            name,
            network,
            servers: Vec::new(),
            through: Vec::new(),
            flags,
            proxy: None,
        };
        ip(&["link", "add", &sites.name, "type", "bridge"])?;
        ip(&["link", "set", &sites.name, "up"])?;
        ip(&["address", "add", &format!("10.{network}.0.254/24"), "dev", &sites.name])?;
        for _ in 0..count {
            sites.add(0)?;
        }
        Ok(sites)
    }

    /// Where everything is kept.
    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    pub(crate) fn binary(&self) -> &std::path::Path {
        &self.binary
    }

    /// One more server, which joins through this one; its place.
    ///
    /// # Errors
    /// What kept it from starting, with the last lines of its log.
    pub fn add(&mut self, through: usize) -> anyhow::Result<usize> {
        let at = self.servers.len();
        // From here on it is removed with the others, also when something of this fails.
        self.servers.push(None);
        self.through.push(through);
        self.found(at)?;
        self.wire(at, &self.network_of(at))?;
        self.boot(at)?;
        Ok(at)
    }

    /// The letter of a server, which is its node's name and its site's.
    pub fn letter(at: usize) -> char {
        char::from(b'a' + at as u8)
    }

    pub(crate) fn namespace(&self, at: usize) -> String {
        format!("{}{}", self.name, Self::letter(at))
    }

    pub(crate) fn address(&self, at: usize) -> String {
        format!("10.{}.0.{}", self.network, at + 1)
    }

    /// Where a server's API is.
    pub fn url(&self, at: usize) -> String {
        format!("https://{}:{PORT}", self.address(at))
    }

    /// Where the host reaches a server's API.
    ///
    /// # Errors
    /// Never, with addresses as they are.
    pub fn outside(&self, at: usize) -> anyhow::Result<SocketAddr> {
        Ok(format!("{}:{PORT}", self.address(at)).parse()?)
    }

    /// A client on the host with what a server's administrator has, that goes to this address.
    ///
    /// # Errors
    /// The kubeconfig can't be used.
    pub async fn client(&self, at: usize, address: SocketAddr) -> anyhow::Result<kube::Client> {
        // A provider may be installed already: by the test before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = kube::config::Kubeconfig::read_from(self.kubeconfig(at))?;
        let options = kube::config::KubeConfigOptions::default();
        let mut config = kube::Config::from_custom_kubeconfig(config, &options).await?;
        config.cluster_url = format!("https://{address}").parse()?;
        Ok(kube::Client::try_from(config)?)
    }

    /// The site's own network, with one link to all others.
    fn found(&self, at: usize) -> anyhow::Result<()> {
        let (network, link, end) = (self.network_of(at), self.link_of(at), format!("{}v", self.namespace(at)));
        ip(&["link", "add", &network, "type", "bridge"])?;
        ip(&["link", "set", &network, "up"])?;
        ip(&["link", "add", &link, "type", "veth", "peer", "name", &end])?;
        ip(&["link", "set", &end, "master", &network, "up"])?;
        ip(&["link", "set", &link, "master", &self.name, "up"])
    }

    /// The bridge of a server's site.
    pub(crate) fn network_of(&self, at: usize) -> String {
        format!("{}s", self.namespace(at))
    }

    /// What leads from a site to all others.
    fn link_of(&self, at: usize) -> String {
        format!("{}u", self.namespace(at))
    }

    /// The bridge that joins all sites.
    pub(crate) fn backbone(&self) -> &str {
        &self.name
    }

    /// A machine's namespace with its address, on a bridge.
    pub(crate) fn wire(&self, at: usize, bridge: &str) -> anyhow::Result<()> {
        let namespace = self.namespace(at);
        ip(&["netns", "add", &namespace])?;
        ip(&["link", "add", &namespace, "type", "veth", "peer", "name", "eth0", "netns", &namespace])?;
        ip(&["link", "set", &namespace, "master", bridge, "up"])?;
        ip(&["-n", &namespace, "address", "add", &format!("{}/24", self.address(at)), "dev", "eth0"])?;
        ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        ip(&["-n", &namespace, "link", "set", "eth0", "up"])?;
        ip(&["-n", &namespace, "route", "add", "default", "dev", "eth0"])
    }

    /// Starts a server that does not run, and waits until it answers.
    ///
    /// # Errors
    /// It does not, with the last lines of its log.
    pub fn boot(&mut self, at: usize) -> anyhow::Result<()> {
        let letter = Self::letter(at).to_string();
        let mut server = Command::new("ip");
        server.args(["netns", "exec", &self.namespace(at)]).arg(&self.binary).args(["server", "--disable-agent"]);
        server.arg("-d").arg(self.data(at)).arg("-o").arg(self.kubeconfig(at));
        server.args(["--instance", &self.namespace(at), "--node-name", &letter, "--site", &letter]);
        server.args(["--advertise-address", &self.address(at)]).args(self.flags);
        server.envs(self.proxy.iter().map(|proxy| ("HTTPS_PROXY", proxy)));
        if at > 0 {
            let through = self.through[at];
            let token = fs::read_to_string(self.data(through).join("server/token"))?;
            server.args(["--server", &self.url(through), "--token", token.trim()]);
        }
        let log = fs::File::options().create(true).append(true).open(self.log_file(at))?;
        self.servers[at] = Some(server.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?);
        self.until(&format!("{letter} answers"), || self.kubectl(at, &["get", "--raw", "/readyz"]).is_ok())
            .with_context(|| format!("the log of {letter} ends:\n{}", self.log(at)))
    }

    pub(crate) fn data(&self, at: usize) -> PathBuf {
        self.dir.path().join(format!("{}-data", Self::letter(at)))
    }

    fn kubeconfig(&self, at: usize) -> PathBuf {
        self.dir.path().join(format!("{}.kubeconfig", Self::letter(at)))
    }

    /// A file for kubectl's sake; its path.
    ///
    /// # Errors
    /// It can't be written.
    pub fn file(&self, name: &str, text: &str) -> anyhow::Result<String> {
        let path = self.dir.path().join(name);
        fs::write(&path, text)?;
        Ok(path.display().to_string())
    }

    fn log_file(&self, at: usize) -> PathBuf {
        self.dir.path().join(format!("{}.log", Self::letter(at)))
    }

    /// The last lines of a server's log.
    pub fn log(&self, at: usize) -> String {
        end_of(&self.log_file(at))
    }

    /// All that a server has said.
    pub fn whole_log(&self, at: usize) -> String {
        fs::read_to_string(self.log_file(at)).unwrap_or_default()
    }

    /// kubectl at one server's site, speaking to that server.
    ///
    /// # Errors
    /// kubectl fails; with what it said.
    pub fn kubectl(&self, at: usize, args: &[&str]) -> anyhow::Result<String> {
        run(self.kubectl_command(at).arg("--request-timeout=20s").args(args))
    }

    /// kubectl at one server's site, with what its administrator has.
    pub fn kubectl_command(&self, at: usize) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(at), "kubectl", "--kubeconfig"]).arg(self.kubeconfig(at));
        command
    }

    /// `eyot` itself, at one server's site.
    ///
    /// # Errors
    /// It fails; with what it said.
    pub fn eyot(&self, at: usize, args: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(at)]).arg(&self.binary).args(args);
        run(command.arg("-d").arg(self.data(at)).arg("--kubeconfig").arg(self.kubeconfig(at)))
    }

    /// The token that admits nodes, as one server has it.
    ///
    /// # Errors
    /// It has none.
    pub fn token_of_nodes(&self, at: usize) -> anyhow::Result<String> {
        let path = self.data(at).join("server/agent-token");
        self.until("there is a token of nodes", || path.exists())?;
        Ok(fs::read_to_string(path)?.trim().to_owned())
    }

    /// What a server says before it ends that may not join another with this token.
    ///
    /// # Errors
    /// It can't be started.
    pub fn refused(&self, at: usize, token: &str) -> anyhow::Result<std::process::Output> {
        let mut server = Command::new(&self.binary);
        server.args(["server", "--disable-agent", "--instance", &format!("{}x", self.name), "--node-name", "x"]);
        server.arg("-d").arg(self.dir.path().join("x-data")).arg("-o").arg(self.dir.path().join("x.kubeconfig"));
        server.args(["--server", &self.url(at), "--token", token]);
        Ok(server.stdin(Stdio::null()).output()?)
    }

    /// Cuts a site off from all others, or lets it back.
    ///
    /// # Errors
    /// The host refuses.
    pub fn cut(&self, at: usize, cut: bool) -> anyhow::Result<()> {
        ip(&["link", "set", &self.link_of(at), if cut { "down" } else { "up" }])
    }

    /// Parts two servers, which others reach, or lets them meet.
    ///
    /// # Errors
    /// The host refuses.
    pub fn part(&self, one: usize, other: usize, parted: bool) -> anyhow::Result<()> {
        self.shun(one, other, parted)?;
        self.shun(other, one, parted)
    }

    /// Lets nothing go from one server to another, or any agent, or what there will be in its place; or lets it again.
    ///
    /// # Errors
    /// The host refuses.
    pub fn shun(&self, at: usize, other: usize, shun: bool) -> anyhow::Result<()> {
        let (change, address) = (if shun { "add" } else { "delete" }, format!("{}/32", self.address(other)));
        ip(&["-n", &self.namespace(at), "route", change, "blackhole", &address])
    }

    /// An HTTP proxy on the host, for servers and agents that begin from now on; the names that it is asked for.
    ///
    /// # Errors
    /// The host refuses.
    pub fn set_proxy(&mut self) -> anyhow::Result<Asked> {
        let proxy = Proxy::start(&format!("10.{}.0.254", self.network))?;
        self.proxy = Some(format!("http://{}", proxy.address));
        Ok(proxy.asked)
    }

    pub(crate) fn proxy(&self) -> Option<&String> {
        self.proxy.as_ref()
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self, at: usize) -> anyhow::Result<()> {
        let mut child = self.servers[at].take().context("it does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Waits until something holds.
    ///
    /// # Errors
    /// It does not within [`PATIENCE`].
    pub fn until(&self, what: &str, holds: impl Fn() -> bool) -> anyhow::Result<()> {
        let begun = Instant::now();
        while !holds() {
            ensure!(begun.elapsed() < PATIENCE, "it did not come true within {PATIENCE:?} that {what}");
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// Waits until every server gives the same answer, and returns it.
    ///
    /// # Errors
    /// They differ for too long; with their answers.
    pub fn agree(&self, args: &[&str]) -> anyhow::Result<String> {
        let answers = || (0..self.servers.len()).map(|at| self.kubectl(at, args)).collect::<Result<Vec<_>, _>>();
        let same = || answers().is_ok_and(|all| all.iter().all(|answer| *answer == all[0]));
        self.until(&format!("all say the same to {args:?}"), same)
            .with_context(|| format!("they said {:?}", answers().unwrap_or_default()))?;
        self.kubectl(0, args)
    }
}

/// Removes a namespace with its link, and the link first: with its namespace it would go some time later, and its name would be
/// taken until then.
pub(crate) fn unwire(namespace: &str) {
    let _ = ip(&["link", "delete", namespace]);
    let _ = ip(&["netns", "delete", namespace]);
}

impl Drop for Sites {
    fn drop(&mut self) {
        for at in 0..self.servers.len() {
            if std::thread::panicking() {
                eprintln!("the log of {} ends:\n{}", Self::letter(at), self.log(at));
            }
            if let Some(child) = self.servers[at].take() {
                end_within(child, END);
            }
            unwire(&self.namespace(at));
            for link in [self.link_of(at), self.network_of(at)] {
                let _ = ip(&["link", "delete", &link]);
            }
        }
        let _ = ip(&["link", "delete", &self.name]);
    }
}
