//! Pods that fit nowhere at their home: which other site they are handed to, and when.
use super::Core;
use crate::cluster::{Cluster, OnlySite};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use api::home::{HANDOVERS, SITE, Site};
use std::cmp::Reverse;
use std::sync::Arc;

/// How long a pod waits for room at home; doubles with each time that it was handed over, so that two full sites do not
/// throw it to and fro.
const WAIT_MS: u64 = 3_000;
const MAX_WAIT_MS: u64 = 300_000;

/// A pod's way to another site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handover {
    pub site: Site,
    /// Why, for the event.
    pub reason: String,
    /// How often it has been handed over, this time included.
    pub count: u32,
}

/// How often the pod was handed over before.
fn count(pod: &PodInfo) -> u32 {
    let annotation = pod.object.metadata.annotations.as_ref().and_then(|all| all.get(HANDOVERS));
    annotation.and_then(|count| count.parse().ok()).unwrap_or_default()
}

pub(super) fn wait_ms(pod: &PodInfo) -> u64 {
    WAIT_MS.saturating_mul(1 << count(pod).min(16)).min(MAX_WAIT_MS)
}

/// The site that the pod names in its node selector.
pub(super) fn named_site(pod: &PodInfo) -> Option<&str> {
    pod.spec()?.node_selector.as_ref()?.get(SITE).map(String::as_str)
}

/// What is free on a site's nodes, in thousandths of what they have: of processor or memory, whichever is less.
fn free(cluster: &Cluster, site: &OnlySite) -> i64 {
    let open = |node: &&NodeInfo| node.object.is_some() && !node.is_unschedulable() && site.holds(node);
    let sum = |of: &dyn Fn(&NodeInfo) -> i64| cluster.nodes().filter(open).map(of).sum::<i64>();
    let share = |has: i64, used: i64| if has <= 0 { 0 } else { (has - used).max(0).saturating_mul(1000) / has };
    let cpu = share(sum(&|n| n.allocatable.cpu_milli), sum(&|n| n.requested.cpu_milli));
    cpu.min(share(sum(&|n| n.allocatable.memory_bytes), sum(&|n| n.requested.memory_bytes)))
}

impl Core {
    /// Where a pod goes at once because it asks for another site, which is in contact.
    pub(super) fn asked_for(&self, pod: &PodInfo) -> Option<Handover> {
        let named = named_site(pod).filter(|site| self.ownership.marked && **site != *self.ownership.site)?;
        let site = self.ownership.reachable().find(|site| ***site == *named)?.clone();
        let reason = format!("Handed to site {site}, which its node selector asks for");
        Some(Handover { site, reason, count: count(pod) + 1 })
    }

    /// Where a pod may go that fits nowhere here, for this reason: to the site with the most room of those where it fits.
    pub(super) fn elsewhere(&mut self, pod: &Arc<PodInfo>, message: &str) -> Option<Handover> {
        let sites: Vec<Site> = self.ownership.reachable().cloned().collect();
        let mut fitting = Vec::new();
        for site in sites {
            let only = OnlySite { unnamed: site == self.ownership.default_site, site };
            self.cluster.look_at(Some(only.clone()));
            if self.framework.schedule(pod, &self.cluster, &mut self.rotation).is_ok() {
                fitting.push((Reverse(free(&self.cluster, &only)), only.site));
            }
        }
        self.look_home();
        let (_, site) = fitting.into_iter().min()?;
        let reason = format!("Handed to site {site}, which has the most room: {message}");
        Some(Handover { site, reason, count: count(pod) + 1 })
    }

    /// Decisions are about this site's nodes.
    pub(super) fn look_home(&mut self) {
        let view = &self.ownership;
        let home = OnlySite { site: view.site.clone(), unnamed: view.site == view.default_site };
        self.cluster.look_at(Some(home).filter(|_| view.marked));
    }

    /// Whether a node of this site would do but for what else is on it: else waiting for room is of no use.
    pub(super) fn has_hope(&self, pod: &PodInfo) -> bool {
        let Some(only) = self.cluster.only_site() else { return true };
        let mut own = self.cluster.nodes().filter(|node| only.holds(node)).peekable();
        own.peek().is_none() || own.any(|node| crate::plugins::selects(pod, node))
    }
}
