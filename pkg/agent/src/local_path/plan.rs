//! Which volumes this node makes and removes. Pure.
use super::{CLASS, PROVISIONER};
use client::volumes;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const HOSTNAME: &str = "kubernetes.io/hostname";
/// On a volume: the node that its directory is on.
const NODE: &str = "local.path.provisioner/selected-node";

/// The node that plans, and where its volumes lie.
pub struct Here<'a> {
    pub node: &'a Node,
    pub dir: &'a Path,
}

#[derive(Debug)]
pub enum Work {
    /// The claim asks for what a directory can't be.
    Refuse {
        claim: Arc<PersistentVolumeClaim>,
        why: String,
    },
    /// A directory and the volume that stands for it.
    Make {
        claim: Arc<PersistentVolumeClaim>,
        volume: Box<PersistentVolume>,
        path: PathBuf,
    },
    Remove {
        volume: Arc<PersistentVolume>,
        path: PathBuf,
    },
}

impl Work {
    pub fn uid(&self) -> &str {
        let uid = match self {
            Self::Refuse { claim, .. } | Self::Make { claim, .. } => &claim.metadata.uid,
            Self::Remove { volume, .. } => &volume.metadata.uid,
        };
        uid.as_deref().unwrap_or_default()
    }
}

pub fn plan(
    here: &Here<'_>,
    claims: &[Arc<PersistentVolumeClaim>],
    volumes: &[Arc<PersistentVolume>],
    classes: &[Arc<StorageClass>],
) -> Vec<Work> {
    let exists = |claim: &PersistentVolumeClaim| {
        let name = volumes::provisioned_name(claim);
        volumes.iter().any(|volume| volume.metadata.name.as_ref() == Some(&name))
    };
    let class_of = |claim: &PersistentVolumeClaim| {
        let name = volumes::class_of_claim(claim);
        classes.iter().find(|class| class.name_any() == name && class.provisioner == PROVISIONER)
    };
    let wanted = claims.iter().filter(|claim| wants_volume(claim, &here.node.name_any()) && !exists(claim));
    let made = wanted.filter_map(|claim| Some(make(here, claim, class_of(claim)?)));
    let removed = volumes.iter().filter_map(|volume| remove(here, volume));
    made.chain(removed).collect()
}

fn wants_volume(claim: &PersistentVolumeClaim, node: &str) -> bool {
    volumes::volume_name(claim).is_empty()
        && claim.metadata.deletion_timestamp.is_none()
        && claim.annotations().get(volumes::SELECTED_NODE).is_some_and(|selected| selected == node)
}

fn make(here: &Here<'_>, claim: &Arc<PersistentVolumeClaim>, class: &StorageClass) -> Work {
    let spec = claim.spec.clone().unwrap_or_default();
    let refuse = |why: &str| Work::Refuse { claim: claim.clone(), why: why.to_owned() };
    if spec.selector.is_some() {
        return refuse("claim.Spec.Selector is not supported");
    }
    if spec.volume_mode.as_deref() == Some("Block") {
        return refuse("block volumes are not supported");
    }
    if !spec.access_modes.iter().flatten().all(|mode| matches!(mode.as_str(), "ReadWriteOnce" | "ReadWriteOncePod")) {
        return refuse("NodePath only supports ReadWriteOnce and ReadWriteOncePod (1.22+) access modes");
    }
    let name = volumes::provisioned_name(claim);
    let namespace = claim.namespace().unwrap_or_default();
    let path = here.dir.join(format!("{name}_{namespace}_{}", claim.name_any()));
    let node = here.node.name_any();
    let host = here.node.labels().get(HOSTNAME).unwrap_or(&node);
    let storage = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()?.get("storage").cloned());
    let volume = json!({
        "metadata": {"name": name, "annotations": {volumes::PROVISIONED_BY: PROVISIONER, NODE: node}},
        "spec": {
            "capacity": {"storage": storage}, "accessModes": spec.access_modes, "volumeMode": "Filesystem",
            "persistentVolumeReclaimPolicy": class.reclaim_policy.as_deref().unwrap_or("Delete"),
            "mountOptions": class.mount_options, "storageClassName": class.name_any(),
            "hostPath": {"path": path, "type": "DirectoryOrCreate"},
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": claim.metadata.name,
                "namespace": namespace, "uid": claim.metadata.uid, "resourceVersion": claim.metadata.resource_version},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": HOSTNAME, "operator": "In", "values": [host]}]}]}},
        },
    });
    match serde_json::from_value(volume) {
        Ok(volume) => Work::Make { claim: claim.clone(), volume: Box::new(volume), path },
        Err(error) => refuse(&error.to_string()),
    }
}

/// Only what this node made, below its own directory, and that nobody has any more.
fn remove(here: &Here<'_>, volume: &Arc<PersistentVolume>) -> Option<Work> {
    let annotation = |key: &str| volume.annotations().get(key).map(String::as_str);
    let spec = volume.spec.as_ref()?;
    let ours = annotation(volumes::PROVISIONED_BY) == Some(PROVISIONER)
        && annotation(NODE) == here.node.metadata.name.as_deref();
    let released = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Released");
    let delete = spec.persistent_volume_reclaim_policy.as_deref() == Some("Delete");
    let path = PathBuf::from(&spec.host_path.as_ref()?.path);
    let inside = path.parent() == Some(here.dir) && path.file_name().is_some();
    (ours && released && delete && inside && volume.metadata.deletion_timestamp.is_none())
        .then(|| Work::Remove { volume: volume.clone(), path })
}

/// The class of this provisioner.
pub fn class() -> StorageClass {
    let class = json!({
        "metadata": {"name": CLASS, "annotations": {volumes::DEFAULT_CLASS: "true"}},
        "provisioner": PROVISIONER, "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer",
    });
    serde_json::from_value(class).expect("a StorageClass")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn here(node: &Node) -> Here<'_> {
        Here { node, dir: Path::new("/data/storage") }
    }

    fn node() -> Node {
        serde_json::from_value(json!({"metadata": {"name": "n", "labels": {HOSTNAME: "host"}}})).unwrap()
    }

    fn claim(mode: &str, node: &str) -> Arc<PersistentVolumeClaim> {
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "ns", "uid": "u",
                "annotations": {volumes::SELECTED_NODE: node}}, "spec": {"accessModes": [mode], "storageClassName": CLASS,
                "resources": {"requests": {"storage": "1Gi"}}}}))
            .unwrap(),
        )
    }

    fn planned(claim: &Arc<PersistentVolumeClaim>, volumes: &[Arc<PersistentVolume>]) -> Vec<Work> {
        plan(&here(&node()), std::slice::from_ref(claim), volumes, &[Arc::new(class())])
    }

    #[test]
    fn a_directory_is_made_where_the_scheduler_wants_it() {
        let work = planned(&claim("ReadWriteOnce", "n"), &[]);
        let [Work::Make { volume, path, .. }] = &work[..] else { panic!("{work:?}") };
        assert_eq!(path, Path::new("/data/storage/pvc-u_ns_c"));
        let spec = serde_json::to_value(&volume.spec).unwrap();
        assert_eq!((&spec["capacity"]["storage"], &spec["claimRef"]["uid"]), (&json!("1Gi"), &json!("u")));
        assert_eq!(
            spec["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0]["values"],
            json!(["host"])
        );
        assert!(planned(&claim("ReadWriteOnce", "other"), &[]).is_empty());
        assert!(planned(&claim("ReadWriteOnce", "n"), &[Arc::new((**volume).clone())]).is_empty(), "it is there");
        assert!(matches!(planned(&claim("ReadWriteMany", "n"), &[])[..], [Work::Refuse { .. }]));
    }

    #[test]
    fn only_its_own_released_directories_are_removed() {
        let released = |path: &str, change: fn(&mut Value)| {
            let mut volume = json!({"metadata": {"name": "v", "uid": "v",
                "annotations": {volumes::PROVISIONED_BY: PROVISIONER, NODE: "n"}},
                "spec": {"hostPath": {"path": path}, "persistentVolumeReclaimPolicy": "Delete"}, "status": {"phase": "Released"}});
            change(&mut volume);
            let volume = Arc::new(serde_json::from_value(volume).unwrap());
            plan(&here(&node()), &[], &[volume], &[]).len()
        };
        assert_eq!(released("/data/storage/pvc-u_ns_c", |_| {}), 1);
        for outside in ["/data/storage", "/data/storage/..", "/data/storage/a/../../etc", "/etc", "/data/storage/a/b"] {
            assert_eq!(released(outside, |_| {}), 0, "{outside}");
        }
        let path = "/data/storage/pvc";
        assert_eq!(released(path, |v| v["status"]["phase"] = "Bound".into()), 0);
        assert_eq!(released(path, |v| v["spec"]["persistentVolumeReclaimPolicy"] = "Retain".into()), 0);
        assert_eq!(released(path, |v| v["metadata"]["annotations"][NODE] = "other".into()), 0);
    }
}
