//! What a volume needs: to be available, bound, or given up when its claim is gone, by its reclaim policy.
use crate::action::{self, Action, Note, Patch, Target, Told};
use client::volumes;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::{Resource, ResourceExt};
use serde_json::json;

/// `claim` is the very life that the volume is bound to, if it is still there.
pub fn plan(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> Vec<Action> {
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    let reserved_only = reference.is_none_or(|reference| reference.uid.as_deref().unwrap_or_default().is_empty());
    if reserved_only {
        return phase(volume, "Available", "", Told::nothing()).into_iter().collect();
    }
    let Some(claim) = claim else { return release(volume) };
    match volumes::volume_name(claim) {
        "" if !volumes::same_mode(volume, claim) => mismatch(volume, claim),
        // The claim's own plan finishes it.
        "" => Vec::new(),
        name if name == volume.name_any() => phase(volume, "Bound", "", Told::nothing()).into_iter().collect(),
        _ if provisioner(volume).is_some() && policy(volume) == "Delete" => release(volume),
        _ => unbind(volume),
    }
}

/// Does the plan need to know whether the claim is really gone?
pub fn would_release(volume: &PersistentVolume) -> bool {
    !matches!(current(volume), "Released" | "Failed")
}

/// The change of a volume's phase, if it is one.
pub fn phase(volume: &PersistentVolume, phase: &str, message: &str, told: Told) -> Option<Action> {
    if current(volume) == phase {
        return None;
    }
    let message = if message.is_empty() { serde_json::Value::Null } else { message.into() };
    let status = json!({"phase": phase, "message": message});
    let patch = Patch::Merge(json!({"metadata": {"uid": volume.metadata.uid}, "status": status}));
    Some(Action::Patch { target: Target::of(volume), patch, subresource: Some("status"), told })
}

fn current(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn policy(volume: &PersistentVolume) -> &str {
    let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    policy.unwrap_or("Retain")
}

fn provisioner(volume: &PersistentVolume) -> Option<&str> {
    volume.annotations().get(volumes::PROVISIONED_BY).map(String::as_str)
}

/// Its claim is gone: what the policy says. Storage that a provisioner made is removed by that provisioner.
fn release(volume: &PersistentVolume) -> Vec<Action> {
    let external = provisioner(volume).is_some_and(|name| !name.starts_with("kubernetes.io/"));
    let by_driver = volume.spec.as_ref().is_some_and(|spec| spec.csi.is_some());
    let name = volume.name_any();
    match policy(volume) {
        "Delete" if !external && !by_driver => {
            let why =
                format!("error getting deleter volume plugin for volume {name:?}: no deletable volume plugin matched");
            failed(volume, "VolumeFailedDelete", &why)
        }
        "Recycle" => failed(volume, "VolumeFailedRecycle", "No recycler plugin found for the volume!"),
        _ if would_release(volume) => phase(volume, "Released", "", Told::nothing()).into_iter().collect(),
        _ => Vec::new(),
    }
}

fn failed(volume: &PersistentVolume, reason: &'static str, why: &str) -> Vec<Action> {
    let note = Note { about: volume.object_ref(&()), warning: true, reason, message: why.to_owned() };
    phase(volume, "Failed", why, Told { done: Some(note), failed: None }).into_iter().collect()
}

/// The claim got another volume.
fn unbind(volume: &PersistentVolume) -> Vec<Action> {
    let version = json!({"resourceVersion": volume.metadata.resource_version});
    let mut patch = json!({"metadata": version, "spec": {"claimRef": {"uid": null}}});
    if volume.annotations().contains_key(volumes::BOUND_BY_CONTROLLER) {
        patch["metadata"]["annotations"] = json!({volumes::BOUND_BY_CONTROLLER: null});
        patch["spec"] = json!({"claimRef": null});
    }
    let available = phase(volume, "Available", "", Told::nothing());
    [action::patch(volume, patch)].into_iter().chain(available).collect()
}

fn mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Vec<Action> {
    let tell = |about, message| Action::Tell(Note { about, warning: true, reason: "VolumeMismatch", message });
    let (of_volume, of_claim) = (volume.name_any(), claim.name_any());
    vec![
        tell(
            volume.object_ref(&()),
            format!(
                "Cannot bind PersistentVolume to requested PersistentVolumeClaim {of_claim:?} due to incompatible volumeMode."
            ),
        ),
        tell(
            claim.object_ref(&()),
            format!(
                "Cannot bind PersistentVolume {of_volume:?} to requested PersistentVolumeClaim due to incompatible volumeMode."
            ),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn volume(phase: &str, policy: &str, annotations: Value, claim: Value) -> PersistentVolume {
        serde_json::from_value(json!({"metadata": {"name": "v", "annotations": annotations},
            "spec": {"persistentVolumeReclaimPolicy": policy, "claimRef": claim}, "status": {"phase": phase}}))
        .unwrap()
    }

    fn claim(bound_to: &str) -> PersistentVolumeClaim {
        serde_json::from_value(
            json!({"metadata": {"name": "c", "namespace": "ns", "uid": "u"}, "spec": {"volumeName": bound_to}}),
        )
        .unwrap()
    }

    fn phases(actions: &[Action]) -> Vec<Value> {
        let phase = |action: &Action| match action {
            Action::Patch { patch: Patch::Merge(patch), subresource: Some("status"), .. } => {
                patch["status"]["phase"].clone()
            }
            Action::Patch { patch: Patch::Merge(patch), .. } => patch["spec"].clone(),
            other => panic!("{other:?}"),
        };
        actions.iter().map(phase).collect()
    }

    #[test]
    fn phases_follow_the_claim() {
        let mine = json!({"namespace": "ns", "name": "c", "uid": "u"});
        let plan = |phase, policy, annotations, reference: &Value, claim: Option<&PersistentVolumeClaim>| {
            phases(&plan(&volume(phase, policy, annotations, reference.clone()), claim))
        };
        assert_eq!(plan("Pending", "Retain", json!({}), &Value::Null, None), ["Available"]);
        assert_eq!(plan("Available", "Retain", json!({}), &mine, Some(&claim("v"))), ["Bound"]);
        assert!(plan("Available", "Retain", json!({}), &mine, Some(&claim(""))).is_empty());
        assert_eq!(plan("Bound", "Retain", json!({}), &mine, None), ["Released"]);
        assert_eq!(plan("Bound", "Delete", json!({}), &mine, None), ["Failed"]);
        let made = json!({volumes::PROVISIONED_BY: "example.com/disks"});
        assert_eq!(plan("Bound", "Delete", made.clone(), &mine, None), ["Released"], "the provisioner removes it");
        assert_eq!(plan("Bound", "Delete", made, &mine, Some(&claim("w"))), ["Released"]);
        let ours = json!({volumes::BOUND_BY_CONTROLLER: "yes"});
        assert_eq!(
            plan("Bound", "Retain", ours, &mine, Some(&claim("w"))),
            [json!({"claimRef": null}), json!("Available")]
        );
    }
}
