//! PodSecurity: a namespace's labels say how much its pods may do (`k8s.io/pod-security-admission`). Unlabelled
//! namespaces allow everything, as upstream's defaults do.
mod checks;

use super::{Attributes, Operation};
use crate::engine::Result;
use api::Status;
use api::validate::{FieldError, Reason};
use checks::{Level, Version, Violation, evaluate};
use serde_json::Value;

const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
const WARN: &str = "pod-security.kubernetes.io/warn";
const AUDIT: &str = "pod-security.kubernetes.io/audit";
/// Subresources through which a pod's own specification does not come.
const IGNORED: &[&str] = &["attach", "binding", "eviction", "exec", "log", "portforward", "proxy", "status"];

/// A mode's level and version.
struct Policy {
    level: Level,
    version: Version,
    /// What messages call the version.
    called: String,
}

/// What a mode's labels say; what can't be read restricts nothing here, its namespace could not be stored so.
fn policy(label: impl Fn(&str) -> Option<String>, mode: &str) -> Policy {
    let level = label(mode).and_then(|text| Level::parse(&text)).unwrap_or(Level::Privileged);
    let called = label(&format!("{mode}-version")).unwrap_or_else(|| "latest".into());
    Policy { level, version: Version::parse(&called).unwrap_or(Version::LATEST), called }
}

/// # Errors
/// 403 for a pod that breaks what its namespace enforces, 422 for a namespace with levels that don't exist.
pub async fn validate(attributes: &Attributes<'_>, object: &Value, old: Option<&Value>) -> Result<()> {
    if !matches!(attributes.operation, Operation::Create | Operation::Update) {
        return Ok(());
    }
    if attributes.is("", "namespaces") {
        return check_labels(object, old);
    }
    let Some((metadata, spec)) = template(attributes, object) else { return Ok(()) };
    let before = old.and_then(|old| template(attributes, old));
    if before.is_some_and(|(old, before)| before == spec && old["annotations"] == metadata["annotations"]) {
        return Ok(());
    }
    let Some(namespace) = attributes.stored_namespace().await? else { return Ok(()) };
    let label = |key: &str| {
        let mut labels = namespace.summary.labels.iter();
        labels.find(|(name, _)| **name == *key).map(|(_, value)| value.to_string())
    };
    let broken = |policy: &Policy| {
        let found = evaluate(policy.level, policy.version, metadata, spec);
        let text = || format!("PodSecurity \"{}:{}\": {}", policy.level.as_str(), policy.called, describe(&found));
        (!found.is_empty()).then(text)
    };
    let pod = attributes.kind.kind == "Pod";
    let enforced = policy(label, ENFORCE);
    if let Some(text) = broken(&enforced).filter(|_| pod) {
        return Err(attributes.forbidden(Some(object), &format!("violates {text}")));
    }
    if let Some(text) = broken(&policy(label, AUDIT)) {
        tracing::info!(namespace = attributes.namespace(), text, "audit: a pod would violate PodSecurity");
    }
    if let Some(text) = broken(&policy(label, WARN)) {
        attributes.warn(format!("would violate {text}"));
    }
    Ok(())
}

/// Metadata and specification of the pod, or of the pods that a workload makes.
fn template<'o>(attributes: &Attributes<'_>, object: &'o Value) -> Option<(&'o Value, &'o Value)> {
    let gvr = &attributes.resource().gvr;
    let at = match (gvr.group.as_str(), gvr.resource.as_str(), attributes.subresource()) {
        ("", "pods", sub) if !IGNORED.contains(&sub) => object,
        ("", "podtemplates", "") => &object["template"],
        ("", "replicationcontrollers", "")
        | ("apps", "daemonsets" | "deployments" | "replicasets" | "statefulsets", "")
        | ("batch", "jobs", "") => &object["spec"]["template"],
        ("batch", "cronjobs", "") => &object["spec"]["jobTemplate"]["spec"]["template"],
        _ => return None,
    };
    at.is_object().then(|| (&at["metadata"], &at["spec"]))
}

/// `host namespaces (hostNetwork=true), privileged (...)`
fn describe(found: &[Violation]) -> String {
    let text = |v: &Violation| match v.detail.as_str() {
        "" => v.reason.clone(),
        detail => format!("{} ({detail})", v.reason),
    };
    found.iter().map(text).collect::<Vec<_>>().join(", ")
}

/// Levels and versions that are new must exist.
fn check_labels(namespace: &Value, old: Option<&Value>) -> Result<()> {
    let mut errors = Vec::new();
    for mode in [ENFORCE, AUDIT, WARN] {
        for (key, detail) in [
            (mode.to_owned(), "must be one of privileged, baseline, restricted"),
            (format!("{mode}-version"), "must be \"latest\" or \"v1.x\""),
        ] {
            let value = &namespace["metadata"]["labels"][&key];
            let unchanged = old.is_some_and(|old| old["metadata"]["labels"][&key] == *value);
            let text = value.as_str().unwrap_or_default();
            let valid = if key == mode { Level::parse(text).is_some() } else { Version::parse(text).is_some() };
            if value.is_string() && !unchanged && !valid {
                let (field, reason) = (format!("metadata.labels[{key}]"), Reason::Invalid);
                errors.push(FieldError { field, reason, value: Some(value.clone()), detail: detail.to_owned() });
            }
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    let kind = api::GroupKind { group: String::new(), kind: "Namespace".into() };
    let name = namespace["metadata"]["name"].as_str().unwrap_or_default();
    Err(Status::invalid(&kind, name, &errors).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Verb;
    use crate::engine::testing::{Bench, info};
    use serde_json::json;

    async fn bench(labels: Value) -> Bench {
        let bench = Bench::new();
        bench.store("/registry/namespaces/ns", json!({"metadata": {"name": "ns", "labels": labels}})).await;
        bench.store("/registry/serviceaccounts/ns/default", json!({"metadata": {"name": "default"}})).await;
        bench
    }

    fn pod() -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
            "hostNetwork": true, "containers": [{"name": "a", "image": "x"}]}})
    }

    #[tokio::test]
    async fn what_is_enforced_is_refused() {
        let bench = bench(json!({ENFORCE: "baseline"})).await;
        let (code, status) = bench.json(info(Verb::Create, "pods", "ns", ""), pod()).await;
        let message =
            "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)";
        assert_eq!((code, status["message"].as_str().unwrap()), (403, message));
    }

    #[tokio::test]
    async fn a_warning_lets_it_pass() {
        let bench = bench(json!({WARN: "restricted"})).await;
        let response = bench.send(info(Verb::Create, "pods", "ns", ""), pod().to_string(), Default::default()).await;
        assert_eq!(response.status(), 201);
        let warning = response.headers()["warning"].to_str().unwrap();
        assert!(warning.contains("would violate PodSecurity \\\"restricted:latest\\\""), "{warning}");
    }

    #[tokio::test]
    async fn levels_must_exist() {
        let bench = bench(json!({})).await;
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x", "labels": {ENFORCE: "none"}}});
        let (code, status) = bench.json(info(Verb::Create, "namespaces", "", ""), namespace).await;
        assert!(code == 422 && status["message"].as_str().unwrap().contains("must be one of privileged"), "{status}");
    }
}
