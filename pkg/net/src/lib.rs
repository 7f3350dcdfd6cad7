//! The node's network: pods' links, Services, host ports and cluster DNS.
//!
//! Place in the flow: `client (Services, EndpointSlices, Pods, Node) ─► net ─► CNI configuration, nftables, DNS`.
//!
//! - [`cni`] tells containerd's CNI plugins how to link a pod, as soon as the node has a pod CIDR;
//! - [`proxy`] keeps one nftables table what Services, their endpoints, host ports and policies say;
//! - [`policy`] is NetworkPolicy's part of that;
//! - [`dns`] answers cluster DNS on an address of this node alone, to which the table sends the Service address;
//! - [`routes`] leads to the pods of other nodes, on one link or through VXLAN;
//! - [`host`] sets what the machine needs for it; [`cleanup`] takes it all away.
//!
//! Everything stays in place when the process ends: pods keep their links, rules and addresses until the next start.

pub mod cni;
pub mod dns;
pub mod host;
pub mod policy;
pub mod proxy;
pub mod routes;
mod service;

pub use routes::Backend;
pub use service::{Error, Options, Service, cleanup};
