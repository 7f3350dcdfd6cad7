//! Flows that the kernel remembers outlive the rules that made them. TCP ends by itself; UDP clients that keep
//! their port would be sent to an endpoint that is gone, or stay without one, until the entry's timeout.
use super::model::{Desired, Protocol, ServicePort};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// Bound of one call.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Calls for one change; past it all UDP flows to Services of the node are left to their timeout.
const MAX_FLOWS: usize = 512;

/// UDP flows to be forgotten.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flow {
    /// Sent to this Service address, answered by this endpoint.
    ByAddress { to: Ipv4Addr, port: u16, endpoint: Option<Ipv4Addr> },
    /// Sent to this port of the node.
    ByPort { port: u16, endpoint: Option<Ipv4Addr> },
}

/// What became stale between two states.
pub fn stale(old: &Desired, new: &Desired) -> BTreeSet<Flow> {
    let udp = |desired: &'_ Desired| -> BTreeMap<_, ServicePort> {
        let ports = desired.services.iter().filter(|service| service.name.protocol == Protocol::Udp);
        ports.map(|service| (service.name.clone(), service.clone())).collect()
    };
    let (before, after) = (udp(old), udp(new));
    let mut flows = BTreeSet::new();
    for (name, was) in &before {
        let is = after.get(name).map(endpoints).unwrap_or_default();
        for gone in endpoints(was).difference(&is) {
            flows.extend(flows_of(was, Some(*gone)));
        }
    }
    for (name, is) in &after {
        let served_before = before.get(name).is_some_and(|was| !endpoints(was).is_empty());
        if !served_before && !endpoints(is).is_empty() {
            flows.extend(flows_of(is, None));
        }
    }
    flows
}

fn endpoints(service: &ServicePort) -> BTreeSet<Ipv4Addr> {
    service.cluster_endpoints.iter().chain(&service.local_endpoints).map(|endpoint| *endpoint.ip()).collect()
}

fn flows_of(service: &ServicePort, endpoint: Option<Ipv4Addr>) -> Vec<Flow> {
    let addresses = [&service.cluster_ips, &service.external_ips, &service.load_balancer_ips].into_iter().flatten();
    let by_address = addresses.map(|to| Flow::ByAddress { to: *to, port: service.port, endpoint });
    let by_port = service.node_port.map(|port| Flow::ByPort { port, endpoint });
    by_address.chain(by_port).collect()
}

/// Has the `conntrack` program forget them, where it is installed.
pub async fn forget(flows: &BTreeSet<Flow>) {
    if flows.len() > MAX_FLOWS {
        tracing::info!(flows = flows.len(), "many UDP flows became stale; they are left to their timeout");
        return;
    }
    for flow in flows {
        let mut command = Command::new("conntrack");
        command.args(arguments(flow)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        match tokio::time::timeout(TIMEOUT, command.kill_on_drop(true).status()).await {
            // Its exit status says only whether there was such a flow.
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::debug!(%error, "no conntrack program (Debian package: conntrack); stale UDP flows time out");
                return;
            }
            Err(_) => tracing::warn!(?flow, "conntrack did not finish"),
        }
    }
}

fn arguments(flow: &Flow) -> Vec<String> {
    let (mut arguments, endpoint) = match flow {
        Flow::ByAddress { to, port, endpoint } => {
            (vec!["--orig-dst".to_owned(), to.to_string(), "--orig-port-dst".to_owned(), port.to_string()], endpoint)
        }
        Flow::ByPort { port, endpoint } => (vec!["--orig-port-dst".to_owned(), port.to_string()], endpoint),
    };
    if let Some(endpoint) = endpoint {
        arguments.extend(["--dst-nat".to_owned(), endpoint.to_string()]);
    }
    ["-D", "-p", "udp"].map(str::to_owned).into_iter().chain(arguments).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::model::PortName;
    use std::net::SocketAddrV4;

    fn dns(protocol: Protocol, endpoints: &[[u8; 4]]) -> Desired {
        let name = PortName { namespace: "a".into(), service: "b".into(), port: String::new(), protocol };
        let endpoints: Vec<_> = endpoints.iter().map(|ip| SocketAddrV4::new((*ip).into(), 53)).collect();
        let service = ServicePort {
            name,
            cluster_ips: vec![Ipv4Addr::new(10, 43, 0, 9)],
            port: 53,
            node_port: Some(30053),
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            source_ranges: Vec::new(),
            affinity_s: None,
            internal_local: false,
            external_local: false,
            has_any_endpoints: !endpoints.is_empty(),
            local_endpoints: Vec::new(),
            cluster_endpoints: endpoints,
        };
        Desired { services: vec![service], ..Desired::default() }
    }

    #[test]
    fn flows_to_an_endpoint_that_went() {
        let (old, new) = (dns(Protocol::Udp, &[[10, 42, 0, 5], [10, 42, 0, 6]]), dns(Protocol::Udp, &[[10, 42, 0, 6]]));
        let endpoint = Some(Ipv4Addr::new(10, 42, 0, 5));
        let to = Ipv4Addr::new(10, 43, 0, 9);
        let by_address = Flow::ByAddress { to, port: 53, endpoint };
        assert_eq!(stale(&old, &new), BTreeSet::from([by_address, Flow::ByPort { port: 30053, endpoint }]));
        assert_eq!(stale(&new, &new), BTreeSet::new());
    }

    #[test]
    fn flows_that_found_nobody_before() {
        let flows = stale(&dns(Protocol::Udp, &[]), &dns(Protocol::Udp, &[[10, 42, 0, 5]]));
        assert!(flows.contains(&Flow::ByPort { port: 30053, endpoint: None }), "{flows:?}");
    }

    #[test]
    fn tcp_ends_by_itself() {
        assert_eq!(stale(&dns(Protocol::Tcp, &[[10, 42, 0, 5]]), &Desired::default()), BTreeSet::new());
    }

    #[test]
    fn asks_conntrack_for_just_those() {
        let flow = Flow::ByPort { port: 30053, endpoint: Some(Ipv4Addr::new(10, 42, 0, 5)) };
        let line = arguments(&flow).join(" ");
        assert_eq!(line, "-D -p udp --orig-port-dst 30053 --dst-nat 10.42.0.5");
    }
}
