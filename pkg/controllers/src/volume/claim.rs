//! What a claim needs: a volume that does, one that is made for it, or patience
//! (Kubernetes documentation, "Persistent Volumes: Lifecycle of a volume and claim").
use crate::action::{self, Action, Note, Patch, Target, Told};
use client::volumes::{self, Seeker};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a plan is made from.
pub struct Seen<'a> {
    pub claim: &'a PersistentVolumeClaim,
    pub volumes: &'a [Arc<PersistentVolume>],
    pub classes: &'a [Arc<StorageClass>],
}

pub fn plan(seen: &Seen<'_>) -> Vec<Action> {
    let completed = seen.claim.annotations().contains_key(volumes::BIND_COMPLETED);
    match (completed, volumes::volume_name(seen.claim)) {
        (true, name) => bound(seen, name),
        (false, "") => unbound(seen),
        (false, name) => asked_for(seen, name),
    }
}

/// A claim that had its volume: it still has, or it is lost.
fn bound(seen: &Seen<'_>, name: &str) -> Vec<Action> {
    let claim = seen.claim;
    let Some(volume) = seen.volumes.iter().find(|volume| volume.name_any() == name) else {
        let what = if name.is_empty() { "lost reference to PersistentVolume" } else { "lost its PersistentVolume" };
        return lost(claim, "ClaimLost", &format!("Bound claim has {what}. Data on the volume is lost!"));
    };
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    if reference.is_none_or(|reference| reference.uid == claim.metadata.uid) {
        return bind(volume, claim);
    }
    lost(claim, "ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
}

/// A claim that does not care which volume it gets.
fn unbound(seen: &Seen<'_>) -> Vec<Action> {
    let claim = seen.claim;
    let class_name = volumes::class_of_claim(claim);
    let class = seen.classes.iter().find(|class| class.name_any() == class_name);
    let delayed = class.is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
    if let Some(volume) = volumes::best_match(claim, seen.volumes, &Seeker::Binder { delayed }) {
        return bind(volume, claim);
    }
    if let Some(default) = retroactive_class(seen) {
        return vec![action::patch(claim, json!({"spec": {"storageClassName": default.name_any()}}))];
    }
    if delayed && !claim.annotations().contains_key(volumes::SELECTED_NODE) {
        let text = "waiting for first consumer to be created before binding";
        return pending(claim, note(claim, false, "WaitForFirstConsumer", text));
    }
    match class {
        Some(class) => provision(claim, class),
        None if class_name.is_empty() => {
            let text = "no persistent volumes available for this claim and no storage class is set";
            pending(claim, note(claim, false, "FailedBinding", text))
        }
        None => {
            let text = format!("storageclass.storage.k8s.io {class_name:?} not found");
            pending(claim, note(claim, true, "ProvisioningFailed", &text))
        }
    }
}

/// Claims that were made before there was a default class get it once there is one.
fn retroactive_class<'a>(seen: &Seen<'a>) -> Option<&'a Arc<StorageClass>> {
    let named = seen.claim.spec.as_ref().is_some_and(|spec| spec.storage_class_name.is_some());
    let is_default = |class: &&Arc<StorageClass>| {
        class.annotations().get(volumes::DEFAULT_CLASS).is_some_and(|value| value == "true")
    };
    let defaults = seen.classes.iter().filter(is_default);
    let newest = |class: &&Arc<StorageClass>| {
        (class.metadata.creation_timestamp.as_ref().map(|time| time.0), std::cmp::Reverse(class.name_any()))
    };
    defaults.max_by_key(newest).filter(|_| !named && volumes::class_of_claim(seen.claim).is_empty())
}

/// Asks the class's provisioner, which watches for its name on claims.
fn provision(claim: &PersistentVolumeClaim, class: &StorageClass) -> Vec<Action> {
    let name = &class.provisioner;
    if name.starts_with("kubernetes.io/") {
        let text = format!("no volume plugin matched name: {name}");
        return pending(claim, note(claim, true, "ProvisioningFailed", &text));
    }
    let text = format!(
        "Waiting for a volume to be created either by the external provisioner '{name}' or manually by the system \
         administrator. If volume creation is delayed, please verify that the provisioner is running and correctly \
         registered."
    );
    let mut actions = Vec::new();
    if volumes::PROVISIONER.iter().any(|key| claim.annotations().get(*key) != Some(name)) {
        let annotations: BTreeMap<&str, &str> = volumes::PROVISIONER.iter().map(|key| (*key, name.as_str())).collect();
        actions.push(action::patch(claim, json!({"metadata": {"annotations": annotations}})));
    }
    actions.extend(pending(claim, note(claim, false, "ExternalProvisioning", &text)));
    actions
}

/// A claim that names its volume.
fn asked_for(seen: &Seen<'_>, name: &str) -> Vec<Action> {
    let claim = seen.claim;
    let Some(volume) = seen.volumes.iter().find(|volume| volume.name_any() == name) else {
        return status(claim, "Pending", None, Told::nothing()).into_iter().collect();
    };
    if volumes::is_for(volume, claim) {
        return bind(volume, claim);
    }
    if volumes::is_claimed(volume) {
        let text = format!("volume {name:?} already bound to a different claim.");
        return pending(claim, note(claim, true, "FailedBinding", &text));
    }
    match volumes::satisfies(volume, claim) {
        Ok(()) => bind(volume, claim),
        Err(why) => {
            let text = format!("Cannot bind to requested volume {name:?}: {why}");
            pending(claim, note(claim, true, "VolumeMismatch", &text))
        }
    }
}

/// Both halves, the volume first: another claim may want it too, and then the first patch fails.
fn bind(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Vec<Action> {
    let mut actions: Vec<Action> = Vec::new();
    actions.extend(volumes::binding(volume, claim).map(|patch| action::patch(volume, patch)));
    actions.extend(super::persistent::phase(volume, "Bound", "", Told::nothing()));
    let mut annotations = BTreeMap::new();
    let mut patch = json!({"metadata": {"uid": claim.metadata.uid}});
    if volumes::volume_name(claim) != volume.name_any() {
        patch["spec"] = json!({"volumeName": volume.name_any()});
        annotations.insert(volumes::BOUND_BY_CONTROLLER, "yes");
    }
    if !claim.annotations().contains_key(volumes::BIND_COMPLETED) {
        annotations.insert(volumes::BIND_COMPLETED, "yes");
    }
    if !annotations.is_empty() {
        patch["metadata"]["annotations"] = json!(annotations);
        actions.push(action::patch(claim, patch));
    }
    actions.extend(status(claim, "Bound", Some(volume), Told::nothing()));
    actions
}

fn pending(claim: &PersistentVolumeClaim, note: Note) -> Vec<Action> {
    let status = status(claim, "Pending", None, Told::nothing());
    status.into_iter().chain([Action::Tell(note)]).collect()
}

fn lost(claim: &PersistentVolumeClaim, reason: &'static str, text: &str) -> Vec<Action> {
    let told = Told { done: Some(note(claim, true, reason, text)), failed: None };
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    if phase == Some("Lost") { Vec::new() } else { status(claim, "Lost", None, told).into_iter().collect() }
}

fn note(claim: &PersistentVolumeClaim, warning: bool, reason: &'static str, text: &str) -> Note {
    Note { about: claim.object_ref(&()), warning, reason, message: text.to_owned() }
}

/// The status as it shall be; a claim without a volume says nothing of size and access.
fn status(claim: &PersistentVolumeClaim, phase: &str, volume: Option<&PersistentVolume>, told: Told) -> Option<Action> {
    let old = claim.status.as_ref().map_or_else(|| json!({}), |status| json!(status));
    let mut new = old.clone();
    new["phase"] = phase.into();
    let spec = volume.and_then(|volume| volume.spec.as_ref());
    let becomes = old["phase"] != phase;
    let mut set = |field: &str, value: Value| match value {
        Value::Null => _ = new.as_object_mut().and_then(|status| status.remove(field)),
        value => new[field] = value,
    };
    match spec {
        None => {
            for field in ["accessModes", "capacity", "currentVolumeAttributesClassName"] {
                set(field, Value::Null);
            }
        }
        Some(spec) => {
            set("accessModes", json!(spec.access_modes));
            // A bound claim's size is its resizer's to say.
            if becomes {
                set("capacity", json!(spec.capacity));
                set("currentVolumeAttributesClassName", json!(spec.volume_attributes_class_name));
            }
        }
    }
    let diff = action::merge_diff(&old, &new)?;
    let patch = Patch::Merge(json!({"metadata": {"uid": claim.metadata.uid}, "status": diff}));
    Some(Action::Patch { target: Target::of(claim), patch, subresource: Some("status"), told })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(spec: Value, annotations: Value) -> PersistentVolumeClaim {
        let mut claim = json!({"metadata": {"name": "c", "namespace": "ns", "uid": "u", "annotations": annotations},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
            "status": {"phase": "Pending"}});
        for (key, value) in spec.as_object().into_iter().flatten() {
            claim["spec"][key] = value.clone();
        }
        serde_json::from_value(claim).unwrap()
    }

    fn volume(spec: Value) -> Arc<PersistentVolume> {
        let mut volume = json!({"metadata": {"name": "v", "uid": "v", "resourceVersion": "7"},
            "spec": {"capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"]}, "status": {"phase": "Available"}});
        for (key, value) in spec.as_object().into_iter().flatten() {
            volume["spec"][key] = value.clone();
        }
        Arc::new(serde_json::from_value(volume).unwrap())
    }

    fn class(name: &str, mode: &str, default: bool) -> Arc<StorageClass> {
        let annotations = json!({volumes::DEFAULT_CLASS: default.to_string()});
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": name, "annotations": annotations},
            "provisioner": "example.com/disks", "volumeBindingMode": mode}))
            .unwrap(),
        )
    }

    /// One word an action.
    fn told(actions: &[Action]) -> Vec<String> {
        let what = |action: &Action| match action {
            Action::Patch { target, patch: Patch::Merge(patch), subresource, .. } => {
                let part = subresource
                    .map_or(String::new(), |_| format!("={}", patch["status"]["phase"].as_str().unwrap_or("")));
                format!("{}{part}", target.name)
            }
            Action::Tell(note) => note.reason.to_owned(),
            other => panic!("{other:?}"),
        };
        actions.iter().map(what).collect()
    }

    fn planned(
        claim: &PersistentVolumeClaim,
        volumes: &[Arc<PersistentVolume>],
        classes: &[Arc<StorageClass>],
    ) -> Vec<String> {
        told(&plan(&Seen { claim, volumes, classes }))
    }

    #[test]
    fn a_volume_that_does_is_bound() {
        let fresh = claim(json!({"storageClassName": ""}), json!({}));
        let volumes = [volume(json!({}))];
        let actions = plan(&Seen { claim: &fresh, volumes: &volumes, classes: &[] });
        assert_eq!(told(&actions), ["v", "v=Bound", "c", "c=Bound"]);
        let Action::Patch { patch: Patch::Merge(first), .. } = &actions[0] else { panic!() };
        assert_eq!(
            (&first["metadata"]["resourceVersion"], &first["spec"]["claimRef"]["uid"]),
            (&json!("7"), &json!("u"))
        );
        let Action::Patch { patch: Patch::Merge(last), .. } = &actions[3] else { panic!() };
        assert_eq!(
            last["status"],
            json!({"phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "2Gi"}})
        );
    }

    #[test]
    fn without_a_volume_it_waits_or_asks() {
        let none = claim(json!({"storageClassName": ""}), json!({}));
        assert_eq!(planned(&none, &[], &[class("std", "Immediate", true)]), ["FailedBinding"]);
        let unnamed = claim(json!({}), json!({}));
        assert_eq!(planned(&unnamed, &[], &[class("std", "Immediate", true)]), ["c"], "the default class is given");
        let late = claim(json!({"storageClassName": "late"}), json!({}));
        let classes = [class("late", "WaitForFirstConsumer", false)];
        assert_eq!(planned(&late, &[volume(json!({"storageClassName": "late"}))], &classes), ["WaitForFirstConsumer"]);
        let placed = claim(json!({"storageClassName": "late"}), json!({volumes::SELECTED_NODE: "n"}));
        assert_eq!(planned(&placed, &[], &classes), ["c", "ExternalProvisioning"]);
        assert_eq!(planned(&late, &[], &[]), ["ProvisioningFailed"]);
    }

    #[test]
    fn a_named_volume_has_to_do_and_be_free() {
        let asks = |size: &str| {
            let requests = json!({"requests": {"storage": size}});
            claim(json!({"storageClassName": "", "volumeName": "v", "resources": requests}), json!({}))
        };
        assert_eq!(planned(&asks("1Gi"), &[volume(json!({}))], &[]), ["v", "v=Bound", "c", "c=Bound"]);
        assert_eq!(planned(&asks("3Gi"), &[volume(json!({}))], &[]), ["VolumeMismatch"]);
        let taken = volume(json!({"claimRef": {"namespace": "ns", "name": "other", "uid": "x"}}));
        assert_eq!(planned(&asks("1Gi"), &[taken], &[]), ["FailedBinding"]);
        assert!(planned(&asks("1Gi"), &[], &[]).is_empty(), "it may come yet");
    }

    #[test]
    fn a_bound_claim_without_its_volume_is_lost() {
        let bound = claim(json!({"storageClassName": "", "volumeName": "v"}), json!({volumes::BIND_COMPLETED: "yes"}));
        assert_eq!(planned(&bound, &[], &[]), ["c=Lost"]);
        let other = volume(json!({"claimRef": {"namespace": "ns", "name": "c", "uid": "other"}}));
        assert_eq!(planned(&bound, &[other], &[]), ["c=Lost"]);
        let freed = volume(json!({}));
        assert_eq!(planned(&bound, &[freed], &[]), ["v", "v=Bound", "c=Bound"]);
    }
}
