//! What the controllers need to run.
use api::home::Ownership;
use api::slice::Share;
use client::Informers;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::watch;

/// Gives each controller a client of its own identity, by the name of its ServiceAccount in kube-system, such as
/// `deployment-controller`.
pub type ClientFor = Arc<dyn Fn(&str) -> kube::Client + Send + Sync>;

/// Whether an object of this uid was deleted, by the record that the servers keep of that. True only when it was.
pub type Tombstones = Arc<dyn Fn(String) -> Pin<Box<dyn Future<Output = bool> + Send>> + Send + Sync>;

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
    /// Which sites there are, and whose objects are whose; kept up to date by whoever follows the other servers.
    pub ownership: watch::Receiver<Ownership>,
    /// The pod networks that this server gives to nodes by itself.
    pub share: watch::Receiver<Share>,
    /// Asked about owners that are not there, where there are several sites: absence alone proves nothing. Without it only
    /// ends that were seen since the start count.
    pub tombstones: Option<Tombstones>,
}
