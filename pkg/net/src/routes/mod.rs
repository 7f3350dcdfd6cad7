//! Ways to the pods of other nodes: a route to each one's pod network through its address, where both are on one link
//! (layer 2). `plan` says which (pure); this follows the Nodes and sets them.
//!
//! Routes of ours are known by their protocol number, and by leading into the cluster's pod network. They stay when the
//! process ends, as all of the network does.
mod plan;

pub use plan::cidrs;

use crate::host::{self, Netlink};
use client::{Event, Informers, Reflector};
use futures::TryStreamExt;
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node;
use plan::{Here, Plan, Routes, difference, plan};
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol};
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Tells our routes from others'; no program that `/etc/iproute2/rt_protos` knows has this number.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(143);
/// Links and addresses of the machine change without a notice here: all is compared again this often.
const LOOK: Duration = Duration::from_secs(60);
/// Before the next try when something could not be set.
const RETRY: Duration = Duration::from_secs(5);
/// Changes of Nodes that come together are looked at together.
const SETTLE: Duration = Duration::from_millis(20);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Host(#[from] host::Error),
    #[error("no netlink socket")]
    Netlink(#[source] io::Error),
    #[error("routes can't be read")]
    Read(#[source] rtnetlink::Error),
    #[error("route to {pods} through {gateway}")]
    Set { pods: Ipv4Net, gateway: Ipv4Addr, source: rtnetlink::Error },
    #[error("route to {pods} can't be removed")]
    Remove { pods: Ipv4Net, source: rtnetlink::Error },
    #[error("{0}")]
    Memo(PathBuf, #[source] io::Error),
}

/// Keeps the routes of one node.
pub struct Router {
    nodes: Reflector<Node>,
    node_name: String,
    cluster_cidr: Ipv4Net,
    /// Remembers the cluster's pod network for the cleanup.
    memo: PathBuf,
    /// Nodes that were said to be out of reach.
    told: Vec<(String, Ipv4Addr)>,
}

impl Router {
    pub fn new(informers: &Informers, node_name: &str, cluster_cidr: Ipv4Net, memo: PathBuf) -> Self {
        let (nodes, node_name) = (informers.reflector(), node_name.to_owned());
        Self { nodes, node_name, cluster_cidr, memo, told: Vec::new() }
    }

    /// Follows the Nodes for ever.
    pub async fn run(mut self) {
        let mut notices = self.nodes.subscribe();
        self.nodes.synced().await;
        loop {
            let wait = match self.reconcile().await {
                Ok(()) => LOOK,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "a way to other nodes' pods is missing");
                    RETRY
                }
            };
            tokio::select! {
                () = next_change(&mut notices) => tokio::time::sleep(SETTLE).await,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Sets what is missing or other, removes what is ours and not wanted. The first error, with all else done.
    async fn reconcile(&mut self) -> Result<(), Error> {
        let nodes: Vec<Arc<Node>> = self.nodes.list();
        let addresses = host::networks().await?;
        let here = Here { node: &self.node_name, cluster_cidr: self.cluster_cidr, addresses: &addresses };
        let Plan { routes, beyond } = plan(&here, &nodes);
        self.tell(beyond);
        if !routes.is_empty() {
            remember(&self.memo, self.cluster_cidr)?;
        }
        let link = Netlink::open().map_err(Error::Netlink)?;
        let (set, gone) = difference(&ours(&link, self.cluster_cidr).await?, &routes);
        let mut result = Ok(());
        for pods in gone {
            result = result.and(remove(&link, pods).await);
        }
        for (pods, gateway) in set {
            tracing::info!(%pods, %gateway, "route to another node's pods");
            result = result.and(replace(&link, pods, gateway).await);
        }
        result
    }

    fn tell(&mut self, beyond: Vec<(String, Ipv4Addr)>) {
        for (node, address) in beyond.iter().filter(|node| !self.told.contains(node)) {
            tracing::warn!(node, %address, "its pods can't be reached: no link of this machine leads to its address");
        }
        self.told = beyond;
    }
}

/// The next notice that may change a route; heartbeats pass by.
async fn next_change(notices: &mut client::Subscription<Node>) {
    let facts = |node: &Node| {
        let addresses = node.status.as_ref().and_then(|status| status.addresses.clone());
        (cidrs(node).collect::<Vec<_>>(), addresses)
    };
    loop {
        match notices.next().await {
            Some(Event::Applied { new, old }) => {
                if old.is_none_or(|old| facts(&old) != facts(&new)) {
                    return;
                }
            }
            Some(_) => return,
            None => std::future::pending().await,
        }
    }
}

/// Removes the routes that an instance left.
pub async fn forget(memo: &Path) -> Result<(), Error> {
    let failed = |error| Error::Memo(memo.to_owned(), error);
    let text = match fs::read_to_string(memo) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        text => text.map_err(failed)?,
    };
    if let Ok(cluster_cidr) = text.trim().parse() {
        let link = Netlink::open().map_err(Error::Netlink)?;
        for pods in ours(&link, cluster_cidr).await?.into_keys() {
            remove(&link, pods).await?;
        }
    }
    fs::remove_file(memo).map_err(failed)
}

fn remember(memo: &Path, cluster_cidr: Ipv4Net) -> Result<(), Error> {
    let text = cluster_cidr.to_string();
    if fs::read_to_string(memo).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let written = memo.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(memo, text));
    written.map_err(|error| Error::Memo(memo.to_owned(), error))
}

/// Our routes into the cluster's pod network.
async fn ours(link: &Netlink, cluster_cidr: Ipv4Net) -> Result<Routes, Error> {
    let all = link.handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
    let all: Vec<RouteMessage> = all.try_collect().await.map_err(Error::Read)?;
    Ok(all.iter().filter_map(read).filter(|(pods, _)| cluster_cidr.contains(pods)).collect())
}

/// A route of ours.
fn read(route: &RouteMessage) -> Option<(Ipv4Net, Ipv4Addr)> {
    let (mut to, mut via) = (None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => to = Some(*address),
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => via = Some(*address),
            _ => {}
        }
    }
    let pods = Ipv4Net::new(to?, route.header.destination_prefix_length).ok()?;
    (route.header.protocol == PROTOCOL).then_some((pods, via?))
}

fn message(pods: Ipv4Net) -> RouteMessageBuilder<Ipv4Addr> {
    RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(pods.network(), pods.prefix_len()).protocol(PROTOCOL)
}

async fn replace(link: &Netlink, pods: Ipv4Net, gateway: Ipv4Addr) -> Result<(), Error> {
    let set = link.handle.route().add(message(pods).gateway(gateway).build()).replace().execute().await;
    set.map_err(|source| Error::Set { pods, gateway, source })
}

/// Gone already is as good.
async fn remove(link: &Netlink, pods: Ipv4Net) -> Result<(), Error> {
    match link.handle.route().del(message(pods).build()).execute().await {
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -rustix::io::Errno::SRCH.raw_os_error() => {
            Ok(())
        }
        result => result.map_err(|source| Error::Remove { pods, source }),
    }
}
