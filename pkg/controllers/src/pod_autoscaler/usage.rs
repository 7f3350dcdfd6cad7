//! How many replicas a metric asks for (Kubernetes documentation, "Horizontal Pod Autoscaling: Algorithm details"). Pure.
use crate::pods;
use api::quantity::Quantity as Exact;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// While a pod is younger, its use of CPU counts only once it is ready; upstream's default.
const CPU_INITIALIZATION: SignedDuration = SignedDuration::from_mins(5);
/// A pod that became unready this soon after its start was never ready; upstream's default.
const INITIAL_READINESS: SignedDuration = SignedDuration::from_secs(30);

/// What one pod used, averaged over `window` up to `at`; CPU in thousandths of a core, others in thousandths of units.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    pub milli: i64,
    pub at: Timestamp,
    pub window: SignedDuration,
}

/// By pod.
pub type Samples = BTreeMap<String, Sample>;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// Percent of what the pods request.
    Utilization(i32),
    /// Thousandths a pod.
    Average(i64),
}

/// How far from its target a metric may be before anything happens, as shares of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerances {
    pub up: f64,
    pub down: f64,
}

impl Tolerances {
    fn cover(self, ratio: f64) -> bool {
        1.0 - self.down <= ratio && ratio <= 1.0 + self.up
    }
}

/// A metric of the pods themselves.
pub struct Metric<'a> {
    /// `cpu`, `memory` or another resource.
    pub resource: &'a str,
    /// Only this container of each pod.
    pub container: Option<&'a str>,
    pub target: Target,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Proposal {
    pub replicas: i32,
    /// Percent of the requests, where those are the target.
    pub utilization: Option<i32>,
    /// Mean of the pods that count, in thousandths.
    pub average_milli: i64,
}

/// What a figure of the whole target asks for, such as the length of a queue.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Whole {
    /// The figure itself shall be this, in thousandths.
    Value(i64),
    /// Its share of each pod shall be.
    Average(i64),
}

/// Replicas and the figure to show, in thousandths.
pub fn propose_whole(
    milli: i64,
    target: Whole,
    pods: &[Arc<Pod>],
    (current, running): (i32, i32),
    tolerances: Tolerances,
) -> Result<(i32, i64), String> {
    match target {
        Whole::Average(target) => {
            let ratio = milli as f64 / (target as f64 * f64::from(running));
            let wanted = to_count((milli as f64 / target as f64).ceil());
            let replicas = if tolerances.cover(ratio) { running } else { wanted };
            Ok((replicas, (milli as f64 / f64::from(running)).ceil() as i64))
        }
        Whole::Value(target) => {
            let ratio = milli as f64 / target as f64;
            if tolerances.cover(ratio) {
                return Ok((current, milli));
            }
            if pods.is_empty() {
                return Err(
                    "unable to calculate ready pods: no pods returned by selector while calculating replica count"
                        .to_owned(),
                );
            }
            let ready = pods.iter().filter(|pod| pods::phase(pod) == "Running" && pods::is_ready(pod)).count();
            Ok((to_count((ratio * ready as f64).ceil()), milli))
        }
    }
}

/// What the metric asks for.
///
/// # Errors
/// Why it can't be said, as upstream words it.
pub fn propose(
    metric: &Metric<'_>,
    pods: &[Arc<Pod>],
    mut samples: Samples,
    current: i32,
    tolerances: Tolerances,
    now: Timestamp,
) -> Result<Proposal, String> {
    if pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".to_owned());
    }
    let groups = Groups::of(pods, &samples, metric.resource, now);
    samples.retain(|pod, _| !groups.ignored.contains(pod) && !groups.unready.contains(pod));
    if samples.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
    }
    let requests = match metric.target {
        Target::Utilization(_) => requests(pods, metric)?,
        Target::Average(_) => BTreeMap::new(),
    };
    let mut used: BTreeMap<String, i64> = samples.into_iter().map(|(pod, sample)| (pod, sample.milli)).collect();
    let (ratio, utilization, average_milli) = ratio(metric.target, &used, &requests)?;
    let proposal = |replicas: f64| Proposal { replicas: to_count(replicas), utilization, average_milli };
    let stay = proposal(f64::from(current));
    let up_with_unready = !groups.unready.is_empty() && ratio > 1.0;
    if !up_with_unready && groups.missing.is_empty() {
        let here = tolerances.cover(ratio);
        return Ok(if here { stay } else { proposal((ratio * groups.ready as f64).ceil()) });
    }
    assume(&groups, metric.target, ratio, &requests, &mut used);
    let (careful, ..) = self::ratio(metric.target, &used, &requests)?;
    let turned = (ratio < 1.0 && careful > 1.0) || (ratio > 1.0 && careful < 1.0);
    if tolerances.cover(careful) || turned {
        return Ok(stay);
    }
    let careful_proposal = proposal((careful * used.len() as f64).ceil());
    let replicas = careful_proposal.replicas;
    let backwards = (careful < 1.0 && replicas > current) || (careful > 1.0 && replicas < current);
    Ok(if backwards { stay } else { careful_proposal })
}

/// Pods that nothing is known of count against the change: as idle when it is up, as busy when it is down.
fn assume(
    groups: &Groups,
    target: Target,
    ratio: f64,
    requests: &BTreeMap<String, i64>,
    used: &mut BTreeMap<String, i64>,
) {
    for pod in &groups.missing {
        let busy = match target {
            Target::Utilization(percent) => {
                requests.get(pod).copied().unwrap_or_default() * i64::from(percent.max(100)) / 100
            }
            Target::Average(milli) => milli,
        };
        if ratio < 1.0 {
            used.insert(pod.clone(), busy);
        } else if ratio > 1.0 {
            used.insert(pod.clone(), 0);
        }
    }
    if ratio > 1.0 {
        used.extend(groups.unready.iter().map(|pod| (pod.clone(), 0)));
    }
}

/// Of use to target, with the utilization in percent and the mean use.
fn ratio(
    target: Target,
    used: &BTreeMap<String, i64>,
    requests: &BTreeMap<String, i64>,
) -> Result<(f64, Option<i32>, i64), String> {
    match target {
        Target::Average(target) => {
            let mean = used.values().sum::<i64>() / (used.len() as i64).max(1);
            Ok((mean as f64 / target as f64, None, mean))
        }
        Target::Utilization(percent) => {
            let known = used.iter().filter_map(|(pod, milli)| Some((*milli, *requests.get(pod)?)));
            let (mut sum, mut requested, mut count) = (0i64, 0i64, 0i64);
            for (milli, request) in known {
                (sum, requested, count) = (sum + milli, requested + request, count + 1);
            }
            if requested == 0 {
                return Err("no metrics returned matched known pods".to_owned());
            }
            let utilization = i32::try_from(sum.saturating_mul(100) / requested).unwrap_or(i32::MAX);
            Ok((f64::from(utilization) / f64::from(percent), Some(utilization), sum / count))
        }
    }
}

fn to_count(replicas: f64) -> i32 {
    // Saturates, as casts from float do.
    replicas as i32
}

/// Pods by what their samples are worth.
#[derive(Debug, Default)]
struct Groups {
    ready: usize,
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
    ignored: BTreeSet<String>,
}

impl Groups {
    fn of(pods: &[Arc<Pod>], samples: &Samples, resource: &str, now: Timestamp) -> Self {
        let mut groups = Self::default();
        for pod in pods {
            let name = pod.name_any();
            if pods::is_terminating(pod) || pods::phase(pod) == "Failed" {
                groups.ignored.insert(name);
            } else if pods::phase(pod) == "Pending" {
                groups.unready.insert(name);
            } else {
                match samples.get(&name) {
                    None => _ = groups.missing.insert(name),
                    Some(sample) if resource == "cpu" && is_starting(pod, sample, now) => {
                        groups.unready.insert(name);
                    }
                    Some(_) => groups.ready += 1,
                }
            }
        }
        groups
    }
}

/// Is the pod's use of CPU that of its start, which says nothing of its load?
fn is_starting(pod: &Pod, sample: &Sample, now: Timestamp) -> bool {
    let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    let (Some(ready), Some(started)) = (pods::condition(pod, "Ready"), started) else { return true };
    let changed = ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let unready = ready.status == "False";
    if now.duration_since(started.0) < CPU_INITIALIZATION {
        unready || sample.at.duration_since(changed) < sample.window
    } else {
        unready && changed.duration_since(started.0) < INITIAL_READINESS
    }
}

/// What each pod requests, in thousandths.
fn requests(pods: &[Arc<Pod>], metric: &Metric<'_>) -> Result<BTreeMap<String, i64>, String> {
    pods.iter().map(|pod| Ok((pod.name_any(), request(pod, metric)?))).collect()
}

fn request(pod: &Pod, metric: &Metric<'_>) -> Result<i64, String> {
    let (resource, name) = (metric.resource, pod.name_any());
    let Some(spec) = &pod.spec else { return Err(format!("missing request for {resource} in Pod {name}")) };
    let whole = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    if let (None, Some(whole)) = (metric.container, whole) {
        return milli(whole.get(resource))
            .ok_or_else(|| format!("missing pod-level request for {resource} in Pod {name}"));
    }
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let counted = |container: &&Container| metric.container.is_none_or(|wanted| wanted == container.name);
    let containers: Vec<&Container> = spec.containers.iter().chain(sidecars).filter(counted).collect();
    if let (Some(container), true) = (metric.container, containers.is_empty()) {
        return Err(format!("container {container} not found in Pod {name}"));
    }
    let one = |container: &&Container| {
        let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        milli(requests.and_then(|requests| requests.get(resource)))
            .ok_or_else(|| format!("missing request for {resource} in container {} of Pod {name}", container.name))
    };
    containers.iter().map(one).sum()
}

fn milli(quantity: Option<&Quantity>) -> Option<i64> {
    Exact::parse(&quantity?.0).ok().map(|exact| exact.milli_value())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const NOW: &str = "2026-01-01T01:00:00Z";
    const TENTH: Tolerances = Tolerances { up: 0.1, down: 0.1 };

    fn pod(name: &str, phase: &str, started: &str, ready: bool, since: &str) -> Arc<Pod> {
        let status = if ready { "True" } else { "False" };
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": name},
                "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]},
                "status": {"phase": phase, "startTime": started,
                    "conditions": [{"type": "Ready", "status": status, "lastTransitionTime": since}]}}))
            .unwrap(),
        )
    }

    fn running(name: &str) -> Arc<Pod> {
        pod(name, "Running", "2026-01-01T00:00:00Z", true, "2026-01-01T00:00:10Z")
    }

    fn samples(used: &[(&str, i64)]) -> Samples {
        let at = NOW.parse().unwrap();
        let sample = |milli| Sample { milli, at, window: SignedDuration::from_secs(30) };
        used.iter().map(|(pod, milli)| ((*pod).to_owned(), sample(*milli))).collect()
    }

    fn replicas(pods: &[Arc<Pod>], used: &[(&str, i64)], percent: i32, current: i32) -> Result<i32, String> {
        let metric = Metric { resource: "cpu", container: None, target: Target::Utilization(percent) };
        propose(&metric, pods, samples(used), current, TENTH, NOW.parse().unwrap()).map(|proposal| proposal.replicas)
    }

    #[test]
    fn replicas_follow_the_load() {
        let pods = ["a", "b"].map(running);
        assert_eq!(replicas(&pods, &[("a", 900), ("b", 700)], 40, 2), Ok(4));
        assert_eq!(replicas(&pods, &[("a", 100), ("b", 100)], 40, 2), Ok(1));
        assert_eq!(replicas(&pods, &[("a", 430), ("b", 430)], 40, 2), Ok(2), "within the tolerance");
        assert!(replicas(&pods, &[], 40, 2).unwrap_err().starts_with("did not receive metrics"));
        assert!(replicas(&[], &[], 40, 2).unwrap_err().starts_with("no pods returned"));
        let average = Metric { resource: "memory", container: None, target: Target::Average(100) };
        let proposal = propose(&average, &pods, samples(&[("a", 300), ("b", 100)]), 2, TENTH, NOW.parse().unwrap());
        assert_eq!(proposal, Ok(Proposal { replicas: 4, utilization: None, average_milli: 200 }));
    }

    #[test]
    fn what_is_unknown_counts_against_the_change() {
        let pods = ["a", "b", "c"].map(running);
        // Up: the missing one counts as idle; (1.6 / 3) / 0.4 * 3 = 4.
        assert_eq!(replicas(&pods, &[("a", 800), ("b", 800)], 40, 3), Ok(4));
        // Down: as busy; (0.2 + 1) / 3 = 40 %: just right.
        assert_eq!(replicas(&pods, &[("a", 100), ("b", 100)], 40, 3), Ok(3));
        let mut starting = pods.to_vec();
        starting[2] = pod("c", "Running", "2026-01-01T00:59:30Z", false, "2026-01-01T00:59:30Z");
        assert_eq!(replicas(&starting, &[("a", 800), ("b", 800), ("c", 5000)], 40, 3), Ok(4));
        assert_eq!(replicas(&starting, &[("a", 100), ("b", 100), ("c", 5000)], 40, 3), Ok(1));
    }

    #[test]
    fn figures_of_the_whole() {
        let pods = ["a", "b"].map(running);
        let ask = |milli, target| propose_whole(milli, target, &pods, (2, 2), TENTH).unwrap();
        assert_eq!(ask(30_000, Whole::Average(10_000)), (3, 15_000));
        assert_eq!(ask(21_000, Whole::Average(10_000)), (2, 10_500), "within the tolerance");
        assert_eq!(ask(30_000, Whole::Value(10_000)), (6, 30_000));
        assert_eq!(ask(5_000, Whole::Value(10_000)), (1, 5_000));
        assert!(propose_whole(5, Whole::Value(1), &[], (2, 2), TENTH).is_err());
    }

    #[test]
    fn requests_have_to_be_there() {
        let bare: Pod = serde_json::from_value(json!({"metadata": {"name": "a"},
            "spec": {"containers": [{"name": "c"}]}, "status": {"phase": "Running"}}))
        .unwrap();
        let metric = |container| Metric { resource: "memory", container, target: Target::Utilization(50) };
        let missing = request(&bare, &metric(None)).unwrap_err();
        assert_eq!(missing, "missing request for memory in container c of Pod a");
        assert_eq!(request(&bare, &metric(Some("x"))).unwrap_err(), "container x not found in Pod a");
    }

    proptest! {
        /// More load never asks for fewer replicas, and what is unknown never turns the direction round.
        #[test]
        fn proposals_are_monotonous(load in prop::collection::vec(0i64..4000, 1..6), more in 0i64..1000, known in 1usize..6) {
            let names: Vec<String> = (0..load.len()).map(|at| format!("p{at}")).collect();
            let pods: Vec<Arc<Pod>> = names.iter().map(|name| running(name)).collect();
            let current = load.len() as i32;
            let seen = |extra: i64| -> Vec<(&str, i64)> {
                names.iter().zip(&load).take(known).map(|(name, milli)| (name.as_str(), milli + extra)).collect()
            };
            let (less, more) = (replicas(&pods, &seen(0), 50, current).unwrap(), replicas(&pods, &seen(more), 50, current).unwrap());
            prop_assert!(less <= more);
        }
    }
}
