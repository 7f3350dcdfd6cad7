//! Types of which one member may be set.
use super::Node;

const ENV_SOURCE: [&str; 5] = ["configMapKeyRef", "fieldRef", "fileKeyRef", "resourceFieldRef", "secretKeyRef"];
const PROBE: [&str; 4] = ["exec", "grpc", "httpGet", "tcpSocket"];
const HANDLER: [&str; 4] = ["exec", "httpGet", "sleep", "tcpSocket"];
const BACKEND: [&str; 2] = ["resource", "service"];
const DISRUPTION: [&str; 2] = ["maxUnavailable", "minAvailable"];
/// What a persistent volume has besides its source.
const NO_VOLUME_SOURCE: [&str; 10] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "name",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

/// Keeps the member that was written last. `name` is the type's, below `io.k8s.api.`.
pub(super) fn repair(name: &str, mut node: Node<'_>) {
    match name {
        "core.v1.EnvVar" if !node.text("value").is_empty() => node.keep_last(&["value", "valueFrom"]),
        "core.v1.EnvVarSource" => node.keep_last(&ENV_SOURCE),
        "core.v1.Probe" => node.keep_last(&PROBE),
        "core.v1.LifecycleHandler" => node.keep_last(&HANDLER),
        "core.v1.Volume" | "core.v1.PersistentVolumeSpec" => {
            let sources: Vec<String> = node.object.keys().cloned().collect();
            let sources = sources.iter().map(String::as_str).filter(|field| !NO_VOLUME_SOURCE.contains(field));
            node.keep_last(&sources.collect::<Vec<_>>());
        }
        "networking.v1.IngressBackend" => node.keep_last(&BACKEND),
        "policy.v1.PodDisruptionBudgetSpec" => node.keep_last(&DISRUPTION),
        _ => {}
    }
}
