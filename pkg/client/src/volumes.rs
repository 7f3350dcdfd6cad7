//! What claims and volumes say to each other (Kubernetes documentation, "Persistent Volumes: Binding"): pure rules that
//! the binder, the scheduler, the provisioner and the agent share.
use crate::node_selector;
use api::quantity::Quantity;
use api::selector::LabelSelector;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as Written;
use kube::ResourceExt;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// On a claim: the binder has finished.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On a claim or volume: the other half was chosen by a controller, not by its author.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On a claim: the node that the scheduler wants its volume on.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// On a volume: the provisioner that made it.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// On a claim: the provisioner that shall make its volume, and the same under its old name.
pub const PROVISIONER: [&str; 2] =
    ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];
/// On a StorageClass: claims that name none get it.
pub const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// The name of a claim's class; empty for none.
pub fn class_of_claim(claim: &PersistentVolumeClaim) -> &str {
    let named = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    claim.annotations().get(OLD_CLASS).map(String::as_str).or(named).unwrap_or_default()
}

/// The name of a volume's class; empty for none.
pub fn class_of_volume(volume: &PersistentVolume) -> &str {
    let named = volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    volume.annotations().get(OLD_CLASS).map(String::as_str).or(named).unwrap_or_default()
}

/// The volume that a claim names; empty for none.
pub fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default()
}

/// Has the binder finished with this claim?
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    !volume_name(claim).is_empty() && claim.annotations().contains_key(BIND_COMPLETED)
}

/// Is the volume bound to this claim, or reserved for it?
pub fn is_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(reference) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else { return false };
    let uid = reference.uid.as_deref().unwrap_or_default();
    reference.name == claim.metadata.name
        && reference.namespace == claim.metadata.namespace
        && (uid.is_empty() || Some(uid) == claim.metadata.uid.as_deref())
}

/// Does anybody have the volume, or have it reserved?
pub fn is_claimed(volume: &PersistentVolume) -> bool {
    volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_some())
}

/// May the volume be used on this node?
pub fn reaches(volume: &PersistentVolume, node: &str, labels: &BTreeMap<String, String>) -> bool {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required.as_ref());
    required.is_none_or(|required| node_selector::any_matches(&required.node_selector_terms, node, labels))
}

/// The name of the claim that a pod's volume uses: its own, or the one made for an ephemeral volume.
pub fn claim_name<'a>(pod: &Pod, volume: &'a Volume) -> Option<Cow<'a, str>> {
    match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some(source.claim_name.as_str().into()),
        (None, Some(_)) => Some(format!("{}-{}", pod.name_any(), volume.name).into()),
        (None, None) => None,
    }
}

/// Was the claim made for an ephemeral volume of this pod?
pub fn is_made_for(claim: &PersistentVolumeClaim, pod: &Pod) -> bool {
    let owners = claim.metadata.owner_references.iter().flatten();
    owners.into_iter().any(|owner| owner.controller == Some(true) && Some(&owner.uid) == pod.metadata.uid.as_ref())
}

/// The name of the volume that is provisioned for a claim.
pub fn provisioned_name(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", claim.metadata.uid.as_deref().unwrap_or_default())
}

/// Why a volume that was asked for by name does not do.
///
/// # Errors
/// The reason, as upstream words it.
pub fn satisfies(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Result<(), String> {
    if volume.metadata.deletion_timestamp.is_some() {
        return Err(format!("the volume is marked for deletion {:?}", volume.name_any()));
    }
    let wrong = if capacity(volume) < requested(claim) {
        "requested PV is too small"
    } else if class_of_volume(volume) != class_of_claim(claim) {
        "storageClassName does not match"
    } else if attributes_of_volume(volume) != attributes_of_claim(claim) {
        "volumeAttributesClassName does not match"
    } else if !same_mode(volume, claim) {
        "incompatible volumeMode"
    } else if !has_access(volume, claim) {
        "incompatible accessMode"
    } else {
        return Ok(());
    };
    Err(wrong.to_owned())
}

/// Who looks for a volume.
pub enum Seeker<'a> {
    /// The binder; `delayed` when only what is reserved already may be taken.
    Binder { delayed: bool },
    /// The scheduler, for this node; volumes it has given away already are no more to have.
    Node { name: &'a str, labels: &'a BTreeMap<String, String>, taken: &'a BTreeSet<String> },
}

/// The volume reserved for a claim, or the smallest that does.
pub fn best_match<'v>(
    claim: &PersistentVolumeClaim,
    volumes: impl IntoIterator<Item = &'v Arc<PersistentVolume>>,
    seeker: &Seeker<'_>,
) -> Option<&'v Arc<PersistentVolume>> {
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref()).map(compile);
    let mut best: Option<(Quantity, &Arc<PersistentVolume>)> = None;
    for volume in volumes {
        let reserved = is_for(volume, claim);
        if (is_claimed(volume) && !reserved) || !could_do(volume, claim) {
            continue;
        }
        let here = match seeker {
            Seeker::Binder { .. } => true,
            Seeker::Node { taken, .. } if taken.contains(&volume.name_any()) => continue,
            Seeker::Node { name, labels, .. } => reaches(volume, name, labels),
        };
        if reserved {
            return here.then_some(volume);
        }
        let free = match seeker {
            Seeker::Binder { delayed } => !delayed,
            Seeker::Node { .. } => here && has_access(volume, claim),
        };
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        let chosen = selector.as_ref().is_none_or(|selector| selector.matches(volume.labels()));
        if free && chosen && phase == Some("Available") && class_of_volume(volume) == class_of_claim(claim) {
            let size = capacity(volume);
            if best.as_ref().is_none_or(|(smallest, _)| size < *smallest) {
                best = Some((size, volume));
            }
        }
    }
    best.map(|(_, volume)| volume)
}

fn could_do(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    capacity(volume) >= requested(claim)
        && same_mode(volume, claim)
        && attributes_of_volume(volume) == attributes_of_claim(claim)
        && volume.metadata.deletion_timestamp.is_none()
}

/// The merge patch that binds a volume to a claim, if it is not yet. It holds for the volume as seen only.
pub fn binding(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<Value> {
    let mut metadata = json!({"resourceVersion": volume.metadata.resource_version, "uid": volume.metadata.uid});
    let reserved = is_for(volume, claim);
    if !reserved && !volume.annotations().contains_key(BOUND_BY_CONTROLLER) {
        metadata["annotations"] = json!({BOUND_BY_CONTROLLER: "yes"});
    }
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    if reserved && reference.is_some_and(|reference| reference.uid == claim.metadata.uid) {
        return None;
    }
    let reference = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": claim.metadata.name,
        "namespace": claim.metadata.namespace, "uid": claim.metadata.uid,
        "resourceVersion": claim.metadata.resource_version});
    Some(json!({"metadata": metadata, "spec": {"claimRef": reference}}))
}

fn compile(written: &Written) -> LabelSelector {
    let labels = written.match_labels.iter().flatten().map(|(key, value)| (key.as_str(), value.as_str()));
    let expressions = written.match_expressions.iter().flatten();
    let expressions = expressions.map(|e| (e.key.as_str(), e.operator.as_str(), e.values.clone().unwrap_or_default()));
    LabelSelector::from_parts(labels, expressions).unwrap_or_else(|_| LabelSelector::nothing())
}

fn capacity(volume: &PersistentVolume) -> Quantity {
    let capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()?.get("storage"));
    capacity.and_then(|quantity| Quantity::parse(&quantity.0).ok()).unwrap_or_default()
}

fn requested(claim: &PersistentVolumeClaim) -> Quantity {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let requested = resources.and_then(|resources| resources.requests.as_ref()?.get("storage"));
    requested.and_then(|quantity| Quantity::parse(&quantity.0).ok()).unwrap_or_default()
}

fn attributes_of_claim(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref()).unwrap_or_default()
}

fn attributes_of_volume(volume: &PersistentVolume) -> &str {
    volume.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref()).unwrap_or_default()
}

/// A file system, or a raw device.
pub fn same_mode(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let wanted = claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()).unwrap_or("Filesystem");
    wanted == volume.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()).unwrap_or("Filesystem")
}

fn has_access(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let modes = volume.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
    claim.spec.iter().flat_map(|spec| spec.access_modes.iter().flatten()).all(|mode| modes.contains(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(name: &str, size: &str, extra: Value) -> Arc<PersistentVolume> {
        let mut volume = json!({"metadata": {"name": name, "labels": {"disk": name}},
            "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": "fast"},
            "status": {"phase": "Available"}});
        for (key, value) in extra.as_object().into_iter().flatten() {
            volume["spec"][key] = value.clone();
        }
        Arc::new(serde_json::from_value(volume).unwrap())
    }

    fn claim(extra: Value) -> PersistentVolumeClaim {
        let mut claim = json!({"metadata": {"name": "c", "namespace": "ns", "uid": "u"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}, "storageClassName": "fast"}});
        for (key, value) in extra.as_object().into_iter().flatten() {
            claim["spec"][key] = value.clone();
        }
        serde_json::from_value(claim).unwrap()
    }

    fn found(claim: &PersistentVolumeClaim, volumes: &[Arc<PersistentVolume>], seeker: &Seeker<'_>) -> Option<String> {
        best_match(claim, volumes, seeker).map(|volume| volume.name_any())
    }

    const BINDER: Seeker<'_> = Seeker::Binder { delayed: false };

    #[test]
    fn the_smallest_that_does_is_taken() {
        let volumes = [
            volume("large", "10Gi", json!({})),
            volume("right", "3Gi", json!({})),
            volume("small", "1Gi", json!({})),
            volume("slow", "2Gi", json!({"storageClassName": "slow"})),
            volume("block", "2Gi", json!({"volumeMode": "Block"})),
            volume("taken", "2Gi", json!({"claimRef": {"namespace": "ns", "name": "other"}})),
        ];
        assert_eq!(found(&claim(json!({})), &volumes, &BINDER).as_deref(), Some("right"));
        let chosen = claim(json!({"selector": {"matchLabels": {"disk": "large"}}}));
        assert_eq!(found(&chosen, &volumes, &BINDER).as_deref(), Some("large"));
        assert_eq!(found(&claim(json!({})), &volumes, &Seeker::Binder { delayed: true }), None);
        assert_eq!(satisfies(&volumes[2], &chosen).unwrap_err(), "requested PV is too small");
        assert_eq!(satisfies(&volumes[3], &chosen).unwrap_err(), "storageClassName does not match");
        assert!(satisfies(&volumes[0], &chosen).is_ok());
    }

    #[test]
    fn what_is_reserved_comes_first_and_only_for_its_claim() {
        let reserved = json!({"claimRef": {"namespace": "ns", "name": "c"}});
        let volumes = [volume("small", "2Gi", json!({})), volume("mine", "5Gi", reserved)];
        let mine = claim(json!({}));
        assert_eq!(found(&mine, &volumes, &Seeker::Binder { delayed: true }).as_deref(), Some("mine"));
        let patch = binding(&volumes[1], &mine).expect("the uid is missing");
        assert_eq!((&patch["spec"]["claimRef"]["uid"], &patch["metadata"]["annotations"]), (&json!("u"), &Value::Null));
        let patch = binding(&volumes[0], &mine).expect("to bind");
        assert_eq!(patch["metadata"]["annotations"][BOUND_BY_CONTROLLER], "yes");
        let other = volume("old", "5Gi", json!({"claimRef": {"namespace": "ns", "name": "c", "uid": "old"}}));
        assert!(!is_for(&other, &mine), "an earlier life of the claim");
    }

    #[test]
    fn the_scheduler_looks_at_one_node() {
        let on = |name: &str| {
            json!({"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": [name]}]}]}}})
        };
        let volumes = [volume("a", "2Gi", on("a")), volume("b", "2Gi", on("b"))];
        let labels = BTreeMap::from([("kubernetes.io/hostname".to_owned(), "b".to_owned())]);
        let mut taken = BTreeSet::new();
        let wanted = claim(json!({}));
        let seeker = Seeker::Node { name: "b", labels: &labels, taken: &taken };
        assert_eq!(found(&wanted, &volumes, &seeker).as_deref(), Some("b"));
        taken.insert("b".to_owned());
        let seeker = Seeker::Node { name: "b", labels: &labels, taken: &taken };
        assert_eq!(found(&wanted, &volumes, &seeker), None);
    }
}
