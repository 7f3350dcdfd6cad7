//! Volumes by claim: the claim's PersistentVolume is found once and remembered as a link in the pod's directory, so that
//! the pod starts again while no server answers.
use super::{fs_group, host_path};
use crate::context::Context;
use client::volumes;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use kube::Api;
use rustix::fs::Gid;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A server that takes longer counts as away.
const TIMEOUT: Duration = Duration::from_secs(5);
/// What a pod's group may do with its volumes, and that new files stay the group's.
const GROUP_MODE: u32 = 0o2070;

/// Where the link of a volume lies.
pub fn link(context: &Context, uid: &str, volume: &Volume) -> PathBuf {
    context.pod_dir(uid).join("volumes/kubernetes.io~persistent-volume").join(&volume.name)
}

/// Makes sure that the storage is there and linked.
pub async fn setup(context: &Context, pod: &Pod, volume: &Volume, name: &str) -> Result<(), String> {
    let link = link(context, pod.metadata.uid.as_deref().unwrap_or_default(), volume);
    if link.exists() {
        return Ok(());
    }
    let claim = find_claim(context, pod, volume, name).await?;
    let persistent = find_volume(context, volumes::volume_name(&claim)).await?;
    let path = prepare(&persistent, fs_group(pod))?;
    relink(&link, &path).map_err(|error| format!("{}: {error}", link.display()))
}

async fn find_claim(
    context: &Context,
    pod: &Pod,
    volume: &Volume,
    name: &str,
) -> Result<PersistentVolumeClaim, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let checkpoint = context.checkpoint_dir(pod.metadata.uid.as_deref().unwrap_or_default());
    let wrong = |why: &str| format!("error processing PVC {namespace}/{name}: {why}");
    let found = context.objects.get::<PersistentVolumeClaim>(&checkpoint, namespace, name).await;
    let claim =
        found.map_err(|error| wrong(&format!("failed to fetch PVC from API server: {error}")))?.ok_or_else(|| {
            wrong(&format!("failed to fetch PVC from API server: persistentvolumeclaims {name:?} not found"))
        })?;
    if claim.metadata.deletion_timestamp.is_some() {
        return Err(wrong("PVC is being deleted"));
    }
    if volume.ephemeral.is_some() && !volumes::is_made_for(&claim, pod) {
        return Err(wrong("PVC was not created for the pod"));
    }
    if !volumes::is_bound(&claim) {
        return Err(wrong("PVC is not bound"));
    }
    if claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()) == Some("Block") {
        return Err(wrong("block volumes are not supported on this node"));
    }
    Ok(claim)
}

async fn find_volume(context: &Context, name: &str) -> Result<PersistentVolume, String> {
    let api: Api<PersistentVolume> = Api::all(context.options.client.clone());
    let wrong = |why: String| format!("failed to get PV {name} from API server: {why}");
    match tokio::time::timeout(TIMEOUT, api.get(name)).await {
        Ok(answer) => answer.map_err(|error| wrong(error.to_string())),
        Err(_) => Err(wrong("it does not answer in time".to_owned())),
    }
}

/// The directory or file on this node.
fn prepare(persistent: &PersistentVolume, group: Option<u32>) -> Result<PathBuf, String> {
    let spec = persistent.spec.as_ref();
    if let Some(source) = spec.and_then(|spec| spec.host_path.as_ref()) {
        host_path::check(&source.path, source.type_.as_deref().unwrap_or_default())?;
        return Ok(PathBuf::from(&source.path));
    }
    let Some(source) = spec.and_then(|spec| spec.local.as_ref()) else {
        return Err("this kind of PersistentVolume is not supported on this node".to_owned());
    };
    let path = PathBuf::from(&source.path);
    if !path.exists() {
        return Err(format!("path {:?} does not exist", source.path));
    }
    if let Some(group) = group {
        give_to(&path, group).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(path)
}

/// Everything below becomes the group's, unless the top says that this was done before.
fn give_to(path: &Path, group: u32) -> io::Result<()> {
    let top = fs::symlink_metadata(path)?;
    if top.gid() == group && top.mode() & GROUP_MODE == GROUP_MODE {
        return Ok(());
    }
    if top.is_dir() {
        for entry in fs::read_dir(path)? {
            give_to(&entry?.path(), group)?;
        }
    }
    if top.is_symlink() {
        return Ok(());
    }
    rustix::fs::chown(path, None, Some(Gid::from_raw(group)))?;
    let more = if top.is_dir() { GROUP_MODE } else { 0o060 };
    fs::set_permissions(path, fs::Permissions::from_mode((top.mode() & 0o7777) | more))
}

fn relink(link: &Path, path: &Path) -> io::Result<()> {
    if let Some(dir) = link.parent() {
        fs::create_dir_all(dir)?;
    }
    crate::files::remove_file(link)?;
    symlink(path, link)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn local_storage_is_the_groups() {
        let dir = tempfile::tempdir().expect("directory");
        fs::create_dir(dir.path().join("sub")).expect("made");
        fs::write(dir.path().join("sub/file"), "x").expect("written");
        let persistent = |path: &Path| {
            serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": {"local": {"path": path}}}))
                .expect("a volume")
        };
        let missing = prepare(&persistent(&dir.path().join("none")), None).expect_err("is not there");
        assert!(missing.ends_with("does not exist"), "{missing}");
        // Only who may give files away can see the effect; what is ours stays ours otherwise.
        let group = fs::metadata(dir.path()).expect("there").gid();
        assert_eq!(prepare(&persistent(dir.path()), Some(group)).expect("prepared"), dir.path());
        let mode = |path: &str| fs::metadata(dir.path().join(path)).expect("there").mode();
        assert_eq!((mode("sub") & GROUP_MODE, mode("sub/file") & 0o060), (GROUP_MODE, 0o060));
    }

    #[test]
    fn the_link_is_replaced() {
        let dir = tempfile::tempdir().expect("directory");
        let link = dir.path().join("volumes/v");
        for target in ["a", "b"] {
            relink(&link, &dir.path().join(target)).expect("linked");
            assert_eq!(fs::read_link(&link).expect("a link"), dir.path().join(target));
        }
    }
}
