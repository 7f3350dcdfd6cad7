//! What a server was told to be. The binary fills this in from flags, environment and the configuration file.
pub use agent::Thresholds;
pub use etcd::remote::Address as Endpoint;
pub use ipnet::Ipv4Net;
pub use net::Backend;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Everything that `eyot server` can be told; names and defaults follow k3s.
#[derive(Clone, Debug)]
pub struct Server {
    pub data_dir: PathBuf,
    /// From this one name derive the nftables table, the bridge, the cgroup parent and the run directory.
    pub instance: String,
    pub bind_address: IpAddr,
    pub https_listen_port: u16,
    pub advertise_address: Option<IpAddr>,
    pub tls_san: Vec<String>,
    pub write_kubeconfig: PathBuf,
    pub write_kubeconfig_mode: u32,
    pub token: Option<String>,
    /// What admits nodes and no servers, in a cluster that has no such token yet; none: a new one.
    pub agent_token: Option<String>,
    /// The server to join through, as `https://HOST:PORT`; none: this is the first.
    pub join: Option<String>,
    /// Where this server stands; none: a site of its own, named like it.
    pub site: Option<String>,
    /// A server that was not heard of for so long is not waited for.
    pub absent_after: Duration,
    pub cluster_cidr: Ipv4Net,
    pub service_cidr: Ipv4Net,
    /// How packets get to other nodes' pods; none: as in the cluster that is joined, or the default.
    pub flannel_backend: Option<Backend>,
    pub cluster_dns: Option<Ipv4Addr>,
    pub cluster_domain: String,
    pub service_node_port_range: (u16, u16),
    pub disable_agent: bool,
    /// No API, no components, no node: the store and etcd's endpoint alone.
    pub datastore_only: bool,
    pub etcd: Option<Etcd>,
    /// When snapshots of this server's own store are taken.
    pub snapshots: Option<crate::snapshot::Scheduled>,
    /// An etcd that is the store, in the place of this server's own.
    pub datastore: Option<External>,
    /// Services of type LoadBalancer are another program's.
    pub disable_service_lb: bool,
    pub node: Node,
}

/// What a node can be told, in a server or by itself.
#[derive(Clone, Debug)]
pub struct Node {
    pub node_name: Option<String>,
    pub node_ip: Option<IpAddr>,
    pub node_label: Vec<String>,
    pub node_taint: Vec<String>,
    pub container_runtime_endpoint: Option<PathBuf>,
    pub pause_image: Option<String>,
    pub resolv_conf: Option<PathBuf>,
    pub agent_port: u16,
    pub max_pods: u32,
    /// When the node is short of memory or disk, so that pods go.
    pub eviction_hard: Thresholds,
    /// Time for pods to end when the machine goes down; zero: they are not ended first.
    pub shutdown_grace_period: Duration,
    /// The part of it that critical pods have for themselves.
    pub shutdown_grace_period_critical_pods: Duration,
}

/// Everything that `eyot agent` can be told.
#[derive(Clone, Debug)]
pub struct Agent {
    pub data_dir: PathBuf,
    pub instance: String,
    /// The server to join through, as `https://HOST:PORT`; none: the one that is kept from the first start.
    pub server: Option<String>,
    pub token: Option<String>,
    /// Where this node stands; none: with the server that it joins through.
    pub site: Option<String>,
    pub node: Node,
}

/// What all nodes of a cluster must know of it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    pub cluster_cidr: Ipv4Net,
    pub service_cidr: Ipv4Net,
    pub dns: Ipv4Addr,
    pub domain: String,
    /// What says nothing of it is older than the choice.
    #[serde(default)]
    pub flannel_backend: Backend,
}

#[cfg(test)]
impl Node {
    /// One with the flags' defaults.
    pub(crate) fn for_tests() -> Self {
        Self {
            node_name: None,
            node_ip: None,
            node_label: Vec::new(),
            node_taint: Vec::new(),
            container_runtime_endpoint: None,
            pause_image: None,
            resolv_conf: None,
            agent_port: 10250,
            max_pods: 110,
            eviction_hard: Thresholds::default(),
            shutdown_grace_period: Duration::ZERO,
            shutdown_grace_period_critical_pods: Duration::ZERO,
        }
    }
}

/// A site's name: a label's value, and part of objects' names.
///
/// # Errors
/// What is wrong with it, in Kubernetes' words.
pub fn site_name(text: &str) -> Result<String, String> {
    match api::validate::names::dns_label(text).into_iter().next() {
        None => Ok(text.to_owned()),
        Some(wrong) => Err(wrong),
    }
}

/// How an etcd is reached that is the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct External {
    pub endpoints: Vec<Endpoint>,
    /// PEM of who signed its members' certificates.
    pub ca_file: Option<PathBuf>,
    /// Who we are to it, in PEM.
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
}

/// How etcd's API is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Etcd {
    pub listen: EtcdListen,
    /// Largest request.
    pub max_request_bytes: usize,
    /// Most operations in a transaction.
    pub max_txn_ops: usize,
}

/// Where etcd's API listens: `https://ADDRESS:PORT`, or `http://` on a loopback address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EtcdListen {
    pub tls: bool,
    pub address: SocketAddr,
}

impl std::str::FromStr for EtcdListen {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "write it as https://ADDRESS:PORT, with an IP address";
        let (tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err(FORM),
        };
        let rest = rest.trim_end_matches('/').replacen("localhost:", "127.0.0.1:", 1);
        let address: SocketAddr = rest.parse().map_err(|_| FORM)?;
        match tls || address.ip().is_loopback() {
            true => Ok(Self { tls, address }),
            false => Err("http:// is for loopback addresses alone: others would read every Secret; use https://"),
        }
    }
}

impl std::fmt::Display for EtcdListen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.address)
    }
}

impl Server {
    pub fn tls_dir(&self) -> PathBuf {
        self.data_dir.join("server/tls")
    }

    pub fn store_dir(&self) -> PathBuf {
        self.data_dir.join("server/store")
    }

    pub fn token_file(&self) -> PathBuf {
        self.data_dir.join("server/token")
    }

    pub fn run_dir(&self) -> PathBuf {
        Path::new("/run").join(&self.instance)
    }

    /// What nodes must know of the cluster.
    pub fn cluster(&self) -> Cluster {
        Cluster {
            cluster_cidr: self.cluster_cidr,
            service_cidr: self.service_cidr,
            dns: self.dns_ip(),
            domain: self.cluster_domain.clone(),
            flannel_backend: self.flannel_backend.unwrap_or_default(),
        }
    }

    /// The n-th address of the service network.
    fn service_ip(&self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.service_cidr.network().to_bits().wrapping_add(n))
    }

    /// The first address of the service network: `default/kubernetes`.
    pub fn kubernetes_ip(&self) -> Ipv4Addr {
        self.service_ip(1)
    }

    pub fn dns_ip(&self) -> Ipv4Addr {
        self.cluster_dns.unwrap_or_else(|| self.service_ip(10))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_is_for_loopback_alone() {
        let parse = |text: &str| text.parse::<EtcdListen>().map(|listen| listen.to_string());
        assert_eq!(parse("https://10.0.0.1:2379"), Ok("https://10.0.0.1:2379".into()));
        assert_eq!(parse("http://localhost:2379/"), Ok("http://127.0.0.1:2379".into()));
        assert!(parse("http://10.0.0.1:2379").unwrap_err().contains("loopback"));
        assert!(parse("http://0.0.0.0:2379").is_err() && parse("10.0.0.1:2379").is_err());
        assert!(parse("https://example.com:2379").is_err());
    }
}
