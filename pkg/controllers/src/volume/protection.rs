//! Claims that pods use, volumes that claims have and attributes that either names are kept until they are let go: a
//! finalizer each
//! (Kubernetes documentation, "Storage Object in Use Protection").
use crate::action::{self, Action};
use crate::error::Error;
use crate::execute::Run;
use crate::pods;
use crate::runner::{Change, Reconciler, Watches};
use client::Reflector;
use client::informers::Key;
use client::volumes;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use kube::api::ListParams;
use kube::{Api, Resource, ResourceExt};
use serde_json::json;

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";
const ATTRIBUTES_CLASS: &str = "kubernetes.io/vac-protection";

/// The finalizer is there while the object lives, and goes when it is deleted and no longer used.
fn plan<K: Resource<DynamicType = ()>>(object: &K, finalizer: &str, used: bool) -> Option<Action> {
    let deleting = object.meta().deletion_timestamp.is_some();
    let mut finalizers = object.finalizers().to_vec();
    match (deleting, finalizers.iter().position(|name| name == finalizer)) {
        (true, Some(at)) if !used => _ = finalizers.remove(at),
        (false, None) => finalizers.push(finalizer.to_owned()),
        _ => return None,
    }
    // Another's finalizer that came in between must not be lost.
    let meta = object.meta();
    Some(action::patch(
        object,
        json!({"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version, "finalizers": finalizers}}),
    ))
}

/// Is deletion held up by the finalizer, so that it matters whether the object is used?
fn is_held<K: Resource>(object: &K, finalizer: &str) -> bool {
    object.meta().deletion_timestamp.is_some() && object.finalizers().iter().any(|name| name == finalizer)
}

/// Does the pod need the claim? Only once it has a node; a node lets no pod start with a claim that is going.
fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let named =
        |volume| volumes::claim_name(pod, volume).is_some_and(|name| Some(&*name) == claim.metadata.name.as_deref());
    let ours = |ephemeral: bool| !ephemeral || (volumes::is_made_for(claim, pod) && !is_shut_down(pod));
    let all = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    !pods::node_name(pod).is_empty() && all.into_iter().any(|v| named(v) && ours(v.ephemeral.is_some()))
}

/// Has its node let go of it?
fn is_shut_down(pod: &Pod) -> bool {
    pods::is_terminating(pod) && pod.metadata.deletion_grace_period_seconds == Some(0)
}

pub(crate) struct ClaimProtection {
    pub(crate) claims: Reflector<PersistentVolumeClaim>,
    pub(crate) pods: Reflector<Pod>,
}

impl Reconciler for ClaimProtection {
    const NAME: &'static str = "pvc-protection-controller";

    fn watch(&self, watches: &mut Watches) {
        watches.own::<PersistentVolumeClaim>();
        watches.on::<Pod>(|change| {
            if !(change.deleted || is_shut_down(change.new)) {
                return Vec::new();
            }
            let (pod, namespace) = (change.new, change.new.namespace().unwrap_or_default());
            let all = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
            let names = all.into_iter().filter_map(|volume| volumes::claim_name(pod, volume));
            names.map(|name| (namespace.clone(), name.into_owned())).collect()
        });
    }

    async fn reconcile(&self, (namespace, name): Key, run: &mut Run) -> Result<(), Error> {
        let Some(claim) = self.claims.get(&namespace, &name) else { return Ok(()) };
        let used = is_held(&*claim, CLAIM) && self.is_used(&claim, &namespace, run).await?;
        run.all(plan(&*claim, CLAIM, used).into_iter().collect()).await
    }
}

impl ClaimProtection {
    /// By the cache; what it does not know, the API may.
    async fn is_used(&self, claim: &PersistentVolumeClaim, namespace: &str, run: &Run) -> Result<bool, Error> {
        if self.pods.list_namespace(namespace).iter().any(|pod| uses(pod, claim)) {
            return Ok(true);
        }
        let api: Api<Pod> = Api::namespaced(run.client().clone(), namespace);
        let what = || format!("Pods of {namespace}");
        let live = api.list(&ListParams::default()).await;
        let live = live.map_err(|source| Error::Api { verb: "list", what: what(), source })?;
        Ok(live.items.iter().any(|pod| uses(pod, claim)))
    }
}

pub(crate) struct VolumeProtection {
    pub(crate) volumes: Reflector<PersistentVolume>,
}

impl Reconciler for VolumeProtection {
    const NAME: &'static str = "pv-protection-controller";

    fn watch(&self, watches: &mut Watches) {
        watches.own::<PersistentVolume>();
    }

    async fn reconcile(&self, (_, name): Key, run: &mut Run) -> Result<(), Error> {
        let Some(volume) = self.volumes.get("", &name) else { return Ok(()) };
        let bound = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
        run.all(plan(&*volume, VOLUME, bound).into_iter().collect()).await
    }
}

/// The VolumeAttributesClasses that a claim wants, has, or is getting.
fn classes_of_claim(claim: &PersistentVolumeClaim) -> impl Iterator<Item = &str> {
    let status = claim.status.as_ref();
    let modifying = status.and_then(|status| status.modify_volume_status.as_ref());
    let named = [
        claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref()),
        status.and_then(|status| status.current_volume_attributes_class_name.as_deref()),
        modifying.and_then(|modifying| modifying.target_volume_attributes_class_name.as_deref()),
    ];
    named.into_iter().flatten().filter(|name| !name.is_empty())
}

/// The one that a volume has.
fn class_of_volume(volume: &PersistentVolume) -> Option<&str> {
    volume.spec.as_ref()?.volume_attributes_class_name.as_deref().filter(|name| !name.is_empty())
}

/// The classes that a change may have let go of.
fn let_go<K>(change: &Change<'_, K>, named: impl for<'k> Fn(&'k K) -> Vec<&'k str>) -> Vec<Key> {
    let now = if change.deleted { Vec::new() } else { named(change.new) };
    let before = if change.deleted { named(change.new) } else { change.old.map(named).unwrap_or_default() };
    let gone = before.into_iter().filter(|name| !now.contains(name));
    gone.map(|name| (String::new(), name.to_owned())).collect()
}

pub(crate) struct AttributesProtection {
    pub(crate) classes: Reflector<VolumeAttributesClass>,
    pub(crate) claims: Reflector<PersistentVolumeClaim>,
    pub(crate) volumes: Reflector<PersistentVolume>,
}

impl Reconciler for AttributesProtection {
    const NAME: &'static str = "volumeattributesclass-protection-controller";
    const WORKERS: usize = 1;

    fn watch(&self, watches: &mut Watches) {
        watches.own::<VolumeAttributesClass>();
        watches.on::<PersistentVolumeClaim>(|change| let_go(change, |claim| classes_of_claim(claim).collect()));
        watches.on::<PersistentVolume>(|change| let_go(change, |volume| class_of_volume(volume).into_iter().collect()));
    }

    async fn reconcile(&self, (_, name): Key, run: &mut Run) -> Result<(), Error> {
        let Some(class) = self.classes.get("", &name) else { return Ok(()) };
        let used = || {
            self.volumes.list().iter().any(|volume| class_of_volume(volume) == Some(&*name))
                || self.claims.list().iter().any(|claim| classes_of_claim(claim).any(|of| of == name))
        };
        let used = is_held(&*class, ATTRIBUTES_CLASS) && used();
        run.all(plan(&*class, ATTRIBUTES_CLASS, used).into_iter().collect()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Patch;
    use serde_json::Value;

    fn claim(deleting: bool, finalizers: Value) -> PersistentVolumeClaim {
        let deleted = deleting.then_some("2026-01-01T00:00:00Z");
        serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "ns", "uid": "c",
            "deletionTimestamp": deleted, "finalizers": finalizers,
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "p", "controller": true}]}}))
        .unwrap()
    }

    fn pod(volume: Value, node: &str, shut_down: bool) -> Pod {
        let metadata = match shut_down {
            true => {
                json!({"name": "p", "uid": "p", "deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0})
            }
            false => json!({"name": "p", "uid": "p"}),
        };
        serde_json::from_value(
            json!({"metadata": metadata, "spec": {"nodeName": node, "containers": [], "volumes": [volume]}}),
        )
        .unwrap()
    }

    #[test]
    fn the_finalizer_comes_and_goes() {
        let finalizers = |action: Option<Action>| match action {
            Some(Action::Patch { patch: Patch::Merge(patch), .. }) => Some(patch["metadata"]["finalizers"].clone()),
            None => None,
            other => panic!("{other:?}"),
        };
        assert_eq!(finalizers(plan(&claim(false, json!(["x"])), CLAIM, false)), Some(json!(["x", CLAIM])));
        assert_eq!(finalizers(plan(&claim(true, json!([CLAIM, "x"])), CLAIM, true)), None);
        assert_eq!(finalizers(plan(&claim(true, json!([CLAIM, "x"])), CLAIM, false)), Some(json!(["x"])));
        assert_eq!(finalizers(plan(&claim(true, json!(["x"])), CLAIM, false)), None);
    }

    #[test]
    fn pods_with_a_node_use_their_claims() {
        let named = json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}});
        let held = claim(true, json!([CLAIM]));
        assert!(uses(&pod(named.clone(), "n", false), &held));
        assert!(uses(&pod(named.clone(), "n", true), &held), "it may still be mounted");
        assert!(!uses(&pod(named, "", false), &held));
        let mut made = held;
        made.metadata.name = Some("p-v".into());
        let ephemeral = json!({"name": "v", "ephemeral": {}});
        assert!(uses(&pod(ephemeral.clone(), "n", false), &made));
        assert!(!uses(&pod(ephemeral, "n", true), &made));
    }

    #[test]
    fn attributes_are_used_by_who_wants_has_or_gets_them() {
        let claim = |spec: Value, status: Value| -> PersistentVolumeClaim {
            serde_json::from_value(json!({"metadata": {"name": "c"}, "spec": spec, "status": status})).unwrap()
        };
        let gold = json!({"volumeAttributesClassName": "gold"});
        let changing = claim(
            gold.clone(),
            json!({"currentVolumeAttributesClassName": "silver", "modifyVolumeStatus": {"status": "Pending", "targetVolumeAttributesClassName": "tin"}}),
        );
        let names = |claim: &PersistentVolumeClaim| classes_of_claim(claim).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(names(&changing), ["gold", "silver", "tin"]);
        let changed = claim(gold, json!({"currentVolumeAttributesClassName": "gold"}));
        let keys = |old, new, deleted| {
            let keys = let_go(&Change { old, new, deleted }, |claim| classes_of_claim(claim).collect());
            keys.into_iter().map(|(_, name)| name).collect::<Vec<_>>()
        };
        assert_eq!(keys(Some(&changing), &changed, false), ["silver", "tin"]);
        assert_eq!(keys(None, &changed, false), [""; 0]);
        assert_eq!(keys(None, &changing, true), ["gold", "silver", "tin"]);
    }
}
