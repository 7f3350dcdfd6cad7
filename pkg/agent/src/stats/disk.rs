//! What pods hold of the local disk: volumes, logs, and what containers wrote into their own file systems.
use crate::context::Context;
use crate::cri::{ContainerStats, ListContainerStatsRequest, label, request};
use crate::pod::config::{log_directory, spec};
use crate::volumes;
use k8s_openapi::api::core::v1::Pod;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

/// Files of one pod that are counted; beyond, it is large enough.
const FILES: usize = 200_000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    pub bytes: u64,
    pub inodes: u64,
}

impl Used {
    fn plus(self, other: Self) -> Self {
        Self { bytes: self.bytes.saturating_add(other.bytes), inodes: self.inodes.saturating_add(other.inodes) }
    }
}

/// One pod's part of the disk.
#[derive(Clone, Debug, Default)]
pub struct PodDisk {
    /// emptyDirs on the disk and the like, by name.
    pub volumes: BTreeMap<String, Used>,
    /// Logs and written layer of each container.
    pub containers: BTreeMap<String, Used>,
    /// The pod's own files, such as its /etc/hosts.
    pub other: Used,
}

impl PodDisk {
    pub fn total(&self) -> Used {
        self.volumes.values().chain(self.containers.values()).fold(self.other, |sum, part| sum.plus(*part))
    }
}

/// What containers wrote into their layers, as the runtime counts it: by id.
pub type Layers = BTreeMap<String, Written>;

/// One container's layer.
pub struct Written {
    pub pod_uid: String,
    pub name: String,
    pub used: Used,
}

/// Asks the runtime; nothing when it does not answer.
pub async fn layers(context: &Context) -> Layers {
    let ask = ListContainerStatsRequest { filter: None };
    let answer = context.cri.runtime().list_container_stats(request(ask)).await;
    let all = answer.map(|answer| answer.into_inner().stats).unwrap_or_default();
    all.into_iter().filter_map(written).collect()
}

fn written(stats: ContainerStats) -> Option<(String, Written)> {
    let attributes = stats.attributes?;
    let value = |value: Option<crate::cri::UInt64Value>| value.map_or(0, |value| value.value);
    let layer = stats.writable_layer?;
    let used = Used { bytes: value(layer.used_bytes), inodes: value(layer.inodes_used) };
    let pod_uid = attributes.labels.get(label::POD_UID)?.clone();
    let name = attributes.labels.get(label::CONTAINER_NAME)?.clone();
    Some((attributes.id, Written { pod_uid, name, used }))
}

/// Measures pods, by uid. Reads directories: not for the event loop's threads.
pub async fn measure(context: &Arc<Context>, pods: Vec<Arc<Pod>>) -> BTreeMap<String, PodDisk> {
    if pods.is_empty() {
        return BTreeMap::new();
    }
    let (layers, context) = (layers(context).await, context.clone());
    let job = move || {
        let of = |pod: &Arc<Pod>| Some((pod.metadata.uid.clone()?, of_pod(&context, pod, &layers)));
        pods.iter().filter_map(of).collect()
    };
    tokio::task::spawn_blocking(job).await.unwrap_or_default()
}

fn of_pod(context: &Context, pod: &Pod, layers: &Layers) -> PodDisk {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let mut files = FILES;
    let mut disk = PodDisk::default();
    for volume in spec(pod).volumes.iter().flatten() {
        let in_memory = volume.empty_dir.as_ref().is_some_and(|dir| dir.medium.as_deref() == Some("Memory"));
        if !in_memory && let Some(path) = volumes::own_path(context, uid, volume) {
            disk.volumes.insert(volume.name.clone(), below(&path, &mut files));
        }
    }
    let logs = log_directory(pod, &context.settings);
    let containers = spec(pod).containers.iter().chain(spec(pod).init_containers.iter().flatten());
    for container in containers {
        let written = layers.values().filter(|layer| layer.pod_uid == uid && layer.name == container.name);
        let used = written.fold(below(&logs.join(&container.name), &mut files), |sum, layer| sum.plus(layer.used));
        disk.containers.insert(container.name.clone(), used);
    }
    disk.other = below(&context.pod_dir(uid).join("containers"), &mut files);
    disk
}

/// What files below a directory hold, on its own file system alone; endless when there are too many to count.
fn below(dir: &Path, files: &mut usize) -> Used {
    let Ok(root) = fs::symlink_metadata(dir) else { return Used::default() };
    let (mut total, mut open) = (Used { bytes: root.blocks() * 512, inodes: 1 }, vec![dir.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            *files = files.saturating_sub(1);
            if *files == 0 {
                return Used { bytes: u64::MAX, inodes: u64::MAX };
            }
            if metadata.dev() != root.dev() {
                continue;
            }
            if metadata.is_dir() {
                open.push(entry.path());
            }
            total = total.plus(Used { bytes: metadata.blocks() * 512, inodes: 1 });
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
        let used = below(dir.path(), &mut 100);
        assert!(used.bytes >= 100_000 && used.inodes == 3, "{used:?}");
        assert_eq!(below(dir.path(), &mut 1).bytes, u64::MAX);
        assert_eq!(below(&dir.path().join("none"), &mut 1), Used::default());
    }

    #[test]
    fn a_pod_holds_what_its_parts_hold() {
        let used = |bytes| Used { bytes, inodes: 1 };
        let disk = PodDisk {
            volumes: [("v".to_owned(), used(1))].into(),
            containers: [("a".to_owned(), used(2)), ("b".to_owned(), used(4))].into(),
            other: used(8),
        };
        assert_eq!(disk.total(), Used { bytes: 15, inodes: 4 });
    }
}
