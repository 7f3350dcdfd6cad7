//! What makes a StatefulSet's pod itself: its name, its place and its claims.
use crate::history::REVISION_HASH;
use crate::{owned, pods};
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use kube::ResourceExt;

/// The ordinal in a pod's name, if the name is one of the set's.
pub(super) fn ordinal(set: &str, pod: &str) -> Option<i32> {
    pod.strip_prefix(set)?.strip_prefix('-')?.parse().ok()
}

/// The claims that a pod of this name uses.
pub(super) fn claim_names<'a>(spec: &'a StatefulSetSpec, pod: &'a str) -> impl Iterator<Item = String> + 'a {
    spec.volume_claim_templates.iter().flatten().map(move |template| format!("{}-{pod}", template.name_any()))
}

/// The claims of all ordinals that should be there and of those that are.
pub(super) fn all_claim_names(set: &str, spec: &StatefulSetSpec, there: impl Iterator<Item = i32>) -> Vec<String> {
    let start = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or_default();
    let wanted = start..start.saturating_add(spec.replicas.unwrap_or(1));
    wanted.chain(there).flat_map(|n| claim_names(spec, &format!("{set}-{n}")).collect::<Vec<_>>()).collect()
}

/// The pod of an ordinal, and the claims it uses.
pub(super) fn make(
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    ordinal: i32,
    revision: &str,
    template: &PodTemplateSpec,
) -> (Pod, Vec<PersistentVolumeClaim>) {
    let (set_name, namespace) = (set.name_any(), set.namespace().unwrap_or_default());
    let name = format!("{set_name}-{ordinal}");
    let mut pod = pods::from_template(template, &namespace, &set_name, owned::reference_to(set));
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(name.clone());
    let labels = pod.labels_mut();
    labels.insert("statefulset.kubernetes.io/pod-name".into(), name.clone());
    labels.insert("apps.kubernetes.io/pod-index".into(), ordinal.to_string());
    labels.insert(REVISION_HASH.into(), revision.to_owned());
    let claims: Vec<_> =
        spec.volume_claim_templates.iter().flatten().map(|claim| make_claim(spec, claim, &namespace, &name)).collect();
    if let Some(pod_spec) = &mut pod.spec {
        pod_spec.hostname = Some(name);
        pod_spec.subdomain = spec.service_name.clone().filter(|service| !service.is_empty());
        let volumes = pod_spec.volumes.get_or_insert_default();
        for (template, claim) in spec.volume_claim_templates.iter().flatten().zip(&claims) {
            let volume_name = template.name_any();
            volumes.retain(|volume| volume.name != volume_name);
            let source = PersistentVolumeClaimVolumeSource { claim_name: claim.name_any(), read_only: None };
            volumes.push(Volume { name: volume_name, persistent_volume_claim: Some(source), ..Volume::default() });
        }
        if volumes.is_empty() {
            pod_spec.volumes = None;
        }
    }
    (pod, claims)
}

fn make_claim(
    spec: &StatefulSetSpec,
    template: &PersistentVolumeClaim,
    namespace: &str,
    pod: &str,
) -> PersistentVolumeClaim {
    let mut claim = template.clone();
    claim.metadata.name = Some(format!("{}-{pod}", template.name_any()));
    claim.metadata.namespace = Some(namespace.to_owned());
    claim.status = None;
    let selected = spec.selector.match_labels.clone().unwrap_or_default();
    claim.labels_mut().extend(selected);
    claim
}
