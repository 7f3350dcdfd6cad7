//! What the API shows of a static pod. Pure.
use super::{HASH, MIRROR, annotation};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

/// The mirror pod to be made; the node owns it, so that it goes with it.
pub fn mirror(pod: &Pod, node: &Node) -> Pod {
    let mut mirror = pod.clone();
    let metadata = &mut mirror.metadata;
    let hash = annotation(pod, HASH).unwrap_or_default().to_owned();
    metadata.annotations.get_or_insert_default().insert(MIRROR.to_owned(), hash);
    metadata.uid = None;
    metadata.resource_version = None;
    metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node.metadata.name.clone().unwrap_or_default(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    }]);
    mirror.status = None;
    mirror
}

/// How what the API shows stands to what runs.
#[derive(Debug, PartialEq, Eq)]
pub enum Difference {
    None,
    /// There is no mirror.
    Missing,
    /// It is another pod's, or somebody deleted it: it goes, and is made again.
    Stale,
}

/// Compares a static pod with the pod of its name in the API.
pub fn compare(pod: &Pod, shown: Option<&Pod>) -> Difference {
    let Some(shown) = shown else { return Difference::Missing };
    let same = annotation(shown, MIRROR) == annotation(pod, HASH);
    if same && shown.metadata.deletion_timestamp.is_none() { Difference::None } else { Difference::Stale }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_mirror_is_the_nodes_and_goes_when_it_is_not_the_pods() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "web-n1", "uid": "h1",
            "annotations": {HASH: "h1"}}, "spec": {"containers": []}}))
        .expect("a pod");
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n1", "uid": "u1"}})).expect("a node");
        let mut shown = mirror(&pod, &node);
        assert_eq!(shown.metadata.uid, None);
        let owner = &shown.metadata.owner_references.as_ref().expect("owner")[0];
        assert_eq!((owner.kind.as_str(), owner.uid.as_str()), ("Node", "u1"));
        assert!(super::super::is_mirror(&shown));
        assert_eq!((compare(&pod, Some(&shown)), compare(&pod, None)), (Difference::None, Difference::Missing));
        shown.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).expect("time");
        assert_eq!(compare(&pod, Some(&shown)), Difference::Stale);
        let mut other = pod.clone();
        other.metadata.annotations.get_or_insert_default().insert(HASH.into(), "h2".into());
        assert_eq!(compare(&other, Some(&mirror(&pod, &node))), Difference::Stale);
    }
}
