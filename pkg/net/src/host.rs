//! The machine's own settings: forwarding, and the address on which cluster DNS answers.
use futures::TryStreamExt;
use ipnet::Ipv4Net;
use rtnetlink::packet_route::address::AddressAttribute;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

/// Connections that the kernel may track at least, as kube-proxy asks for: it drops packets past its bound.
const MIN_CONNTRACK: u64 = 131_072;

/// The loopback link's index, in every network namespace.
const LOOPBACK: u32 = 1;

/// What must be 1 for pods to reach anything.
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";
const ROUTE_LOOPBACK: &str = "/proc/sys/net/ipv4/conf/all/route_localnet";
const CONNTRACK_MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path} could not be set")]
    Sysctl { path: &'static str, source: io::Error },
    #[error("no netlink socket")]
    Netlink(#[source] io::Error),
    #[error("{address} could not be put on or taken from the loopback link")]
    Address { address: Ipv4Addr, source: rtnetlink::Error },
    #[error("the machine's addresses can't be read")]
    Addresses(#[source] rtnetlink::Error),
    #[error("no route to Services {services}")]
    Route { services: Ipv4Net, source: rtnetlink::Error },
}

/// Switches forwarding on, and raises the bound of tracked connections where it is lower.
pub fn prepare() -> Result<(), Error> {
    let now = fs::read_to_string(FORWARDING).unwrap_or_default();
    if now.trim() != "1" {
        fs::write(FORWARDING, "1").map_err(|source| Error::Sysctl { path: FORWARDING, source })?;
    }
    // Missing until connection tracking is loaded, read-only in containers: neither keeps a node from working.
    let max = fs::read_to_string(CONNTRACK_MAX).ok().and_then(|text| text.trim().parse::<u64>().ok());
    if max.is_some_and(|max| max < MIN_CONNTRACK) && fs::write(CONNTRACK_MAX, MIN_CONNTRACK.to_string()).is_err() {
        tracing::debug!(path = CONNTRACK_MAX, "could not be raised");
    }
    Ok(())
}

/// Lets what 127.0.0.1 sends to a node port reach a pod. Only once the rules guard the loopback network. `memo`
/// remembers that it was we who asked for it.
pub fn route_loopback(memo: &Path) -> io::Result<()> {
    if fs::read_to_string(ROUTE_LOOPBACK)?.trim() == "1" {
        return Ok(());
    }
    if let Some(parent) = memo.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(memo, "")?;
    fs::write(ROUTE_LOOPBACK, "1")
}

/// Takes that back, if it was us.
pub fn unroute_loopback(memo: &Path) -> io::Result<()> {
    if memo.exists() {
        fs::write(ROUTE_LOOPBACK, "0")?;
        fs::remove_file(memo)?;
    }
    Ok(())
}

/// All addresses of the machine.
pub async fn addresses() -> Result<Vec<IpAddr>, Error> {
    let link = Netlink::open().map_err(Error::Netlink)?;
    let mut found = Vec::new();
    let mut messages = link.handle.address().get().execute();
    while let Some(message) = messages.try_next().await.map_err(Error::Addresses)? {
        // Of a point-to-point link the local end, which the kernel names apart.
        let of = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(wanted);
        let local = of(|attribute| if let AddressAttribute::Local(ip) = attribute { Some(*ip) } else { None });
        let other = of(|attribute| if let AddressAttribute::Address(ip) = attribute { Some(*ip) } else { None });
        found.extend(local.or(other));
    }
    Ok(found)
}

/// The address of an instance's resolver: link-local, so that it clashes with no network, and on the loopback
/// link, which is always there. 169.254.0.0/24 and .255.0/24 are reserved (RFC 3927), and 169.254.169.254 is where
/// clouds keep their metadata; the third byte stays clear of them.
pub fn resolver_address(instance: &str) -> Ipv4Addr {
    let hash = instance.bytes().fold(5381_u32, |hash, byte| hash.wrapping_mul(33) ^ u32::from(byte));
    let [_, _, high, low] = (hash ^ (hash >> 16)).to_be_bytes();
    Ipv4Addr::new(169, 254, 20 + high % 100, 1 + low % 254)
}

/// Puts the address on the loopback link.
pub async fn add_address(address: Ipv4Addr) -> Result<(), Error> {
    let failed = |source| Error::Address { address, source };
    let link = Netlink::open().map_err(Error::Netlink)?;
    link.request(address).replace().execute().await.map_err(failed)
}

/// Sends the machine's own packets for Services to the loopback link, from where the rules take them on: without a
/// default route the kernel would refuse them before any rule is asked. Ends with the address.
pub async fn add_service_route(services: Ipv4Net, from: Ipv4Addr) -> Result<(), Error> {
    let link = Netlink::open().map_err(Error::Netlink)?;
    let route = rtnetlink::RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(services.network(), services.prefix_len())
        .output_interface(LOOPBACK)
        .pref_source(from)
        .build();
    let added = link.handle.route().add(route).replace().execute().await;
    added.map_err(|source| Error::Route { services, source })
}

/// Takes it away; not there is as good.
pub async fn remove_address(address: Ipv4Addr) -> Result<(), Error> {
    let link = Netlink::open().map_err(Error::Netlink)?;
    let message = link.request(address).message_mut().clone();
    match link.handle.address().del(message).execute().await {
        Err(rtnetlink::Error::NetlinkError(error))
            if error.raw_code() == -rustix::io::Errno::ADDRNOTAVAIL.raw_os_error() =>
        {
            Ok(())
        }
        result => result.map_err(|source| Error::Address { address, source }),
    }
}

/// A netlink socket and the task that reads it, for as long as it is held.
pub(crate) struct Netlink {
    pub handle: rtnetlink::Handle,
    reader: tokio::task::JoinHandle<()>,
}

impl Netlink {
    pub fn open() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Self { handle, reader: tokio::spawn(connection) })
    }

    fn request(&self, address: Ipv4Addr) -> rtnetlink::AddressAddRequest {
        self.handle.address().add(LOOPBACK, address.into(), 32)
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_have_addresses_of_their_own_outside_reserved_ones() {
        assert_eq!(resolver_address("eyot"), resolver_address("eyot"), "the same at every start");
        assert_ne!(resolver_address("eyot"), resolver_address("eyot2"));
        for number in 0..1000 {
            let [a, b, c, d] = resolver_address(&format!("instance-{number}")).octets();
            assert_eq!((a, b), (169, 254));
            assert!((20..120).contains(&c) && (1..255).contains(&d), "{c}.{d}");
        }
    }
}
