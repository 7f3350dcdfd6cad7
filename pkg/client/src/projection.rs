//! What the caches leave out: memory is what the fields cost that nobody reads. Pure.
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec};
use kube::Resource;
use std::any::Any;

/// Whose pods are cached whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Whole {
    /// Everybody's.
    #[default]
    Pods,
    /// Those of one node, whose agent reads all of them; of others what scheduling, controllers and Services read.
    PodsOf(String),
    /// Nobody's: no agent reads this cache.
    None,
}

/// Takes away what no component reads and what weighs most.
pub fn project<K: Resource + 'static>(object: &mut K, whole: &Whole) {
    object.meta_mut().managed_fields = None;
    if let Some(annotations) = &mut object.meta_mut().annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
    if let Some(pod) = (object as &mut dyn Any).downcast_mut::<Pod>()
        && !is_whole(pod, whole)
    {
        slim(pod);
    }
}

fn is_whole(pod: &Pod, whole: &Whole) -> bool {
    match whole {
        Whole::Pods => true,
        Whole::PodsOf(node) => pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node),
        Whole::None => false,
    }
}

/// Leaves what is read of pods that somebody else runs.
fn slim(pod: &mut Pod) {
    if let Some(spec) = &mut pod.spec {
        slim_spec(spec);
    }
    let Some(status) = &mut pod.status else { return };
    status.ephemeral_container_statuses = None;
    for statuses in [&mut status.container_statuses, &mut status.init_container_statuses] {
        *statuses = statuses.take().map(|all| each(all, slim_status));
    }
    status.conditions.iter_mut().for_each(Vec::shrink_to_fit);
}

fn slim_spec(spec: &mut PodSpec) {
    spec.containers = each(std::mem::take(&mut spec.containers), slim_container);
    spec.init_containers = spec.init_containers.take().map(|all| each(all, slim_container));
    spec.ephemeral_containers = None;
    // Claims are followed from pods; everything else that is mounted concerns the node alone.
    spec.volumes = spec.volumes.take().and_then(|volumes| {
        let followed = volumes.into_iter().filter(|v| v.persistent_volume_claim.is_some() || v.ephemeral.is_some());
        Some(followed.collect::<Vec<_>>()).filter(|volumes| !volumes.is_empty())
    });
    spec.tolerations.iter_mut().for_each(Vec::shrink_to_fit);
    spec.security_context = None;
    spec.image_pull_secrets = None;
    spec.host_aliases = None;
    spec.dns_config = None;
}

/// A list as long as what is in it: a reader leaves room for more.
fn each<T>(all: Vec<T>, slim: fn(T) -> T) -> Vec<T> {
    let mut all: Vec<T> = all.into_iter().map(slim).collect();
    all.shrink_to_fit();
    all
}

/// Requests, ports, and what tells a sidecar from other init containers.
fn slim_container(container: Container) -> Container {
    let Container { name, image, ports, resources, restart_policy, .. } = container;
    Container { name, image, ports, resources, restart_policy, ..Container::default() }
}

fn slim_status(status: ContainerStatus) -> ContainerStatus {
    let ContainerStatus { name, ready, started, restart_count, state, resources, allocated_resources, .. } = status;
    ContainerStatus {
        name,
        ready,
        started,
        restart_count,
        state,
        resources,
        allocated_resources,
        ..ContainerStatus::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(node: &str) -> Pod {
        let container = json!({"name": "c", "image": "i", "env": [{"name": "A"}], "ports": [{"containerPort": 80}],
            "resources": {"requests": {"cpu": "1"}}, "livenessProbe": {"httpGet": {"port": 80}}});
        let volumes =
            json!([{"name": "a", "emptyDir": {}}, {"name": "b", "persistentVolumeClaim": {"claimName": "x"}}]);
        let status = json!({"containerStatuses": [{"name": "c", "image": "i", "imageID": "x", "containerID": "y",
            "ready": true, "restartCount": 1}]});
        let spec = json!({"nodeName": node, "containers": [container], "volumes": volumes, "hostNetwork": true});
        let meta = json!({"name": "p", "managedFields": [{"manager": "m"}]});
        serde_json::from_value(json!({"metadata": meta, "spec": spec, "status": status})).unwrap()
    }

    fn projected(node: &str, whole: &Whole) -> Value {
        let mut pod = pod(node);
        project(&mut pod, whole);
        serde_json::to_value(pod).unwrap()
    }

    #[test]
    fn pods_of_others_keep_what_others_read() {
        for whole in [Whole::None, Whole::PodsOf("mine".into())] {
            let pod = projected("theirs", &whole);
            let container = json!({"name": "c", "image": "i", "ports": [{"containerPort": 80}],
                "resources": {"requests": {"cpu": "1"}}});
            assert_eq!(pod["spec"]["containers"], json!([container]));
            let volume = json!({"name": "b", "persistentVolumeClaim": {"claimName": "x"}});
            assert_eq!(pod["spec"]["volumes"], json!([volume]));
            assert_eq!(pod["spec"]["hostNetwork"], true);
            let status = &pod["status"]["containerStatuses"][0];
            assert_eq!((&status["ready"], &status["restartCount"]), (&json!(true), &json!(1)));
            assert_eq!((pod["metadata"].get("managedFields"), status.get("containerID")), (None, None));
        }
    }

    #[test]
    fn a_nodes_own_pods_are_whole() {
        for whole in [Whole::Pods, Whole::PodsOf("mine".into())] {
            let mut expected = pod("mine");
            expected.metadata.managed_fields = None;
            assert_eq!(projected("mine", &whole), serde_json::to_value(expected).unwrap());
        }
    }
}
