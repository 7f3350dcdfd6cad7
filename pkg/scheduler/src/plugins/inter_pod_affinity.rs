//! Pods that want to be near others, or far from them.
use crate::affinity::{Affinity, Counts, Term, add, at};
use crate::cluster::Cluster;
use crate::framework::{Check, Events, Filter, Fit, Normalize, Score, Scorer};
use crate::node::NodeInfo;
use crate::pod::PodInfo;

/// What an existing pod's required affinity counts as in scores, as upstream's default.
const HARD_AFFINITY_WEIGHT: i64 = 1;

pub struct InterPodAffinity;

impl Filter for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn wakes_on(&self) -> Events {
        let pods = Events::POD_ADDED | Events::POD_REMOVED | Events::POD_LABELS;
        pods | Events::NODE_ADDED | Events::NODE_LABELS
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, cluster: &'a Cluster) -> Check<'a> {
        let resisted = resisted(pod, cluster);
        let wants = pod.affinity.as_deref().filter(|a| !a.required.is_empty() || !a.forbidden.is_empty());
        if resisted.is_empty() && wants.is_none() {
            return Check::Skip;
        }
        let near = wants.map(|wants| Near::of(pod, wants, cluster));
        let far = wants.map(|wants| meant(&wants.forbidden, cluster)).unwrap_or_default();
        Check::Nodes(Box::new(move |node, reasons| {
            if near.as_ref().is_some_and(|near| !near.holds(node)) {
                reasons.push("node(s) didn't match pod affinity rules".into());
                return Fit::Never;
            }
            if counted(&far, node) {
                reasons.push("node(s) didn't match pod anti-affinity rules".into());
                return Fit::No;
            }
            if counted(&resisted, node) {
                reasons.push("node(s) didn't satisfy existing pods anti-affinity rules".into());
                return Fit::No;
            }
            Fit::Yes
        }))
    }
}

/// Places where a pod stands that does not want this one near.
fn resisted<'a>(pod: &PodInfo, cluster: &'a Cluster) -> Counts<'a> {
    let mut counts = Counts::new();
    for (node, other) in cluster.pods_with_affinity() {
        let terms = other.affinity.iter().flat_map(|affinity| &affinity.forbidden);
        for term in terms.filter(|term| term.means(pod, cluster)) {
            add(&mut counts, term, node, 1);
        }
    }
    counts
}

/// Places of the pods that any of these terms mean.
fn meant<'a>(terms: &'a [Term], cluster: &'a Cluster) -> Counts<'a> {
    let mut counts = Counts::new();
    if terms.is_empty() {
        return counts;
    }
    for (node, other) in cluster.pods() {
        for term in terms.iter().filter(|term| term.means(other, cluster)) {
            add(&mut counts, term, node, 1);
        }
    }
    counts
}

fn counted(counts: &Counts<'_>, node: &NodeInfo) -> bool {
    counts.keys().any(|key| at(counts, key, node) > 0)
}

/// Required affinity: pods that meet all terms must be at the node's place of each.
struct Near<'a> {
    terms: &'a [Term],
    counts: Counts<'a>,
    /// The first of a group that only wants its own kind may stand anywhere.
    first: bool,
}

impl<'a> Near<'a> {
    fn of(pod: &PodInfo, wants: &'a Affinity, cluster: &'a Cluster) -> Self {
        let terms = &wants.required[..];
        let mut counts = Counts::new();
        if !terms.is_empty() {
            let all = |other: &PodInfo| terms.iter().all(|term| term.means(other, cluster));
            for (node, _) in cluster.pods().filter(|(_, other)| all(other)) {
                terms.iter().for_each(|term| add(&mut counts, term, node, 1));
            }
        }
        let first = counts.is_empty() && terms.iter().all(|term| term.means(pod, cluster));
        Self { terms, counts, first }
    }

    fn holds(&self, node: &NodeInfo) -> bool {
        let at_place = |term: &Term| self.first || at(&self.counts, &term.topology_key, node) > 0;
        self.terms.iter().all(|term| term.place(node).is_some() && at_place(term))
    }
}

impl Score for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, cluster: &'a Cluster) -> Option<Scorer<'a>> {
        let mut counts = Counts::new();
        if let Some(wants) = pod.affinity.as_deref().filter(|wants| !wants.preferred.is_empty()) {
            for (node, other) in cluster.pods() {
                for (weight, term) in wants.preferred.iter().filter(|(_, term)| term.means(other, cluster)) {
                    add(&mut counts, term, node, *weight);
                }
            }
        }
        for (node, other) in cluster.pods_with_affinity() {
            let Some(theirs) = other.affinity.as_deref() else { continue };
            let required = theirs.required.iter().map(|term| (HARD_AFFINITY_WEIGHT, term));
            let preferred = theirs.preferred.iter().map(|(weight, term)| (*weight, term));
            for (weight, term) in required.chain(preferred).filter(|(_, term)| term.means(pod, cluster)) {
                add(&mut counts, term, node, weight);
            }
        }
        if counts.is_empty() {
            return None;
        }
        let score = move |node: &NodeInfo| counts.keys().map(|key| at(&counts, key, node)).sum();
        Some(Scorer { score: Box::new(score), normalize: Normalize::MinMax })
    }
}
