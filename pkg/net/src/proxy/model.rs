//! What the node's Service rules must do, free of Kubernetes' object types and of nftables' syntax.
use crate::policy::model::Policies;
use ipnet::Ipv4Net;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

/// The protocols that Services and host ports know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// Kubernetes' name; no name means TCP. `None` for what a cluster does not know.
    pub fn of(name: Option<&str>) -> Option<Self> {
        match name {
            None | Some("TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }
}

impl fmt::Display for Protocol {
    /// nftables' and conntrack's name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// One port of one Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortName {
    pub namespace: String,
    pub service: String,
    /// Empty for the only port of a Service.
    pub port: String,
    pub protocol: Protocol,
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, service, port, protocol } = self;
        write!(f, "{namespace}/{service}:{port}/{protocol}")
    }
}

/// A Service port with everything that its rules depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    pub name: PortName,
    pub cluster_ips: Vec<Ipv4Addr>,
    pub port: u16,
    pub node_port: Option<u16>,
    pub external_ips: Vec<Ipv4Addr>,
    pub load_balancer_ips: Vec<Ipv4Addr>,
    /// `loadBalancerSourceRanges`; empty lets everybody in.
    pub source_ranges: Vec<Ipv4Net>,
    /// Session affinity by client address, and for how many seconds.
    pub affinity_s: Option<u32>,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// Where traffic of policy Cluster goes: everywhere, or where topology hints send it.
    pub cluster_endpoints: Vec<SocketAddrV4>,
    /// Where traffic of policy Local goes.
    pub local_endpoints: Vec<SocketAddrV4>,
    /// Whether any endpoint is usable anywhere in the cluster.
    pub has_any_endpoints: bool,
}

impl ServicePort {
    /// A port without addresses or endpoints.
    pub fn empty(name: PortName) -> Self {
        Self {
            name,
            cluster_ips: Vec::new(),
            port: 0,
            node_port: None,
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            source_ranges: Vec::new(),
            affinity_s: None,
            internal_local: false,
            external_local: false,
            cluster_endpoints: Vec::new(),
            local_endpoints: Vec::new(),
            has_any_endpoints: false,
        }
    }
}

/// What a load balancer is told that asks whether this node has endpoints of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    pub namespace: String,
    pub service: String,
    /// Ready endpoints on this node.
    pub local_endpoints: usize,
}

/// A pod's port on its node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// `None` for all addresses of the node.
    pub ip: Option<Ipv4Addr>,
    pub protocol: Protocol,
    pub port: u16,
    pub to: SocketAddrV4,
}

/// All that the rules say at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    pub services: Vec<ServicePort>,
    pub host_ports: Vec<HostPort>,
    /// Addresses of this node's pods that may meet themselves behind a Service.
    pub local_pods: Vec<Ipv4Addr>,
    pub policies: Arc<Policies>,
    /// Addresses of the cluster's nodes, from which VXLAN packets are taken.
    pub nodes: BTreeSet<Ipv4Addr>,
    /// By `healthCheckNodePort`.
    pub health_checks: BTreeMap<u16, HealthCheck>,
}

/// What does not change while the process runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    pub table: String,
    pub cluster_cidr: Ipv4Net,
    pub service_cidr: Ipv4Net,
    /// The Service address of cluster DNS, and where this node answers it.
    pub dns: Option<(Ipv4Addr, SocketAddrV4)>,
    /// The number of the cluster's VXLAN network, where there is one.
    pub vxlan: Option<u32>,
    /// Pods' links are Eyot's; else what leaves the cluster and what pods may pretend is another program's care.
    pub links_pods: bool,
}
