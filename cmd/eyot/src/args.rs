//! Flags, environment and the configuration file, as one command line.
use clap::{Args, Parser, Subcommand};
use node::config::{Agent, Backend, Endpoint, Etcd, EtcdListen, External, Ipv4Net, Node, Server, Thresholds};
use node::snapshot::Scheduled;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

/// Where the admin's kubeconfig is, unless told otherwise.
pub const KUBECONFIG: &str = "/etc/eyot/kubeconfig";
/// Read when it exists and `--config` names no other.
pub const CONFIG: &str = "/etc/eyot/config.yaml";

/// Kubernetes for the edge: every server accepts every write, and servers converge.
#[derive(Debug, Parser)]
#[command(name = "eyot", version, args_override_self = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a server: API, store, controllers, scheduler and, unless --disable-agent, a node
    Server(Box<ServerArgs>),
    /// Run a node that has no server of its own, in the cluster of others
    Agent(Box<AgentArgs>),
    /// Run kubectl with the admin's kubeconfig
    #[command(disable_help_flag = true)]
    Kubectl(PassThrough),
    /// Run ctr on Eyot's containerd
    #[command(disable_help_flag = true)]
    Ctr(PassThrough),
    /// Run crictl on Eyot's containerd
    #[command(disable_help_flag = true)]
    Crictl(PassThrough),
    /// Show what runs
    Status(StatusArgs),
    /// Show concurrent writes of which one lost
    Conflicts {
        #[command(flatten)]
        at: StatusArgs,
        /// Go on and show those that come
        #[arg(short, long)]
        watch: bool,
    },
    /// Work with join tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// Save the store to a file, and put it back
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Stop all containers and remove all traces from the host but the data directory
    Cleanup(CleanupArgs),
}

#[derive(Debug, Args)]
pub struct PassThrough {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<std::ffi::OsString>,
}

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Print the token by which others join this server
    Show {
        #[command(flatten)]
        place: Place,
        /// The one that admits nodes and no servers
        #[arg(long)]
        agent: bool,
    },
    /// Replace the token that admits nodes, on all servers of the cluster, and print the new one
    Rotate {
        #[command(flatten)]
        at: StatusArgs,
        /// That token is meant: servers keep theirs
        #[arg(long, required = true)]
        agent: bool,
        /// What it shall be (default: a new one)
        #[arg(long, value_name = "TOKEN")]
        new_token: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Take a snapshot; the server may run
    Save {
        #[command(flatten)]
        at: SnapshotPlace,
        /// What to call it; the time is added
        #[arg(long, default_value = "snapshot", value_name = "NAME")]
        name: String,
    },
    /// Make a snapshot the store of a server that does not run; the store before it is kept beside
    Restore {
        #[command(flatten)]
        at: SnapshotPlace,
        /// The file, or its name in the list
        file: PathBuf,
    },
    /// List snapshots, the oldest first
    Ls {
        #[command(flatten)]
        at: SnapshotPlace,
    },
    /// Delete all but the newest snapshots of a name
    Prune {
        #[command(flatten)]
        at: SnapshotPlace,
        #[arg(long, default_value = "snapshot", value_name = "NAME")]
        name: String,
        /// How many to keep
        #[arg(long, default_value_t = 5, value_name = "COUNT")]
        keep: usize,
    },
}

#[derive(Debug, Args)]
pub struct SnapshotPlace {
    /// Where all state is kept
    #[arg(short = 'd', long, env = "EYOT_DATA_DIR", default_value = "/var/lib/eyot", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Where snapshots are kept (default: server/snapshots in the data directory)
    #[arg(long, env = "EYOT_SNAPSHOT_DIR", value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

impl SnapshotPlace {
    pub fn dir(&self) -> PathBuf {
        self.dir.clone().unwrap_or_else(|| node::snapshot::default_dir(&self.data_dir))
    }
}

#[derive(Debug, Args)]
pub struct Place {
    /// Where all state is kept
    #[arg(short = 'd', long, env = "EYOT_DATA_DIR", default_value = "/var/lib/eyot", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// One name from which all names on this host derive, so that several nodes fit on one machine
    #[arg(long, env = "EYOT_INSTANCE", default_value = "eyot", value_name = "NAME", value_parser = instance)]
    pub instance: String,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pub place: Place,
    /// The kubeconfig to ask with
    #[arg(long, env = "EYOT_KUBECONFIG", default_value = KUBECONFIG, value_name = "FILE")]
    pub kubeconfig: PathBuf,
}

#[derive(Debug, Args)]
pub struct CleanupArgs {
    #[command(flatten)]
    pub place: Place,
}

#[derive(Debug, Args)]
pub struct ServerArgs {
    /// Configuration file; its keys are these flags without the dashes
    #[arg(short = 'c', long, env = "EYOT_CONFIG_FILE", default_value = CONFIG, value_name = "FILE")]
    pub config: PathBuf,
    #[command(flatten)]
    pub place: Place,
    /// Address to listen on
    #[arg(long, default_value = "0.0.0.0", value_name = "IP")]
    pub bind_address: IpAddr,
    /// Port of the API
    #[arg(long, default_value_t = 6443, value_name = "PORT")]
    pub https_listen_port: u16,
    /// Address that others reach this server at (default: the node's)
    #[arg(long, value_name = "IP")]
    pub advertise_address: Option<IpAddr>,
    /// More names or addresses for the API's certificate
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub tls_san: Vec<String>,
    /// Where to write the admin's kubeconfig
    #[arg(short = 'o', long, env = "EYOT_KUBECONFIG_OUTPUT", default_value = KUBECONFIG, value_name = "FILE")]
    pub write_kubeconfig: PathBuf,
    /// Its mode
    #[arg(long, env = "EYOT_KUBECONFIG_MODE", default_value = "600", value_name = "MODE", value_parser = mode)]
    pub write_kubeconfig_mode: u32,
    /// Secret by which others join (default: a new one on first start)
    #[arg(short = 't', long, env = "EYOT_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub token: Option<String>,
    /// The same, from a file
    #[arg(long, env = "EYOT_TOKEN_FILE", value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,
    /// Secret by which nodes join and servers do not, for a cluster that has none yet (default: a new one)
    #[arg(long, env = "EYOT_AGENT_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub agent_token: Option<String>,
    /// The same, from a file
    #[arg(long, env = "EYOT_AGENT_TOKEN_FILE", value_name = "FILE", conflicts_with = "agent_token")]
    pub agent_token_file: Option<PathBuf>,
    /// Join the cluster of this server, with its token
    #[arg(short = 's', long, env = "EYOT_URL", value_name = "https://HOST:PORT")]
    pub server: Option<String>,
    /// The site that this server stands at (default: one of its own, named like the node)
    #[arg(long, env = "EYOT_SITE", value_name = "NAME", value_parser = site)]
    pub site: Option<String>,
    /// How long a server that is not heard of is waited for before what it may not know of is forgotten, at least 30s; after
    /// that it takes over a store when it comes back
    #[arg(long, env = "EYOT_ABSENT_AFTER", default_value = "168h", value_name = "TIME", value_parser = absence)]
    pub absent_after: Duration,
    /// Network of pods
    #[arg(long, default_value = "10.42.0.0/16", value_name = "CIDR", value_parser = network)]
    pub cluster_cidr: Ipv4Net,
    /// Network of Services
    #[arg(long, default_value = "10.43.0.0/16", value_name = "CIDR", value_parser = network)]
    pub service_cidr: Ipv4Net,
    /// How packets get to other nodes' pods: vxlan (directly on one link), vxlan-always, host-gw (directly alone), or none,
    /// where another program links pods (default: vxlan, or as in the cluster that is joined)
    #[arg(long, env = "EYOT_FLANNEL_BACKEND", value_name = "BACKEND")]
    pub flannel_backend: Option<Backend>,
    /// Address of cluster DNS (default: the tenth of the service network)
    #[arg(long, value_name = "IP")]
    pub cluster_dns: Option<Ipv4Addr>,
    /// Domain of the cluster
    #[arg(long, default_value = "cluster.local", value_name = "DOMAIN")]
    pub cluster_domain: String,
    /// Ports for Services of type NodePort
    #[arg(long, default_value = "30000-32767", value_name = "FROM-TO", value_parser = port_range)]
    pub service_node_port_range: (u16, u16),
    /// Run no node in this process
    #[arg(long)]
    pub disable_agent: bool,
    /// Serve etcd's API: https:// asks for certificates of <data-dir>/server/tls/etcd-ca.crt, http:// is for loopback
    #[arg(long, env = "EYOT_ETCD_LISTEN", value_name = "https://IP:PORT")]
    pub etcd_listen: Option<EtcdListen>,
    /// Members of an etcd to keep objects in, with commas between, in the place of this server's own store
    #[arg(
        long,
        env = "EYOT_DATASTORE_ENDPOINT",
        value_name = "https://HOST:PORT",
        value_delimiter = ',',
        conflicts_with_all = ["etcd_listen", "datastore_only"]
    )]
    pub datastore_endpoint: Vec<Endpoint>,
    /// Who signed that etcd's certificates, in PEM
    #[arg(long, env = "EYOT_DATASTORE_CAFILE", value_name = "FILE")]
    pub datastore_cafile: Option<PathBuf>,
    /// The certificate by which that etcd knows us, in PEM
    #[arg(long, env = "EYOT_DATASTORE_CERTFILE", value_name = "FILE", requires = "datastore_keyfile")]
    pub datastore_certfile: Option<PathBuf>,
    /// Its key
    #[arg(long, env = "EYOT_DATASTORE_KEYFILE", value_name = "FILE", requires = "datastore_certfile")]
    pub datastore_keyfile: Option<PathBuf>,
    /// When snapshots of the store are taken, as in cron; empty: never
    #[arg(long, env = "EYOT_SNAPSHOT_SCHEDULE_CRON", default_value = "0 */12 * * *", value_name = "SCHEDULE")]
    pub snapshot_schedule_cron: String,
    /// How many of these are kept
    #[arg(long, env = "EYOT_SNAPSHOT_RETENTION", default_value_t = 5, value_name = "COUNT")]
    pub snapshot_retention: usize,
    /// Where (default: server/snapshots in the data directory)
    #[arg(long, env = "EYOT_SNAPSHOT_DIR", value_name = "DIR")]
    pub snapshot_dir: Option<PathBuf>,
    /// Largest request of etcd's clients
    #[arg(long, default_value_t = 1_572_864, value_name = "BYTES")]
    pub etcd_max_request_bytes: usize,
    /// Most operations in a transaction of etcd's clients
    #[arg(long, default_value_t = 128, value_name = "COUNT")]
    pub etcd_max_txn_ops: usize,
    /// Run the store and etcd's API alone, for a kube-apiserver of your own
    #[arg(long, requires = "etcd_listen")]
    pub datastore_only: bool,
    /// Parts to leave out: servicelb, where another program serves Services of type LoadBalancer
    #[arg(long, value_name = "PART", value_delimiter = ',', value_parser = ["servicelb"])]
    pub disable: Vec<String>,
    #[command(flatten)]
    pub node: NodeArgs,
}

#[derive(Debug, Args)]
pub struct AgentArgs {
    /// Configuration file; its keys are these flags without the dashes
    #[arg(short = 'c', long, env = "EYOT_CONFIG_FILE", default_value = CONFIG, value_name = "FILE")]
    pub config: PathBuf,
    #[command(flatten)]
    pub place: Place,
    /// Any server of the cluster; needed on the first start alone
    #[arg(short = 's', long, env = "EYOT_URL", value_name = "https://HOST:PORT")]
    pub server: Option<String>,
    /// The cluster's token, as `eyot token show --agent` prints it on a server
    #[arg(short = 't', long, env = "EYOT_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub token: Option<String>,
    /// The same, from a file
    #[arg(long, env = "EYOT_TOKEN_FILE", value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,
    /// The site that this node stands at (default: that of the server it joins through)
    #[arg(long, env = "EYOT_SITE", value_name = "NAME", value_parser = site)]
    pub site: Option<String>,
    #[command(flatten)]
    pub node: NodeArgs,
}

impl AgentArgs {
    /// The agent's configuration; fails when the token file can't be read.
    pub fn into_config(self) -> anyhow::Result<Agent> {
        self.node.check()?;
        Ok(Agent {
            data_dir: std::path::absolute(self.place.data_dir)?,
            instance: self.place.instance,
            server: self.server,
            token: token(self.token, self.token_file.as_deref())?,
            site: self.site,
            node: self.node.into(),
        })
    }
}

/// The token as given, or out of its file.
fn token(given: Option<String>, file: Option<&std::path::Path>) -> anyhow::Result<Option<String>> {
    match file {
        Some(path) => Ok(Some(node::files::read(path)?.trim().to_owned())),
        None => Ok(given),
    }
}

#[derive(Debug, Args)]
pub struct NodeArgs {
    /// Name of the node (default: the host's)
    #[arg(long, env = "EYOT_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,
    /// Address of the node (default: by the default route)
    #[arg(short = 'i', long, value_name = "IP")]
    pub node_ip: Option<IpAddr>,
    /// Labels to register the node with
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',')]
    pub node_label: Vec<String>,
    /// Taints to register the node with
    #[arg(long, value_name = "KEY=VALUE:EFFECT", value_delimiter = ',')]
    pub node_taint: Vec<String>,
    /// Socket of a container runtime that is already there; Eyot then starts none
    #[arg(long, value_name = "SOCKET")]
    pub container_runtime_endpoint: Option<PathBuf>,
    /// Image of the container that holds a pod's namespaces
    #[arg(long, value_name = "IMAGE")]
    pub pause_image: Option<String>,
    /// resolv.conf for pods with dnsPolicy Default and for what cluster DNS forwards
    #[arg(long, env = "EYOT_RESOLV_CONF", value_name = "FILE")]
    pub resolv_conf: Option<PathBuf>,
    /// Port of the node's HTTPS server
    #[arg(long, default_value_t = 10250, value_name = "PORT")]
    pub agent_port: u16,
    /// Most pods that this node runs
    #[arg(long, default_value_t = 110, value_name = "COUNT")]
    pub max_pods: u32,
    /// Below what the node is short of memory or disk and ends pods; what is not named never counts as short
    #[arg(
        long,
        env = "EYOT_EVICTION_HARD",
        default_value = "memory.available<100Mi,nodefs.available<5%,nodefs.inodesFree<5%",
        value_name = "THRESHOLDS"
    )]
    pub eviction_hard: Thresholds,
    /// Time for pods to end before the machine goes down, such as 30s; 0: they are not ended first
    #[arg(long, default_value = "0", value_name = "TIME", value_parser = duration)]
    pub shutdown_grace_period: Duration,
    /// The part of it that critical pods have for themselves, after all others
    #[arg(long, default_value = "0", value_name = "TIME", value_parser = duration)]
    pub shutdown_grace_period_critical_pods: Duration,
}

impl ServerArgs {
    /// The server's configuration; fails when the token file can't be read.
    pub fn into_config(self) -> anyhow::Result<Server> {
        self.node.check()?;
        let agent_token = token(self.agent_token, self.agent_token_file.as_deref())?;
        let token = token(self.token, self.token_file.as_deref())?;
        let data_dir = std::path::absolute(self.place.data_dir)?;
        let snapshots = match self.snapshot_dir {
            Some(dir) => std::path::absolute(dir)?,
            None => node::snapshot::default_dir(&data_dir),
        };
        let snapshots = Scheduled::parse(&self.snapshot_schedule_cron, self.snapshot_retention, snapshots)?;
        Ok(Server {
            data_dir,
            snapshots,
            instance: self.place.instance,
            bind_address: self.bind_address,
            https_listen_port: self.https_listen_port,
            advertise_address: self.advertise_address,
            tls_san: self.tls_san,
            write_kubeconfig: self.write_kubeconfig,
            write_kubeconfig_mode: self.write_kubeconfig_mode,
            token,
            agent_token,
            join: self.server,
            site: self.site,
            absent_after: self.absent_after,
            cluster_cidr: self.cluster_cidr,
            service_cidr: self.service_cidr,
            flannel_backend: self.flannel_backend,
            cluster_dns: self.cluster_dns,
            cluster_domain: self.cluster_domain,
            service_node_port_range: self.service_node_port_range,
            disable_agent: self.disable_agent,
            datastore_only: self.datastore_only,
            etcd: self.etcd_listen.map(|listen| Etcd {
                listen,
                max_request_bytes: self.etcd_max_request_bytes,
                max_txn_ops: self.etcd_max_txn_ops,
            }),
            datastore: (!self.datastore_endpoint.is_empty()).then_some(External {
                endpoints: self.datastore_endpoint,
                ca_file: self.datastore_cafile,
                cert_file: self.datastore_certfile,
                key_file: self.datastore_keyfile,
            }),
            disable_service_lb: self.disable.iter().any(|part| part == "servicelb"),
            node: self.node.into(),
        })
    }
}

impl NodeArgs {
    fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.shutdown_grace_period_critical_pods <= self.shutdown_grace_period,
            "--shutdown-grace-period-critical-pods must not be longer than --shutdown-grace-period"
        );
        Ok(())
    }
}

impl From<NodeArgs> for Node {
    fn from(args: NodeArgs) -> Self {
        Self {
            node_name: args.node_name,
            node_ip: args.node_ip,
            node_label: args.node_label,
            node_taint: args.node_taint,
            container_runtime_endpoint: args.container_runtime_endpoint,
            pause_image: args.pause_image,
            resolv_conf: args.resolv_conf,
            agent_port: args.agent_port,
            max_pods: args.max_pods,
            eviction_hard: args.eviction_hard,
            shutdown_grace_period: args.shutdown_grace_period,
            shutdown_grace_period_critical_pods: args.shutdown_grace_period_critical_pods,
        }
    }
}

/// Hours, minutes and seconds as Kubernetes writes them (`1m30s`), or a number of seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?}: a time such as 30s or 1m30s is wanted");
    let (mut seconds, mut number) = (0_u64, String::new());
    for c in text.chars() {
        let unit = match c {
            '0'..='9' => {
                number.push(c);
                continue;
            }
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return Err(wrong()),
        };
        seconds += std::mem::take(&mut number).parse::<u32>().map_err(|_| wrong()).map(u64::from)? * unit;
    }
    // A number without a unit stands alone.
    match number.parse::<u32>() {
        Ok(alone) if seconds == 0 => Ok(Duration::from_secs(alone.into())),
        Err(_) if number.is_empty() && !text.is_empty() => Ok(Duration::from_secs(seconds)),
        _ => Err(wrong()),
    }
}

/// No server may seem absent that is only between two signs of life.
fn absence(text: &str) -> Result<Duration, String> {
    const SHORTEST: Duration = Duration::from_secs(30);
    match duration(text)? {
        time if time < SHORTEST => Err(format!("{text:?}: at least {} s is wanted", SHORTEST.as_secs())),
        time => Ok(time),
    }
}

/// Interface names are at most 15 bytes, so what derives from the instance must stay short.
fn instance(text: &str) -> Result<String, String> {
    const LONGEST: usize = 10;
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let starts = text.starts_with(|c: char| c.is_ascii_lowercase());
    match starts && text.len() <= LONGEST && text.bytes().all(allowed) {
        true => Ok(text.to_owned()),
        false => Err(format!("use at most {LONGEST} lower-case letters, digits and dashes, a letter first")),
    }
}

/// A site's name is a label's value and part of objects' names.
fn site(text: &str) -> Result<String, String> {
    node::config::site_name(text)
}

fn mode(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777).ok_or_else(|| "write it in octal, as 600".into())
}

/// Bits beyond the prefix are dropped.
fn network(text: &str) -> Result<Ipv4Net, String> {
    text.parse::<Ipv4Net>().map(|network| network.trunc()).map_err(|_| "write it as 10.42.0.0/16".into())
}

fn port_range(text: &str) -> Result<(u16, u16), String> {
    let (from, to) = text.split_once('-').ok_or("write it as 30000-32767")?;
    match (from.parse(), to.parse()) {
        (Ok(from), Ok(to)) if 0 < from && from <= to => Ok((from, to)),
        _ => Err("write it as 30000-32767".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn odd_values_are_refused() {
        let seconds = |text: &str| duration(text).ok().map(|duration| duration.as_secs());
        assert_eq!(
            (seconds("90"), seconds("1m30s"), seconds("2h"), seconds("0")),
            (Some(90), Some(90), Some(7200), Some(0))
        );
        assert!(["", "s", "1m30", "1d", "-1s"].into_iter().all(|text| duration(text).is_err()));
        assert!(instance("Eyot").is_err() && instance("a-name-too-long").is_err() && instance("shop-1").is_ok());
        assert!(mode("888").is_err() && mode("0644") == Ok(0o644));
        assert!(port_range("2-1").is_err() && port_range("30000-32767") == Ok((30000, 32767)));
    }
}
