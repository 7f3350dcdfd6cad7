//! What this machine allows, found by trying.
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::ffi::CString;
use std::fs;
use std::io;
use std::path::Path;

const OOM_SCORE_ADJ: &str = "/proc/self/oom_score_adj";

/// Whether oom_score_adj can be lowered, which needs CAP_SYS_RESOURCE in the first user namespace
/// (proc(5), "/proc/pid/oom_score_adj").
pub fn can_lower_oom_score() -> bool {
    let Ok(text) = fs::read_to_string(OOM_SCORE_ADJ) else { return false };
    let Ok(now) = text.trim().parse::<i32>() else { return false };
    let lower = (now - 1).max(-1000);
    let lowered = fs::write(OOM_SCORE_ADJ, lower.to_string()).is_ok();
    if lowered && let Err(error) = fs::write(OOM_SCORE_ADJ, now.to_string()) {
        tracing::warn!(%error, "oom_score_adj could not be set back");
    }
    lowered
}

/// The snapshotter that works on the file system of `root`: overlayfs, or native (plain copies) where overlays
/// can't be mounted, as on an overlay itself.
pub fn snapshotter(root: &Path) -> io::Result<&'static str> {
    let dir = root.join("eyot-probe");
    // Left by a crash in the midst of an earlier probe.
    let _ = unmount(dir.join("merged"), UnmountFlags::DETACH);
    let _ = fs::remove_dir_all(&dir);
    for name in ["lower", "upper", "work", "merged"] {
        fs::create_dir_all(dir.join(name))?;
    }
    let works = overlay_works(&dir);
    fs::remove_dir_all(&dir)?;
    if !works {
        tracing::warn!(root = %root.display(), "overlayfs can't be mounted here; images are copied for each container");
    }
    Ok(if works { "overlayfs" } else { "native" })
}

fn overlay_works(dir: &Path) -> bool {
    let path = |name: &str| dir.join(name).display().to_string();
    let options = format!("lowerdir={},upperdir={},workdir={}", path("lower"), path("upper"), path("work"));
    let Ok(options) = CString::new(options) else { return false };
    let merged = dir.join("merged");
    let mounted = mount("overlay", &merged, "overlay", MountFlags::empty(), Some(options.as_c_str()));
    mounted.is_ok() && unmount(&merged, UnmountFlags::DETACH).is_ok()
}
