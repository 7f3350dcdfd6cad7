//! What nodes without a server and servers say to each other.
use crate::agent::servers::Server;
use crate::config::{Backend, Cluster};
use ::api::home::{Link, Ownership, Site};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Where certificates are asked for, the first and all later ones.
pub const JOIN: &str = "/v1-eyot/agent/join";
/// Where the list of servers is read.
pub const SERVERS: &str = "/v1-eyot/agent/servers";
/// In the query of [`SERVERS`]: the number of a server, which may be a member no longer.
pub const MEMBER: &str = "member=";
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
    /// The password that admits nodes, for one whose certificates nobody takes any more.
    #[serde(default)]
    pub agent_token: Option<String>,
}

/// The cluster's servers, and its sites as the one that answers sees them.
#[derive(Debug, Serialize, Deserialize)]
pub struct Servers {
    pub servers: Vec<Server>,
    /// None: sites are not told apart.
    pub sites: Option<Sites>,
    /// The CA of each member, in PEM; none: that of one is not known.
    #[serde(default)]
    pub authorities: Vec<String>,
    /// The number of the server that answers; none: it is one for itself.
    #[serde(default)]
    pub number: Option<u16>,
    /// Whether the server whose number was asked for ([`MEMBER`]) was removed.
    #[serde(default)]
    pub removed: bool,
    /// How packets get to other nodes' pods, as the server that answers was told; none: it is older than the choice.
    #[serde(default)]
    pub flannel_backend: Option<Backend>,
}

/// How a server stands with the sites.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sites {
    pub own: String,
    pub reached: Vec<String>,
    pub lost: Vec<String>,
}

impl Sites {
    /// Those of a server's view; none: it tells no sites apart.
    pub fn of(view: &Ownership) -> Option<Self> {
        let (reached, lost): (Vec<_>, Vec<_>) = view.others.iter().partition(|(_, link)| **link == Link::Up);
        let names = |sites: Vec<(&Site, &Link)>| sites.into_iter().map(|(site, _)| site.to_string()).collect();
        view.marked.then(|| Self { own: view.site.to_string(), reached: names(reached), lost: names(lost) })
    }

    /// The view of a node there.
    pub fn view(&self) -> Ownership {
        let down = || Link::Down { for_s: 0, taken: None };
        let view =
            self.reached.iter().fold(Ownership::of(&self.own, &self.own), |view, site| view.with(site, Link::Up));
        self.lost.iter().fold(view, |view, site| view.with(site, down()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_view_of_sites_is_its_servers() {
        assert_eq!(Sites::of(&Ownership::default()), None);
        let lost = Link::Down { for_s: 7, taken: None };
        let view = Ownership::of("north", "south").with("south", Link::Up).with("west", lost);
        let told = Sites::of(&view).unwrap();
        assert_eq!((&told.reached[..], &told.lost[..]), (&["south".to_owned()][..], &["west".to_owned()][..]));
        assert_eq!(Sites::of(&told.view()), Some(told));
    }
}
