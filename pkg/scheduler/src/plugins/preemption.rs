//! Preemption: when nothing fits, room is made by ending pods of lower priority
//! (Kubernetes documentation, "Pod Priority and Preemption").
//!
//! On each node that could do without some of its pods, all of lower priority are taken away in thought, then as many
//! as possible are put back: those first that a PodDisruptionBudget protects, then by importance. The node where the
//! least is lost is nominated.
use crate::cluster::Cluster;
use crate::framework::{Diagnosis, Framework, Outcome, PostFilter, Reason};
use crate::pod::PodInfo;
use jiff::Timestamp;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Nodes on which victims are looked for, at least.
const MIN_CANDIDATES: usize = 100;
/// The same as a share of all nodes, in percent.
const MIN_CANDIDATES_PERCENT: usize = 10;

pub struct DefaultPreemption;

/// What making room on one node would cost.
#[derive(Debug)]
struct Candidate {
    node: Arc<str>,
    /// The most important first.
    victims: Vec<Arc<PodInfo>>,
    /// Victims that a PodDisruptionBudget would keep.
    violations: usize,
}

impl PostFilter for DefaultPreemption {
    fn run(&self, framework: &Framework, pod: &PodInfo, cluster: &mut Cluster, diagnosis: &Diagnosis) -> Outcome {
        if let Some(reason) = ineligible(pod, cluster, diagnosis) {
            return Outcome::Wait { message: format!("preemption: {reason}") };
        }
        let helpless = diagnosis.nodes.saturating_sub(diagnosis.candidates.len());
        let mut reasons = BTreeMap::new();
        if helpless > 0 {
            reasons.insert(Reason::from("Preemption is not helpful for scheduling"), helpless);
        }
        let candidates = candidates(framework, pod, cluster, diagnosis, &mut reasons);
        match candidates.into_iter().min_by_key(Candidate::cost) {
            Some(best) => Outcome::Preempt {
                outranked: outranked(pod, cluster, &best.node),
                node: best.node,
                victims: best.victims,
            },
            None => Outcome::Hopeless { message: format!("preemption: {}", message(diagnosis.nodes, &reasons)) },
        }
    }
}

/// Why a pod may not preempt now, if so.
fn ineligible(pod: &PodInfo, cluster: &Cluster, diagnosis: &Diagnosis) -> Option<&'static str> {
    if pod.spec().and_then(|spec| spec.preemption_policy.as_deref()) == Some("Never") {
        return Some("not eligible due to preemptionPolicy=Never.");
    }
    // A node that will never do can't keep it waiting.
    let node = cluster.nominated().node_of(&pod.uid).filter(|node| diagnosis.candidates.contains(node))?;
    let mut victims = cluster.node(node)?.pods.values().filter(|other| other.priority < pod.priority);
    let leaving = victims.any(|other| cluster.is_evicted(&other.uid) || other.is_preempted());
    leaving.then_some("not eligible due to a terminating pod on the nominated node.")
}

fn candidates(
    framework: &Framework,
    pod: &PodInfo,
    cluster: &mut Cluster,
    diagnosis: &Diagnosis,
    reasons: &mut BTreeMap<Reason, usize>,
) -> Vec<Candidate> {
    let enough = MIN_CANDIDATES.max(diagnosis.nodes * MIN_CANDIDATES_PERCENT / 100);
    let mut found: Vec<Candidate> = Vec::new();
    for node in &diagnosis.candidates {
        match dry_run(framework, pod, cluster, node) {
            Ok(candidate) => found.push(candidate),
            Err(why) => why.into_iter().for_each(|reason| *reasons.entry(reason).or_default() += 1),
        }
        if found.len() >= enough && found.iter().any(|candidate| candidate.violations == 0) {
            break;
        }
    }
    found
}

/// The fewest pods of a node without which the pod fits there. The cluster is as before afterwards.
fn dry_run(
    framework: &Framework,
    pod: &PodInfo,
    cluster: &mut Cluster,
    node: &Arc<str>,
) -> Result<Candidate, Vec<Reason>> {
    let pods = cluster.node(node).into_iter().flat_map(|node| node.pods.values());
    let mut lower: Vec<Arc<PodInfo>> = pods.filter(|other| other.priority < pod.priority).cloned().collect();
    if lower.is_empty() {
        return Err(vec!["No preemption victims found for incoming pod".into()]);
    }
    lower.sort_by(|a, b| importance(a).cmp(&importance(b)));
    let mut lifted: BTreeMap<Arc<str>, _> =
        lower.iter().filter_map(|other| Some((other.uid.clone(), cluster.lift(&other.uid)?))).collect();
    let fits = framework.fits(pod, cluster, node);
    let mut victims = Vec::new();
    let mut violations = 0;
    if fits.is_ok() {
        let (protected, free) = cluster.budgets().protected(&lower);
        let order = protected.iter().map(|other| (other, true)).chain(free.iter().map(|other| (other, false)));
        for (other, is_protected) in order {
            let Some(state) = lifted.remove(&other.uid) else { continue };
            cluster.put_back(state);
            if framework.fits(pod, cluster, node).is_err() {
                lifted.extend(cluster.lift(&other.uid).map(|state| (other.uid.clone(), state)));
                victims.push(other.clone());
                violations += usize::from(is_protected);
            }
        }
    }
    lifted.into_values().for_each(|state| cluster.put_back(state));
    fits?;
    victims.sort_by(|a, b| importance(a).cmp(&importance(b)));
    Ok(Candidate { node: node.clone(), victims, violations })
}

/// Orders pods by importance, the most important first: priority, then who has run longer.
fn importance(pod: &PodInfo) -> (Reverse<i32>, Timestamp, &str) {
    (Reverse(pod.priority), pod.started().unwrap_or(Timestamp::MAX), &pod.uid)
}

/// Violated budgets, the highest priority of a victim, the sum of priorities, how many; and of the most important
/// victims the one that has run longest shall have run as briefly as can be.
type Cost = (usize, i32, i64, usize, Reverse<Timestamp>);

impl Candidate {
    fn cost(&self) -> Cost {
        // Each victim counts, whatever its priority: a sum of negative ones must not shrink with their number.
        let weight = |pod: &Arc<PodInfo>| i64::from(pod.priority) + i64::from(i32::MAX) + 1;
        let highest = self.victims.first().map_or(i32::MIN, |victim| victim.priority);
        let most = self.victims.iter().filter(|victim| victim.priority == highest);
        let earliest = most.map(|victim| victim.started().unwrap_or(Timestamp::MAX)).min();
        let sum = self.victims.iter().map(weight).sum();
        (self.violations, highest, sum, self.victims.len(), Reverse(earliest.unwrap_or(Timestamp::MAX)))
    }
}

/// Pods of lower priority that wait for the same node: they had better look elsewhere.
fn outranked(pod: &PodInfo, cluster: &Cluster, node: &str) -> Vec<Arc<PodInfo>> {
    cluster.nominated().on(node).iter().filter(|other| other.priority < pod.priority).cloned().collect()
}

fn message(nodes: usize, reasons: &BTreeMap<Reason, usize>) -> String {
    let mut counted: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    counted.sort();
    format!("0/{nodes} nodes are available: {}.", counted.join(", "))
}
