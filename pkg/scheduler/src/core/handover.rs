//! Pods that fit nowhere at their home: which other site they are handed to, and when.
use super::Core;
use crate::cluster::{Cluster, OnlySite};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use api::home::{HANDOVERS, Ownership, SITE, Site};
use std::cmp::Reverse;
use std::collections::HashMap;
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
    /// It is taken back: nobody else may have written it meanwhile.
    pub back: bool,
}

/// Pods that were handed over and have no node yet. A site that was cut off at that time never hears of them, and would be waited
/// for as long as for one that has them.
#[derive(Debug, Default)]
pub(super) struct Lent {
    pods: HashMap<Arc<str>, Loan>,
    /// Sites may have gone since they were last looked at.
    changed: bool,
}

#[derive(Debug)]
struct Loan {
    /// As it is now.
    pod: Arc<PodInfo>,
    to: Site,
    at_ms: u64,
    /// The API has been asked, and has not answered.
    asked: bool,
}

impl Lent {
    /// One that must not run twice is never taken back.
    pub fn lend(&mut self, pod: &Arc<PodInfo>, handover: &Handover, now_ms: u64) {
        if !client::home::claim(&*pod.object).stay {
            let loan = Loan { pod: pod.clone(), to: handover.site.clone(), at_ms: now_ms, asked: true };
            self.pods.insert(pod.uid.clone(), loan);
        }
    }

    pub fn answered(&mut self, uid: &str, handover: &Handover, done: bool) {
        if handover.back == done {
            self.settled(uid);
        } else if let Some(loan) = self.pods.get_mut(uid) {
            loan.asked = false;
            // What could not be taken back waits until sites are judged again.
            self.changed |= done;
        }
    }

    /// A pod without a node has changed.
    pub fn follow(&mut self, pod: &Arc<PodInfo>, ownership: &Ownership) {
        let Some(loan) = self.pods.get_mut(&pod.uid) else { return };
        loan.pod = pod.clone();
        let there = ownership.home_of(&client::home::claim(&*pod.object)) == &*loan.to;
        if !there && !loan.asked {
            self.settled(&pod.uid);
        }
    }

    pub fn settled(&mut self, uid: &str) {
        self.pods.remove(uid);
    }

    pub fn look_again(&mut self) {
        self.changed = !self.pods.is_empty();
    }

    pub fn uids(&self) -> impl Iterator<Item = &Arc<str>> {
        self.pods.keys()
    }

    /// The next pod to take back: nothing has come from the site that it was handed to since then.
    pub fn unheard(&mut self, ownership: &Ownership, now_ms: u64) -> Option<(Arc<PodInfo>, Handover)> {
        if !self.changed {
            return None;
        }
        let unheard = |loan: &Loan| !loan.asked && ownership.is_unheard(&loan.to, now_ms.saturating_sub(loan.at_ms));
        let Some(loan) = self.pods.values_mut().find(|loan| unheard(loan)) else {
            self.changed = false;
            return None;
        };
        loan.asked = true;
        let reason =
            format!("Taken back from site {}, which has been out of reach since before it was handed over", loan.to);
        let (site, count) = (ownership.site.clone(), count(&loan.pod));
        Some((loan.pod.clone(), Handover { site, reason, count, back: true }))
    }
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
        Some(Handover { site, reason, count: count(pod) + 1, back: false })
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
        Some(Handover { site, reason, count: count(pod) + 1, back: false })
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
