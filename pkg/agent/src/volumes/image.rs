//! A volume that is what an image has, to be read alone (KEP-4639). CRI learned that with containerd 2.1; `ctr` of every
//! containerd mounts an image, so it is mounted by that and bound into containers as other volumes are.
use crate::context::Context;
use crate::cri::{ImageFsInfoRequest, request};
use crate::images::Wanted;
use crate::runtime::Ctr;
use k8s_openapi::api::core::v1::{ImageVolumeSource, Pod};
use kube::Resource;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where image volumes of a pod lie, below its directory.
pub const PLUGIN: &str = "kubernetes.io~image";
/// What the directories of containerd's snapshotters begin with.
const SNAPSHOTTER: &str = "io.containerd.snapshotter.v1.";
const DEFAULT_SNAPSHOTTER: &str = "overlayfs";

/// Pulls the image where its policy says so, and mounts it; once in the pod's life.
pub async fn setup(context: &Context, pod: &Pod, source: &ImageVolumeSource, dir: &Path) -> Result<(), String> {
    let failed = |error: io::Error| format!("{}: {error}", dir.display());
    if is_mounted(dir).map_err(failed)? {
        return Ok(());
    }
    let wanted = Wanted {
        about: pod.object_ref(&()),
        name: source.reference.as_deref().unwrap_or_default(),
        policy: source.pull_policy.as_deref().unwrap_or("IfNotPresent"),
    };
    let image = context.images.ensure(context, pod, &wanted).await;
    let image = image.map_err(|failure| format!("{}: {}", failure.reason, failure.message))?;
    fs::create_dir_all(dir).map_err(failed)?;
    fs::write(note(dir), &image.reference).map_err(failed)?;
    let ctr = Ctr::new(&context.options.cri_socket, &snapshotter(context).await);
    ctr.mount_image(&image.reference, dir).await.map_err(|error| error.to_string())
}

/// Beside a volume: which image it is, so that it is not collected while the pod lives.
fn note(dir: &Path) -> PathBuf {
    let mut name = dir.as_os_str().to_owned();
    // No volume's name has a dot.
    name.push(".image");
    name.into()
}

/// The images that volumes of pods in this directory are.
pub fn in_use(pods: &Path) -> Vec<String> {
    let below = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let volumes = below(pods.to_owned()).flat_map(|pod| below(pod.join("volumes").join(PLUGIN)));
    volumes.filter(|path| path.extension().is_some()).filter_map(|path| fs::read_to_string(path).ok()).collect()
}

fn is_mounted(dir: &Path) -> io::Result<bool> {
    let (Some(parent), true) = (dir.parent(), dir.exists()) else { return Ok(false) };
    Ok(fs::metadata(dir)?.dev() != fs::metadata(parent)?.dev())
}

/// The snapshotter in which the runtime keeps its images, as the place of their file systems says.
async fn snapshotter(context: &Context) -> String {
    let answer = context.cri.images().image_fs_info(request(ImageFsInfoRequest {})).await;
    let all = answer.map(|answer| answer.into_inner().image_filesystems).unwrap_or_default();
    let place = all.into_iter().next().and_then(|filesystem| filesystem.fs_id).unwrap_or_default().mountpoint;
    let name = Path::new(&place).file_name().and_then(|name| name.to_str()?.strip_prefix(SNAPSHOTTER));
    name.unwrap_or(DEFAULT_SNAPSHOTTER).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_volumes_are_in_use_as_long_as_their_pod_has_a_directory() {
        let pods = tempfile::tempdir().expect("directory");
        let volume = pods.path().join("uid/volumes").join(PLUGIN).join("v");
        fs::create_dir_all(&volume).expect("made");
        fs::write(note(&volume), "sha256:1").expect("written");
        assert_eq!(in_use(pods.path()), ["sha256:1"]);
        assert!(!is_mounted(&volume).expect("looked") && !is_mounted(&pods.path().join("none")).expect("looked"));
        fs::remove_dir_all(pods.path().join("uid")).expect("removed");
        assert!(in_use(pods.path()).is_empty());
    }
}
