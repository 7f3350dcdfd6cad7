//! Flows that the kernel remembers outlive the rules that made them. TCP ends by itself; UDP clients that keep
//! their port would be sent to an endpoint that is gone, or stay without one, until the entry's timeout.
//!
//! So after a change of UDP Services the kernel's table is read, and what no longer fits is forgotten. Reading all of
//! it, instead of asking for what a change left behind, also finds what happened while nobody was looking.

mod netlink;

pub use netlink::Error;

use super::model::{Desired, Protocol, ServicePort};
use netlink::Flow;
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

/// What UDP Services say about flows: each target and the endpoints that may answer for it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct View {
    by_address: HashMap<SocketAddrV4, BTreeSet<SocketAddrV4>>,
    by_port: HashMap<u16, BTreeSet<SocketAddrV4>>,
}

impl View {
    pub fn of(desired: &Desired) -> Self {
        let mut view = Self::default();
        for port in desired.services.iter().filter(|service| service.name.protocol == Protocol::Udp) {
            view.add(port);
        }
        view
    }

    fn add(&mut self, port: &ServicePort) {
        let endpoints: BTreeSet<_> = port.cluster_endpoints.iter().chain(&port.local_endpoints).copied().collect();
        let addresses = port.cluster_ips.iter().chain(&port.external_ips).chain(&port.load_balancer_ips);
        for address in addresses {
            self.by_address.entry(SocketAddrV4::new(*address, port.port)).or_default().extend(&endpoints);
        }
        if let Some(number) = port.node_port {
            self.by_port.entry(number).or_default().extend(&endpoints);
        }
    }

    /// With targets that `was` had and that are no longer: nobody answers for those.
    pub fn and_gone(mut self, was: &Self) -> Self {
        was.by_address.keys().for_each(|target| _ = self.by_address.entry(*target).or_default());
        was.by_port.keys().for_each(|port| _ = self.by_port.entry(*port).or_default());
        self
    }

    /// Whether a flow goes to a Service and is answered by somebody who no longer is its endpoint. `here` are the
    /// addresses of this machine, on which node ports are.
    fn is_stale(&self, flow: &Flow, here: &BTreeSet<Ipv4Addr>) -> bool {
        let by_port = || self.by_port.get(&flow.to.port()).filter(|_| here.contains(flow.to.ip()));
        let endpoints = self.by_address.get(&flow.to).or_else(by_port);
        endpoints.is_some_and(|endpoints| !endpoints.contains(&flow.answered_by))
    }
}

/// Has the kernel forget UDP flows that no longer fit; returns how many. Blocks.
///
/// # Errors
/// When the kernel's table can't be read or changed.
pub fn forget_stale(view: &View, here: &BTreeSet<Ipv4Addr>) -> Result<usize, Error> {
    let mut table = netlink::Table::open()?;
    let stale = table.udp_flows(|flow| view.is_stale(flow, here))?;
    for flow in &stale {
        table.forget(flow)?;
    }
    Ok(stale.len())
}

/// The IPv4 addresses of this machine.
pub async fn addresses() -> BTreeSet<Ipv4Addr> {
    let all = crate::host::addresses().await.unwrap_or_default();
    all.into_iter().filter_map(|address| if let IpAddr::V4(v4) = address { Some(v4) } else { None }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::model::PortName;

    fn dns(protocol: Protocol, endpoints: &[&str]) -> View {
        let name = PortName { namespace: "a".into(), service: "b".into(), port: String::new(), protocol };
        let service = ServicePort {
            cluster_ips: vec![Ipv4Addr::new(10, 43, 0, 9)],
            port: 53,
            node_port: Some(30053),
            cluster_endpoints: endpoints.iter().map(|text| text.parse().expect("address")).collect(),
            ..ServicePort::empty(name)
        };
        View::of(&Desired { services: vec![service], ..Desired::default() })
    }

    fn is_stale(view: &View, to: &str, answered_by: &str) -> bool {
        let (to, answered_by) = (to.parse().expect("address"), answered_by.parse().expect("address"));
        view.is_stale(&Flow { to, answered_by, identity: Vec::new() }, &BTreeSet::from([Ipv4Addr::new(192, 0, 2, 1)]))
    }

    #[test]
    fn flows_to_an_endpoint_that_went() {
        let view = dns(Protocol::Udp, &["10.42.0.6:53"]);
        assert!(is_stale(&view, "10.43.0.9:53", "10.42.0.5:53"));
        assert!(!is_stale(&view, "10.43.0.9:53", "10.42.0.6:53"));
        assert!(is_stale(&view, "10.43.0.9:53", "10.42.0.6:5353"), "its port changed");
        assert!(!is_stale(&view, "10.43.0.8:53", "10.42.0.5:53"), "another Service");
        assert!(!is_stale(&view, "10.43.0.9:54", "10.42.0.5:53"), "another port");
    }

    #[test]
    fn flows_that_found_nobody_before() {
        let view = dns(Protocol::Udp, &["10.42.0.6:53"]);
        assert!(is_stale(&view, "10.43.0.9:53", "10.43.0.9:53"));
        assert!(is_stale(&view, "192.0.2.1:30053", "192.0.2.1:30053"));
    }

    #[test]
    fn node_ports_are_on_this_machines_addresses_only() {
        let view = dns(Protocol::Udp, &["10.42.0.6:53"]);
        assert!(is_stale(&view, "192.0.2.1:30053", "10.42.0.5:53"));
        assert!(!is_stale(&view, "198.51.100.1:30053", "198.51.100.1:30053"), "somebody else's port of that number");
    }

    #[test]
    fn without_endpoints_all_its_flows_are_stale() {
        assert!(is_stale(&dns(Protocol::Udp, &[]), "10.43.0.9:53", "10.42.0.5:53"));
    }

    #[test]
    fn flows_of_a_service_that_is_gone() {
        let view = View::default().and_gone(&dns(Protocol::Udp, &["10.42.0.6:53"]));
        assert!(is_stale(&view, "10.43.0.9:53", "10.42.0.6:53") && is_stale(&view, "192.0.2.1:30053", "10.42.0.6:53"));
    }

    #[test]
    fn tcp_ends_by_itself() {
        assert_eq!(dns(Protocol::Tcp, &["10.42.0.6:53"]), View::default());
    }
}
