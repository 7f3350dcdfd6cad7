//! What policies ask of this node, free of Kubernetes' object types and of nftables' syntax.
use crate::proxy::model::Protocol;
use ipnet::Ipv4Net;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::RangeInclusive;

/// Which way a connection is opened, as seen by the selected pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    Ingress,
    Egress,
}

/// Everything that policies ask for at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policies {
    /// Isolated pods of this node, and the profile that says what they may do all the same.
    pub isolated: BTreeMap<(Direction, Ipv4Addr), ProfileName>,
    /// What a profile allows; anything else is dropped.
    pub profiles: BTreeMap<(Direction, ProfileName), Vec<Allow>>,
    /// Addresses of the pods that a selector matches, by the selector's text.
    pub selections: BTreeMap<String, BTreeSet<Ipv4Addr>>,
    /// Pods' ports of a name that some profile allows.
    pub named_ports: BTreeMap<(Protocol, String), BTreeSet<SocketAddrV4>>,
}

/// The names of the policies that select a pod, which make its profile.
pub type ProfileName = BTreeSet<String>;

/// One allowance: whom, on which ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allow {
    /// `namespace/name` of the policy.
    pub policy: String,
    pub peer: Peer,
    pub ports: Ports,
}

/// The other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    Anybody,
    /// A key of [`Policies::selections`].
    Selected(String),
    Block {
        network: Ipv4Net,
        except: Vec<Ipv4Net>,
    },
}

/// The ports at the connection's target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ports {
    /// Every port of every protocol.
    All,
    Some {
        /// Ranges in order that neither overlap nor touch.
        numbers: BTreeMap<Protocol, Vec<RangeInclusive<u16>>>,
        /// Keys of [`Policies::named_ports`].
        named: BTreeSet<(Protocol, String)>,
    },
}
