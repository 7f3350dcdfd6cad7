//! Static pods: pods that a directory of manifests describes, whether or not a server answers (Kubernetes
//! documentation, "Create static Pods"). The API shows each as a mirror pod, which the agent makes and follows.
//!
//! `manifest` reads a file (pure), `mirror` says what the API shows (pure), `follow` looks at the directory; the manager
//! runs what is there.
mod follow;
mod manifest;
mod mirror;

pub use follow::{follow, read};
pub use mirror::{Difference, compare, mirror};

use k8s_openapi::api::core::v1::Pod;

/// Where a pod came from: `file` or `api`.
const SOURCE: &str = "kubernetes.io/config.source";
/// When the agent saw it first.
const SEEN: &str = "kubernetes.io/config.seen";
/// What the manifest was when the pod was made: its uid.
const HASH: &str = "kubernetes.io/config.hash";
/// On a mirror pod: the hash of the pod that it stands for.
const MIRROR: &str = "kubernetes.io/config.mirror";
const FILE: &str = "file";

fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

/// Whether a manifest of this node describes the pod.
pub fn is_static(pod: &Pod) -> bool {
    annotation(pod, SOURCE) == Some(FILE) && !is_mirror(pod)
}

/// Whether the pod only stands for a static one.
pub fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, MIRROR).is_some()
}

/// Namespace and name, which a static pod and its mirror have in common.
pub fn full_name(pod: &Pod) -> (String, String) {
    (pod.metadata.namespace.clone().unwrap_or_default(), pod.metadata.name.clone().unwrap_or_default())
}
