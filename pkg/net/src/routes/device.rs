//! The VXLAN device in the kernel: one an instance, which all tunnels share.
use super::Error;
use super::plan::{Peers, Tunnel, difference};
use super::vtep::{self, Mac, Vtep};
use crate::host::Netlink;
use futures::TryStreamExt;
use ipnet::Ipv4Net;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{InfoData, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::{LinkUnspec, LinkVxlan};
use rustix::io::Errno;
use std::fs;
use std::net::Ipv4Addr;

/// What can't be changed of a device that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    name: String,
    vni: u32,
}

impl Device {
    pub fn new(instance: &str, cluster_cidr: Ipv4Net) -> Self {
        Self { name: vtep::device(instance), vni: vtep::network_identifier(cluster_cidr) }
    }

    /// The device as the kernel has it. One that is there and other than it should be gives way to a new one; `local` is the
    /// address that the tunnels' packets come from, by which others know this node.
    pub async fn ensure(&self, link: &Netlink, local: Option<Ipv4Addr>) -> Result<LinkMessage, Error> {
        if let Some(found) = find(link, &self.name).await? {
            if self.is(&found, local) {
                return Ok(found);
            }
            tracing::info!(device = self.name, "it is not as it should be: making it anew");
            let removed = link.handle.link().del(found.header.index).execute().await;
            removed.map_err(|source| self.failed("removed", source))?;
        }
        let made = link.handle.link().add(self.message(local)).execute().await;
        made.map_err(|source| self.failed("made", source))?;
        self.adapt();
        find(link, &self.name).await?.ok_or_else(|| Error::Gone(self.name.clone()))
    }

    fn message(&self, local: Option<Ipv4Addr>) -> LinkMessage {
        // An address from the beginning, even if another follows: the system's device manager changes random ones.
        let [_, a, b, c] = self.vni.to_be_bytes();
        let device = LinkVxlan::new(&self.name, self.vni).address(vec![0x0e, 0x79, a, b, c, 0]);
        // Without the outer checksum, which IPv4 does without, no hardware's and no NAT's mistakes with it matter.
        let device = device.port(vtep::PORT).learning(false).udp_csum(false);
        match local {
            Some(local) => device.local(local).build(),
            None => device.build(),
        }
    }

    fn is(&self, link: &LinkMessage, local: Option<Ipv4Addr>) -> bool {
        let Some(facts) = vxlan(link) else { return false };
        let has = |fact: InfoVxlan| facts.contains(&fact);
        let from = facts.iter().find_map(|fact| match fact {
            InfoVxlan::Local(address) => Some(*address),
            _ => None,
        });
        let by_us = has(InfoVxlan::Learning(false)) && has(InfoVxlan::UDPCsum(false));
        by_us && has(InfoVxlan::Id(self.vni)) && has(InfoVxlan::Port(vtep::PORT)) && from == local
    }

    /// What it must have beyond netlink's words. A kernel without IPv6 lacks one of the files, which is no harm.
    fn adapt(&self) {
        let ipv4 = format!("/proc/sys/net/ipv4/conf/{}", self.name);
        // While two nodes don't agree yet whether they share a link, packets come another way than they go.
        let loose = fs::write(format!("{ipv4}/rp_filter"), "2");
        if let Err(error) = loose {
            tracing::debug!(device = self.name, %error, "its reverse path filter stays as it is");
        }
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", self.name), "1");
    }

    /// Gives it this node's end of all tunnels, and lets packets through. What is so already is left alone: a new Ethernet
    /// address, be it the same, makes the kernel forget all neighbours.
    pub async fn set(&self, link: &Netlink, device: &LinkMessage, own: Vtep, mtu: u32) -> Result<(), Error> {
        let index = device.header.index;
        let (mac, has) = (own.mac.0.to_vec(), |fact: LinkAttribute| device.attributes.contains(&fact));
        let mut wanted = LinkUnspec::new_with_index(index).up();
        if !has(LinkAttribute::Mtu(mtu)) {
            wanted = wanted.mtu(mtu);
        }
        if !has(LinkAttribute::Address(mac.clone())) {
            wanted = wanted.address(mac);
        }
        link.handle.link().set(wanted.build()).execute().await.map_err(|source| self.failed("set", source))?;
        self.address(link, index, own.address).await
    }

    async fn address(&self, link: &Netlink, index: u32, own: Ipv4Addr) -> Result<(), Error> {
        let handle = link.handle.address();
        let all = handle.get().set_link_index_filter(index).execute();
        let all: Vec<AddressMessage> = all.try_collect().await.map_err(Error::Read)?;
        let is_own = |address: &AddressMessage| {
            address.header.prefix_len == 32 && address.attributes.contains(&AddressAttribute::Local(own.into()))
        };
        let there = all.iter().any(is_own);
        for old in all.into_iter().filter(|address| address.header.index == index && !is_own(address)) {
            handle.del(old).execute().await.map_err(|source| self.failed("rid of an address", source))?;
        }
        if there {
            return Ok(());
        }
        let added = handle.add(index, own.into(), 32).execute().await;
        added.map_err(|source| self.failed("addressed", source))
    }

    /// Tells it the other ends, before routes lead there.
    pub async fn lead(&self, link: &Netlink, index: u32, tunnel: &Tunnel) -> Result<(), Error> {
        let now = self.peers(link, index).await?;
        let failed = |source| self.failed("led to another node", source);
        for (mac, node) in difference(&now.forwarding, &tunnel.peers.forwarding).0 {
            let entry = link.handle.neighbours().add_bridge(index, &mac.0).destination(node.into());
            entry.flags(NeighbourFlags::Own).replace().execute().await.map_err(failed)?;
        }
        for (end, mac) in difference(&now.neighbours, &tunnel.peers.neighbours).0 {
            let entry = link.handle.neighbours().add(index, end.into()).link_layer_address(&mac.0);
            entry.state(NeighbourState::Permanent).replace().execute().await.map_err(failed)?;
        }
        Ok(())
    }

    /// Forgets other ends, after the routes.
    pub async fn forget(&self, link: &Netlink, index: u32, tunnel: &Tunnel) -> Result<(), Error> {
        let now = self.peers(link, index).await?;
        for end in difference(&now.neighbours, &tunnel.peers.neighbours).1 {
            let attributes = vec![NeighbourAttribute::Destination(NeighbourAddress::Inet(end))];
            self.drop_entry(link, entry(index, AddressFamily::Inet, NeighbourFlags::empty(), attributes)).await?;
        }
        for mac in difference(&now.forwarding, &tunnel.peers.forwarding).1 {
            let attributes = vec![NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())];
            self.drop_entry(link, entry(index, AddressFamily::Bridge, NeighbourFlags::Own, attributes)).await?;
        }
        Ok(())
    }

    /// Gone already is as good.
    async fn drop_entry(&self, link: &Netlink, entry: NeighbourMessage) -> Result<(), Error> {
        match link.handle.neighbours().del(entry).execute().await {
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -Errno::NOENT.raw_os_error() => Ok(()),
            result => result.map_err(|source| self.failed("rid of another node", source)),
        }
    }

    /// What the device knows of other ends.
    async fn peers(&self, link: &Netlink, index: u32) -> Result<Peers, Error> {
        let mut peers = Peers::default();
        for family in [AddressFamily::Inet, AddressFamily::Bridge] {
            let all = link.handle.neighbours().get().set_address_family(family).execute();
            let all: Vec<NeighbourMessage> = all.try_collect().await.map_err(Error::Read)?;
            for entry in all.iter().filter(|entry| entry.header.ifindex == index) {
                let Some((address, mac)) = ends(entry) else { continue };
                match family {
                    AddressFamily::Bridge => peers.forwarding.insert(mac, address).map(drop),
                    _ => peers.neighbours.insert(address, mac).map(drop),
                };
            }
        }
        Ok(peers)
    }

    /// Removes it; not there is as good.
    pub async fn remove(&self, link: &Netlink) -> Result<(), Error> {
        remove(link, &self.name).await
    }

    fn failed(&self, what: &'static str, source: rtnetlink::Error) -> Error {
        Error::Device { name: self.name.clone(), what, source }
    }
}

/// Removes a VXLAN device of this name; not there is as good.
pub async fn remove(link: &Netlink, name: &str) -> Result<(), Error> {
    let Some(found) = find(link, name).await?.filter(|found| vxlan(found).is_some()) else { return Ok(()) };
    let removed = link.handle.link().del(found.header.index).execute().await;
    removed.map_err(|source| Error::Device { name: name.to_owned(), what: "removed", source })
}

async fn find(link: &Netlink, name: &str) -> Result<Option<LinkMessage>, Error> {
    match link.handle.link().get().match_name(name.to_owned()).execute().try_next().await {
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -Errno::NODEV.raw_os_error() => Ok(None),
        found => found.map_err(Error::Read),
    }
}

/// What makes it a VXLAN device, if it is one.
fn vxlan(link: &LinkMessage) -> Option<&[InfoVxlan]> {
    let infos = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    })?;
    infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vxlan(facts)) => Some(&facts[..]),
        _ => None,
    })
}

fn entry(
    index: u32,
    family: AddressFamily,
    flags: NeighbourFlags,
    attributes: Vec<NeighbourAttribute>,
) -> NeighbourMessage {
    let mut entry = NeighbourMessage::default();
    (entry.header.ifindex, entry.header.family, entry.header.flags) = (index, family, flags);
    entry.attributes = attributes;
    entry
}

/// The addresses of a permanent entry; the kernel's own guesses are none.
fn ends(entry: &NeighbourMessage) -> Option<(Ipv4Addr, Mac)> {
    let (mut address, mut mac) = (None, None);
    for attribute in &entry.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => address = Some(*ip),
            // The forwarding database's entries don't say what kind of address it is.
            NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
                address = <[u8; 4]>::try_from(&bytes[..]).ok().map(Ipv4Addr::from);
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = <[u8; 6]>::try_from(&bytes[..]).ok().map(Mac),
            _ => {}
        }
    }
    (entry.header.state == NeighbourState::Permanent).then_some((address?, mac?))
}
