//! Our routes in the kernel's table.
use super::facts::out;
use super::plan::{Hop, Routes};
use super::{Error, PROTOCOL};
use crate::host::Netlink;
use futures::TryStreamExt;
use ipnet::Ipv4Net;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use std::net::Ipv4Addr;

/// All IPv4 routes of the machine.
pub async fn all(link: &Netlink) -> Result<Vec<RouteMessage>, Error> {
    let all = link.handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
    all.try_collect().await.map_err(Error::Read)
}

/// Our routes into the cluster's pod network; `tunnel` is the VXLAN device.
pub async fn ours(link: &Netlink, cluster_cidr: Ipv4Net, tunnel: Option<u32>) -> Result<Routes, Error> {
    let all = all(link).await?;
    Ok(all.iter().filter_map(|route| read(route, tunnel)).filter(|(pods, _)| cluster_cidr.contains(pods)).collect())
}

/// A route of ours.
fn read(route: &RouteMessage, tunnel: Option<u32>) -> Option<(Ipv4Net, Hop)> {
    let (mut to, mut via) = (None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => to = Some(*address),
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => via = Some(*address),
            _ => {}
        }
    }
    let pods = Ipv4Net::new(to?, route.header.destination_prefix_length).ok()?;
    let tunnelled = tunnel.is_some() && out(route) == tunnel;
    let hop = if tunnelled { Hop::Tunnel(via?) } else { Hop::Link(via?) };
    (route.header.protocol == PROTOCOL).then_some((pods, hop))
}

fn message(pods: Ipv4Net) -> RouteMessageBuilder<Ipv4Addr> {
    RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(pods.network(), pods.prefix_len()).protocol(PROTOCOL)
}

/// Sets a route in the place of the one that is there; `tunnel` is the VXLAN device.
pub async fn replace(link: &Netlink, pods: Ipv4Net, hop: Hop, tunnel: Option<u32>) -> Result<(), Error> {
    let message = match (hop, tunnel) {
        (Hop::Link(gateway), _) => message(pods).gateway(gateway),
        // The other end has an address of its own pods, so no link of ours leads there by itself.
        (Hop::Tunnel(end), Some(device)) => message(pods).gateway(end).output_interface(device).onlink(),
        (Hop::Tunnel(_), None) => return Ok(()),
    };
    let set = link.handle.route().add(message.build()).replace().execute().await;
    set.map_err(|source| Error::Set { pods, hop, source })
}

/// Gone already is as good.
pub async fn remove(link: &Netlink, pods: Ipv4Net) -> Result<(), Error> {
    match link.handle.route().del(message(pods).build()).execute().await {
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -rustix::io::Errno::SRCH.raw_os_error() => {
            Ok(())
        }
        result => result.map_err(|source| Error::Remove { pods, source }),
    }
}
