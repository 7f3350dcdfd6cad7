//! The ends of VXLAN tunnels. All about one follows from its node's pod network, so nodes need to tell each other nothing.
use ipnet::Ipv4Net;
use std::fmt;
use std::net::Ipv4Addr;

/// Where VXLAN is listened for: what Linux and flannel use, not the registered 4789.
pub const PORT: u16 = 8472;
/// What VXLAN adds to a packet: IPv4, UDP and VXLAN headers, and the inner Ethernet header.
pub const OVERHEAD: u32 = 20 + 8 + 8 + 14;

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.map(|byte| format!("{byte:02x}"));
        f.write_str(&bytes.join(":"))
    }
}

/// One end of all tunnels of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vtep {
    /// The first address of the node's pod network, which no pod has.
    pub address: Ipv4Addr,
    pub mac: Mac,
}

impl Vtep {
    /// That of the node which has this pod network.
    pub fn of(pods: Ipv4Net) -> Self {
        let [a, b, c, d] = pods.network().octets();
        // Locally administered, unicast.
        Self { address: pods.network(), mac: Mac([0x0e, 0x79, a, b, c, d]) }
    }
}

/// The number of the cluster's VXLAN network, from its pod network: two clusters whose nodes share machines or links have
/// different ones, as their pods do, and neither has flannel's.
pub fn network_identifier(cluster: Ipv4Net) -> u32 {
    cluster.network().to_bits() >> 8
}

/// The VXLAN device of an instance; a link's name has at most 15 bytes, an instance's 10.
pub fn device(instance: &str) -> String {
    format!("{instance}-vx")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().expect("a network")
    }

    #[test]
    fn all_follows_from_the_pod_network() {
        let vtep = Vtep::of(net("10.42.7.0/24"));
        assert_eq!((vtep.address, vtep.mac.to_string()), (Ipv4Addr::new(10, 42, 7, 0), "0e:79:0a:2a:07:00".into()));
        assert_eq!(network_identifier(net("10.42.0.0/16")), 0x0a_2a_00);
        assert_eq!(OVERHEAD, 50);
        assert_eq!(device("eyot"), "eyot-vx");
    }

    proptest! {
        #[test]
        fn networks_that_do_not_overlap_have_different_ends(a: u32, b: u32, long in 8_u8..=30, short in 8_u8..=30) {
            let of = |bits: u32, length| Ipv4Net::new(bits.into(), length).expect("a length").trunc();
            let (a, b) = (of(a, long), of(b, short));
            prop_assume!(!a.contains(&b) && !b.contains(&a));
            let (x, y) = (Vtep::of(a), Vtep::of(b));
            prop_assert!(x.address != y.address && x.mac != y.mac);
            prop_assert_eq!(x.mac.0[0] & 0b11, 0b10, "a local address of one machine");
        }
    }
}
