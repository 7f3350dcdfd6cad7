//! ServiceAccount: every pod has one, and its token in every container
//! (`plugin/pkg/admission/serviceaccount`).
use crate::registry::strategy::child;
use serde_json::{Value, json};

/// How the token's volume is named, before five random characters.
pub const VOLUME_PREFIX: &str = "kube-api-access-";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// An hour and seven seconds: tells automatic tokens from ones that were asked for.
const EXPIRATION_SECONDS: u32 = 3_607;
const MIRROR: &str = "kubernetes.io/config.mirror";
const ENFORCE_MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";

/// The image of a static pod, which exists already on its node.
pub fn is_mirror(pod: &Value) -> bool {
    pod["metadata"]["annotations"].get(MIRROR).is_some()
}

/// # Errors
/// For what a pod that no server made may not refer to.
pub fn check_mirror(pod: &Value) -> Result<(), String> {
    let name = pod["spec"]["serviceAccountName"].as_str().unwrap_or_default();
    if !name.is_empty() {
        return Err("a mirror pod may not reference service accounts".into());
    }
    let volumes = || pod["spec"]["volumes"].as_array().into_iter().flatten();
    if volumes().any(|v| v.get("secret").is_some()) {
        return Err("a mirror pod may not reference secrets".into());
    }
    let mut sources = volumes().flat_map(|v| v["projected"]["sources"].as_array().into_iter().flatten());
    if sources.any(|s| s.get("serviceAccountToken").is_some()) {
        return Err("a mirror pod may not use ServiceAccountToken volume projections".into());
    }
    Ok(())
}

/// The account that the pod asks for.
pub fn wanted(pod: &Value) -> String {
    let spec = &pod["spec"];
    let name = spec["serviceAccountName"].as_str().filter(|n| !n.is_empty()).or(spec["serviceAccount"].as_str());
    name.filter(|n| !n.is_empty()).unwrap_or("default").into()
}

/// Gives the pod its account, the account's pull secrets and token.
pub fn mount(pod: &mut Value, account: &Value, volume: &str) {
    let name = account["metadata"]["name"].clone();
    let automount = |of: &Value| of["automountServiceAccountToken"].as_bool();
    let automounts = automount(&pod["spec"]).or(automount(account)).unwrap_or(true);
    let spec = child(pod, "spec");
    spec.insert("serviceAccount".into(), name.clone());
    spec.insert("serviceAccountName".into(), name);
    if spec.get("imagePullSecrets").and_then(Value::as_array).is_none_or(Vec::is_empty)
        && let Some(secrets) = account["imagePullSecrets"].as_array().filter(|s| !s.is_empty())
    {
        spec.insert("imagePullSecrets".into(), json!(secrets));
    }
    if automounts {
        mount_token(pod, volume);
    }
}

fn mount_token(pod: &mut Value, volume: &str) {
    let existing = pod["spec"]["volumes"].as_array().into_iter().flatten().filter_map(|v| v["name"].as_str());
    let existing = existing.into_iter().find(|n| n.starts_with(VOLUME_PREFIX)).map(str::to_owned);
    let name = existing.clone().unwrap_or_else(|| volume.into());
    let mut needed = false;
    for list in ["initContainers", "containers"] {
        for container in pod["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let mounts = child_list(container, "volumeMounts");
            if !mounts.iter().any(|m| m["mountPath"] == MOUNT_PATH) {
                mounts.push(json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH}));
                needed = true;
            }
        }
    }
    if needed && existing.is_none() {
        child(pod, "spec");
        child_list(&mut pod["spec"], "volumes").push(json!({"name": name, "projected": token_volume()}));
    }
}

fn child_list<'v>(value: &'v mut Value, key: &str) -> &'v mut Vec<Value> {
    if !value[key].is_array() {
        value[key] = json!([]);
    }
    value[key].as_array_mut().expect("just made a list")
}

fn token_volume() -> Value {
    json!({
        "defaultMode": 420,
        "sources": [
            {"serviceAccountToken": {"expirationSeconds": EXPIRATION_SECONDS, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ],
    })
}

/// An account may say that its pods use its own secrets only.
///
/// # Errors
/// With the secret that is not among them.
pub fn check_secrets(pod: &Value, account: &Value) -> Result<(), String> {
    if account["metadata"]["annotations"][ENFORCE_MOUNTABLE] != "true" {
        return Ok(());
    }
    let account_name = account["metadata"]["name"].as_str().unwrap_or_default();
    let listed = |list: &str, name: &str| account[list].as_array().into_iter().flatten().any(|s| s["name"] == name);
    for volume in pod["spec"]["volumes"].as_array().into_iter().flatten() {
        let secret = volume["secret"]["secretName"].as_str();
        if let Some(secret) = secret.filter(|s| !listed("secrets", s)) {
            return Err(format!(
                "volume with secret.secretName={secret:?} is not allowed because service account {account_name} does not reference that secret"
            ));
        }
    }
    for list in ["initContainers", "containers"] {
        for container in pod["spec"][list].as_array().into_iter().flatten() {
            let what = if list == "containers" { "container" } else { "init container" };
            let name = container["name"].as_str().unwrap_or_default();
            for (how, secret) in secrets_of(container) {
                if !listed("secrets", secret) {
                    return Err(format!(
                        "{what} {name} with {how}={secret:?} is not allowed because service account {account_name} does not reference that secret"
                    ));
                }
            }
        }
    }
    for (i, secret) in pod["spec"]["imagePullSecrets"].as_array().into_iter().flatten().enumerate() {
        let secret = secret["name"].as_str().unwrap_or_default();
        if !listed("imagePullSecrets", secret) {
            return Err(format!(
                "imagePullSecrets[{i}].name={secret:?} is not allowed because service account {account_name} does not reference that imagePullSecret"
            ));
        }
    }
    Ok(())
}

/// Secrets in a container's environment, each with how the message calls it.
fn secrets_of(container: &Value) -> Vec<(String, &str)> {
    let mut found = Vec::new();
    for env in container["env"].as_array().into_iter().flatten() {
        if let Some(secret) = env["valueFrom"]["secretKeyRef"]["name"].as_str() {
            let name = env["name"].as_str().unwrap_or_default();
            found.push((format!("envVar {name} referencing secret.secretName"), secret));
        }
    }
    for from in container["envFrom"].as_array().into_iter().flatten() {
        if let Some(secret) = from["secretRef"]["name"].as_str() {
            found.push(("envFrom referencing secret.secretName".into(), secret));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Value {
        json!({"metadata": {"name": "default"}, "imagePullSecrets": [{"name": "pull"}]})
    }

    #[test]
    fn every_container_gets_the_token() {
        let mut pod = json!({"spec": {
            "initContainers": [{"name": "i"}],
            "containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"name": "own", "mountPath": MOUNT_PATH}]}],
        }});
        mount(&mut pod, &account(), "kube-api-access-abcde");
        let spec = &pod["spec"];
        assert_eq!((&spec["serviceAccountName"], &spec["serviceAccount"]), (&json!("default"), &json!("default")));
        assert_eq!(spec["imagePullSecrets"], json!([{"name": "pull"}]));
        assert_eq!(spec["volumes"][0]["name"], "kube-api-access-abcde");
        assert_eq!(spec["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"], 3607);
        assert_eq!(spec["initContainers"][0]["volumeMounts"][0]["readOnly"], true);
        assert_eq!(spec["containers"][1]["volumeMounts"][0]["name"], "own");
    }

    #[test]
    fn who_wants_no_token_gets_none() {
        let mut pod = json!({"spec": {"automountServiceAccountToken": false, "containers": [{"name": "a"}]}});
        mount(&mut pod, &account(), "v");
        assert_eq!(pod["spec"].get("volumes"), None);
        assert_eq!(wanted(&json!({"spec": {}})), "default");
        assert_eq!(wanted(&json!({"spec": {"serviceAccountName": "x"}})), "x");
    }

    #[test]
    fn an_account_may_fence_its_secrets() {
        let mut account = account();
        account["metadata"]["annotations"] = json!({ENFORCE_MOUNTABLE: "true"});
        account["secrets"] = json!([{"name": "mine"}]);
        let pod = |secret: &str| json!({"spec": {"volumes": [{"secret": {"secretName": secret}}]}});
        assert!(check_secrets(&pod("mine"), &account).is_ok());
        assert!(
            check_secrets(&pod("other"), &account).unwrap_err().contains("volume with secret.secretName=\"other\"")
        );
    }
}
