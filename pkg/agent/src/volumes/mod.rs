//! A pod's volumes on this node: made before its containers, kept up to date while it lives, removed after it.
//!
//! `payload` says what the files of a volume are, `atomic` writes them, `mounts` tells a container's part.
mod atomic;
mod claim;
mod host_path;
mod image;
mod mounts;
mod payload;

pub use image::in_use as images_in_use;
pub use mounts::{container_mounts, termination_file};

use crate::context::Context;
use crate::pod::config::spec;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod, Volume};
use rustix::fs::Gid;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::collections::HashMap;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Why a volume is not there: what the event says.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume \"{volume}\" : {reason}")]
pub struct Failure {
    pub volume: String,
    pub reason: String,
}

/// A ServiceAccount token that was issued for a pod.
#[derive(Clone)]
struct Token {
    text: String,
    refresh_at: Timestamp,
}

/// What is remembered of one pod's volumes.
#[derive(Default)]
pub struct Volumes {
    /// By volume and path.
    tokens: HashMap<(String, String), Token>,
}

impl Volumes {
    /// Makes every volume of the pod, or brings it up to date.
    pub async fn setup(&mut self, context: &Context, pod: &Pod) -> Result<(), Failure> {
        for volume in spec(pod).volumes.iter().flatten() {
            let made = self.setup_one(context, pod, volume).await;
            made.map_err(|reason| Failure { volume: volume.name.clone(), reason })?;
        }
        Ok(())
    }

    async fn setup_one(&mut self, context: &Context, pod: &Pod, volume: &Volume) -> Result<(), String> {
        if let Some(source) = &volume.host_path {
            return host_path::check(&source.path, source.type_.as_deref().unwrap_or_default());
        }
        if let Some(name) = client::volumes::claim_name(pod, volume) {
            return claim::setup(context, pod, volume, &name).await;
        }
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let Some(dir) = path(context, uid, volume) else {
            return Err("this kind of volume is not supported on this node".to_owned());
        };
        if let Some(source) = &volume.empty_dir {
            return empty_dir(&dir, source, fs_group(pod)).map_err(|error| format!("{}: {error}", dir.display()));
        }
        if let Some(source) = &volume.image {
            return image::setup(context, pod, source, &dir).await;
        }
        let payload = self.payload(context, pod, volume).await?;
        let written = atomic::write(&dir, &payload, fs_group(pod));
        written.map(drop).map_err(|error| format!("{}: {error}", dir.display()))
    }
}

/// Whether any volume follows an object and so must be looked at again from time to time.
pub fn change(pod: &Pod) -> bool {
    let follows =
        |v: &Volume| v.config_map.is_some() || v.secret.is_some() || v.projected.is_some() || v.downward_api.is_some();
    spec(pod).volumes.iter().flatten().any(follows)
}

/// Where a volume lies on this node; `None` for kinds that this node does not have.
pub fn path(context: &Context, uid: &str, volume: &Volume) -> Option<PathBuf> {
    if let Some(source) = &volume.host_path {
        return Some(PathBuf::from(&source.path));
    }
    if volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some() {
        return fs::read_link(claim::link(context, uid, volume)).ok();
    }
    let plugin = match volume {
        _ if volume.empty_dir.is_some() => "kubernetes.io~empty-dir",
        _ if volume.config_map.is_some() => "kubernetes.io~configmap",
        _ if volume.secret.is_some() => "kubernetes.io~secret",
        _ if volume.projected.is_some() => "kubernetes.io~projected",
        _ if volume.downward_api.is_some() => "kubernetes.io~downward-api",
        _ if volume.image.is_some() => image::PLUGIN,
        _ => return None,
    };
    Some(context.pod_dir(uid).join("volumes").join(plugin).join(&volume.name))
}

/// Where a volume lies that is the pod's own and goes with it.
pub fn own_path(context: &Context, uid: &str, volume: &Volume) -> Option<PathBuf> {
    let others = volume.host_path.is_some()
        || volume.persistent_volume_claim.is_some()
        || volume.ephemeral.is_some()
        || volume.image.is_some();
    path(context, uid, volume).filter(|_| !others)
}

fn fs_group(pod: &Pod) -> Option<u32> {
    let group = spec(pod).security_context.as_ref().and_then(|context| context.fs_group)?;
    u32::try_from(group).ok()
}

fn empty_dir(dir: &Path, source: &EmptyDirVolumeSource, group: Option<u32>) -> io::Result<()> {
    if dir.exists() {
        return Ok(());
    }
    fs::create_dir_all(dir)?;
    if source.medium.as_deref() == Some("Memory") {
        let size = source.size_limit.as_ref().and_then(|limit| api::quantity::Quantity::parse(&limit.0).ok());
        let options = size.filter(|size| !size.is_zero()).map(|size| format!("size={}", size.value()));
        let options = options.map(CString::new).transpose().map_err(io::Error::other)?;
        mount("tmpfs", dir, "tmpfs", MountFlags::empty(), options.as_deref())?;
    }
    let mut mode = 0o777;
    if let Some(group) = group {
        rustix::fs::chown(dir, None, Some(Gid::from_raw(group)))?;
        mode |= 0o2000;
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(mode))
}

/// Removes all that a pod had on this node's disk; what is mounted below is unmounted first.
pub fn remove(dir: &Path) -> io::Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mut below: Vec<_> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(Path::new)
        .filter(|p| p.starts_with(dir))
        .collect();
    below.sort();
    for path in below.into_iter().rev() {
        unmount(path, UnmountFlags::DETACH)?;
    }
    crate::files::remove_dir(dir)
}
