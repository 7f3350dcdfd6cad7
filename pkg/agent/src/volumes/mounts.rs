//! What of its pod's volumes one container sees, and where.
use crate::context::Context;
use crate::cri::{Mount, MountPropagation};
use crate::pod::config::{self, spec};
use crate::pod::env::expand;
use k8s_openapi::api::core::v1::{Container, Pod, Volume, VolumeMount};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

/// The mounts of a container, or the text of a `CreateContainerConfigError`.
pub fn container_mounts(
    context: &Context,
    pod: &Pod,
    container: &Container,
    env: &BTreeMap<String, String>,
    ips: &[String],
    termination: Option<&Path>,
) -> Result<Vec<Mount>, String> {
    let mut mounts = Vec::new();
    for wanted in container.volume_mounts.iter().flatten() {
        mounts.push(volume_mount(context, pod, wanted, env)?);
    }
    let has = |path: &str| container.volume_mounts.iter().flatten().any(|mount| mount.mount_path == path);
    if !has("/etc/hosts") {
        let file = hosts_file(context, pod, ips).map_err(|error| format!("/etc/hosts: {error}"))?;
        mounts.push(bind("/etc/hosts", &file));
    }
    if let (Some(file), Some(path)) = (termination, container.termination_message_path.as_deref()) {
        mounts.push(bind(path, file));
    }
    Ok(mounts)
}

fn bind(inside: &str, outside: &Path) -> Mount {
    Mount { container_path: inside.to_owned(), host_path: outside.display().to_string(), ..Default::default() }
}

fn volume_mount(
    context: &Context,
    pod: &Pod,
    wanted: &VolumeMount,
    env: &BTreeMap<String, String>,
) -> Result<Mount, String> {
    let volume = spec(pod).volumes.iter().flatten().find(|volume| volume.name == wanted.name);
    let volume = volume.ok_or_else(|| format!("cannot find volume \"{}\" to mount into container", wanted.name))?;
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let path = super::path(context, uid, volume).ok_or("this kind of volume is not supported on this node")?;
    let below = match (&wanted.sub_path_expr, &wanted.sub_path) {
        (Some(text), _) if !text.is_empty() => expand(text, env),
        (_, Some(text)) => text.clone(),
        _ => String::new(),
    };
    let host_path = if below.is_empty() { path } else { sub_path(&path, &below)? };
    let propagation = match wanted.mount_propagation.as_deref() {
        Some("HostToContainer") => MountPropagation::PropagationHostToContainer,
        Some("Bidirectional") => MountPropagation::PropagationBidirectional,
        _ => MountPropagation::PropagationPrivate,
    };
    let files_are_ours = volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.projected.is_some()
        || volume.downward_api.is_some();
    Ok(Mount {
        container_path: wanted.mount_path.clone(),
        readonly: wanted.read_only == Some(true) || files_are_ours || is_read_only(volume),
        propagation: propagation.into(),
        ..bind(&wanted.mount_path, &host_path)
    })
}

/// A claim that this pod only wants to read, or an image, which nobody writes.
fn is_read_only(volume: &Volume) -> bool {
    volume.image.is_some()
        || volume.persistent_volume_claim.as_ref().is_some_and(|source| source.read_only == Some(true))
}

/// The place of a subPath, made if missing; never outside the volume, whatever links the pod made there.
fn sub_path(volume: &Path, below: &str) -> Result<PathBuf, String> {
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    if !Path::new(below).components().all(plain) {
        return Err(format!("invalid subPath {below:?}: it must stay within the volume"));
    }
    let failed = |error: std::io::Error| format!("failed to prepare subPath {below:?}: {error}");
    let root = volume.canonicalize().map_err(failed)?;
    let path = root.join(below);
    if fs::metadata(&path).is_err() {
        make_below(&root, Path::new(below)).map_err(failed)?;
    }
    let real = path.canonicalize().map_err(failed)?;
    if real.starts_with(&root) { Ok(real) } else { Err(format!("subPath {below:?} leads outside of the volume")) }
}

/// Makes directories one by one, refusing to follow a link out of `root`.
fn make_below(root: &Path, below: &Path) -> std::io::Result<()> {
    let mut dir = root.to_owned();
    let mode = fs::metadata(root)?.permissions().mode() & 0o777;
    for part in below.components() {
        dir.push(part);
        if fs::metadata(&dir).is_err() {
            fs::create_dir(&dir)?;
            fs::set_permissions(&dir, fs::Permissions::from_mode(mode))?;
        }
        if !dir.canonicalize()?.starts_with(root) {
            return Err(std::io::Error::other("a link leads outside of the volume"));
        }
    }
    Ok(())
}

/// The pod's managed hosts file.
fn hosts_file(context: &Context, pod: &Pod, ips: &[String]) -> std::io::Result<PathBuf> {
    let file = context.pod_dir(pod.metadata.uid.as_deref().unwrap_or_default()).join("etc-hosts");
    let host_network = spec(pod).host_network == Some(true);
    let host = host_network.then(|| fs::read_to_string("/etc/hosts")).transpose()?;
    let text = config::hosts_file(pod, &context.settings, ips, host.as_deref());
    if !fs::read_to_string(&file).is_ok_and(|old| old == text) {
        // In place: containers that run have this very file mounted.
        fs::write(&file, text)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
    }
    Ok(file)
}

/// The file in which an instance of a container leaves its last words.
pub fn termination_file(context: &Context, uid: &str, container: &str, restarts: u32) -> std::io::Result<PathBuf> {
    let dir = context.pod_dir(uid).join("containers").join(container);
    fs::create_dir_all(&dir)?;
    let file = dir.join(restarts.to_string());
    fs::write(&file, "")?;
    // Whoever the container runs as may write.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sub_path_stays_inside() {
        let dir = tempfile::tempdir().expect("directory");
        let volume = dir.path().join("volume");
        fs::create_dir(&volume).expect("made");
        assert_eq!(sub_path(&volume, "a/b").expect("made"), volume.canonicalize().expect("real").join("a/b"));
        assert!(sub_path(&volume, "../x").is_err() && sub_path(&volume, "/etc").is_err());
        std::os::unix::fs::symlink("/etc", volume.join("out")).expect("link");
        assert!(sub_path(&volume, "out").is_err() && sub_path(&volume, "out/new-dir").is_err());
        assert!(!Path::new("/etc/new-dir").exists());
    }
}
