//! What nodes without a server and servers say to each other.
use crate::agent::servers::Server;
use crate::config::Cluster;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Where certificates are asked for, the first and all later ones.
pub const JOIN: &str = "/v1-eyot/agent/join";
/// Where the list of servers is read.
pub const SERVERS: &str = "/v1-eyot/agent/servers";
/// Where a tunnel is asked for.
pub const TUNNEL: &str = "/v1-eyot/agent/tunnel";
/// Below it servers ask each other for connections to nodes: `NODE/IP:PORT` follows.
pub const DIAL: &str = "/v1-eyot/dial/";

/// One text for each of a node's identities: signing requests one way, certificates the other, in PEM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identities<T> {
    /// `system:node:NAME`, the kubelet's client.
    pub node: T,
    /// What serves the kubelet's API.
    pub serving: T,
    /// `eyot:net:NAME`, which reads what Services and policies are made of.
    pub network: T,
    /// `eyot:local-path:NAME`, which makes volumes of this node's disk.
    pub storage: T,
}

impl<T> Identities<T> {
    /// The same of each, with the name that its files have.
    ///
    /// # Errors
    /// The first that fails.
    pub fn try_map<U, E>(&self, mut of: impl FnMut(&'static str, &T) -> Result<U, E>) -> Result<Identities<U>, E> {
        Ok(Identities {
            node: of("client-node", &self.node)?,
            serving: of("serving", &self.serving)?,
            network: of("client-network", &self.network)?,
            storage: of("client-storage", &self.storage)?,
        })
    }
}

/// A node asks for its certificates.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    pub name: String,
    /// Made by the node when it first joined: nobody else can take its name.
    pub secret: String,
    /// Where the node is reached.
    pub addresses: Vec<IpAddr>,
    /// Where it stands, if it was told.
    pub site: Option<String>,
    pub requests: Identities<String>,
}

/// What it gets.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Admission {
    pub cluster: Cluster,
    /// The site that it belongs to; none: sites are not told apart.
    pub site: Option<String>,
    pub certificates: Identities<String>,
    pub servers: Vec<Server>,
}

/// The cluster's servers.
#[derive(Debug, Serialize, Deserialize)]
pub struct Servers {
    pub servers: Vec<Server>,
}
