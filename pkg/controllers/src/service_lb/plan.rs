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

/// Of type LoadBalancer, without a class that would make it somebody else's, and not on its way out.
pub(super) fn is_ours(service: &Service) -> bool {
    let class = service.spec.as_ref().and_then(|spec| spec.load_balancer_class.as_ref());
    is_load_balancer(service) && class.is_none() && service.metadata.deletion_timestamp.is_none()
}

/// One that is ours, or was until its type changed.
pub(super) fn concerns(service: &Service) -> bool {
    is_ours(service) || (!is_load_balancer(service) && !ingress(service).is_empty())
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

/// Nodes' addresses in order; under policy Local those of nodes with a ready endpoint.
fn addresses(service: &Service, nodes: &[Arc<Node>], slices: &[Arc<EndpointSlice>]) -> Vec<IpAddr> {
    let ready = |endpoint: &&Endpoint| endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
    let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten()).filter(ready);
    let with: BTreeSet<&str> = endpoints.filter_map(|endpoint| endpoint.node_name.as_deref()).collect();
    let chosen = nodes.iter().filter(|node| !is_local(service) || with.contains(node.name_any().as_str()));
    let families = service.spec.as_ref().and_then(|spec| spec.ip_families.clone()).unwrap_or_default();
    let wanted = |address: &IpAddr| {
        let family = if address.is_ipv6() { "IPv6" } else { "IPv4" };
        families.is_empty() || families.iter().any(|wanted| wanted == family)
    };
    chosen.filter_map(|node| of_node(node)).filter(wanted).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Why a Service can't have its ports: the cluster itself or an older Service has one of them.
fn conflict(service: &Service, ours: &[Arc<Service>], reserved: &[u16]) -> Option<String> {
    let taken =
        |(protocol, number): &Port| protocol == "TCP" && reserved.iter().any(|port| i32::from(*port) == *number);
    let mut in_order: Vec<&Service> = ours.iter().map(|service| &**service).collect();
    let age = |service: &Service| service.creation_timestamp().map(|time| time.0);
    in_order.sort_by_key(|service| (age(service), service.namespace(), service.name_any()));
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

fn ports(service: &Service) -> Vec<Port> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports.map(|port| (port.protocol.clone().unwrap_or_else(|| "TCP".into()), port.port)).collect()
}

fn ingress(service: &Service) -> Vec<LoadBalancerIngress> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    status.and_then(|status| status.ingress.clone()).unwrap_or_default()
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
mod tests {
    use super::*;
    use crate::action::Patch;
    use serde_json::{Value, json};

    fn service(name: &str, second: u32, ports: &[i32], more: Value) -> Arc<Service> {
        let ports: Vec<_> = ports.iter().map(|port| json!({"port": port, "protocol": "TCP"})).collect();
        let mut spec = json!({"type": "LoadBalancer", "ports": ports, "ipFamilies": ["IPv4"]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let created = format!("2026-01-01T00:00:{second:02}Z");
        let metadata = json!({"name": name, "namespace": "ns", "uid": name, "creationTimestamp": created});
        Arc::new(serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap())
    }

    fn node(name: &str, ip: &str, ready: &str, labels: Value) -> Arc<Node> {
        let addresses = json!([{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": ip}]);
        let status = json!({"addresses": addresses, "conditions": [{"type": "Ready", "status": ready}]});
        let node = json!({"metadata": {"name": name, "labels": labels}, "status": status});
        Arc::new(serde_json::from_value(node).unwrap())
    }

    fn nodes() -> Vec<Arc<Node>> {
        vec![
            node("b", "192.0.2.20", "True", json!({})),
            node("a", "192.0.2.3", "True", json!({})),
            node("down", "192.0.2.4", "False", json!({})),
            node("out", "192.0.2.5", "True", json!({(EXCLUDED): ""})),
        ]
    }

    /// The addresses that a plan writes; `None` when it writes none.
    fn written(actions: &[Action]) -> Option<Value> {
        actions.iter().find_map(|action| match action {
            Action::Patch { patch: Patch::Merge(patch), subresource: Some("status"), .. } => {
                Some(patch["status"]["loadBalancer"]["ingress"].clone())
            }
            _ => None,
        })
    }

    fn vip(ip: &str) -> Value {
        json!({"ip": ip, "ipMode": "VIP"})
    }

    #[test]
    fn ready_nodes_serve_in_order_and_then_nothing_is_left_to_do() {
        let web = service("web", 1, &[80], json!({}));
        let actions = plan(&web, std::slice::from_ref(&web), &nodes(), &[], &[]);
        assert_eq!(written(&actions), Some(json!([vip("192.0.2.3"), vip("192.0.2.20")])));
        let mut done = (*web).clone();
        let status = json!({"loadBalancer": {"ingress": [vip("192.0.2.3"), vip("192.0.2.20")]}});
        done.status = Some(serde_json::from_value(status).unwrap());
        assert_eq!(plan(&done, &[Arc::new(done.clone())], &nodes(), &[], &[]), []);
    }

    #[test]
    fn policy_local_names_nodes_with_ready_endpoints() {
        let web = service("web", 1, &[80], json!({"externalTrafficPolicy": "Local"}));
        let slice = json!({"metadata": {"name": "s"}, "addressType": "IPv4", "endpoints": [
            {"addresses": ["10.42.0.5"], "nodeName": "b"},
            {"addresses": ["10.42.1.5"], "nodeName": "a", "conditions": {"ready": false}}]});
        let slices = [Arc::new(serde_json::from_value(slice).unwrap())];
        let actions = plan(&web, std::slice::from_ref(&web), &nodes(), &slices, &[]);
        assert_eq!(written(&actions), Some(json!([vip("192.0.2.20")])));
    }

    #[test]
    fn the_older_keeps_a_port_that_two_want() {
        let (old, new) = (service("z", 1, &[80, 443], json!({})), service("a", 2, &[443], json!({})));
        let third = service("c", 3, &[443, 8080], json!({}));
        let ours = [new.clone(), old.clone(), third];
        assert!(written(&plan(&old, &ours, &nodes(), &[], &[])).is_some());
        let refused = plan(&new, &ours, &nodes(), &[], &[]);
        assert_eq!(written(&refused), None);
        let [Action::Tell(note)] = &refused[..] else { panic!("{refused:?}") };
        assert_eq!(note.message, "Error syncing load balancer: port 443/TCP of the nodes is Service ns/z's");
        assert!(written(&plan(&new, &ours[..1], &nodes(), &[], &[])).is_some(), "once the older is gone");
    }

    #[test]
    fn who_is_refused_takes_no_port_from_others() {
        let all = [(1, vec![80]), (2, vec![80, 443]), (3, vec![443])];
        let all: Vec<_> = all.iter().map(|(n, ports)| service(&format!("s{n}"), *n, ports, json!({}))).collect();
        assert_eq!(conflict(&all[2], &all, &[]), None);
    }

    #[test]
    fn the_clusters_own_ports_are_never_given_away() {
        let api = service("api", 1, &[6443], json!({}));
        assert_eq!(written(&plan(&api, std::slice::from_ref(&api), &nodes(), &[], &[6443])), None);
    }

    #[test]
    fn other_classes_are_somebody_elses_and_other_types_lose_their_addresses() {
        let other = service("other", 1, &[80], json!({"loadBalancerClass": "example.com/lb"}));
        assert_eq!(plan(&other, &[], &nodes(), &[], &[]), []);
        let mut was = (*service("was", 1, &[80], json!({"type": "ClusterIP"}))).clone();
        assert_eq!(plan(&was, &[], &nodes(), &[], &[]), []);
        let status = json!({"loadBalancer": {"ingress": [vip("192.0.2.3")]}});
        was.status = Some(serde_json::from_value(status).unwrap());
        assert_eq!(written(&plan(&was, &[], &nodes(), &[], &[])), Some(Value::Null));
    }
}
