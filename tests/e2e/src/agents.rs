//! Nodes without a server, in network namespaces of their own.
use crate::sites::{PORT, Sites, unwire};
use crate::{end_of, end_within, inside, run};
use anyhow::Context;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// The place of the agent of no site among the servers of [`Sites`]: its address, and the letter that is its node's name.
/// After it come those of the sites.
const AT: usize = 9;
/// How long it may take to end.
const END: Duration = Duration::from_secs(40);
/// What a router without port forwarding lets in.
const BEHIND_NAT: &str = "table inet nat {\n chain input {\n  type filter hook input priority 0; policy accept;\n\
    \x20 iifname \"eth0\" ct state established,related accept\n  iifname \"eth0\" drop\n }\n}\n";

/// A node: `j`, or of a site `k`, `l`, `m`…
pub struct Agent {
    binary: PathBuf,
    at: usize,
    namespace: String,
    dir: PathBuf,
    server: String,
    /// Where it says that it stands; none: where the server is that it joins through.
    site: Option<String>,
    token: String,
    proxy: Option<String>,
    child: Option<Child>,
}

impl Agent {
    /// Makes its place beside the servers, where it can dial and nobody can dial it; nothing runs yet. It has the demo image.
    ///
    /// # Errors
    /// The host refuses.
    pub fn place(sites: &Sites) -> anyhow::Result<Self> {
        let agent = Self::new(sites, AT, 0, sites.backbone())?;
        let rules = agent.dir.with_extension("nft");
        fs::write(&rules, BEHIND_NAT)?;
        run(inside(&agent.namespace).arg("nft").arg("-f").arg(rules))?;
        Ok(agent)
    }

    /// Makes its place in the network of a server's site; nothing runs yet. It has the demo image.
    ///
    /// # Errors
    /// The host refuses.
    pub fn at_site(sites: &Sites, site: usize) -> anyhow::Result<Self> {
        Self::new(sites, AT + 1 + site, site, &sites.network_of(site))
    }

    /// In the network of a server's site, and of that site, though it joins through another server; nothing runs yet.
    ///
    /// # Errors
    /// The host refuses.
    pub fn at_site_through(sites: &Sites, site: usize, server: usize) -> anyhow::Result<Self> {
        let mut agent = Self::new(sites, AT + 1 + site, server, &sites.network_of(site))?;
        agent.site = Some(Sites::letter(site).to_string());
        Ok(agent)
    }

    fn new(sites: &Sites, at: usize, server: usize, bridge: &str) -> anyhow::Result<Self> {
        // From here on all of it is removed, also when something of this fails.
        let agent = Self {
            binary: sites.binary().to_owned(),
            at,
            namespace: sites.namespace(at),
            dir: sites.data(at),
            server: format!("https://{}:{PORT}", sites.address(server)),
            site: None,
            token: sites.token_of_nodes(server)?,
            proxy: sites.proxy().cloned(),
            child: None,
        };
        sites.wire(at, bridge)?;
        let image = crate::repository().join("embedded/demo-image/build.sh");
        run(Command::new(image).arg(agent.dir.join("agent/images/demo.tar")))?;
        Ok(agent)
    }

    /// The name of its node.
    pub fn name(&self) -> String {
        Sites::letter(self.at).to_string()
    }

    /// No token: what it keeps has to do.
    fn command(&self, token: Option<&str>, data: &std::path::Path) -> Command {
        let mut command = inside(&self.namespace);
        command.arg(&self.binary).args(["agent", "--instance", &self.namespace, "--node-name", &self.name()]);
        command.args(self.site.iter().flat_map(|site| ["--site", site]));
        command.args(["--eviction-hard", ""]).arg("-d").arg(data);
        command.envs(self.proxy.iter().map(|proxy| ("HTTPS_PROXY", proxy)));
        command.args(token.iter().flat_map(|token| ["--server", &self.server, "--token", token]));
        command
    }

    /// Starts it.
    ///
    /// # Errors
    /// It can't be started.
    pub fn boot(&mut self) -> anyhow::Result<()> {
        self.start(Some(&self.token.clone()))
    }

    /// Ends it, its containers go on, and starts it with nothing but what it keeps.
    ///
    /// # Errors
    /// It can't be started.
    pub fn restart_bare(&mut self) -> anyhow::Result<()> {
        end_within(self.child.take().context("it does not run")?, END);
        self.start(None)
    }

    fn start(&mut self, token: Option<&str>) -> anyhow::Result<()> {
        let log = fs::File::options().create(true).append(true).open(self.dir.with_extension("log"))?;
        let mut command = self.command(token, &self.dir);
        self.child = Some(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?);
        Ok(())
    }

    /// What an agent with another token, or an empty directory, says before it ends.
    ///
    /// # Errors
    /// It can't be started.
    pub fn refused(&self, token: Option<&str>) -> anyhow::Result<Output> {
        let other = self.dir.with_extension("other");
        let token = token.unwrap_or(&self.token);
        Ok(self.command(Some(token), &other).stdin(Stdio::null()).output()?)
    }

    /// What it says that claims to be reached where a server is, or to be called like one.
    ///
    /// # Errors
    /// It can't be started.
    pub fn refused_as(&self, flags: &[&str]) -> anyhow::Result<Output> {
        let other = self.dir.with_extension("other");
        Ok(self.command(Some(&self.token), &other).args(flags).stdin(Stdio::null()).output()?)
    }

    /// The token that it joins with.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// From its next start on it joins with this one.
    pub fn set_token(&mut self, token: &str) {
        token.clone_into(&mut self.token);
    }

    /// Power fails: the process and all containers are gone, the disk stays.
    ///
    /// # Errors
    /// It does not run.
    pub fn lose_power(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().context("it does not run")?;
        child.kill()?;
        child.wait()?;
        self.clean_up()
    }

    fn clean_up(&self) -> anyhow::Result<()> {
        let mut command = inside(&self.namespace);
        command.arg(&self.binary).args(["cleanup", "--instance", &self.namespace]).arg("-d").arg(&self.dir);
        run(&mut command).map(drop)
    }

    /// `eyot status` on the node.
    pub fn status(&self) -> String {
        let mut command = inside(&self.namespace);
        let output = command.arg(&self.binary).arg("status").arg("-d").arg(&self.dir).output();
        output.map_or_else(|error| error.to_string(), |output| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The last lines of its log.
    pub fn log(&self) -> String {
        end_of(&self.dir.with_extension("log"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the log of the agent ends:\n{}", self.log());
        }
        if let Some(child) = self.child.take() {
            end_within(child, END);
        }
        if let Err(error) = self.clean_up() {
            eprintln!("cleaning up after the agent: {error:#}");
        }
        unwire(&self.namespace);
    }
}
