//! Pods that want to be near others, or far from them.
use crate::affinity::{Affinity, Counts, Term, at, tally};
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
    tally(&mut counts, cluster, |other| {
        let terms = other.affinity.iter().flat_map(|affinity| &affinity.forbidden);
        terms.filter(|term| term.means(pod, cluster)).map(|term| (1, term)).collect()
    });
    counts
}

/// Places of the pods that any of these terms mean.
fn meant<'a>(terms: &'a [Term], cluster: &'a Cluster) -> Counts<'a> {
    let mut counts = Counts::new();
    if !terms.is_empty() {
        tally(&mut counts, cluster, |other| {
            terms.iter().filter(|term| term.means(other, cluster)).map(|term| (1, term)).collect()
        });
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
            tally(&mut counts, cluster, |other| {
                let all = terms.iter().all(|term| term.means(other, cluster));
                if all { terms.iter().map(|term| (1, term)).collect() } else { Vec::new() }
            });
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
            tally(&mut counts, cluster, |other| {
                let means = |(_, term): &&(i64, Term)| term.means(other, cluster);
                wants.preferred.iter().filter(means).map(|(weight, term)| (*weight, term)).collect()
            });
        }
        tally(&mut counts, cluster, |other| {
            let Some(theirs) = other.affinity.as_deref() else { return Vec::new() };
            let required = theirs.required.iter().map(|term| (HARD_AFFINITY_WEIGHT, term));
            let preferred = theirs.preferred.iter().map(|(weight, term)| (*weight, term));
            required.chain(preferred).filter(|(_, term)| term.means(pod, cluster)).collect()
        });
        if counts.is_empty() {
            return None;
        }
        let score = move |node: &NodeInfo| counts.keys().map(|key| at(&counts, key, node)).sum();
        Some(Scorer { score: Box::new(score), normalize: Normalize::MinMax })
    }
}
