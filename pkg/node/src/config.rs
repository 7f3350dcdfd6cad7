//! What a server was told to be. The binary fills this in from flags, environment and the configuration file.
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

/// An IPv4 network in CIDR notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    pub address: Ipv4Addr,
    pub prefix: u8,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no IPv4 network: write it as 10.42.0.0/16")]
pub struct CidrError(String);

impl Cidr {
    /// The network's n-th address.
    pub fn nth(self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.address) + n)
    }
}

impl std::str::FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let wrong = || CidrError(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        let host_bits = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
        if prefix > 32 || u32::from(address) & host_bits != 0 {
            return Err(wrong());
        }
        Ok(Self { address, prefix })
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

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
    pub cluster_cidr: Cidr,
    pub service_cidr: Cidr,
    pub cluster_dns: Option<Ipv4Addr>,
    pub cluster_domain: String,
    pub service_node_port_range: (u16, u16),
    pub disable_agent: bool,
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

    pub fn agent_dir(&self) -> PathBuf {
        self.data_dir.join("agent")
    }

    pub fn run_dir(&self) -> PathBuf {
        Path::new("/run").join(&self.instance)
    }

    /// The first address of the service network: `default/kubernetes`.
    pub fn kubernetes_ip(&self) -> Ipv4Addr {
        self.service_cidr.nth(1)
    }

    pub fn dns_ip(&self) -> Ipv4Addr {
        self.cluster_dns.unwrap_or_else(|| self.service_cidr.nth(10))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_read_and_print() {
        let cidr: Cidr = "10.43.0.0/16".parse().unwrap();
        assert_eq!(cidr.to_string(), "10.43.0.0/16");
        assert_eq!(cidr.nth(10), Ipv4Addr::new(10, 43, 0, 10));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in ["10.43.0.0", "10.43.0.1/16", "10.43.0.0/33", "::/0", "x/8"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }
}
