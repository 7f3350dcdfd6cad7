//! Ways to the pods of other nodes: a route to each one's pod network through its address, where both are on one link
//! (layer 2), else through a VXLAN tunnel.
//!
//! ```text
//!  Nodes ─┐
//!         ├─► plan ─► table: routes            10.42.1.0/24 via 192.0.2.7
//!  facts ─┘      └──► device: VXLAN, its       10.42.2.0/24 via 10.42.2.0 on eyot-vx
//!                     neighbours, forwarding     10.42.2.0 is 0e:79:0a:2a:02:00, which is at 198.51.100.9
//! ```
//! `plan` (pure) says what there must be, from the Nodes and from how the machine reaches their addresses ([`facts`]);
//! `vtep` (pure) is what follows from a node's pod network alone, so nodes tell each other nothing. Routes of ours are
//! known by their protocol number, and by leading into the cluster's pod network. All stays when the process ends.
mod backend;
mod device;
mod facts;
mod plan;
mod table;
pub mod vtep;

pub use backend::Backend;
pub(crate) use device::Device;
pub(crate) use facts::Facts;
pub use plan::{cidrs, internal_ip};

use crate::host::{self, Netlink};
use client::{Event, Informers, Reflector};
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use plan::{Here, Hop, Plan, Reach, difference, plan};
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::route::RouteProtocol;
use std::collections::BTreeMap;
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
    #[error("links, addresses or routes can't be read")]
    Read(#[source] rtnetlink::Error),
    #[error("route to {pods} by {hop:?}")]
    Set { pods: Ipv4Net, hop: Hop, source: rtnetlink::Error },
    #[error("route to {pods} can't be removed")]
    Remove { pods: Ipv4Net, source: rtnetlink::Error },
    #[error("VXLAN device {name} can't be {what}")]
    Device { name: String, what: &'static str, source: rtnetlink::Error },
    #[error("VXLAN device {0} was removed by another program")]
    Gone(String),
    #[error("{0}")]
    Memo(PathBuf, #[source] io::Error),
}

/// What the ways depend on.
pub(crate) struct Options {
    pub node_name: String,
    /// By which other nodes know this one.
    pub node_address: Ipv4Addr,
    pub cluster_cidr: Ipv4Net,
    pub backend: Backend,
    /// Where the kernel has VXLAN and the backend uses it.
    pub device: Option<Device>,
    /// Remembers the cluster's pod network for the cleanup.
    pub memo: PathBuf,
}

/// Keeps the ways of one node.
pub(crate) struct Router {
    nodes: Reflector<Node>,
    options: Options,
    /// Nodes that were said to be out of reach.
    told: Vec<(String, Ipv4Addr)>,
}

impl Router {
    pub fn new(informers: &Informers, options: Options) -> Self {
        Self { nodes: informers.reflector(), options, told: Vec::new() }
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

    async fn reconcile(&mut self) -> Result<(), Error> {
        let nodes: Vec<Arc<Node>> = self.nodes.list();
        let link = Netlink::open().map_err(Error::Netlink)?;
        let facts = Facts::read(&link).await?;
        let reach = self.reach(&link, &facts, &nodes).await?;
        let Options { node_name, cluster_cidr, backend, device, .. } = &self.options;
        let here = Here {
            node: node_name,
            cluster_cidr: *cluster_cidr,
            backend: *backend,
            tunnel: device.is_some(),
            reach: &reach,
        };
        let Some(mut plan) = plan(&here, &nodes) else { return Ok(()) };
        self.tell(std::mem::take(&mut plan.beyond));
        if !plan.routes.is_empty() {
            remember(&self.options.memo, self.options.cluster_cidr)?;
        }
        self.execute(&link, &facts, &plan).await
    }

    /// How the addresses of all other nodes are reached.
    async fn reach(
        &self,
        link: &Netlink,
        facts: &Facts,
        nodes: &[Arc<Node>],
    ) -> Result<BTreeMap<Ipv4Addr, Reach>, Error> {
        let mut reach = BTreeMap::new();
        for node in nodes.iter().filter(|node| node.name_any() != self.options.node_name) {
            if let Some(address) = internal_ip(node) {
                reach.insert(address, facts.reach(link, address).await?);
            }
        }
        Ok(reach)
    }

    /// Sets what is missing or other, removes what is ours and not wanted. Ends of tunnels are there before the routes to
    /// them, and go after. The first error of a route, with all others done.
    async fn execute(&self, link: &Netlink, facts: &Facts, plan: &Plan) -> Result<(), Error> {
        let tunnel = self.options.device.as_ref().zip(plan.tunnel.as_ref());
        let mut index = None;
        if let Some((device, tunnel)) = tunnel {
            let there = self.ensure(link, facts, device).await?;
            let mtu = facts.pod_mtu(self.options.node_address, true);
            device.set(link, &there, tunnel.own, mtu).await?;
            device.lead(link, there.header.index, tunnel).await?;
            index = Some(there.header.index);
        }
        let now = table::ours(link, self.options.cluster_cidr, index).await?;
        let (set, gone) = difference(&now, &plan.routes);
        let mut result = Ok(());
        for pods in gone {
            result = result.and(table::remove(link, pods).await);
        }
        for (pods, hop) in set {
            tracing::info!(%pods, ?hop, "route to another node's pods");
            result = result.and(table::replace(link, pods, hop, index).await);
        }
        if let Some(((device, tunnel), index)) = tunnel.zip(index) {
            result = result.and(device.forget(link, index, tunnel).await);
        }
        result
    }

    async fn ensure(&self, link: &Netlink, facts: &Facts, device: &Device) -> Result<LinkMessage, Error> {
        let own = self.options.node_address;
        // Behind a NAT that is one to one the node's address is none of the machine's.
        device.ensure(link, facts.has(own).then_some(own)).await
    }

    fn tell(&mut self, beyond: Vec<(String, Ipv4Addr)>) {
        for (node, address) in beyond.iter().filter(|node| !self.told.contains(node)) {
            tracing::warn!(node, %address, "its pods can't be reached: no link of this machine leads to its address");
        }
        self.told = beyond;
    }
}

/// The device, made now so that pods know from the beginning what size of packets gets through; none: the kernel has no VXLAN,
/// or the backend wants none, and one of an earlier run goes.
pub(crate) async fn prepare(
    instance: &str,
    backend: Backend,
    cluster_cidr: Ipv4Net,
    node_address: Ipv4Addr,
) -> Result<Option<Device>, Error> {
    let link = Netlink::open().map_err(Error::Netlink)?;
    let device = Device::new(instance, cluster_cidr);
    if !backend.tunnels() {
        return device.remove(&link).await.map(|()| None);
    }
    let local = Facts::read(&link).await?.has(node_address).then_some(node_address);
    match device.ensure(&link, local).await {
        Ok(_) => Ok(Some(device)),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(
                error,
                "no VXLAN: pods of nodes behind a gateway are out of reach, those on one link are not"
            );
            Ok(None)
        }
    }
}

/// The next notice that may change a way; heartbeats pass by.
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

/// Removes the routes and the device that an instance left.
pub(crate) async fn forget(memo: &Path, instance: &str) -> Result<(), Error> {
    let link = Netlink::open().map_err(Error::Netlink)?;
    device::remove(&link, &vtep::device(instance)).await?;
    let failed = |error| Error::Memo(memo.to_owned(), error);
    let text = match fs::read_to_string(memo) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        text => text.map_err(failed)?,
    };
    if let Ok(cluster_cidr) = text.trim().parse() {
        for pods in table::ours(&link, cluster_cidr, None).await?.into_keys() {
            table::remove(&link, pods).await?;
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
