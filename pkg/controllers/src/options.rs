//! What the controllers need to run.
use client::Informers;
use std::sync::Arc;

/// Gives each controller a client of its own identity, by the name of its ServiceAccount in kube-system, such as
/// `deployment-controller`.
pub type ClientFor = Arc<dyn Fn(&str) -> kube::Client + Send + Sync>;

#[derive(Clone)]
pub struct Options {
    pub client_for: ClientFor,
    /// The process's shared caches.
    pub informers: Informers,
    /// Where nodes' pod networks come from, such as `10.42.0.0/16`; IPv4.
    pub cluster_cidr: String,
    /// Prefix length of one node's pod network.
    pub node_cidr_mask: u8,
    /// The cluster's root certificates, published to every namespace; empty publishes nothing.
    pub root_ca_pem: String,
    /// Whether Services of type LoadBalancer are served on the nodes' addresses.
    pub service_lb: bool,
    /// TCP ports of the nodes that no Service of type LoadBalancer may take: the API's, the agents'.
    pub reserved_ports: Vec<u16>,
}
