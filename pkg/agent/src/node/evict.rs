//! Which pods go when the node runs short (Kubernetes documentation, "Node-pressure Eviction"). Pure.
use crate::machine::{Disk, Memory};
use crate::pod::admit::{CRITICAL, Refusal};
use crate::pod::config::spec;
use crate::pod::ledger::Requests;
use crate::pod::status::has_ended;
use crate::statics::is_static;
use api::quantity::{Format, Quantity};
use k8s_openapi::api::core::v1::{Container, Pod};
use std::cmp::Reverse;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// Below which the node is short of something (`evictionHard`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Of memory that could be given out without swapping.
    pub memory_available: Threshold,
    /// Of the disk that holds pods and images.
    pub disk_available: Threshold,
    pub inodes_free: Threshold,
}

/// An amount, or a share of all there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threshold {
    /// Bytes, or inodes.
    Amount(u64),
    Percent(u64),
}

impl Thresholds {
    /// The node is never short.
    pub const NONE: Self =
        Self { memory_available: Threshold::NONE, disk_available: Threshold::NONE, inodes_free: Threshold::NONE };
}

impl Default for Thresholds {
    /// The kubelet's; for disks k3s's, which suit small nodes with large ones.
    fn default() -> Self {
        Self {
            memory_available: Threshold::Amount(100 << 20),
            disk_available: Threshold::Percent(5),
            inodes_free: Threshold::Percent(5),
        }
    }
}

impl Threshold {
    const NONE: Self = Self::Amount(0);

    /// The amount that it is of `all`.
    fn of(self, all: u64) -> u64 {
        match self {
            Self::Amount(amount) => amount,
            Self::Percent(percent) => all / 100 * percent,
        }
    }
}

/// The kubelet's `--eviction-hard`: `memory.available<100Mi,nodefs.available<5%,nodefs.inodesFree<5%`. What is not named
/// never counts as short. Pods and images share a file system here, so `imagefs` is a second name of `nodefs`.
impl FromStr for Thresholds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut thresholds = Self::NONE;
        for one in text.split(',').filter(|one| !one.is_empty()) {
            let (signal, value) =
                one.split_once('<').ok_or(format!("{one:?}: a threshold such as nodefs.available<5% is wanted"))?;
            let place = match signal {
                "memory.available" => &mut thresholds.memory_available,
                "nodefs.available" | "imagefs.available" => &mut thresholds.disk_available,
                "nodefs.inodesFree" | "imagefs.inodesFree" => &mut thresholds.inodes_free,
                _ => {
                    return Err(format!(
                        "{signal:?}: memory.available, nodefs.available and nodefs.inodesFree are watched"
                    ));
                }
            };
            *place = value.parse()?;
        }
        Ok(thresholds)
    }
}

impl FromStr for Threshold {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?}: an amount such as 100Mi or a share such as 5% is wanted");
        match text.strip_suffix('%') {
            Some(percent) => {
                let percent = percent.parse().ok().filter(|percent| *percent <= 100);
                percent.map(Self::Percent).ok_or_else(wrong)
            }
            None => {
                let amount = Quantity::parse(text).ok().and_then(|amount| u64::try_from(amount.value()).ok());
                amount.map(Self::Amount).ok_or_else(wrong)
            }
        }
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
    pub fn of(memory: Memory, disk: Disk, low: &Thresholds) -> Option<Self> {
        let memory_low = low.memory_available.of(memory.total_bytes);
        let short = memory.available_bytes < memory_low;
        short.then_some(Self::Memory(memory.available_bytes, memory_low)).or_else(|| Self::of_disk(disk, low))
    }

    /// What is short of a disk.
    pub fn of_disk(disk: Disk, low: &Thresholds) -> Option<Self> {
        let bytes_low = low.disk_available.of(disk.size_bytes);
        let inodes_low = low.inodes_free.of(disk.inodes);
        if disk.available_bytes < bytes_low {
            Some(Self::Disk(disk.available_bytes, bytes_low))
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
        let memory = |available_bytes| Memory { total_bytes: 4 << 30, available_bytes };
        let of = |available, disk| Shortage::of(memory(available), disk, &Thresholds::default());
        assert_eq!(of(1 << 30, disk(500, 500)), None);
        assert_eq!(of(1 << 20, disk(1, 1)), Some(Shortage::Memory(1 << 20, 100 << 20)));
        assert_eq!(of(1 << 30, disk(49, 500)), Some(Shortage::Disk(49, 50)));
        assert_eq!(of(1 << 30, disk(500, 49)), Some(Shortage::Inodes(49, 50)));
        assert_eq!(Shortage::of(memory(0), disk(0, 0), &Thresholds::NONE), None);
    }

    #[test]
    fn thresholds_are_written_as_for_the_kubelet() {
        let default = "memory.available<100Mi,nodefs.available<5%,nodefs.inodesFree<5%";
        assert_eq!(default.parse(), Ok(Thresholds::default()));
        assert_eq!("".parse(), Ok(Thresholds::NONE));
        let large = Thresholds { disk_available: Threshold::Amount(1 << 30), ..Thresholds::NONE };
        assert_eq!("imagefs.available<1Gi".parse(), Ok(large));
        for wrong in [
            "nodefs.available",
            "nodefs.available<101%",
            "nodefs.available<-1",
            "pid.available<5%",
            "memory.available<x",
        ] {
            assert!(wrong.parse::<Thresholds>().is_err(), "{wrong}");
        }
    }
}
