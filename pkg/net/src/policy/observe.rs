//! From Kubernetes' objects to [`Policies`], as the NetworkPolicy API documentation says.
use super::model::{Allow, Direction, Peer, Policies, Ports, ProfileName};
use crate::proxy::model::Protocol;
use api::selector::LabelSelector;
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::{Container, Namespace, Pod};
use k8s_openapi::api::networking::v1::{IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as Selector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// What the policies ask of `node`.
pub fn policies(
    policies: &[Arc<NetworkPolicy>],
    namespaces: &[Arc<Namespace>],
    pods: &[Arc<Pod>],
    node: &str,
) -> Policies {
    if policies.is_empty() {
        return Policies::default();
    }
    let cluster = Cluster::of(namespaces, pods, node);
    let mut reader = Reader { cluster: &cluster, found: Policies::default() };
    let mut rules: BTreeMap<(Direction, String), Vec<Allow>> = BTreeMap::new();
    for policy in policies {
        for direction in directions(policy) {
            if reader.isolate(policy, direction) {
                rules.insert((direction, name_of(policy)), reader.allows(policy, direction));
            }
        }
    }
    reader.profiles(&rules);
    reader.found
}

/// Whether a change of a pod changes what policies mean: who it is, where it is reached and what it is called.
pub fn differs(old: &Pod, new: &Pod) -> bool {
    let facts =
        |pod: &Pod| (addresses(pod), pod.labels().clone(), pod.spec.as_ref().map(|spec| spec.node_name.clone()));
    facts(old) != facts(new)
}

/// A pod that has addresses of its own.
struct Member<'a> {
    pod: &'a Pod,
    addresses: Vec<Ipv4Addr>,
    local: bool,
}

/// Namespaces' labels, and their pods.
struct Cluster<'a> {
    namespaces: BTreeMap<String, &'a Namespace>,
    members: BTreeMap<String, Vec<Member<'a>>>,
}

impl<'a> Cluster<'a> {
    fn of(namespaces: &'a [Arc<Namespace>], pods: &'a [Arc<Pod>], node: &str) -> Self {
        let mut members: BTreeMap<String, Vec<Member<'a>>> = BTreeMap::new();
        for pod in pods {
            let addresses = addresses(pod);
            if !addresses.is_empty() {
                let local = pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_deref() == Some(node));
                members.entry(pod.namespace().unwrap_or_default()).or_default().push(Member { pod, addresses, local });
            }
        }
        let namespaces = namespaces.iter().map(|namespace| (namespace.name_any(), &**namespace)).collect();
        Self { namespaces, members }
    }

    fn members_of(&self, namespace: &str) -> &[Member<'a>] {
        self.members.get(namespace).map(Vec::as_slice).unwrap_or_default()
    }

    /// The pods that `wanted` selects in the namespaces that `within` does.
    fn select<'b>(&'b self, within: &'b Within, wanted: &'b LabelSelector) -> impl Iterator<Item = &'b Member<'a>> {
        let inside = |namespace: &String| match within {
            Within::Namespace(only) => namespace == only,
            Within::Matching(selector) => {
                self.namespaces.get(namespace).is_some_and(|namespace| selector.matches(namespace.labels()))
            }
        };
        let members = self.members.iter().filter(move |(namespace, _)| inside(namespace)).flat_map(|(_, all)| all);
        members.filter(|member| wanted.matches(member.pod.labels()))
    }
}

/// The namespaces of a peer.
enum Within {
    /// The policy's own.
    Namespace(String),
    Matching(LabelSelector),
}

/// Builds [`Policies`] policy by policy.
struct Reader<'a> {
    cluster: &'a Cluster<'a>,
    found: Policies,
}

impl Reader<'_> {
    /// Isolates this node's pods that the policy selects; whether there are any.
    fn isolate(&mut self, policy: &NetworkPolicy, direction: Direction) -> bool {
        // An absent selector, like an empty one, selects the whole namespace.
        let selector = policy.spec.as_ref().and_then(|spec| spec.pod_selector.as_ref());
        let selector = selector.map_or_else(LabelSelector::everything, label_selector);
        let (name, cluster) = (name_of(policy), self.cluster);
        let local = cluster.members_of(&policy.namespace().unwrap_or_default()).iter().filter(|member| member.local);
        let mut any = false;
        for member in local.filter(|member| selector.matches(member.pod.labels())) {
            for address in &member.addresses {
                self.found.isolated.entry((direction, *address)).or_default().insert(name.clone());
                any = true;
            }
        }
        any
    }

    fn allows(&mut self, policy: &NetworkPolicy, direction: Direction) -> Vec<Allow> {
        let Some(spec) = &policy.spec else { return Vec::new() };
        let (name, namespace) = (name_of(policy), policy.namespace().unwrap_or_default());
        let rules: Vec<_> = match direction {
            Direction::Ingress => spec.ingress.iter().flatten().map(|rule| (&rule.from, &rule.ports)).collect(),
            Direction::Egress => spec.egress.iter().flatten().map(|rule| (&rule.to, &rule.ports)).collect(),
        };
        let mut allows = Vec::new();
        for (peers, ports) in rules {
            let ports = self.ports(ports.as_deref().unwrap_or_default());
            for peer in self.peers(peers.as_deref().unwrap_or_default(), &namespace) {
                allows.push(Allow { policy: name.clone(), peer, ports: ports.clone() });
            }
        }
        allows
    }

    /// No peers at all means anybody.
    fn peers(&mut self, peers: &[NetworkPolicyPeer], namespace: &str) -> Vec<Peer> {
        if peers.is_empty() {
            return vec![Peer::Anybody];
        }
        peers.iter().filter_map(|peer| self.peer(peer, namespace)).collect()
    }

    fn peer(&mut self, peer: &NetworkPolicyPeer, namespace: &str) -> Option<Peer> {
        if let Some(block) = &peer.ip_block {
            return block_of(block);
        }
        let within = match &peer.namespace_selector {
            None => Within::Namespace(namespace.to_owned()),
            Some(selector) => Within::Matching(label_selector(selector)),
        };
        let wanted = peer.pod_selector.as_ref().map_or_else(LabelSelector::everything, label_selector);
        let key = match &within {
            Within::Namespace(name) => format!("{name}: {wanted}"),
            Within::Matching(selector) => format!("[{selector}]: {wanted}"),
        };
        if !self.found.selections.contains_key(&key) {
            let members = self.cluster.select(&within, &wanted);
            let addresses = members.flat_map(|member| member.addresses.iter().copied()).collect();
            self.found.selections.insert(key.clone(), addresses);
        }
        Some(Peer::Selected(key))
    }

    /// No ports at all means all of them.
    fn ports(&mut self, ports: &[NetworkPolicyPort]) -> Ports {
        if ports.is_empty() {
            return Ports::All;
        }
        let (mut numbers, mut named) = (BTreeMap::<_, Vec<_>>::new(), BTreeSet::new());
        for port in ports {
            let Some(protocol) = Protocol::of(port.protocol.as_deref()) else { continue };
            match &port.port {
                None => numbers.entry(protocol).or_default().push(0..=u16::MAX),
                Some(IntOrString::Int(first)) => {
                    numbers.entry(protocol).or_default().extend(range(*first, port.end_port))
                }
                Some(IntOrString::String(name)) => {
                    self.learn(protocol, name);
                    named.insert((protocol, name.clone()));
                }
            }
        }
        let numbers = numbers.into_iter().map(|(protocol, ranges)| (protocol, joined(ranges))).collect();
        Ports::Some { numbers, named }
    }

    /// Where pods have a port of this name.
    fn learn(&mut self, protocol: Protocol, name: &str) {
        let cluster = self.cluster;
        self.found.named_ports.entry((protocol, name.to_owned())).or_insert_with(|| {
            let ends = |member: &Member<'_>| {
                let numbers = numbers_of(member.pod, protocol, name);
                let addresses = member.addresses.clone();
                numbers.into_iter().flat_map(move |number| {
                    addresses.clone().into_iter().map(move |address| SocketAddrV4::new(address, number))
                })
            };
            cluster.members.values().flatten().flat_map(ends).collect()
        });
    }

    fn profiles(&mut self, rules: &BTreeMap<(Direction, String), Vec<Allow>>) {
        for ((direction, _), profile) in &self.found.isolated {
            let key = (*direction, profile.clone());
            self.found.profiles.entry(key).or_insert_with(|| allowed_by(profile, *direction, rules));
        }
    }
}

fn allowed_by(
    profile: &ProfileName,
    direction: Direction,
    rules: &BTreeMap<(Direction, String), Vec<Allow>>,
) -> Vec<Allow> {
    profile.iter().filter_map(|policy| rules.get(&(direction, policy.clone()))).flatten().cloned().collect()
}

fn name_of(policy: &NetworkPolicy) -> String {
    format!("{}/{}", policy.namespace().unwrap_or_default(), policy.name_any())
}

/// `policyTypes`, or what its rules imply: always ingress, and egress where there are such rules.
fn directions(policy: &NetworkPolicy) -> Vec<Direction> {
    let Some(spec) = &policy.spec else { return vec![Direction::Ingress] };
    let types = spec.policy_types.as_deref().unwrap_or_default();
    let has = |name: &str| types.iter().any(|kind| kind == name);
    let ingress = types.is_empty() || has("Ingress");
    let egress = has("Egress") || (types.is_empty() && spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()));
    [(ingress, Direction::Ingress), (egress, Direction::Egress)]
        .into_iter()
        .filter_map(|(is, d)| is.then_some(d))
        .collect()
}

/// One that can't be read selects nothing; the API refuses such.
fn label_selector(selector: &Selector) -> LabelSelector {
    let labels = selector.match_labels.iter().flatten().map(|(key, value)| (key.as_str(), value.as_str()));
    let expressions = selector.match_expressions.iter().flatten();
    let expressions = expressions.map(|e| (e.key.as_str(), e.operator.as_str(), e.values.clone().unwrap_or_default()));
    LabelSelector::from_parts(labels, expressions).unwrap_or_else(|_| LabelSelector::nothing())
}

/// `None` for a network of the other family, in which nobody here is.
fn block_of(block: &IPBlock) -> Option<Peer> {
    let read = |text: &String| text.parse::<Ipv4Net>().ok().map(|network| network.trunc());
    let except: Vec<Ipv4Net> = block.except.iter().flatten().filter_map(read).collect();
    // Networks are disjoint or one holds the other; the kernel wants them disjoint.
    let inside = |cidr: &Ipv4Net| except.iter().any(|outer| outer != cidr && outer.contains(cidr));
    let mut outer: Vec<Ipv4Net> = except.iter().copied().filter(|cidr| !inside(cidr)).collect();
    outer.sort();
    outer.dedup();
    Some(Peer::Block { network: read(&block.cidr)?, except: outer })
}

/// Addresses of a pod that is on the pod network and has not ended. One on its node's network is the node.
fn addresses(pod: &Pod) -> Vec<Ipv4Addr> {
    let (Some(spec), Some(status)) = (&pod.spec, &pod.status) else { return Vec::new() };
    if spec.host_network.unwrap_or(false) || matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return Vec::new();
    }
    let all = status.pod_ips.iter().flatten().map(|ip| &ip.ip).chain(&status.pod_ip);
    let all: BTreeSet<Ipv4Addr> = all.filter_map(|ip| ip.parse().ok()).collect();
    all.into_iter().collect()
}

/// The numbers of a pod's ports of this name; sidecars have ports as well.
fn numbers_of(pod: &Pod, protocol: Protocol, name: &str) -> Vec<u16> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(sidecar);
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let same =
        ports.filter(|p| p.name.as_deref() == Some(name) && Protocol::of(p.protocol.as_deref()) == Some(protocol));
    same.filter_map(|port| u16::try_from(port.container_port).ok()).collect()
}

fn range(first: i32, last: Option<i32>) -> Option<RangeInclusive<u16>> {
    let (first, last) = (u16::try_from(first).ok()?, u16::try_from(last.unwrap_or(first)).ok()?);
    (first <= last).then_some(first..=last)
}

/// The same ports in order, in ranges that neither overlap nor touch: the kernel refuses others.
fn joined(mut ranges: Vec<RangeInclusive<u16>>) -> Vec<RangeInclusive<u16>> {
    ranges.sort_by_key(|range| *range.start());
    let mut joined: Vec<RangeInclusive<u16>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if u32::from(*range.start()) <= u32::from(*last.end()) + 1 => {
                *last = *last.start()..=(*last.end()).max(*range.end());
            }
            _ => joined.push(range),
        }
    }
    joined
}

#[cfg(test)]
#[path = "observe_tests.rs"]
mod tests;
