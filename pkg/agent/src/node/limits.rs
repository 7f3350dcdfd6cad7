//! Pods that hold more of the local disk than their own limits allow (Kubernetes documentation, "Local ephemeral
//! storage"). Pure.
use super::evict::GRACE;
use crate::pod::admit::Refusal;
use crate::pod::config::spec;
use crate::pod::resources::ephemeral_limit;
use crate::stats::disk::PodDisk;
use api::quantity::{Format, Quantity};
use k8s_openapi::api::core::v1::{Container, EmptyDirVolumeSource, Pod};

const RESOURCE: &str = "ephemeral-storage";

/// Whether anything of the pod has a limit, so that it is worth measuring.
pub fn has_any(pod: &Pod) -> bool {
    let volumes = spec(pod).volumes.iter().flatten();
    let mut sized = volumes.filter_map(|volume| volume.empty_dir.as_ref().and_then(size_limit));
    sized.next().is_some() || ephemeral_limit(spec(pod)).is_some()
}

/// The first limit that the pod exceeds: of a volume, of the whole pod, of a container.
pub fn exceeded(pod: &Pod, disk: &PodDisk) -> Option<Refusal> {
    let message = of_volumes(pod, disk).or_else(|| of_pod(pod, disk)).or_else(|| of_containers(pod, disk))?;
    let told = Some(message.clone());
    Some(Refusal { reason: "Evicted", message, told, grace: GRACE, ..Refusal::default() })
}

/// A directory in memory has its size by being mounted so.
fn size_limit(source: &EmptyDirVolumeSource) -> Option<(u64, &str)> {
    let text = source.size_limit.as_ref().filter(|_| source.medium.as_deref() != Some("Memory"))?;
    Some((positive(Quantity::parse(&text.0).ok()?.value())?, &text.0))
}

fn positive(value: i64) -> Option<u64> {
    u64::try_from(value).ok().filter(|value| *value > 0)
}

fn of_volumes(pod: &Pod, disk: &PodDisk) -> Option<String> {
    spec(pod).volumes.iter().flatten().find_map(|volume| {
        let (limit, text) = size_limit(volume.empty_dir.as_ref()?)?;
        let used = disk.volumes.get(&volume.name)?;
        let name = &volume.name;
        (used.bytes > limit).then(|| format!("Usage of EmptyDir volume {name:?} exceeds the limit {text:?}. "))
    })
}

fn of_pod(pod: &Pod, disk: &PodDisk) -> Option<String> {
    let limit = positive(ephemeral_limit(spec(pod))?)?;
    let text = Quantity::new(i64::try_from(limit).unwrap_or(i64::MAX), Format::BinarySi);
    let exceeds = disk.total().bytes > limit;
    exceeds.then(|| format!("Pod ephemeral local storage usage exceeds the total limit of containers {text}. "))
}

fn of_containers(pod: &Pod, disk: &PodDisk) -> Option<String> {
    let limit = |container: &Container| {
        let text = container.resources.as_ref()?.limits.as_ref()?.get(RESOURCE)?.0.clone();
        Some((positive(Quantity::parse(&text).ok()?.value())?, text))
    };
    spec(pod).containers.iter().find_map(|container| {
        let ((limit, text), used) = (limit(container)?, disk.containers.get(&container.name)?);
        let name = &container.name;
        (used.bytes > limit).then(|| format!("Container {name} exceeded its local ephemeral storage limit {text:?}. "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::disk::Used;
    use serde_json::{Value, json};

    fn pod(limits: Value, empty_dir: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}, "spec": {
            "volumes": [{"name": "v", "emptyDir": empty_dir}],
            "containers": [{"name": "a", "resources": {"limits": limits}}, {"name": "b"}]}}))
        .expect("a pod")
    }

    fn disk(volume: u64, a: u64, b: u64) -> PodDisk {
        let used = |bytes| Used { bytes, inodes: 1 };
        PodDisk {
            volumes: [("v".to_owned(), used(volume))].into(),
            containers: [("a".to_owned(), used(a)), ("b".to_owned(), used(b))].into(),
            other: Used::default(),
        }
    }

    #[test]
    fn what_exceeds_a_limit_goes_with_upstreams_words() {
        let message = |pod: &Pod, disk: &PodDisk| exceeded(pod, disk).map(|refusal| refusal.message);
        let sized = pod(json!({}), json!({"sizeLimit": "1Mi"}));
        assert!(has_any(&sized));
        assert_eq!(message(&sized, &disk(1 << 20, 9 << 30, 0)), None);
        let text = "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ";
        assert_eq!(message(&sized, &disk((1 << 20) + 1, 0, 0)).as_deref(), Some(text));
        let limited = pod(json!({"ephemeral-storage": "2Mi"}), json!({}));
        let text = "Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. ";
        assert_eq!(message(&limited, &disk(1 << 20, 0, (1 << 20) + 1)).as_deref(), Some(text));
        assert_eq!(message(&limited, &disk(1 << 20, 1 << 20, 0)), None);
        let memory = pod(json!({}), json!({"sizeLimit": "1Mi", "medium": "Memory"}));
        assert!(!has_any(&memory) && message(&memory, &disk(2 << 20, 0, 0)).is_none());
    }

    #[test]
    fn a_containers_own_limit_counts_beside_the_pods() {
        let mut pod = pod(json!({"ephemeral-storage": "2Mi"}), json!({}));
        let limits = json!({"limits": {"ephemeral-storage": "1Mi"}});
        pod.spec.as_mut().expect("spec").containers[1].resources = serde_json::from_value(limits).expect("limits");
        let got = exceeded(&pod, &disk(0, 0, (1 << 20) + 1)).map(|refusal| refusal.message);
        assert_eq!(got.as_deref(), Some("Container b exceeded its local ephemeral storage limit \"1Mi\". "));
    }
}
