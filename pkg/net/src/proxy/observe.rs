//! From Kubernetes' objects to [`Desired`]: which Services are proxied, and which of their endpoints are usable.
//! Behaviour follows the Service and EndpointSlice API documentation and kube-proxy's choice of endpoints (KEP-1669,
//! ProxyTerminatingEndpoints; KEP-2433, topology hints; KEP-3015, PreferSameNode).
use super::model::{Desired, HealthCheck, HostPort, PortName, Protocol, ServicePort};
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::{Pod, Service, ServicePort as ApiPort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::ResourceExt;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

/// A Service whose proxying another program has taken over (well-known labels, "service-proxy-name").
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";

/// A Service or an EndpointSlice that no proxy is to serve, whatever its addresses (well-known labels).
const HEADLESS: &str = "service.kubernetes.io/headless";

/// The Service that an EndpointSlice belongs to.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Default of `sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY_S: u32 = 10_800;

/// The slices of a Service, by (namespace, name).
type Slices<'a> = BTreeMap<(String, String), Vec<&'a EndpointSlice>>;

/// Whose rules are made.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    pub node: &'a str,
    /// Empty where the node names none.
    pub zone: &'a str,
}

/// Whom an endpoint's hints want it to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hint {
    /// They don't say.
    Nobody,
    Us,
    Others,
}

/// An endpoint of one port, as its slice tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Candidate {
    address: SocketAddrV4,
    ready: bool,
    serving: bool,
    terminating: bool,
    local: bool,
    by_node: Hint,
    by_zone: Hint,
}

/// What the rules of a node must do for Services and host ports.
pub fn desired(
    services: &[Arc<Service>],
    slices: &[Arc<EndpointSlice>],
    pods: &[Arc<Pod>],
    place: Place<'_>,
) -> Desired {
    let mut by_service = Slices::new();
    let proxied = |slice: &&Arc<EndpointSlice>| slice.address_type == "IPv4" && !slice.labels().contains_key(HEADLESS);
    for slice in slices.iter().filter(proxied) {
        if let Some(name) = slice.labels().get(SERVICE_NAME) {
            let key = (slice.namespace().unwrap_or_default(), name.clone());
            by_service.entry(key).or_default().push(slice);
        }
    }
    let health_checks = services.iter().filter_map(|service| health_check(service, &by_service, place)).collect();
    let mut in_order: Vec<_> = services.iter().collect();
    in_order
        .sort_by_key(|service| (service.metadata.creation_timestamp.clone(), service.namespace(), service.name_any()));
    let mut services: Vec<_> = in_order.iter().flat_map(|service| ports_of(service, &by_service, place)).collect();
    give_way(&mut services);
    let host_ports: Vec<_> = pods.iter().flat_map(|pod| host_ports_of(pod, place.node)).collect();
    let local_pods = local_pods(slices, &host_ports, place.node);
    Desired { services, host_ports, local_pods, health_checks, ..Desired::default() }
}

/// Two Services may name one external address and port: by `externalIPs`, or for as long as servers that were cut off from
/// each other have both given a node's port away. The first in order, the older, has it on every node.
fn give_way(in_order: &mut [ServicePort]) {
    let mut taken: BTreeSet<(Ipv4Addr, Protocol, u16)> = BTreeSet::new();
    for ServicePort { name, port, external_ips, load_balancer_ips, .. } in in_order {
        let key = |address: &Ipv4Addr| (*address, name.protocol, *port);
        external_ips.retain(|address| !taken.contains(&key(address)));
        load_balancer_ips.retain(|address| !taken.contains(&key(address)));
        taken.extend(external_ips.iter().chain(load_balancer_ips.iter()).map(key));
    }
}

/// Everybody on this node who can be reached through a rule, and so may reach itself.
fn local_pods(slices: &[Arc<EndpointSlice>], host_ports: &[HostPort], node: &str) -> Vec<Ipv4Addr> {
    let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    let local = endpoints.filter(|endpoint| endpoint.node_name.as_deref() == Some(node));
    let addresses = local.flat_map(|endpoint| &endpoint.addresses).filter_map(|address| address.parse().ok());
    let all: BTreeSet<Ipv4Addr> = addresses.chain(host_ports.iter().map(|port| *port.to.ip())).collect();
    all.into_iter().collect()
}

fn ports_of(service: &Service, slices: &Slices<'_>, place: Place<'_>) -> Vec<ServicePort> {
    let Some(spec) = service.spec.as_ref().filter(|spec| is_proxied(service, spec)) else { return Vec::new() };
    let slices = slices_of(service, slices);
    let ports = spec.ports.iter().flatten();
    ports.filter_map(|port| service_port(service, spec, port, slices, place)).collect()
}

fn slices_of<'a, 'b>(service: &Service, slices: &'b Slices<'a>) -> &'b [&'a EndpointSlice] {
    let key = (service.namespace().unwrap_or_default(), service.name_any());
    slices.get(&key).map(Vec::as_slice).unwrap_or_default()
}

/// Load balancers of policy Local ask each node whether it has endpoints.
fn health_check(service: &Service, slices: &Slices<'_>, place: Place<'_>) -> Option<(u16, HealthCheck)> {
    let spec = service.spec.as_ref().filter(|spec| is_proxied(service, spec))?;
    let asked =
        spec.type_.as_deref() == Some("LoadBalancer") && spec.external_traffic_policy.as_deref() == Some("Local");
    let port = u16::try_from(spec.health_check_node_port?).ok().filter(|port| asked && *port != 0)?;
    let endpoints = slices_of(service, slices).iter().flat_map(|slice| slice.endpoints.iter().flatten());
    let local = endpoints.filter_map(|endpoint| candidate(endpoint, 0, place)).filter(|c| c.local && c.ready);
    let addresses: BTreeSet<_> = local.map(|candidate| candidate.address).collect();
    let (namespace, service) = (service.namespace().unwrap_or_default(), service.name_any());
    Some((port, HealthCheck { namespace, service, local_endpoints: addresses.len() }))
}

fn is_proxied(service: &Service, spec: &ServiceSpec) -> bool {
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
    let headless = matches!(spec.cluster_ip.as_deref(), None | Some("" | "None"));
    let labelled = |label: &str| service.labels().contains_key(label);
    kind != "ExternalName" && !headless && !labelled(PROXY_NAME) && !labelled(HEADLESS)
}

fn service_port(
    service: &Service,
    spec: &ServiceSpec,
    port: &ApiPort,
    slices: &[&EndpointSlice],
    place: Place<'_>,
) -> Option<ServicePort> {
    let name = PortName {
        namespace: service.namespace().unwrap_or_default(),
        service: service.name_any(),
        port: port.name.clone().unwrap_or_default(),
        protocol: Protocol::of(port.protocol.as_deref())?,
    };
    let candidates = candidates(slices, &name, place);
    let affinity = spec.session_affinity.as_deref() == Some("ClientIP");
    let timeout = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
    let timeout_s = timeout.and_then(|seconds| u32::try_from(seconds).ok()).unwrap_or(AFFINITY_S);
    let external = spec.type_.as_deref() != Some("ClusterIP") || spec.external_ips.is_some();
    Some(ServicePort {
        cluster_ips: addresses(spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip)),
        port: u16::try_from(port.port).ok()?,
        node_port: port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0),
        external_ips: addresses(spec.external_ips.iter().flatten()),
        load_balancer_ips: load_balancer_ips(service),
        source_ranges: spec
            .load_balancer_source_ranges
            .iter()
            .flatten()
            .filter_map(|range| Some(range.trim().parse::<Ipv4Net>().ok()?.trunc()))
            .collect(),
        affinity_s: affinity.then_some(timeout_s),
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        external_local: external && spec.external_traffic_policy.as_deref() == Some("Local"),
        cluster_endpoints: usable(&candidates, hinted(&candidates)),
        local_endpoints: usable(&candidates, |candidate| candidate.local),
        has_any_endpoints: !usable(&candidates, |_| true).is_empty(),
        name,
    })
}

/// The IPv4 addresses among `texts`, each once.
fn addresses<'a>(texts: impl Iterator<Item = &'a String>) -> Vec<Ipv4Addr> {
    let all: BTreeSet<Ipv4Addr> = texts.filter_map(|text| text.parse().ok()).collect();
    all.into_iter().collect()
}

/// Addresses of ipMode VIP, the default; traffic to a Proxy address must reach the load balancer (KEP-1860).
fn load_balancer_ips(service: &Service) -> Vec<Ipv4Addr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_ref()).into_iter().flatten();
    let vips = ingress.filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
    addresses(vips.filter_map(|ingress| ingress.ip.as_ref()))
}

fn candidates(slices: &[&EndpointSlice], name: &PortName, place: Place<'_>) -> Vec<Candidate> {
    let mut found: BTreeMap<SocketAddrV4, Candidate> = BTreeMap::new();
    for slice in slices {
        let ports = slice.ports.iter().flatten();
        let ports = ports.filter(|port| {
            port.name.as_deref().unwrap_or_default() == name.port
                && Protocol::of(port.protocol.as_deref()) == Some(name.protocol)
        });
        for port in ports.filter_map(|port| u16::try_from(port.port?).ok()) {
            for candidate in slice.endpoints.iter().flatten().filter_map(|endpoint| candidate(endpoint, port, place)) {
                // While an endpoint moves from one slice to another it is in both: the better one counts.
                let known = found.entry(candidate.address).or_insert(candidate);
                if candidate.ready && !known.ready {
                    *known = candidate;
                }
            }
        }
    }
    found.into_values().collect()
}

fn candidate(endpoint: &Endpoint, port: u16, place: Place<'_>) -> Option<Candidate> {
    // Clients must use the first address only (EndpointSlice API).
    let address = SocketAddrV4::new(endpoint.addresses.first()?.parse().ok()?, port);
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    let hints = endpoint.hints.as_ref();
    let nodes = hints.and_then(|hints| hints.for_nodes.as_ref()).into_iter().flatten().map(|node| node.name.as_str());
    let zones = hints.and_then(|hints| hints.for_zones.as_ref()).into_iter().flatten().map(|zone| zone.name.as_str());
    Some(Candidate {
        address,
        ready,
        serving: conditions.serving.unwrap_or(ready),
        terminating: conditions.terminating.unwrap_or(false),
        local: endpoint.node_name.as_deref() == Some(place.node),
        by_node: hint(nodes, place.node),
        by_zone: hint(zones, place.zone),
    })
}

fn hint<'a>(mut names: impl Iterator<Item = &'a str> + Clone, us: &str) -> Hint {
    match names.clone().next() {
        None => Hint::Nobody,
        Some(_) if names.any(|name| name == us) => Hint::Us,
        Some(_) => Hint::Others,
    }
}

/// Who is hinted for us. Hints count only where every ready endpoint has one, so that nobody is forgotten, and some
/// are for us; those by node come before those by zone.
fn hinted(candidates: &[Candidate]) -> fn(&Candidate) -> bool {
    let counts = |of: fn(&Candidate) -> Hint| {
        let ready = || candidates.iter().filter(|candidate| candidate.ready).map(of);
        ready().all(|hint| hint != Hint::Nobody) && ready().any(|hint| hint == Hint::Us)
    };
    if counts(|candidate| candidate.by_node) {
        |candidate| candidate.by_node == Hint::Us
    } else if counts(|candidate| candidate.by_zone) {
        |candidate| candidate.by_zone == Hint::Us
    } else {
        |_| true
    }
}

/// Those that are ready; where none is, those that still serve while they terminate.
fn usable(candidates: &[Candidate], in_scope: impl Fn(&Candidate) -> bool) -> Vec<SocketAddrV4> {
    let scope = || candidates.iter().filter(|candidate| in_scope(candidate));
    let ready: Vec<_> = scope().filter(|candidate| candidate.ready).map(|candidate| candidate.address).collect();
    if !ready.is_empty() {
        return ready;
    }
    let serving = scope().filter(|candidate| candidate.serving && candidate.terminating);
    serving.map(|candidate| candidate.address).collect()
}

/// Host ports of a pod that has an address and has not ended. A pod on the host's network needs no rule.
fn host_ports_of(pod: &Pod, node: &str) -> Vec<HostPort> {
    let (Some(spec), Some(status)) = (&pod.spec, &pod.status) else { return Vec::new() };
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let ours = spec.node_name.as_deref() == Some(node) && !spec.host_network.unwrap_or(false) && !ended;
    let address = status.pod_ip.as_ref().and_then(|ip| ip.parse().ok()).filter(|_| ours);
    let Some(address) = address else { return Vec::new() };
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let host_port = |port: &k8s_openapi::api::core::v1::ContainerPort| {
        let number = u16::try_from(port.host_port?).ok().filter(|port| *port != 0)?;
        let ip = port.host_ip.as_ref().and_then(|ip| ip.parse().ok()).filter(|ip: &Ipv4Addr| !ip.is_unspecified());
        let to = SocketAddrV4::new(address, u16::try_from(port.container_port).ok()?);
        Some(HostPort { ip, protocol: Protocol::of(port.protocol.as_deref())?, port: number, to })
    };
    ports.filter_map(host_port).collect()
}

#[cfg(test)]
#[path = "observe_tests.rs"]
mod tests;
