//! Ends pods when the node runs short of memory or disk: the executor of `evict`.
use super::evict::{Candidate, Shortage, choose};
use crate::context::Context;
use crate::machine::Machine;
use crate::pod::admit::Refusal;
use crate::stats::Sample;
use client::Reflector;
use k8s_openapi::api::core::v1::Pod;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How often the node is looked at; the kubelet's period.
const EVERY: Duration = Duration::from_secs(10);
/// Time for a pod's end to show before the next one goes.
const SETTLE: Duration = Duration::from_secs(20);
/// Files of one pod that are counted; beyond, it is large enough.
const FILES: usize = 200_000;

/// A pod (by uid) that must go, and why.
pub type Eviction = (String, Refusal);

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
            let disk = Machine::disk(&context.options.data_dir);
            let Some(shortage) = Shortage::of(Machine::available_memory_bytes(), disk) else { continue };
            if !matches!(shortage, Shortage::Memory(_)) {
                // Images are cheaper than pods.
                context.images.short_of_disk.notify_one();
                tokio::time::sleep(SETTLE).await;
                let disk = Machine::disk(&context.options.data_dir);
                if Shortage::of(u64::MAX, disk).is_none() {
                    continue;
                }
            }
            let candidates = candidates(&context, &pods, shortage).await;
            if let Some((uid, refusal)) = choose(shortage, &candidates) {
                tracing::warn!(uid, message = refusal.message, "a pod is evicted");
                let _ = evictions.send((uid, refusal)).await;
                tokio::time::sleep(SETTLE).await;
            }
        }
    };
    shutdown.run_until_cancelled(Box::pin(work)).await;
}

async fn candidates(context: &Arc<Context>, pods: &Reflector<Pod>, shortage: Shortage) -> Vec<Candidate> {
    let sample = context.stats.now(context, pods).await.new;
    let all: Vec<Arc<Pod>> = pods.list();
    let context = context.clone();
    let job = tokio::task::spawn_blocking(move || {
        let here =
            all.into_iter().filter(|pod| pod.metadata.uid.as_ref().is_some_and(|uid| sample.pods.contains_key(uid)));
        here.map(|pod| Candidate { used_bytes: used(&context, &sample, &pod, shortage), pod }).collect()
    });
    job.await.unwrap_or_default()
}

fn used(context: &Context, sample: &Sample, pod: &Pod, shortage: Shortage) -> u64 {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    match shortage {
        Shortage::Memory(_) => sample.pods.get(uid).map_or(0, |pod| pod.usage.working_set_bytes),
        Shortage::Disk(..) | Shortage::Inodes(..) => {
            let logs = crate::pod::config::log_directory(pod, &context.settings);
            let mut files = FILES;
            let dirs = [context.pod_dir(uid), logs];
            dirs.iter().map(|dir| bytes_below(dir, &mut files)).sum()
        }
    }
}

/// What files below a directory hold, on its own file system alone.
fn bytes_below(dir: &Path, files: &mut usize) -> u64 {
    let Ok(device) = fs::symlink_metadata(dir).map(|metadata| metadata.dev()) else { return 0 };
    let (mut total, mut open) = (0, vec![dir.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            *files = files.saturating_sub(1);
            if *files == 0 {
                return u64::MAX;
            }
            if metadata.is_dir() && metadata.dev() == device {
                open.push(entry.path());
            }
            total += metadata.blocks() * 512;
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_counted_up_to_a_bound() {
        let dir = tempfile::tempdir().expect("directory");
        fs::create_dir(dir.path().join("sub")).expect("directory");
        fs::write(dir.path().join("sub/file"), vec![1; 100_000]).expect("file");
        assert!(bytes_below(dir.path(), &mut 100) >= 100_000);
        assert_eq!(bytes_below(dir.path(), &mut 1), u64::MAX);
        assert_eq!(bytes_below(&dir.path().join("none"), &mut 1), 0);
    }
}
