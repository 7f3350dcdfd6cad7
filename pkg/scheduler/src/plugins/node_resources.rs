//! Room for what a pod asks, and the preference for nodes with much and even room.
use crate::cluster::Cluster;
use crate::framework::{self, Check, Events, Filter, MAX_SCORE, Normalize, Reason, Score, Scorer};
use crate::node::NodeInfo;
use crate::pod::PodInfo;

pub struct Fit;

impl Filter for Fit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn wakes_on(&self) -> Events {
        Events::NODE_ADDED | Events::NODE_ALLOCATABLE | Events::POD_REMOVED
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, _: &'a Cluster) -> Check<'a> {
        Check::Nodes(Box::new(|node, reasons| fit(pod, node, reasons)))
    }
}

fn fit(pod: &PodInfo, node: &NodeInfo, reasons: &mut Vec<Reason>) -> framework::Fit {
    let before = reasons.len();
    let mut never = false;
    if node.pods.len() as i64 + 1 > node.max_pods {
        reasons.push("Too many pods".into());
    }
    let (wanted, used, all) = (&pod.request.exact, &node.requested, &node.allocatable);
    let mut check = |wanted: i64, used: i64, all: i64, reason: &dyn Fn() -> Reason| {
        if wanted > 0 && wanted > all - used {
            reasons.push(reason());
            // More than the whole node: no pod's leaving helps.
            never |= wanted > all;
        }
    };
    check(wanted.cpu_milli, used.cpu_milli, all.cpu_milli, &|| "Insufficient cpu".into());
    check(wanted.memory_bytes, used.memory_bytes, all.memory_bytes, &|| "Insufficient memory".into());
    check(wanted.ephemeral_bytes, used.ephemeral_bytes, all.ephemeral_bytes, &|| {
        "Insufficient ephemeral-storage".into()
    });
    for (name, amount) in &wanted.scalars {
        check(*amount, used.scalar(name), all.scalar(name), &|| format!("Insufficient {name}").into());
    }
    match (reasons.len() > before, never) {
        (false, _) => framework::Fit::Yes,
        (true, true) => framework::Fit::Never,
        (true, false) => framework::Fit::No,
    }
}

/// Prefers nodes with the most room left.
pub struct LeastAllocated;

impl Score for LeastAllocated {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, _: &'a Cluster) -> Option<Scorer<'a>> {
        let score = |node: &NodeInfo| {
            let parts = [
                free(node.scored_cpu_milli + pod.request.scored_cpu_milli, node.allocatable.cpu_milli),
                free(node.scored_memory_bytes + pod.request.scored_memory_bytes, node.allocatable.memory_bytes),
            ];
            let known = parts.iter().flatten().count() as i64;
            parts.iter().flatten().sum::<i64>() / known.max(1)
        };
        Some(Scorer { score: Box::new(score), normalize: Normalize::AsIs })
    }
}

/// The free share of a resource out of 100; none if the node has none of it.
fn free(requested: i64, allocatable: i64) -> Option<i64> {
    match allocatable {
        0 => None,
        _ if requested > allocatable => Some(0),
        _ => Some((allocatable - requested) * MAX_SCORE / allocatable),
    }
}

/// Prefers nodes where the pod evens out the use of CPU and memory.
pub struct BalancedAllocation;

impl Score for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, _: &'a Cluster) -> Option<Scorer<'a>> {
        let wanted = &pod.request.exact;
        if wanted.cpu_milli == 0 && wanted.memory_bytes == 0 {
            return None;
        }
        let score = |node: &NodeInfo| {
            let (used, all) = (&node.requested, &node.allocatable);
            let balance = |cpu_milli, memory_bytes| {
                balanced(share(cpu_milli, all.cpu_milli), share(memory_bytes, all.memory_bytes))
            };
            let before = balance(used.cpu_milli, used.memory_bytes);
            let after = balance(used.cpu_milli + wanted.cpu_milli, used.memory_bytes + wanted.memory_bytes);
            MAX_SCORE / 2 + (MAX_SCORE / 2 + after - before) / 2
        };
        Some(Scorer { score: Box::new(score), normalize: Normalize::AsIs })
    }
}

fn share(requested: i64, allocatable: i64) -> Option<f64> {
    (allocatable > 0).then(|| (requested as f64 / allocatable as f64).min(1.0))
}

/// 100 where both shares are alike, down to 50 where one is full and the other empty.
fn balanced(cpu: Option<f64>, memory: Option<f64>) -> i64 {
    let deviation = match (cpu, memory) {
        (Some(cpu), Some(memory)) => ((cpu - memory) / 2.0).abs(),
        _ => 0.0,
    };
    ((1.0 - deviation) * MAX_SCORE as f64) as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use serde_json::json;

    fn node(cpu: &str, memory: &str) -> NodeInfo {
        let mut node = NodeInfo::new("n".into());
        node.set_object(testing::node(
            "n",
            json!({"status": {"allocatable": {"cpu": cpu, "memory": memory, "pods": "2", "x.io/gpu": "1"}}}),
        ));
        node
    }

    #[test]
    fn reasons_and_whether_leaving_pods_help() {
        let mut node = node("1", "1Gi");
        node.add_pod(testing::pod("a", json!({"cpu": "900m"}), json!({})));
        let mut reasons = Vec::new();
        let small = testing::pod("b", json!({"cpu": "100m"}), json!({}));
        assert_eq!(fit(&small, &node, &mut reasons), framework::Fit::Yes);
        let larger = testing::pod("b", json!({"cpu": "200m", "x.io/gpu": "1"}), json!({}));
        assert_eq!(fit(&larger, &node, &mut reasons), framework::Fit::No);
        assert_eq!(reasons, ["Insufficient cpu"]);
        let too_large = testing::pod("b", json!({"memory": "2Gi", "x.io/gpu": "3"}), json!({}));
        assert_eq!(fit(&too_large, &node, &mut reasons), framework::Fit::Never);
        assert_eq!(reasons[1..], ["Insufficient memory", "Insufficient x.io/gpu"]);
        node.add_pod(testing::pod("c", json!({}), json!({})));
        reasons.clear();
        assert_eq!(fit(&small, &node, &mut reasons), framework::Fit::No);
        assert_eq!(reasons, ["Too many pods"]);
    }

    #[test]
    fn room_and_balance() {
        let (mut used, fresh) = (node("1", "1000Mi"), node("1", "1000Mi"));
        used.add_pod(testing::pod("a", json!({"cpu": "500m"}), json!({})));
        let pod = testing::pod("b", json!({"cpu": "100m", "memory": "100Mi"}), json!({}));
        let cluster = Cluster::default();
        let least = LeastAllocated.prepare(&pod, &cluster).unwrap();
        assert_eq!(((least.score)(&fresh), (least.score)(&used)), (90, 55));
        let balance = BalancedAllocation.prepare(&pod, &cluster).unwrap();
        assert_eq!((balance.score)(&fresh), 75);
        let memory_only = testing::pod("c", json!({"memory": "400Mi"}), json!({}));
        let balance = BalancedAllocation.prepare(&memory_only, &cluster).unwrap();
        assert!((balance.score)(&used) > 75);
    }
}
