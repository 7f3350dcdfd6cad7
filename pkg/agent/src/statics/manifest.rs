//! One manifest as the pod that it describes: checked and defaulted as the API would
//! (`k8s.io/kubernetes/pkg/kubelet/config`). Pure.
use super::{FILE, HASH, SEEN, SOURCE};
use api::GroupVersionKind;
use api::decode::{self, FieldValidation};
use api::schema::Schemas;
use api::{default, validate};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Bytes of the hash that becomes the uid.
const UID_BYTES: usize = 16;

/// Why a manifest describes no pod that this node could run.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Malformed(#[from] decode::Error),
    #[error("it is no v1 Pod but {0}")]
    Kind(String),
    #[error("invalid pod: name is needed for the pod")]
    Nameless,
    #[error("invalid pod: {0}")]
    Invalid(String),
    #[error("static pods may not reference {0}")]
    Reference(&'static str),
}

/// The pod that the manifest `file` describes on node `node`; `now` is RFC 3339.
pub fn parse(bytes: &[u8], file: &str, node: &str, now: &str) -> Result<Pod, Error> {
    let kind = GroupVersionKind::new("", "v1", "Pod");
    let written = decode::yaml_to_json(bytes)?;
    if written["kind"] != "Pod" || written["apiVersion"] != "v1" {
        return Err(Error::Kind(format!("{}, kind {}", written["apiVersion"], written["kind"])));
    }
    let schemas = Schemas::builtin();
    let definition = schemas.for_kind(&kind).expect("Pod is a built-in kind");
    let mut pod = decode::check(written, &definition.ty, schemas, FieldValidation::Ignore)?.value;
    place(&mut pod, file, node, now)?;
    default::default(&kind, &mut pod, &definition.ty, schemas);
    let errors = validate::validate(&kind, &pod, None);
    if !errors.is_empty() {
        return Err(Error::Invalid(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")));
    }
    let pod: Pod = serde_json::from_value(pod).map_err(|error| Error::Invalid(error.to_string()))?;
    match pod.spec.as_ref().and_then(reference) {
        Some(what) => Err(Error::Reference(what)),
        None => Ok(pod),
    }
}

/// Name, namespace, uid, node, and what tells that a file described it.
fn place(pod: &mut Value, file: &str, node: &str, now: &str) -> Result<(), Error> {
    let metadata = &pod["metadata"];
    let name = metadata["name"].as_str().filter(|name| !name.is_empty()).ok_or(Error::Nameless)?.to_owned();
    let namespace = metadata["namespace"].as_str().filter(|name| !name.is_empty()).unwrap_or("default").to_owned();
    let given = metadata["uid"].as_str().filter(|uid| !uid.is_empty()).map(str::to_owned);
    let uid = given.unwrap_or_else(|| hash(pod, file, node));
    let mut annotations = metadata["annotations"].as_object().cloned().unwrap_or_default();
    for (key, value) in [(HASH, uid.as_str()), (SOURCE, FILE), (SEEN, now)] {
        annotations.insert(key.to_owned(), value.into());
    }
    pod["metadata"]["name"] = format!("{name}-{}", node.to_lowercase()).into();
    pod["metadata"]["namespace"] = namespace.into();
    pod["metadata"]["uid"] = uid.into();
    pod["metadata"]["annotations"] = annotations.into();
    pod["spec"]["nodeName"] = node.into();
    let mut tolerations = pod["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
    // Troubles of its node are no reason to end what its node wants.
    tolerations.push(json!({"operator": "Exists", "effect": "NoExecute"}));
    pod["spec"]["tolerations"] = tolerations.into();
    Ok(())
}

/// Changes with the manifest, its place and its node, and with nothing else.
fn hash(pod: &Value, file: &str, node: &str) -> String {
    let digest = Sha256::new().chain_update(pod.to_string()).chain_update(format!("host:{node}file:{file}")).finalize();
    digest.iter().take(UID_BYTES).map(|byte| format!("{byte:02x}")).collect()
}

/// What of the API a pod needs, which may not be there when it starts.
fn reference(spec: &PodSpec) -> Option<&'static str> {
    if spec.service_account_name.as_deref().is_some_and(|name| !name.is_empty()) {
        return Some("serviceaccounts");
    }
    if spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()) {
        return Some("resourceclaims");
    }
    if spec.image_pull_secrets.as_ref().is_some_and(|secrets| !secrets.is_empty()) {
        return Some("secrets");
    }
    of_environment(spec).or_else(|| of_volumes(spec))
}

fn of_environment(spec: &PodSpec) -> Option<&'static str> {
    let all = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let from = || all().flat_map(|container| container.env_from.iter().flatten());
    let values = || all().flat_map(|c| c.env.iter().flatten()).filter_map(|variable| variable.value_from.as_ref());
    if from().any(|from| from.secret_ref.is_some()) || values().any(|value| value.secret_key_ref.is_some()) {
        return Some("secrets");
    }
    let maps = from().any(|from| from.config_map_ref.is_some()) || values().any(|v| v.config_map_key_ref.is_some());
    maps.then_some("configmaps")
}

fn of_volumes(spec: &PodSpec) -> Option<&'static str> {
    spec.volumes.iter().flatten().find_map(|volume| {
        let parts = || volume.projected.iter().flat_map(|source| source.sources.iter().flatten());
        let kinds = [
            (volume.config_map.is_some(), "configmaps (via configmap volumes)"),
            (volume.secret.is_some(), "secrets (via secret volumes)"),
            (volume.csi.is_some(), "csidrivers (via CSI volumes)"),
            (volume.persistent_volume_claim.is_some(), "persistentvolumeclaims"),
            (volume.ephemeral.is_some(), "persistentvolumeclaims (via ephemeral volumes)"),
            (parts().any(|part| part.config_map.is_some()), "configmaps (via projected volumes)"),
            (parts().any(|part| part.secret.is_some()), "secrets (via projected volumes)"),
            (parts().any(|part| part.service_account_token.is_some()), "serviceaccounts (via projected volumes)"),
            (parts().any(|part| part.cluster_trust_bundle.is_some()), "clustertrustbundles"),
        ];
        kinds.into_iter().find(|(is, _)| *is).map(|(_, what)| what)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\n\
                            spec: {containers: [{name: c, image: 'web:1'}]}\n";

    fn of(text: &str) -> Result<Pod, Error> {
        parse(text.as_bytes(), "/m/web.yaml", "node1", "2026-01-01T00:00:00Z")
    }

    #[test]
    fn a_manifest_becomes_a_pod_of_this_node() {
        let pod = of(MANIFEST).expect("a pod");
        let metadata = &pod.metadata;
        assert_eq!((metadata.name.as_deref(), metadata.namespace.as_deref()), (Some("web-node1"), Some("default")));
        let annotations = metadata.annotations.clone().unwrap_or_default();
        assert_eq!(annotations.get(HASH), metadata.uid.as_ref());
        assert_eq!((annotations[SOURCE].as_str(), annotations[SEEN].as_str()), ("file", "2026-01-01T00:00:00Z"));
        let spec = pod.spec.expect("spec");
        assert_eq!((spec.node_name.as_deref(), spec.restart_policy.as_deref()), (Some("node1"), Some("Always")));
        assert_eq!(spec.tolerations.unwrap_or_default()[0].effect.as_deref(), Some("NoExecute"));
        assert_eq!(spec.containers[0].image_pull_policy.as_deref(), Some("IfNotPresent"), "defaults are filled in");
    }

    #[test]
    fn another_manifest_is_another_pod() {
        let uid = |text: &str| of(text).expect("a pod").metadata.uid.expect("uid");
        assert_eq!(uid(MANIFEST), uid(MANIFEST));
        assert_ne!(uid(MANIFEST), uid(&MANIFEST.replace("web:1", "web:2")));
        assert_eq!(uid(MANIFEST).len(), 2 * UID_BYTES);
        assert_eq!(uid(&MANIFEST.replace("name: web", "name: web, uid: own")), "own");
    }

    #[test]
    fn what_is_no_pod_is_told() {
        assert_eq!(of(&MANIFEST.replace("kind: Pod", "kind: Job")), Err(Error::Kind("\"v1\", kind \"Job\"".into())));
        assert_eq!(of(&MANIFEST.replace("{name: web}", "{}")), Err(Error::Nameless));
        assert!(matches!(of("{"), Err(Error::Malformed(_))));
        let invalid = of(&MANIFEST.replace("name: c,", "name: C_,")).expect_err("invalid").to_string();
        assert!(invalid.starts_with("invalid pod: spec.containers[0].name: Invalid value"), "{invalid}");
        let with = |more: &str| of(&MANIFEST.replace("spec: {", &format!("spec: {{{more}, ")));
        assert_eq!(with("serviceAccountName: x"), Err(Error::Reference("serviceaccounts")));
        let volume = "volumes: [{name: v, secret: {secretName: s}}]";
        assert_eq!(with(volume), Err(Error::Reference("secrets (via secret volumes)")));
        assert!(with("volumes: [{name: v, hostPath: {path: /x}}]").is_ok());
    }
}
