//! What the machine's links are and lead to.
use super::Error;
use super::plan::Reach;
use super::vtep;
use crate::host::Netlink;
use futures::TryStreamExt;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

/// The largest packet of Ethernet, where no link tells another.
const DEFAULT_MTU: u32 = 1500;
/// Every host takes packets of this size (RFC 791).
const LEAST_MTU: u32 = 576;

/// What is asked of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Link {
    mtu: u32,
    /// Whether machines find each other there by Ethernet addresses.
    shared: bool,
    loopback: bool,
}

/// Links and addresses at one moment.
#[derive(Debug, Default)]
pub struct Facts {
    links: BTreeMap<u32, Link>,
    addresses: Vec<(Ipv4Addr, u32)>,
    /// The link of the default route with the least metric.
    default: Option<u32>,
}

impl Facts {
    pub async fn read(link: &Netlink) -> Result<Self, Error> {
        let links: Vec<LinkMessage> = link.handle.link().get().execute().try_collect().await.map_err(Error::Read)?;
        let all = link.handle.address().get().execute();
        let all: Vec<_> = all.try_collect().await.map_err(Error::Read)?;
        let addresses = all.iter().filter_map(|message| {
            message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(IpAddr::V4(ip)) => Some((*ip, message.header.index)),
                _ => None,
            })
        });
        Ok(Self {
            links: links.iter().map(|link| (link.header.index, read(link))).collect(),
            addresses: addresses.collect(),
            default: default_link(&super::table::all(link).await?),
        })
    }

    /// Whether the machine has this address.
    pub fn has(&self, address: Ipv4Addr) -> bool {
        self.addresses.iter().any(|(has, _)| *has == address)
    }

    /// The largest packet that gets to other nodes: that of the link of the node's own address, and of the default route.
    pub fn underlay_mtu(&self, own: Ipv4Addr) -> u32 {
        let of_own = self.addresses.iter().find(|(address, _)| *address == own).map(|(_, link)| *link);
        let links = [of_own, self.default].into_iter().flatten().filter_map(|link| self.links.get(&link));
        links.filter(|link| !link.loopback).map(|link| link.mtu).min().unwrap_or(DEFAULT_MTU)
    }

    /// The same for pods, with room for VXLAN's headers.
    pub fn pod_mtu(&self, own: Ipv4Addr, tunnel: bool) -> u32 {
        let overhead = if tunnel { vtep::OVERHEAD } else { 0 };
        self.underlay_mtu(own).saturating_sub(overhead).max(LEAST_MTU)
    }

    /// How the kernel would send to an address now.
    pub async fn reach(&self, link: &Netlink, address: Ipv4Addr) -> Result<Reach, Error> {
        let question = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(address, 32).build();
        match link.handle.route().get(question).execute().try_next().await {
            Ok(Some(route)) => Ok(self.judge(&route)),
            // It says so by one error or another: no route, or one that forbids.
            Ok(None) | Err(rtnetlink::Error::NetlinkError(_)) => Ok(Reach::Nowhere),
            Err(error) => Err(Error::Read(error)),
        }
    }

    fn judge(&self, route: &RouteMessage) -> Reach {
        if route.header.kind == RouteType::Local {
            return Reach::Own;
        }
        let is_gateway =
            |attribute: &RouteAttribute| matches!(attribute, RouteAttribute::Gateway(_) | RouteAttribute::Via(_));
        if route.attributes.iter().any(is_gateway) {
            return Reach::Gateway;
        }
        match out(route).and_then(|link| self.links.get(&link)) {
            Some(link) if link.shared => Reach::Link,
            Some(_) => Reach::Point,
            None => Reach::Nowhere,
        }
    }
}

fn read(link: &LinkMessage) -> Link {
    let mtu = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    });
    let flags = link.header.flags;
    Link {
        mtu: mtu.unwrap_or(DEFAULT_MTU),
        shared: !flags.intersects(LinkFlags::Noarp | LinkFlags::Pointopoint),
        loopback: flags.contains(LinkFlags::Loopback),
    }
}

/// The link that a route leads to.
pub fn out(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(link) => Some(*link),
        _ => None,
    })
}

fn default_link(routes: &[RouteMessage]) -> Option<u32> {
    let metric = |route: &RouteMessage| {
        let metric = |attribute: &RouteAttribute| match attribute {
            RouteAttribute::Priority(metric) => Some(*metric),
            _ => None,
        };
        route.attributes.iter().find_map(metric).unwrap_or_default()
    };
    let is_default =
        |route: &&RouteMessage| route.header.destination_prefix_length == 0 && route.header.kind == RouteType::Unicast;
    routes.iter().filter(is_default).filter_map(|route| Some((metric(route), out(route)?))).min().map(|(_, link)| link)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::packet_route::route::RouteAddress;

    const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    /// Ethernet (2), WireGuard (3), and the loopback link (1).
    fn facts() -> Facts {
        let link = |mtu, shared, loopback| Link { mtu, shared, loopback };
        Facts {
            links: [(1, link(65_536, false, true)), (2, link(1500, true, false)), (3, link(1420, false, false))].into(),
            addresses: vec![(Ipv4Addr::LOCALHOST, 1), (OWN, 2), (Ipv4Addr::new(203, 0, 113, 1), 3)],
            default: Some(2),
        }
    }

    fn route(kind: RouteType, attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut route = RouteMessage::default();
        (route.header.kind, route.attributes) = (kind, attributes);
        route
    }

    #[test]
    fn pods_have_what_the_nodes_own_link_carries() {
        let facts = facts();
        assert_eq!((facts.pod_mtu(OWN, true), facts.pod_mtu(OWN, false)), (1450, 1500));
        assert_eq!(facts.pod_mtu(Ipv4Addr::new(203, 0, 113, 1), true), 1370, "through a tunnel of one's own");
        assert_eq!(facts.pod_mtu(Ipv4Addr::LOCALHOST, true), 1450, "by the default route");
        assert_eq!(Facts::default().pod_mtu(OWN, true), 1450, "nothing is known");
        assert!(facts.has(OWN) && !facts.has(Ipv4Addr::new(192, 0, 2, 2)));
    }

    #[test]
    fn a_gateway_or_a_tunnel_is_no_shared_link() {
        let (facts, oif) = (facts(), |link| RouteAttribute::Oif(link));
        let gateway = RouteAttribute::Gateway(RouteAddress::Inet(OWN));
        assert_eq!(facts.judge(&route(RouteType::Local, vec![oif(1)])), Reach::Own);
        assert_eq!(facts.judge(&route(RouteType::Unicast, vec![oif(2)])), Reach::Link);
        assert_eq!(facts.judge(&route(RouteType::Unicast, vec![oif(2), gateway])), Reach::Gateway);
        assert_eq!(facts.judge(&route(RouteType::Unicast, vec![oif(3)])), Reach::Point);
        assert_eq!(facts.judge(&route(RouteType::Unicast, vec![oif(9)])), Reach::Nowhere, "a link that just left");
    }

    #[test]
    fn the_default_route_with_the_least_metric() {
        let default =
            |link, metric| route(RouteType::Unicast, vec![RouteAttribute::Oif(link), RouteAttribute::Priority(metric)]);
        let mut other = default(9, 0);
        other.header.destination_prefix_length = 24;
        assert_eq!(default_link(&[default(3, 600), default(2, 100), other]), Some(2));
        assert_eq!(default_link(&[]), None);
    }
}
