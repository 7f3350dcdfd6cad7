//! A pod that names its node goes nowhere else.
use crate::cluster::Cluster;
use crate::framework::{Check, Events, Filter, Fit};
use crate::pod::PodInfo;
use std::collections::HashSet;

pub struct NodeName;

impl Filter for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn wakes_on(&self) -> Events {
        Events::NODE_ADDED
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, _: &'a Cluster) -> Check<'a> {
        match pod.node_name() {
            Some(name) => Check::Only(HashSet::from([name]), Box::new(|_, _| Fit::Yes)),
            None => Check::Skip,
        }
    }
}
