//! The extension points (`k8s.io/kube-scheduler/framework`) and the cycle that runs them for one pod.
//!
//! A plugin is asked once a pod to prepare; what it returns is a test, or a score, of single nodes. Work that is
//! the same for all nodes is thus done once, and a plugin that has nothing to say costs nothing.
use crate::cluster::Cluster;
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::ops::BitOr;
use std::sync::Arc;

/// The highest score of one plugin, before its weight.
pub const MAX_SCORE: i64 = 100;
/// Fewer nodes than this are always all looked at.
const MIN_FEASIBLE: usize = 100;
/// The least share of nodes that is looked at, in percent.
const MIN_PERCENTAGE: usize = 5;

/// Why a node does not do; counted over all nodes in the message that the user sees.
pub type Reason = Cow<'static, str>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    Yes,
    /// Not now: it might, were other pods gone.
    No,
    /// Not whatever pods are there.
    Never,
}

/// Tests one node; pushes reasons where it does not fit.
pub type Test<'a> = Box<dyn Fn(&NodeInfo, &mut Vec<Reason>) -> Fit + 'a>;

/// What a filter has to say about a pod.
pub enum Check<'a> {
    /// Nothing: every node passes.
    Skip,
    /// No node can do, for this reason.
    Reject(Reason),
    /// Each node is tested.
    Nodes(Test<'a>),
    /// Only these nodes can do, and are tested.
    Only(HashSet<&'a str>, Test<'a>),
}

pub trait Filter: Send + Sync {
    fn name(&self) -> &'static str;
    /// What may turn this filter's no into a yes.
    fn wakes_on(&self) -> Events;
    fn prepare<'a>(&self, pod: &'a PodInfo, cluster: &'a Cluster) -> Check<'a>;
}

/// How a plugin's raw scores become 0..=100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalize {
    AsIs,
    /// The highest becomes 100.
    ByMax,
    /// The highest becomes 0.
    ByMaxReversed,
    /// The lowest becomes 0 and the highest 100, whatever their signs.
    MinMax,
    /// Fewer is better, and the best comes near 100 even where all are high.
    Spread,
}

pub struct Scorer<'a> {
    pub score: Box<dyn Fn(&NodeInfo) -> i64 + 'a>,
    pub normalize: Normalize,
}

pub trait Score: Send + Sync {
    fn name(&self) -> &'static str;
    fn weight(&self) -> i64;
    /// None where all nodes would score alike.
    fn prepare<'a>(&self, pod: &'a PodInfo, cluster: &'a Cluster) -> Option<Scorer<'a>>;
}

/// What is tried when no node fits.
pub trait PostFilter: Send + Sync {
    /// May change the cluster to try something out, and leaves it as it was.
    fn run(&self, framework: &Framework, pod: &PodInfo, cluster: &mut Cluster, diagnosis: &Diagnosis) -> Outcome;
}

/// What came of a [`PostFilter`]; messages are added to the pod's.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Nothing to do now; a nomination stays as it is.
    Wait { message: String },
    /// Nothing can be done; a nomination is of no use any more.
    Hopeless { message: String },
    /// Room can be made on this node by ending the victims; others that wait for it shall look elsewhere.
    Preempt { node: Arc<str>, victims: Vec<Arc<PodInfo>>, outranked: Vec<Arc<PodInfo>> },
}

/// Changes that may let a rejected pod fit: a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events(u8);

impl Events {
    pub const NONE: Self = Self(0);
    pub const NODE_ADDED: Self = Self(1);
    pub const NODE_ALLOCATABLE: Self = Self(1 << 1);
    pub const NODE_LABELS: Self = Self(1 << 2);
    pub const NODE_TAINTS: Self = Self(1 << 3);
    pub const POD_ADDED: Self = Self(1 << 4);
    pub const POD_REMOVED: Self = Self(1 << 5);
    pub const POD_LABELS: Self = Self(1 << 6);
    /// A claim, volume or storage class came or changed.
    pub const STORAGE: Self = Self(1 << 7);

    pub fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for Events {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Filters by their place in the framework: a set.
pub type Plugins = u32;

/// Why no node was found.
#[derive(Clone, Debug, Default)]
pub struct Diagnosis {
    pub nodes: usize,
    /// Set where a filter rejected the pod before looking at nodes.
    pub rejected: Option<Reason>,
    pub reasons: BTreeMap<Reason, usize>,
    /// Nodes that might do were other pods gone.
    pub candidates: Vec<Arc<str>>,
    pub plugins: Plugins,
}

impl Diagnosis {
    /// The message of the event and condition, as upstream words it.
    pub fn message(&self, post_filter: &str) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".into();
        }
        let mut text = format!("0/{} nodes are available:", self.nodes);
        let mut reasons: Vec<String> = self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        reasons.sort();
        match &self.rejected {
            Some(reason) => text += &format!(" {reason}."),
            None if reasons.is_empty() => {}
            None => text += &format!(" {}.", reasons.join(", ")),
        }
        if !post_filter.is_empty() {
            text += &format!(" {post_filter}");
        }
        text
    }
}

pub struct Framework {
    pub filters: Vec<Box<dyn Filter>>,
    pub scores: Vec<Box<dyn Score>>,
    pub post_filter: Box<dyn PostFilter>,
}

/// State that one cycle leaves to the next.
#[derive(Debug)]
pub struct Rotation {
    /// Where the next cycle begins to look, so that all nodes get their turn.
    start: usize,
    /// Chooses among equals.
    random: u64,
}

impl Rotation {
    pub fn new(seed: u64) -> Self {
        Self { start: 0, random: seed | 1 }
    }

    fn random(&mut self, below: usize) -> usize {
        // xorshift: spread is all that is asked of it.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % below.max(1) as u64) as usize
    }
}

impl Framework {
    /// The filters that one of these events may change the mind of.
    pub fn woken_by(&self, events: Events) -> Plugins {
        let woken = self.filters.iter().enumerate().filter(|(_, filter)| filter.wakes_on().intersects(events));
        woken.fold(0, |plugins, (at, _)| plugins | 1 << at)
    }

    /// The best node for a pod.
    pub fn schedule(&self, pod: &PodInfo, cluster: &Cluster, rotation: &mut Rotation) -> Result<Arc<str>, Diagnosis> {
        if let Some(node) = cluster.nominated().node_of(&pod.uid).filter(|node| self.fits(pod, cluster, node).is_ok()) {
            return Ok(node.clone());
        }
        let feasible = self.feasible(pod, cluster, rotation)?;
        Ok(match feasible[..] {
            [one] => cluster.slots()[one].name.clone(),
            _ => cluster.slots()[self.best(pod, cluster, &feasible, rotation)].name.clone(),
        })
    }

    /// Whether a pod fits on this node as things are, or why not.
    ///
    /// # Errors
    /// The filters' reasons.
    pub fn fits(&self, pod: &PodInfo, cluster: &Cluster, node: &str) -> Result<(), Vec<Reason>> {
        let mut diagnosis = Diagnosis::default();
        let prepared = match self.prepare(pod, cluster, &mut diagnosis) {
            Ok(prepared) => prepared,
            Err(diagnosis) => return Err(diagnosis.rejected.into_iter().collect()),
        };
        let allowed = prepared.only.as_ref().is_none_or(|only| only.contains(node));
        let node = cluster.node(node).filter(|node| allowed && node.object.is_some());
        let Some(node) = node else { return Err(Vec::new()) };
        let mut reasons = Vec::new();
        prepared.test(pod, cluster, node, &mut reasons).map_err(|_| reasons)
    }

    /// Places of nodes that pass all filters; enough of them, not always all.
    fn feasible(&self, pod: &PodInfo, cluster: &Cluster, rotation: &mut Rotation) -> Result<Vec<usize>, Diagnosis> {
        let mut diagnosis = Diagnosis { nodes: cluster.len(), ..Diagnosis::default() };
        let prepared = self.prepare(pod, cluster, &mut diagnosis)?;
        let slots = cluster.slots();
        let wanted = feasible_to_find(cluster.len());
        let mut found = Vec::new();
        let mut reasons = Vec::new();
        let mut looked = 0;
        let places: Box<dyn Iterator<Item = usize>> = match prepared.only(cluster) {
            Some(places) => Box::new(places.into_iter()),
            None => Box::new((0..slots.len()).map(|i| (rotation.start + i) % slots.len())),
        };
        for place in places {
            looked += 1;
            let node = &slots[place];
            if node.object.is_none() {
                continue;
            }
            match prepared.test(pod, cluster, node, &mut reasons) {
                Ok(()) => found.push(place),
                Err((plugin, fit)) => diagnosis.add(node, plugin, fit, &mut reasons),
            }
            if found.len() >= wanted {
                break;
            }
        }
        if prepared.only.is_none() {
            rotation.start = (rotation.start + looked) % slots.len().max(1);
        } else if found.is_empty() {
            diagnosis.add_absent(looked, &prepared);
        }
        if found.is_empty() { Err(diagnosis) } else { Ok(found) }
    }

    fn prepare<'a>(
        &self,
        pod: &'a PodInfo,
        cluster: &'a Cluster,
        diagnosis: &mut Diagnosis,
    ) -> Result<Prepared<'a>, Diagnosis> {
        let mut prepared =
            Prepared { tests: Vec::with_capacity(self.filters.len()), only: None, restricting: Vec::new() };
        for (at, filter) in self.filters.iter().enumerate() {
            match filter.prepare(pod, cluster) {
                Check::Skip => {}
                Check::Nodes(test) => prepared.tests.push((at, test)),
                Check::Only(names, test) => {
                    prepared.tests.push((at, test));
                    prepared.restrict(names, at, filter.name());
                }
                Check::Reject(reason) => {
                    diagnosis.rejected = Some(reason);
                    diagnosis.plugins |= 1 << at;
                    return Err(std::mem::take(diagnosis));
                }
            }
        }
        Ok(prepared)
    }

    fn best(&self, pod: &PodInfo, cluster: &Cluster, feasible: &[usize], rotation: &mut Rotation) -> usize {
        let slots = cluster.slots();
        let mut totals = vec![0i64; feasible.len()];
        let mut own = vec![0i64; feasible.len()];
        for plugin in &self.scores {
            let Some(scorer) = plugin.prepare(pod, cluster) else { continue };
            for (score, place) in own.iter_mut().zip(feasible) {
                *score = (scorer.score)(&slots[*place]);
            }
            normalize(&mut own, scorer.normalize);
            for (total, score) in totals.iter_mut().zip(&own) {
                *total += score * plugin.weight();
            }
        }
        let top = totals.iter().max().copied().unwrap_or_default();
        let equals: Vec<usize> = (0..feasible.len()).filter(|at| totals[*at] == top).collect();
        feasible[equals[rotation.random(equals.len())]]
    }
}

/// The filters that have something to say about a pod.
struct Prepared<'a> {
    tests: Vec<(usize, Test<'a>)>,
    only: Option<HashSet<&'a str>>,
    /// The filters that named the nodes in `only`: place and name.
    restricting: Vec<(usize, &'static str)>,
}

impl<'a> Prepared<'a> {
    fn restrict(&mut self, names: HashSet<&'a str>, plugin: usize, name: &'static str) {
        self.restricting.push((plugin, name));
        self.only = Some(match self.only.take() {
            Some(before) => before.intersection(&names).copied().collect(),
            None => names,
        });
    }

    fn only(&self, cluster: &Cluster) -> Option<Vec<usize>> {
        let names = self.only.as_ref()?;
        Some(names.iter().filter_map(|name| cluster.place_of(name)).collect())
    }

    /// Tests a node as it is, and before that as it will be once those that wait for it have come.
    fn test(
        &self,
        pod: &PodInfo,
        cluster: &Cluster,
        node: &NodeInfo,
        reasons: &mut Vec<Reason>,
    ) -> Result<(), (usize, Fit)> {
        if let Some(filled) = cluster.nominated().filled(node, pod) {
            self.test_one(&filled, reasons)?;
        }
        self.test_one(node, reasons)
    }

    fn test_one(&self, node: &NodeInfo, reasons: &mut Vec<Reason>) -> Result<(), (usize, Fit)> {
        for (plugin, test) in &self.tests {
            match test(node, reasons) {
                Fit::Yes => {}
                fit => return Err((*plugin, fit)),
            }
        }
        Ok(())
    }
}

impl Diagnosis {
    fn add(&mut self, node: &NodeInfo, plugin: usize, fit: Fit, reasons: &mut Vec<Reason>) {
        self.plugins |= 1 << plugin;
        if fit == Fit::No {
            self.candidates.push(node.name.clone());
        }
        for reason in reasons.drain(..) {
            *self.reasons.entry(reason).or_default() += 1;
        }
    }

    /// Nodes that were never looked at, because a filter named others.
    fn add_absent(&mut self, looked: usize, prepared: &Prepared<'_>) {
        let absent = self.nodes.saturating_sub(looked);
        let mut names: Vec<&str> = prepared.restricting.iter().map(|(_, name)| *name).collect();
        names.sort_unstable();
        if absent > 0 {
            let reason = format!("node(s) didn't satisfy plugin(s) [{}]", names.join(" "));
            *self.reasons.entry(reason.into()).or_default() += absent;
        }
        self.plugins |= prepared.restricting.iter().fold(0, |plugins, (at, _)| plugins | 1 << at);
    }
}

/// How many feasible nodes are enough: a share that shrinks as the cluster grows.
fn feasible_to_find(nodes: usize) -> usize {
    if nodes < MIN_FEASIBLE {
        return nodes.max(1);
    }
    let percentage = 50usize.saturating_sub(nodes / 125).max(MIN_PERCENTAGE);
    (nodes * percentage / 100).max(MIN_FEASIBLE)
}

fn normalize(scores: &mut [i64], how: Normalize) {
    let max = scores.iter().max().copied().unwrap_or_default();
    let min = scores.iter().min().copied().unwrap_or_default();
    for score in scores {
        *score = match how {
            Normalize::AsIs => *score,
            Normalize::ByMax | Normalize::ByMaxReversed if max <= 0 => {
                if how == Normalize::ByMax {
                    0
                } else {
                    MAX_SCORE
                }
            }
            Normalize::ByMax => MAX_SCORE * *score / max,
            Normalize::ByMaxReversed => MAX_SCORE - MAX_SCORE * *score / max,
            Normalize::MinMax if max == min => 0,
            Normalize::MinMax => MAX_SCORE * (*score - min) / (max - min),
            Normalize::Spread if max == 0 => MAX_SCORE,
            Normalize::Spread => MAX_SCORE * (max + min - *score) / max,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalized() {
        let run = |mut scores: Vec<i64>, how| {
            normalize(&mut scores, how);
            scores
        };
        assert_eq!(run(vec![0, 5, 10], Normalize::ByMax), [0, 50, 100]);
        assert_eq!(run(vec![0, 5, 10], Normalize::ByMaxReversed), [100, 50, 0]);
        assert_eq!(run(vec![0, 0], Normalize::ByMaxReversed), [100, 100]);
        assert_eq!(run(vec![-10, 0, 10], Normalize::MinMax), [0, 50, 100]);
        assert_eq!(run(vec![8, 10], Normalize::Spread), [100, 80]);
        assert_eq!(run(vec![0, 0], Normalize::Spread), [100, 100]);
    }

    #[test]
    fn large_clusters_are_sampled() {
        assert_eq!(feasible_to_find(3), 3);
        assert_eq!(feasible_to_find(99), 99);
        assert_eq!(feasible_to_find(150), 100);
        assert_eq!(feasible_to_find(1000), 420);
        assert_eq!(feasible_to_find(10_000), 500);
    }

    #[test]
    fn messages() {
        let mut diagnosis = Diagnosis { nodes: 3, ..Diagnosis::default() };
        diagnosis.reasons.insert("node(s) were unschedulable".into(), 1);
        diagnosis.reasons.insert("Insufficient cpu".into(), 2);
        assert_eq!(
            diagnosis.message("preemption: x"),
            "0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu. preemption: x"
        );
        assert_eq!(Diagnosis::default().message(""), "no nodes available to schedule pods");
    }
}
