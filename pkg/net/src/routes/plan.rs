//! Which ways lead to the pods of other nodes. Pure.
use super::backend::Backend;
use super::vtep::{Mac, Vtep};
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Pod networks of other nodes, and how each is reached.
pub type Routes = BTreeMap<Ipv4Net, Hop>;

/// The next hop to a node's pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hop {
    /// The node's address, on a link of this machine.
    Link(Ipv4Addr),
    /// The other end of a VXLAN tunnel.
    Tunnel(Ipv4Addr),
}

/// How this machine reaches an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// It is its own.
    Own,
    /// On a link where machines find each other by Ethernet addresses (layer 2).
    Link,
    /// On a link of two ends, such as a tunnel: it may carry no packets but those between its ends' addresses.
    Point,
    /// Through a gateway.
    Gateway,
    /// Not at all, at the moment.
    Nowhere,
}

/// What this node knows of itself.
pub struct Here<'a> {
    pub node: &'a str,
    pub cluster_cidr: Ipv4Net,
    pub backend: Backend,
    /// Whether the kernel has VXLAN.
    pub tunnel: bool,
    /// How other nodes' addresses are reached; what is missing is reached nowhere.
    pub reach: &'a BTreeMap<Ipv4Addr, Reach>,
}

/// What there must be, and the nodes that nothing of this leads to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub routes: Routes,
    /// None without VXLAN.
    pub tunnel: Option<Tunnel>,
    /// `(name, address)`.
    pub beyond: Vec<(String, Ipv4Addr)>,
}

/// What the VXLAN device must know.
#[derive(Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// This node's end.
    pub own: Vtep,
    pub peers: Peers,
}

/// The other ends of tunnels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peers {
    /// The Ethernet address of each end: permanent neighbours, so nobody asks by broadcast.
    pub neighbours: BTreeMap<Ipv4Addr, Mac>,
    /// The node that has the end of this Ethernet address: the device's forwarding database, so nothing is learned.
    pub forwarding: BTreeMap<Mac, Ipv4Addr>,
}

/// None while this node has no pod network. The first of all nodes that claims a network has it: the oldest, so that a
/// mistaken newcomer takes nothing away.
pub fn plan(here: &Here<'_>, nodes: &[Arc<Node>]) -> Option<Plan> {
    let mut nodes: Vec<&Arc<Node>> = nodes.iter().collect();
    nodes.sort_by_key(|node| (node.metadata.creation_timestamp.clone(), node.name_any()));
    let own: Vec<Ipv4Net> = nodes.iter().filter(|node| node.name_any() == here.node).flat_map(|n| cidrs(n)).collect();
    let mut plan = Plan::default();
    let mut peers = Peers::default();
    for node in nodes.into_iter().filter(|node| node.name_any() != here.node) {
        let Some(address) = internal_ip(node) else { continue };
        let wanted: Vec<Ipv4Net> = cidrs(node).filter(|cidr| is_free(here, &own, &plan.routes, cidr)).collect();
        let Some(first) = wanted.first() else { continue };
        let hop = match way(here, here.reach.get(&address).copied().unwrap_or(Reach::Nowhere)) {
            Way::None => continue,
            Way::Beyond => {
                plan.beyond.push((node.name_any(), address));
                continue;
            }
            Way::Link => Hop::Link(address),
            Way::Tunnel => {
                let end = Vtep::of(*first);
                peers.neighbours.insert(end.address, end.mac);
                peers.forwarding.insert(end.mac, address);
                Hop::Tunnel(end.address)
            }
        };
        plan.routes.extend(wanted.into_iter().map(|cidr| (cidr, hop)));
    }
    let own = Vtep::of(*own.first()?);
    plan.tunnel = (here.backend.tunnels() && here.tunnel).then_some(Tunnel { own, peers });
    Some(plan)
}

enum Way {
    /// None is needed.
    None,
    Link,
    Tunnel,
    /// None can be had.
    Beyond,
}

fn way(here: &Here<'_>, reach: Reach) -> Way {
    let tunnel = here.backend.tunnels() && here.tunnel;
    match reach {
        _ if here.backend == Backend::None => Way::None,
        // Several nodes may run on one machine; their pods' links are this machine's.
        Reach::Own => Way::None,
        Reach::Link if here.backend != Backend::VxlanAlways || !tunnel => Way::Link,
        Reach::Point if !tunnel => Way::Link,
        _ if tunnel => Way::Tunnel,
        _ => Way::Beyond,
    }
}

fn is_free(here: &Here<'_>, own: &[Ipv4Net], taken: &Routes, cidr: &Ipv4Net) -> bool {
    let overlaps = |other: &Ipv4Net| other.contains(cidr) || cidr.contains(other);
    here.cluster_cidr.contains(cidr) && !own.iter().any(overlaps) && !taken.keys().any(overlaps)
}

/// A node's pod networks.
pub fn cidrs(node: &Node) -> impl Iterator<Item = Ipv4Net> {
    let spec = node.spec.iter();
    let all = spec.flat_map(|spec| spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr));
    all.filter_map(|cidr| Some(cidr.parse::<Ipv4Net>().ok()?.trunc()))
}

/// Where other nodes reach it.
pub fn internal_ip(node: &Node) -> Option<Ipv4Addr> {
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    addresses.filter(|address| address.type_ == "InternalIP").find_map(|address| address.address.parse().ok())
}

/// What must be done so that `now` becomes `wanted`: entries to set, and keys whose entry goes.
pub fn difference<K: Ord + Copy, V: PartialEq + Copy>(
    now: &BTreeMap<K, V>,
    wanted: &BTreeMap<K, V>,
) -> (Vec<(K, V)>, Vec<K>) {
    let set = wanted.iter().filter(|(key, value)| now.get(key) != Some(value));
    let gone = now.keys().filter(|key| !wanted.contains_key(key));
    (set.map(|(key, value)| (*key, *value)).collect(), gone.copied().collect())
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
