//! Which pods go when the node runs short (Kubernetes documentation, "Node-pressure Eviction"). Pure.
use crate::machine::Disk;
use crate::pod::admit::{CRITICAL, Refusal};
use crate::pod::config::spec;
use crate::pod::ledger::Requests;
use crate::pod::status::has_ended;
use crate::statics::is_static;
use api::quantity::{Format, Quantity};
use k8s_openapi::api::core::v1::{Container, Pod};
use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

/// Below which the node is short of something (`evictionHard`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    pub memory_available_bytes: u64,
    /// Of the disk's size.
    pub disk_available_percent: u64,
    pub inodes_free_percent: u64,
}

impl Default for Thresholds {
    /// The kubelet's; for disks k3s's, which suit small nodes with large ones.
    fn default() -> Self {
        Self { memory_available_bytes: 100 << 20, disk_available_percent: 5, inodes_free_percent: 5 }
    }
}

/// What a pod gets to end: the shortage hurts all others meanwhile.
pub const GRACE: Duration = Duration::from_secs(1);

/// What runs short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// Available bytes, and the threshold.
    Memory(u64, u64),
    /// Available bytes, and the threshold.
    Disk(u64, u64),
    /// Free inodes, and the threshold.
    Inodes(u64, u64),
}

impl Shortage {
    /// The worst of what is short, memory first: it kills sooner.
    pub fn of(memory_available_bytes: u64, disk: Disk, low: &Thresholds) -> Option<Self> {
        let disk_low = disk.size_bytes / 100 * low.disk_available_percent;
        let inodes_low = disk.inodes / 100 * low.inodes_free_percent;
        if memory_available_bytes < low.memory_available_bytes {
            Some(Self::Memory(memory_available_bytes, low.memory_available_bytes))
        } else if disk.available_bytes < disk_low {
            Some(Self::Disk(disk.available_bytes, disk_low))
        } else if disk.inodes_free < inodes_low {
            Some(Self::Inodes(disk.inodes_free, inodes_low))
        } else {
            None
        }
    }

    /// As resources are called in requests.
    pub fn resource(self) -> &'static str {
        match self {
            Self::Memory(..) => "memory",
            Self::Disk(..) => "ephemeral-storage",
            Self::Inodes(..) => "inodes",
        }
    }

    fn message(self, candidate: &Candidate) -> String {
        let (Self::Memory(left, low) | Self::Disk(left, low) | Self::Inodes(left, low)) = self;
        let what = self.resource();
        let (low, left) = (quantity(low), quantity(left));
        let head = format!("The node was low on resource: {what}. Threshold quantity: {low}, available: {left}. ");
        let spec = spec(&candidate.pod);
        let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        all.filter_map(|container| self.blame(candidate, container)).fold(head, |text, one| text + &one)
    }

    /// What is said of a container that uses more than it asked for.
    fn blame(self, candidate: &Candidate, container: &Container) -> Option<String> {
        let what = self.resource();
        let (_, used) = candidate.containers.iter().find(|(name, _)| *name == container.name)?;
        let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let asked = requests.and_then(|requests| Quantity::parse(&requests.get(what)?.0).ok());
        let asked_bytes = asked.as_ref().map_or(0, |asked| asked.value().max(0).unsigned_abs());
        let request = asked.map_or("0".to_owned(), |asked| asked.to_string());
        (*used > asked_bytes).then(|| {
            let (name, used) = (&container.name, quantity(*used));
            format!("Container {name} was using {used}, request is {request}, has larger consumption of {what}. ")
        })
    }
}

fn quantity(value: u64) -> Quantity {
    Quantity::new(i64::try_from(value).unwrap_or(i64::MAX), Format::BinarySi)
}

/// What one pod uses of what is short.
pub struct Candidate {
    pub pod: Arc<Pod>,
    pub used: u64,
    /// By name.
    pub containers: Vec<(String, u64)>,
}

/// The pod to end, with the reason. First those that use more than they asked for, of them the least important, of
/// them the greediest.
pub fn choose(shortage: Shortage, candidates: &[Candidate]) -> Option<(String, Refusal)> {
    let asked = |pod: &Pod| match shortage {
        Shortage::Memory(..) => Requests::of(pod).memory_bytes.max(0).unsigned_abs(),
        Shortage::Disk(..) => Requests::of(pod).ephemeral_bytes.max(0).unsigned_abs(),
        Shortage::Inodes(..) => 0,
    };
    let worst = candidates.iter().filter(|candidate| may_go(&candidate.pod)).min_by_key(|c| {
        let (used, asked) = (i128::from(c.used), i128::from(asked(&c.pod)));
        (used <= asked, spec(&c.pod).priority.unwrap_or(0), Reverse(used - asked))
    })?;
    let message = shortage.message(worst);
    let told = Some(message.clone());
    Some((
        worst.pod.metadata.uid.clone()?,
        Refusal { reason: "Evicted", message, told, disruption: true, grace: GRACE, ..Refusal::default() },
    ))
}

/// Whether the node may end a pod for its own sake: what the node itself needs stays.
pub fn may_go(pod: &Pod) -> bool {
    let is_ending = pod.metadata.deletion_timestamp.is_some() || has_ended(pod);
    !is_ending && !is_static(pod) && spec(pod).priority.unwrap_or(0) < CRITICAL
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn candidate(name: &str, priority: i32, request: &str, used: u64) -> Candidate {
        let pod = json!({"metadata": {"name": name, "uid": name}, "spec": {"priority": priority, "containers": [
            {"name": "c", "resources": {"requests": {"memory": request}}}]}});
        let pod = Arc::new(serde_json::from_value(pod).expect("a pod"));
        Candidate { pod, used, containers: vec![("c".to_owned(), used)] }
    }

    #[test]
    fn who_uses_more_than_asked_for_goes_first_and_the_important_last() {
        let short = Shortage::Memory(1 << 20, 100 << 20);
        let first = |all: &[Candidate]| choose(short, all).map(|(uid, _)| uid);
        let modest = || candidate("modest", 0, "100Mi", 50 << 20);
        let greedy = || candidate("greedy", 0, "10Mi", 200 << 20);
        let little = || candidate("little", 0, "10Mi", 20 << 20);
        let important = || candidate("important", 10, "10Mi", 900 << 20);
        let critical = || candidate("critical", 2_000_001_000, "0", 900 << 20);
        assert_eq!(first(&[modest(), little(), greedy(), important()]).as_deref(), Some("greedy"));
        assert_eq!(first(&[modest(), important()]).as_deref(), Some("important"));
        let idle = candidate("idle", 0, "1Gi", 50 << 20);
        assert_eq!(first(&[idle, modest()]).as_deref(), Some("modest"), "nearest to what it asked for");
        assert_eq!(first(&[critical()]), None);
        let (_, refusal) = choose(short, &[modest()]).expect("one goes");
        let text = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 1Mi. ";
        assert_eq!((refusal.reason, refusal.message.as_str(), refusal.disruption), ("Evicted", text, true));
        let (_, refusal) = choose(short, &[little()]).expect("one goes");
        let blame = "Container c was using 20Mi, request is 10Mi, has larger consumption of memory. ";
        assert_eq!(refusal.message, format!("{text}{blame}"));
    }

    #[test]
    fn thresholds() {
        let disk = |available_bytes, inodes_free| Disk { size_bytes: 1000, available_bytes, inodes: 1000, inodes_free };
        let of = |memory, disk| Shortage::of(memory, disk, &Thresholds::default());
        assert_eq!(of(1 << 30, disk(500, 500)), None);
        assert_eq!(of(1 << 20, disk(1, 1)), Some(Shortage::Memory(1 << 20, 100 << 20)));
        assert_eq!(of(1 << 30, disk(49, 500)), Some(Shortage::Disk(49, 50)));
        assert_eq!(of(1 << 30, disk(500, 49)), Some(Shortage::Inodes(49, 50)));
    }
}
