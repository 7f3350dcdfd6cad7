//! What is in pods' volumes, as `/stats/summary` and `kubelet_volume_stats_*` tell it.
use super::disk::{self, Used};
use crate::context::Context;
use crate::machine::{Disk, Machine};
use crate::pod::config::spec;
use crate::volumes;
use k8s_openapi::api::core::v1::{Pod, Volume};
use kube::ResourceExt;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long figures hold: directories are read for them (the kubelet's `volumeStatsAggPeriod`).
const FRESH: Duration = Duration::from_secs(60);

/// One volume's part of the file system that it is on.
#[derive(Clone, Debug)]
pub struct VolumeUse {
    pub name: String,
    pub used: Used,
    pub filesystem: Disk,
    /// Namespace and name of the claim that it is.
    pub claim: Option<(String, String)>,
}

/// What one pod holds.
#[derive(Clone, Debug, Default)]
pub struct PodUse {
    pub volumes: Vec<VolumeUse>,
    /// All that counts as its ephemeral storage, and the node's disk.
    pub ephemeral: Used,
    pub disk: Disk,
}

/// By the pods' uids.
pub type Uses = BTreeMap<String, PodUse>;

/// The figures that were taken last.
#[derive(Default)]
pub struct Cache {
    last: tokio::sync::Mutex<Option<(Instant, Arc<Uses>)>>,
}

impl Cache {
    /// The figures of these pods, a minute old at most.
    pub async fn now(&self, context: &Arc<Context>, pods: Vec<Arc<Pod>>) -> Arc<Uses> {
        let mut last = self.last.lock().await;
        if let Some((_, uses)) = last.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return uses.clone();
        }
        let disks = disk::measure(context, pods.clone()).await;
        let own = context.clone();
        let look = move || pods.iter().filter_map(|pod| of_pod(&own, pod, &disks)).collect::<Uses>();
        let uses = Arc::new(tokio::task::spawn_blocking(look).await.unwrap_or_default());
        *last = Some((Instant::now(), uses.clone()));
        uses
    }
}

fn of_pod(context: &Context, pod: &Pod, disks: &BTreeMap<String, disk::PodDisk>) -> Option<(String, PodUse)> {
    let uid = pod.metadata.uid.clone()?;
    let disk = disks.get(&uid)?;
    let volumes = spec(pod).volumes.iter().flatten();
    let volumes = volumes.filter_map(|volume| of_volume(context, pod, &uid, volume, disk)).collect();
    let ephemeral = PodUse { volumes, ephemeral: disk.total(), disk: Machine::disk(&context.options.data_dir) };
    Some((uid, ephemeral))
}

/// None of a kind that has no figures: a directory of the node, an image.
fn of_volume(context: &Context, pod: &Pod, uid: &str, volume: &Volume, disk: &disk::PodDisk) -> Option<VolumeUse> {
    if volume.host_path.is_some() || volume.image.is_some() {
        return None;
    }
    let claim = client::volumes::claim_name(pod, volume);
    let claim = claim.map(|claim| (pod.namespace().unwrap_or_default(), claim.into_owned()));
    let filesystem = Machine::disk(&volumes::path(context, uid, volume)?);
    // What is a file system of its own is as full as that; a directory holds what is below it.
    let used = disk.volumes.get(&volume.name).copied().unwrap_or(Used {
        bytes: filesystem.size_bytes.saturating_sub(filesystem.available_bytes),
        inodes: filesystem.inodes.saturating_sub(filesystem.inodes_free),
    });
    Some(VolumeUse { name: volume.name.clone(), used, filesystem, claim })
}

/// `FsStats` of the summary.
fn filesystem(time: &str, used: Used, of: Disk) -> Value {
    json!({
        "time": time,
        "availableBytes": of.available_bytes,
        "capacityBytes": of.size_bytes,
        "usedBytes": used.bytes,
        "inodesFree": of.inodes_free,
        "inodes": of.inodes,
        "inodesUsed": used.inodes,
    })
}

/// Adds a pod's volumes to its part of the summary.
pub fn add(pod: &mut Value, time: &str, uses: &PodUse) {
    let volume = |volume: &VolumeUse| {
        let mut out = filesystem(time, volume.used, volume.filesystem);
        out["name"] = volume.name.as_str().into();
        if let Some((namespace, name)) = &volume.claim {
            out["pvcRef"] = json!({"name": name, "namespace": namespace});
        }
        out
    };
    if !uses.volumes.is_empty() {
        pod["volume"] = uses.volumes.iter().map(volume).collect();
    }
    pod["ephemeral-storage"] = filesystem(time, uses.ephemeral, uses.disk);
}

/// What dashboards watch of claims, in Prometheus' format.
pub fn exposition(uses: &Uses) -> String {
    type Figure = fn(&VolumeUse) -> u64;
    let figures: [(&str, Figure); 6] = [
        ("available_bytes", |volume| volume.filesystem.available_bytes),
        ("capacity_bytes", |volume| volume.filesystem.size_bytes),
        ("inodes", |volume| volume.filesystem.inodes),
        ("inodes_free", |volume| volume.filesystem.inodes_free),
        ("inodes_used", |volume| volume.used.inodes),
        ("used_bytes", |volume| volume.used.bytes),
    ];
    // Pods that share a claim show it once.
    let claimed = |volume: &VolumeUse| Some((volume.claim.clone()?, volume.clone()));
    let claims: BTreeMap<_, _> = uses.values().flat_map(|pod| pod.volumes.iter().filter_map(claimed)).collect();
    let mut out = String::new();
    for (name, figure) in figures.iter().filter(|_| !claims.is_empty()) {
        let _ = writeln!(out, "# TYPE kubelet_volume_stats_{name} gauge");
        for ((namespace, claim), volume) in &claims {
            let labels = format!("namespace=\"{namespace}\",persistentvolumeclaim=\"{claim}\"");
            let _ = writeln!(out, "kubelet_volume_stats_{name}{{{labels}}} {}", figure(volume));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uses() -> Uses {
        let filesystem = Disk { size_bytes: 100, available_bytes: 60, inodes: 10, inodes_free: 7 };
        let used = Used { bytes: 30, inodes: 2 };
        let volume = |name: &str, claim: Option<&str>| VolumeUse {
            name: name.into(),
            used,
            filesystem,
            claim: claim.map(|claim| ("ns".into(), claim.into())),
        };
        let pod = |volumes| PodUse { volumes, ephemeral: used, disk: filesystem };
        let (a, b) = (pod(vec![volume("data", Some("c")), volume("tmp", None)]), pod(vec![volume("same", Some("c"))]));
        [("a".to_owned(), a), ("b".to_owned(), b)].into()
    }

    #[test]
    fn the_summary_has_volumes_and_what_is_ephemeral() {
        let mut pod = json!({});
        add(&mut pod, "now", &uses()["a"]);
        let expected = json!({"time": "now", "availableBytes": 60, "capacityBytes": 100, "usedBytes": 30, "inodesFree": 7,
            "inodes": 10, "inodesUsed": 2, "name": "data", "pvcRef": {"name": "c", "namespace": "ns"}});
        assert_eq!(pod["volume"][0], expected);
        assert_eq!((&pod["volume"][1]["name"], pod["volume"][1].get("pvcRef")), (&json!("tmp"), None));
        assert_eq!(pod["ephemeral-storage"]["usedBytes"], 30);
    }

    #[test]
    fn a_claim_is_told_once() {
        let text = exposition(&uses());
        let line = "kubelet_volume_stats_used_bytes{namespace=\"ns\",persistentvolumeclaim=\"c\"} 30\n";
        assert_eq!(text.matches(line).count(), 1, "{text}");
        assert_eq!(text.lines().count(), 12);
        assert_eq!(exposition(&Uses::new()), "");
    }
}
