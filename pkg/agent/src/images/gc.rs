//! Images that nobody runs go when the disk fills up (Kubernetes documentation, "Garbage collection of unused
//! containers and images").
use crate::context::Context;
use crate::cri::{ImageSpec, ListContainersRequest, ListImagesRequest, RemoveImageRequest, request};
use crate::machine::{Disk, Machine};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How often the disk is looked at; the kubelet's period.
const EVERY: Duration = Duration::from_secs(300);
/// Images go from here on, until the disk is that empty again (`imageGCHighThresholdPercent`, `...Low...`).
const HIGH_PERCENT: u64 = 85;
const LOW_PERCENT: u64 = 80;
/// An image younger than this stays: a pod may be about to use it (`imageMinimumGCAge`).
const YOUNG: Duration = Duration::from_secs(120);

/// An image that could go.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Unused {
    id: String,
    size_bytes: u64,
    last_used: Instant,
}

/// Collects until shutdown.
pub async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    let work = async {
        let mut seen = Seen::default();
        loop {
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = context.images.short_of_disk.notified() => {}
            }
            collect(&context, &mut seen).await;
        }
    };
    shutdown.run_until_cancelled(Box::pin(work)).await;
}

/// When each image was in use last, as far as this agent has seen.
#[derive(Default)]
struct Seen {
    last_used: HashMap<String, Instant>,
}

impl Seen {
    /// Those that no container needs now.
    fn unused(&mut self, images: &[crate::cri::Image], in_use: &HashSet<String>, now: Instant) -> Vec<Unused> {
        self.last_used.retain(|id, _| images.iter().any(|image| image.id == *id));
        let mut unused = Vec::new();
        for image in images {
            let last_used = self.last_used.entry(image.id.clone()).or_insert(now);
            let names = image.repo_tags.iter().chain(&image.repo_digests).chain([&image.id]);
            if names.clone().any(|name| in_use.contains(name)) {
                *last_used = now;
            } else if !image.pinned && !names.clone().any(|name| is_pause(name)) {
                unused.push(Unused { id: image.id.clone(), size_bytes: image.size, last_used: *last_used });
            }
        }
        unused
    }
}

/// Sandboxes are made from it, which no list of containers shows; without it no pod starts.
fn is_pause(name: &str) -> bool {
    name == crate::runtime::PAUSE_IMAGE || name.contains("/pause:") || name.contains("/pause@")
}

/// Which images go, the longest unused first, until so many bytes are free; none while there is room.
fn plan(disk: Disk, mut unused: Vec<Unused>, now: Instant) -> Vec<String> {
    let used = disk.size_bytes.saturating_sub(disk.available_bytes);
    if disk.size_bytes == 0 || used * 100 / disk.size_bytes < HIGH_PERCENT {
        return Vec::new();
    }
    let mut to_free = used.saturating_sub(disk.size_bytes / 100 * LOW_PERCENT);
    unused.retain(|image| now.saturating_duration_since(image.last_used) >= YOUNG);
    unused.sort_by_key(|image| image.last_used);
    let mut going = Vec::new();
    for image in unused {
        if to_free == 0 {
            break;
        }
        to_free = to_free.saturating_sub(image.size_bytes);
        going.push(image.id);
    }
    going
}

async fn collect(context: &Context, seen: &mut Seen) {
    let images = context.cri.images().list_images(request(ListImagesRequest { filter: None })).await;
    let containers = context.cri.runtime().list_containers(request(ListContainersRequest { filter: None })).await;
    let (Ok(images), Ok(containers)) = (images, containers) else { return };
    let mut in_use = HashSet::new();
    for container in containers.into_inner().containers {
        in_use.insert(container.image_ref);
        in_use.extend(container.image.map(|image| image.image));
    }
    in_use.extend(crate::volumes::images_in_use(&context.options.data_dir.join("pods")));
    // What came by hand can't be pulled again.
    in_use.extend(crate::runtime::imported(&context.options.data_dir));
    let now = Instant::now();
    let unused = seen.unused(&images.into_inner().images, &in_use, now);
    for id in plan(Machine::disk(&context.options.data_dir), unused, now) {
        let image = Some(ImageSpec { image: id.clone(), ..Default::default() });
        match context.cri.images().remove_image(request(RemoveImageRequest { image })).await {
            Ok(_) => tracing::info!(image = id, "removed: the disk is nearly full and nothing uses it"),
            Err(status) => tracing::warn!(image = id, message = status.message(), "an unused image stays"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(available_bytes: u64) -> Disk {
        Disk { size_bytes: 1000, available_bytes, ..Disk::default() }
    }

    #[test]
    fn the_longest_unused_go_until_there_is_room() {
        let start = Instant::now();
        let now = start + Duration::from_secs(1000);
        let image = |id: &str, size_bytes, used_at| Unused {
            id: id.into(),
            size_bytes,
            last_used: start + Duration::from_secs(used_at),
        };
        let all = || vec![image("new", 100, 500), image("old", 60, 1), image("older", 50, 0), image("young", 900, 990)];
        assert!(plan(disk(200), all(), now).is_empty(), "there is room");
        assert_eq!(plan(disk(100), all(), now), ["older", "old"]);
        assert_eq!(plan(disk(0), all(), now), ["older", "old", "new"], "what is young stays");
    }

    #[test]
    fn an_image_in_use_is_known_by_any_of_its_names() {
        let image = |id: &str, tag: &str, pinned| crate::cri::Image {
            id: id.into(),
            repo_tags: vec![tag.into()],
            pinned,
            ..Default::default()
        };
        let images = [
            image("1", "a:1", false),
            image("2", "b:1", false),
            image("3", "x:1", true),
            image("4", crate::runtime::PAUSE_IMAGE, false),
        ];
        let in_use = HashSet::from(["b:1".to_owned()]);
        let mut seen = Seen::default();
        let start = Instant::now();
        let ids = |unused: Vec<Unused>| unused.into_iter().map(|image| image.id).collect::<Vec<_>>();
        assert_eq!(ids(seen.unused(&images, &in_use, start)), ["1"]);
        let later = seen.unused(&images, &HashSet::new(), start + Duration::from_secs(9));
        let used: Vec<_> = later.iter().map(|image| (image.id.as_str(), image.last_used)).collect();
        assert_eq!(used, [("1", start), ("2", start)]);
    }
}
