//! `spec.persistentVolumeClaimRetentionPolicy` (KEP-1847): whose end takes a claim with it. Claims are owned by what
//! they go with; the garbage collector does the rest.
use crate::action::{self, Action};
use crate::owned;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use serde_json::json;

/// Makes the claim's owners what the policy asks for. `condemned` is set while the pod is being scaled away. Claims that
/// another controller manages are left alone.
pub(super) fn own(
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    claim: &PersistentVolumeClaim,
    pod: &Pod,
    condemned: bool,
) -> Option<Action> {
    let ours = |owner: &OwnerReference| Some(&owner.uid) == set.metadata.uid.as_ref() || is_of(owner, pod);
    if owned::controller_of(claim).is_some_and(|owner| !ours(owner)) {
        return None;
    }
    let policy = spec.persistent_volume_claim_retention_policy.clone().unwrap_or_default();
    let deletes = |policy: Option<&String>| policy.is_some_and(|policy| policy == "Delete");
    let wanted = match condemned && deletes(policy.when_scaled.as_ref()) {
        true => Some(owned::reference_to(pod)),
        false => deletes(policy.when_deleted.as_ref()).then(|| owned::reference_to(set)),
    };
    let others = claim.owner_references().iter().filter(|owner| !ours(owner)).cloned();
    let owners: Vec<OwnerReference> = others.chain(wanted).collect();
    (claim.owner_references() != owners).then(|| {
        let metadata =
            json!({"uid": claim.uid(), "resourceVersion": claim.resource_version(), "ownerReferences": owners});
        action::patch(claim, json!({"metadata": metadata}))
    })
}

/// By name: of an earlier life of the pod, too.
fn is_of(owner: &OwnerReference, pod: &Pod) -> bool {
    owner.kind == "Pod" && owner.name == pod.name_any()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Patch;

    fn owners(deleted: &str, scaled: &str, current: serde_json::Value, condemned: bool) -> Option<String> {
        let policy = json!({"whenDeleted": deleted, "whenScaled": scaled});
        let set: StatefulSet = serde_json::from_value(json!({"metadata": {"name": "db", "uid": "set"}, "spec": {
            "selector": {}, "template": {}, "persistentVolumeClaimRetentionPolicy": policy}}))
        .unwrap();
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "db-1", "uid": "pod"}})).unwrap();
        let claim = json!({"metadata": {"name": "data-db-1", "ownerReferences": current}});
        let claim: PersistentVolumeClaim = serde_json::from_value(claim).unwrap();
        let action = own(&set, set.spec.as_ref().unwrap(), &claim, &pod, condemned)?;
        let Action::Patch { patch: Patch::Merge(patch), .. } = action else { panic!("{action:?}") };
        let owners = patch["metadata"]["ownerReferences"].as_array().unwrap().clone();
        Some(owners.iter().map(|owner| owner["uid"].as_str().unwrap()).collect::<Vec<_>>().join(","))
    }

    #[test]
    fn claims_go_with_what_the_policy_says() {
        let none = || json!([]);
        let reference = |kind: &str, name: &str, uid: &str| json!([{"apiVersion": "v1", "kind": kind, "name": name, "uid": uid, "controller": true, "blockOwnerDeletion": true}]);
        assert_eq!(owners("Retain", "Retain", none(), true), None);
        assert_eq!(owners("Delete", "Retain", none(), true).as_deref(), Some("set"));
        assert_eq!(owners("Retain", "Delete", none(), false), None);
        assert_eq!(owners("Retain", "Delete", none(), true).as_deref(), Some("pod"));
        assert_eq!(owners("Delete", "Delete", reference("StatefulSet", "db", "set"), true).as_deref(), Some("pod"));
        assert_eq!(
            owners("Delete", "Delete", reference("Pod", "db-1", "pod"), false).as_deref(),
            Some("set"),
            "scaled up again"
        );
        assert_eq!(owners("Retain", "Retain", reference("StatefulSet", "db", "set"), false).as_deref(), Some(""));
        assert_eq!(owners("Delete", "Delete", reference("Other", "x", "x"), true), None, "not ours");
    }
}
