//! Ends pods that exceed their limits on local disk, and pods when the node runs short of memory or disk: the executor
//! of `limits` and `evict`.
use super::evict::{Candidate, Shortage, Thresholds, choose, may_go};
use super::limits;
use crate::context::Context;
use crate::machine::{Disk, Machine, Memory};
use crate::pod::admit::Refusal;
use crate::stats::{Sample, disk};
use client::Reflector;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How often the node is looked at; the kubelet's period.
const EVERY: Duration = Duration::from_secs(10);
/// Time for a pod's end to show before the next one goes.
const SETTLE: Duration = Duration::from_secs(20);
/// A condition of pressure stays for this long after it was seen last (evictionPressureTransitionPeriod).
const TRANSITION: Duration = Duration::from_secs(300);

/// A pod (by uid) that must go, and why.
pub type Eviction = (String, Refusal);

/// What the node was seen to be short of, and when last.
#[derive(Default)]
pub struct Pressure {
    memory: Mutex<Option<Instant>>,
    disk: Mutex<Option<Instant>>,
}

impl Pressure {
    fn see(&self, memory: Memory, disk: Disk, low: &Thresholds, now: Instant) {
        if let Some(Shortage::Memory(..)) = Shortage::of(memory, disk, low) {
            *self.memory.lock() = Some(now);
        }
        if Shortage::of_disk(disk, low).is_some() {
            *self.disk.lock() = Some(now);
        }
    }

    /// Whether memory is short, or was not long ago.
    pub fn of_memory(&self) -> bool {
        self.memory.lock().is_some_and(|at| at.elapsed() < TRANSITION)
    }

    /// The same of the disk.
    pub fn of_disk(&self) -> bool {
        self.disk.lock().is_some_and(|at| at.elapsed() < TRANSITION)
    }
}

/// Watches until shutdown; the manager ends what is sent.
pub async fn run(
    context: Arc<Context>,
    pods: Reflector<Pod>,
    evictions: mpsc::Sender<Eviction>,
    shutdown: CancellationToken,
) {
    let work = async {
        loop {
            tokio::time::sleep(EVERY).await;
            for eviction in over_limit(&context, &pods).await {
                tracing::warn!(uid = eviction.0, message = eviction.1.message, "a pod is evicted");
                let _ = evictions.send(eviction).await;
            }
            relieve(&context, &pods, &evictions).await;
        }
    };
    shutdown.run_until_cancelled(Box::pin(work)).await;
}

/// Pods that hold more of the disk than they may. Only what has a limit is measured.
async fn over_limit(context: &Arc<Context>, pods: &Reflector<Pod>) -> Vec<Eviction> {
    let limited = |pod: &Arc<Pod>| may_go(pod) && limits::has_any(pod);
    let all: Vec<Arc<Pod>> = context.pods_here(pods).into_iter().filter(limited).collect();
    let used = disk::measure(context, all.clone()).await;
    let exceeded = all.iter().filter_map(|pod| {
        let uid = pod.metadata.uid.clone()?;
        let refusal = limits::exceeded(pod, used.get(&uid)?)?;
        Some((uid, refusal))
    });
    exceeded.collect()
}

/// When the node is short of something: images go first, then one pod at a time.
async fn relieve(context: &Arc<Context>, pods: &Reflector<Pod>, evictions: &mpsc::Sender<Eviction>) {
    let disk = Machine::disk(&context.options.data_dir);
    let memory = Machine::memory();
    let low = &context.options.thresholds;
    context.pressure.see(memory, disk, low, Instant::now());
    let Some(shortage) = Shortage::of(memory, disk, low) else { return };
    let message = format!("Attempting to reclaim {}", shortage.resource());
    context.recorder.warning(&super::reference(context), "EvictionThresholdMet", message);
    if !matches!(shortage, Shortage::Memory(..)) {
        // Images are cheaper than pods.
        context.images.short_of_disk.notify_one();
        tokio::time::sleep(SETTLE).await;
        if Shortage::of_disk(Machine::disk(&context.options.data_dir), low).is_none() {
            return;
        }
    }
    let candidates = candidates(context, pods, shortage).await;
    if let Some((uid, refusal)) = choose(shortage, &candidates) {
        tracing::warn!(uid, message = refusal.message, "a pod is evicted");
        let _ = evictions.send((uid, refusal)).await;
        tokio::time::sleep(SETTLE).await;
    }
}

async fn candidates(context: &Arc<Context>, pods: &Reflector<Pod>, shortage: Shortage) -> Vec<Candidate> {
    let sample = context.stats.now(context, pods).await.new;
    let runs = |pod: &Arc<Pod>| pod.metadata.uid.as_ref().is_some_and(|uid| sample.pods.contains_key(uid));
    let here: Vec<Arc<Pod>> = context.pods_here(pods).into_iter().filter(runs).collect();
    let disks = match shortage {
        Shortage::Memory(..) => BTreeMap::new(),
        _ => disk::measure(context, here.clone()).await,
    };
    here.into_iter().map(|pod| candidate(&sample, &disks, pod, shortage)).collect()
}

fn candidate(sample: &Sample, disks: &BTreeMap<String, disk::PodDisk>, pod: Arc<Pod>, shortage: Shortage) -> Candidate {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let part = |used: &disk::Used| if matches!(shortage, Shortage::Inodes(..)) { used.inodes } else { used.bytes };
    let (used, containers) = match (shortage, sample.pods.get(uid), disks.get(uid)) {
        (Shortage::Memory(..), Some(pod), _) => {
            let each = pod.containers.iter().map(|(name, container)| (name, container.usage.working_set_bytes));
            (pod.usage.working_set_bytes, each.map(|(name, used)| (name.clone(), used)).collect())
        }
        (_, _, Some(disk)) => {
            let each = disk.containers.iter().map(|(name, used)| (name.clone(), part(used)));
            (part(&disk.total()), each.collect())
        }
        _ => (0, Vec::new()),
    };
    Candidate { pod, used, containers }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_stays_for_a_while() {
        let pressure = Pressure::default();
        let full = Disk { size_bytes: 1000, available_bytes: 1, inodes: 1000, inodes_free: 1000 };
        let roomy = Disk { available_bytes: 900, ..full };
        let low = Thresholds::default();
        let memory = |available_bytes| Memory { total_bytes: 1 << 30, available_bytes };
        pressure.see(memory(1 << 30), roomy, &low, Instant::now());
        assert!(!pressure.of_memory() && !pressure.of_disk());
        pressure.see(memory(1), full, &low, Instant::now());
        pressure.see(memory(1 << 30), roomy, &low, Instant::now());
        assert!(pressure.of_memory() && pressure.of_disk(), "not long ago");
        *pressure.memory.lock() = Instant::now().checked_sub(TRANSITION);
        assert!(!pressure.of_memory());
    }
}
