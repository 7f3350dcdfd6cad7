//! Which addresses a Service of type LoadBalancer has.
use crate::action::{self, Action, Note};
use k8s_openapi::api::core::v1::{LoadBalancerIngress, LoadBalancerStatus, Node, Service, ServiceStatus};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::{Resource, ResourceExt};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Nodes that no load balancer sends to (well-known labels).
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// A port of the nodes: protocol and number.
type Port = (String, i32);

pub(super) fn is_load_balancer(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer"))
}

/// Of type LoadBalancer, without a class that would make it somebody else's.
fn is_classless(service: &Service) -> bool {
    let class = service.spec.as_ref().and_then(|spec| spec.load_balancer_class.as_ref());
    is_load_balancer(service) && class.is_none()
}

/// One that may have addresses: nor is it on its way out.
pub(super) fn is_ours(service: &Service) -> bool {
    is_classless(service) && service.metadata.deletion_timestamp.is_none()
}

/// One that is ours, or was until its type changed or its deletion began.
pub(super) fn concerns(service: &Service) -> bool {
    is_classless(service) || (!is_load_balancer(service) && has_addresses(service))
}

/// Whether where its pods are decides on its addresses.
pub(super) fn is_local(service: &Service) -> bool {
    let policy = service.spec.as_ref().and_then(|spec| spec.external_traffic_policy.as_deref());
    is_ours(service) && policy == Some("Local")
}

/// What about a node matters here: its address for load balancers, if it may have one.
pub(super) fn of_node(node: &Node) -> Option<IpAddr> {
    let status = node.status.as_ref()?;
    let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    if !ready || node.labels().contains_key(EXCLUDED) || node.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let address = |kind: &str| {
        let mut addresses = status.addresses.iter().flatten().filter(|address| address.type_ == kind);
        addresses.find_map(|address| address.address.parse::<IpAddr>().ok())
    };
    address("ExternalIP").or_else(|| address("InternalIP"))
}

/// What to write about `service`; `ours` are all that share the nodes' ports.
pub(super) fn plan(
    service: &Service,
    ours: &[Arc<Service>],
    nodes: &[Arc<Node>],
    slices: &[Arc<EndpointSlice>],
    reserved: &[u16],
) -> Vec<Action> {
    if !is_ours(service) {
        return if concerns(service) { status(service, Vec::new()) } else { Vec::new() };
    }
    if let Some(conflict) = conflict(service, ours, reserved) {
        let mut actions = status(service, Vec::new());
        actions.push(Action::Tell(Note {
            about: service.object_ref(&()),
            warning: true,
            reason: "SyncLoadBalancerFailed",
            message: format!("Error syncing load balancer: {conflict}"),
        }));
        return actions;
    }
    status(service, addresses(service, nodes, slices))
}

/// Nodes' addresses in order; under policy Local those of nodes with an endpoint that serves.
///
/// Endpoints that serve while they terminate count, as they do for the nodes' rules: else a node's address would go as soon
/// as its last pod is told to end, and its clients be refused for all of the pod's grace period.
fn addresses(service: &Service, nodes: &[Arc<Node>], slices: &[Arc<EndpointSlice>]) -> Vec<IpAddr> {
    let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten()).filter(serves);
    let with: BTreeSet<&str> = endpoints.filter_map(|endpoint| endpoint.node_name.as_deref()).collect();
    let chosen = nodes.iter().filter(|node| !is_local(service) || with.contains(node.name_any().as_str()));
    let families = service.spec.as_ref().and_then(|spec| spec.ip_families.clone()).unwrap_or_default();
    let wanted = |address: &IpAddr| {
        let family = if address.is_ipv6() { "IPv6" } else { "IPv4" };
        families.is_empty() || families.iter().any(|wanted| wanted == family)
    };
    chosen.filter_map(|node| of_node(node)).filter(wanted).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Ready, or serving to its end (KEP-1669).
fn serves(endpoint: &&Endpoint) -> bool {
    let Some(conditions) = &endpoint.conditions else { return true };
    let ready = conditions.ready.unwrap_or(true);
    ready || (conditions.terminating.unwrap_or(false) && conditions.serving.unwrap_or(ready))
}

/// Why a Service can't have its ports: the cluster itself or an older Service has one of them.
fn conflict(service: &Service, ours: &[Arc<Service>], reserved: &[u16]) -> Option<String> {
    let taken =
        |(protocol, number): &Port| protocol == "TCP" && reserved.iter().any(|port| i32::from(*port) == *number);
    let mut in_order: Vec<&Service> = ours.iter().map(|service| &**service).collect();
    in_order.sort_by_key(|service| precedence(service));
    let mut holders: BTreeMap<Port, String> = BTreeMap::new();
    for other in in_order {
        let wanted = ports(other);
        let found = wanted.iter().find_map(|port| {
            let (protocol, number) = port;
            if taken(port) {
                return Some(format!("port {number}/{protocol} of the nodes is the cluster's own"));
            }
            holders.get(port).map(|holder| format!("port {number}/{protocol} of the nodes is Service {holder}'s"))
        });
        if other.metadata.uid == service.metadata.uid {
            return found;
        }
        if found.is_none() {
            let name = format!("{}/{}", other.namespace().unwrap_or_default(), other.name_any());
            holders.extend(wanted.into_iter().map(|port| (port, name.clone())));
        }
    }
    None
}

/// Who comes first in a dispute about a port: the older.
///
/// Timestamps have whole seconds. Of the same second, who has addresses keeps them, so that no newcomer takes them from
/// clients that already use them; names decide when both have, which is what servers that were cut off from each other leave.
fn precedence(service: &Service) -> impl Ord + use<> {
    let created = service.creation_timestamp().map(|time| time.0);
    (created, !has_addresses(service), service.namespace(), service.name_any())
}

fn ports(service: &Service) -> Vec<Port> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports.map(|port| (port.protocol.clone().unwrap_or_else(|| "TCP".into()), port.port)).collect()
}

fn ingress(service: &Service) -> Vec<LoadBalancerIngress> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    status.and_then(|status| status.ingress.clone()).unwrap_or_default()
}

fn has_addresses(service: &Service) -> bool {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    status.and_then(|status| status.ingress.as_ref()).is_some_and(|ingress| !ingress.is_empty())
}

/// The addresses as status, if it does not say so already.
fn status(service: &Service, addresses: Vec<IpAddr>) -> Vec<Action> {
    // VIP is the default, which the API would add: packets arrive with the address still in them (KEP-1860).
    let entry = |address: IpAddr| LoadBalancerIngress {
        ip: Some(address.to_string()),
        ip_mode: Some("VIP".into()),
        ..LoadBalancerIngress::default()
    };
    let wanted: Vec<_> = addresses.into_iter().map(entry).collect();
    let now = ingress(service);
    if now == wanted {
        return Vec::new();
    }
    let of = |ingress: Vec<LoadBalancerIngress>| {
        let ingress = Some(ingress).filter(|ingress| !ingress.is_empty());
        ServiceStatus { load_balancer: Some(LoadBalancerStatus { ingress }), ..ServiceStatus::default() }
    };
    action::status(service, &of(now), &of(wanted)).into_iter().collect()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
