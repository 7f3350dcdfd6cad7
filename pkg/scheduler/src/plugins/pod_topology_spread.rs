//! Constraints on how unevenly pods may be spread over the values of a node label.
use super::{node_affinity, taint_toleration};
use crate::affinity::selector;
use crate::cluster::Cluster;
use crate::framework::{Check, Events, Filter, Fit, Normalize, Score, Scorer};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use api::selector::LabelSelector;
use k8s_openapi::api::core::v1::TopologySpreadConstraint;
use std::collections::{HashMap, HashSet};

/// Scores are whole numbers; this keeps two places of the weights.
const SCALE: f64 = 100.0;

pub struct PodTopologySpread;

impl Filter for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn wakes_on(&self) -> Events {
        let pods = Events::POD_ADDED | Events::POD_REMOVED | Events::POD_LABELS;
        pods | Events::NODE_ADDED | Events::NODE_LABELS | Events::NODE_TAINTS
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, cluster: &'a Cluster) -> Check<'a> {
        let spreads = spreads(pod, cluster, "DoNotSchedule");
        if spreads.is_empty() {
            return Check::Skip;
        }
        Check::Nodes(Box::new(move |node, reasons| {
            for spread in &spreads {
                let Some(place) = node.labels().get(spread.key) else {
                    let missing = "node(s) didn't match pod topology spread constraints (missing required label)";
                    reasons.push(missing.into());
                    return Fit::Never;
                };
                if !spread.allows(place) {
                    reasons.push("node(s) didn't match pod topology spread constraints".into());
                    return Fit::No;
                }
            }
            Fit::Yes
        }))
    }
}

impl Score for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, cluster: &'a Cluster) -> Option<Scorer<'a>> {
        let spreads = spreads(pod, cluster, "ScheduleAnyway");
        if spreads.is_empty() {
            return None;
        }
        let score = move |node: &NodeInfo| {
            let one = |spread: &Spread<'_>| {
                let here = node.labels().get(spread.key).and_then(|place| spread.counts.get(place.as_str()));
                // Where the label is missing, the pod would count in no place at all: as bad as the fullest.
                let here = here.copied().unwrap_or_else(|| spread.counts.values().max().copied().unwrap_or_default());
                let weight = (spread.counts.len() as f64 + 2.0).ln();
                (f64::from(here) * weight + f64::from(spread.max_skew - 1)) * SCALE
            };
            spreads.iter().map(one).sum::<f64>() as i64
        };
        Some(Scorer { score: Box::new(score), normalize: Normalize::Spread })
    }
}

/// One constraint with the pods counted.
struct Spread<'a> {
    key: &'a str,
    max_skew: i32,
    /// Pods by place, of the places that count.
    counts: HashMap<&'a str, i32>,
    /// The fewest pods of any place; none where there are fewer places than asked for.
    least: i32,
    /// Would the pod count itself?
    itself: i32,
}

impl Spread<'_> {
    fn allows(&self, place: &str) -> bool {
        let here = self.counts.get(place).copied().unwrap_or_default();
        here + self.itself - self.least <= self.max_skew
    }
}

fn spreads<'a>(pod: &'a PodInfo, cluster: &'a Cluster, when: &str) -> Vec<Spread<'a>> {
    let constraints = pod.spec().and_then(|spec| spec.topology_spread_constraints.as_deref()).unwrap_or_default();
    let of_kind: Vec<&TopologySpreadConstraint> =
        constraints.iter().filter(|constraint| constraint.when_unsatisfiable == when).collect();
    of_kind.iter().map(|constraint| spread(constraint, &of_kind, pod, cluster)).collect()
}

fn spread<'a>(
    constraint: &'a TopologySpreadConstraint,
    all: &[&TopologySpreadConstraint],
    pod: &'a PodInfo,
    cluster: &'a Cluster,
) -> Spread<'a> {
    let keys = constraint.match_label_keys.as_deref();
    let selector = selector(constraint.label_selector.as_ref(), &pod.object, keys, None);
    let counted: HashSet<usize> =
        cluster.classes().filter(|(_, other)| counts_pod(pod, other, &selector)).map(|(n, _)| n).collect();
    let mut counts: HashMap<&str, i32> = HashMap::new();
    for node in cluster.nodes() {
        let labelled = all.iter().all(|c| node.labels().contains_key(&c.topology_key));
        let Some(place) = node.labels().get(&constraint.topology_key).filter(|_| labelled) else { continue };
        if counts_node(constraint, pod, node) {
            let pods = node.classes.iter().filter(|(class, _)| counted.contains(class)).map(|(_, pods)| *pods);
            *counts.entry(place).or_default() += i32::try_from(pods.sum::<u32>()).unwrap_or(i32::MAX);
        }
    }
    let few = i32::try_from(counts.len()).unwrap_or(i32::MAX) < constraint.min_domains.unwrap_or(1);
    let least = if few { 0 } else { counts.values().min().copied().unwrap_or_default() };
    let itself = i32::from(selector.matches(pod.labels()));
    Spread { key: &constraint.topology_key, max_skew: constraint.max_skew, counts, least, itself }
}

/// Nodes that the pod could not go to anyway don't make a place look empty, unless asked for.
fn counts_node(constraint: &TopologySpreadConstraint, pod: &PodInfo, node: &NodeInfo) -> bool {
    let honors = |policy: &Option<String>, default: bool| policy.as_deref().map_or(default, |p| p == "Honor");
    (!honors(&constraint.node_affinity_policy, true) || node_affinity::allows(pod, node))
        && (!honors(&constraint.node_taints_policy, false) || taint_toleration::admits(pod, node))
}

/// Pods that count: of the same namespace, and not on their way out.
fn counts_pod(pod: &PodInfo, other: &PodInfo, selector: &LabelSelector) -> bool {
    other.namespace == pod.namespace && !other.is_deleting() && selector.matches(other.labels())
}
