//! Which pods go when the node runs short (Kubernetes documentation, "Node-pressure Eviction"). Pure.
use crate::pod::admit::Refusal;
use crate::pod::config::spec;
use crate::pod::resize::Requests;
use k8s_openapi::api::core::v1::Pod;
use std::cmp::Reverse;
use std::sync::Arc;

/// The kubelet's default thresholds; for disks k3s's, which suit small nodes with large ones.
pub const MEMORY_LOW_BYTES: u64 = 100 << 20;
pub const DISK_LOW_PERCENT: u64 = 5;
pub const INODES_LOW_PERCENT: u64 = 5;
/// Pods from this priority on stay: the node itself needs them.
const CRITICAL: i32 = 2_000_000_000;

/// What runs short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// Available bytes.
    Memory(u64),
    /// Available bytes, and the threshold.
    Disk(u64, u64),
    /// Free inodes, and the threshold.
    Inodes(u64, u64),
}

impl Shortage {
    /// The worst of what is short, memory first: it kills sooner.
    pub fn of(memory_available_bytes: u64, disk: crate::machine::Disk) -> Option<Self> {
        let disk_low = disk.size_bytes / 100 * DISK_LOW_PERCENT;
        let inodes_low = disk.inodes / 100 * INODES_LOW_PERCENT;
        if memory_available_bytes < MEMORY_LOW_BYTES {
            Some(Self::Memory(memory_available_bytes))
        } else if disk.available_bytes < disk_low {
            Some(Self::Disk(disk.available_bytes, disk_low))
        } else if disk.inodes_free < inodes_low {
            Some(Self::Inodes(disk.inodes_free, inodes_low))
        } else {
            None
        }
    }

    fn message(self) -> String {
        let (what, low, left) = match self {
            Self::Memory(left) => ("memory", mebi(MEMORY_LOW_BYTES), mebi(left)),
            Self::Disk(left, low) => ("ephemeral-storage", mebi(low), mebi(left)),
            Self::Inodes(left, low) => ("inodes", low.to_string(), left.to_string()),
        };
        format!("The node was low on resource: {what}. Threshold quantity: {low}, available: {left}. ")
    }
}

fn mebi(bytes: u64) -> String {
    format!("{}Mi", bytes >> 20)
}

/// What one pod uses of what is short.
pub struct Candidate {
    pub pod: Arc<Pod>,
    pub used_bytes: u64,
}

/// The pod to end, with the reason. First those that use more than they asked for, of them the least important, of
/// them the greediest.
pub fn choose(shortage: Shortage, candidates: &[Candidate]) -> Option<(String, Refusal)> {
    let asked = |pod: &Pod| match shortage {
        Shortage::Memory(_) => Requests::of(pod).memory_bytes.max(0).unsigned_abs(),
        _ => 0,
    };
    let priority = |pod: &Pod| spec(pod).priority.unwrap_or(0);
    let may_go = candidates.iter().filter(|c| priority(&c.pod) < CRITICAL && !is_ending(&c.pod));
    let worst = may_go.min_by_key(|c| {
        let over = c.used_bytes.saturating_sub(asked(&c.pod));
        (over == 0, priority(&c.pod), Reverse(over))
    })?;
    let uid = worst.pod.metadata.uid.clone()?;
    Some((uid, Refusal { reason: "Evicted", message: shortage.message() }))
}

fn is_ending(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_some() || matches!(phase, Some("Succeeded" | "Failed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Disk;
    use serde_json::json;

    fn candidate(name: &str, priority: i32, request: &str, used_bytes: u64) -> Candidate {
        let pod = json!({"metadata": {"name": name, "uid": name}, "spec": {"priority": priority, "containers": [
            {"name": "c", "resources": {"requests": {"memory": request}}}]}});
        Candidate { pod: Arc::new(serde_json::from_value(pod).expect("a pod")), used_bytes }
    }

    #[test]
    fn who_uses_more_than_asked_for_goes_first_and_the_important_last() {
        let short = Shortage::Memory(1 << 20);
        let first = |all: &[Candidate]| choose(short, all).map(|(uid, _)| uid);
        let modest = || candidate("modest", 0, "100Mi", 50 << 20);
        let greedy = || candidate("greedy", 0, "10Mi", 200 << 20);
        let little = || candidate("little", 0, "10Mi", 20 << 20);
        let important = || candidate("important", 10, "10Mi", 900 << 20);
        let critical = || candidate("critical", 2_000_001_000, "0", 900 << 20);
        assert_eq!(first(&[modest(), little(), greedy(), important()]).as_deref(), Some("greedy"));
        assert_eq!(first(&[modest(), important()]).as_deref(), Some("important"));
        assert_eq!(first(&[critical()]), None);
        let (_, refusal) = choose(short, &[modest()]).expect("one goes");
        let text = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 1Mi. ";
        assert_eq!((refusal.reason, refusal.message.as_str()), ("Evicted", text));
    }

    #[test]
    fn thresholds() {
        let disk = |available_bytes, inodes_free| Disk { size_bytes: 1000, available_bytes, inodes: 1000, inodes_free };
        assert_eq!(Shortage::of(1 << 30, disk(500, 500)), None);
        assert_eq!(Shortage::of(1 << 20, disk(1, 1)), Some(Shortage::Memory(1 << 20)));
        assert_eq!(Shortage::of(1 << 30, disk(49, 500)), Some(Shortage::Disk(49, 50)));
        assert_eq!(Shortage::of(1 << 30, disk(500, 49)), Some(Shortage::Inodes(49, 50)));
    }
}
