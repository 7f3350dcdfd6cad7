//! Gives every node its slice of the pod network: `Node.spec.podCIDR`.
mod plan;

use crate::error::Error;
use crate::execute::Run;
use crate::runner::{Reconciler, Watches};
use api::slice::Share;
use client::Reflector;
use client::informers::Key;
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use tokio::sync::watch;

pub(crate) struct NodeIpam {
    nodes: Reflector<Node>,
    cluster: Ipv4Net,
    mask: u8,
    /// Slices given to nodes whose cached copy doesn't show them yet. Bounded by the number of nodes.
    given: Mutex<HashMap<String, Ipv4Net>>,
    /// What this server gives away by itself.
    share: watch::Receiver<Share>,
}

impl NodeIpam {
    pub(crate) fn new(
        nodes: Reflector<Node>,
        cluster_cidr: &str,
        mask: u8,
        share: watch::Receiver<Share>,
    ) -> Result<Self, Error> {
        let unusable =
            || Error::Refused(format!("cluster CIDR {cluster_cidr:?} is no IPv4 network with room for /{mask}"));
        let cluster = cluster_cidr.parse::<Ipv4Net>().ok().filter(|cluster| cluster.prefix_len() <= mask && mask <= 32);
        Ok(Self { nodes, cluster: cluster.ok_or_else(unusable)?.trunc(), mask, given: Mutex::default(), share })
    }

    fn slice_for(&self, node: &str) -> Option<Ipv4Net> {
        let mut given = self.given.lock();
        let mut used = BTreeSet::new();
        for node in self.nodes.list() {
            let slices: Vec<Ipv4Net> = slices_of(&node);
            if !slices.is_empty() {
                given.remove(&node.name_any());
            }
            used.extend(slices);
        }
        given.retain(|name, _| self.nodes.get("", name).is_some());
        used.extend(given.values().copied());
        if let Some(slice) = given.get(node) {
            return Some(*slice);
        }
        let slice = plan::free(self.cluster, self.mask, &used, &self.share.borrow())?;
        given.insert(node.to_owned(), slice);
        Some(slice)
    }
}

fn slices_of(node: &Node) -> Vec<Ipv4Net> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let all = spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr);
    all.filter_map(|cidr| Some(cidr.parse::<Ipv4Net>().ok()?.trunc())).collect()
}

impl Reconciler for NodeIpam {
    const NAME: &'static str = "node-controller";
    // One at a time: two nodes must not find the same slice free.
    const WORKERS: usize = 1;

    fn watch(&self, watches: &mut Watches) {
        watches.own::<Node>();
    }

    async fn reconcile(&self, (_, name): Key, run: &mut Run) -> Result<(), Error> {
        let Some(node) = self.nodes.get("", &name) else { return Ok(()) };
        if !slices_of(&node).is_empty() || node.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        run.all(vec![plan::plan(&node, self.slice_for(&name))]).await
    }
}
