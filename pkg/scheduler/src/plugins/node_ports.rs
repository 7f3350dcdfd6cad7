//! Host ports can be taken once.
use crate::cluster::Cluster;
use crate::framework::{Check, Events, Filter, Fit};
use crate::pod::PodInfo;

pub struct NodePorts;

impl Filter for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn wakes_on(&self) -> Events {
        Events::NODE_ADDED | Events::POD_REMOVED
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, _: &'a Cluster) -> Check<'a> {
        if pod.ports.is_empty() {
            return Check::Skip;
        }
        Check::Nodes(Box::new(|node, reasons| {
            if !pod.ports.iter().any(|port| node.ports.iter().any(|taken| taken.collides(port))) {
                return Fit::Yes;
            }
            reasons.push("node(s) didn't have free ports for the requested pod ports".into());
            Fit::No
        }))
    }
}
