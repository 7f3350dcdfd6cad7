//! What the subresources of a pod may change.
use crate::registry::strategy;
use api::validate::{FieldError, Reason};
use serde_json::{Value, json};

/// `ephemeralcontainers`: those alone.
pub fn only_ephemeral_containers(new: &mut Value, live: &Value) {
    let given = new["spec"].get("ephemeralContainers").cloned();
    let meta = new["metadata"].clone();
    *new = live.clone();
    keep_version(new, &meta);
    if let Some(given) = given {
        strategy::child(new, "spec").insert("ephemeralContainers".into(), given);
    }
}

/// `resize`: resources and resize policies of containers, by name.
pub fn only_resources(new: &mut Value, live: &Value) {
    let (spec, meta) = (new["spec"].clone(), new["metadata"].clone());
    *new = live.clone();
    keep_version(new, &meta);
    for list in ["containers", "initContainers"] {
        for container in new["spec"][list].as_array_mut().into_iter().flatten() {
            let same = spec[list].as_array().into_iter().flatten().find(|c| c["name"] == container["name"]);
            for field in ["resources", "resizePolicy"] {
                if let Some(value) = same.and_then(|c| c.get(field)) {
                    container[field] = value.clone();
                }
            }
        }
    }
    if let Some(whole) = spec.get("resources") {
        new["spec"]["resources"] = whole.clone();
    }
}

/// What a resize may not do to the pod as a whole.
pub fn resize_errors(new: &Value, live: &Value) -> Option<FieldError> {
    (strategy::qos_class(new) != strategy::qos_class(live)).then(|| FieldError {
        field: "spec".into(),
        reason: Reason::Invalid,
        value: Some(live["status"]["qosClass"].clone()),
        detail: "Pod QOS Class may not change as a result of resizing".into(),
    })
}

fn keep_version(new: &mut Value, meta: &Value) {
    for key in ["resourceVersion", "managedFields"] {
        if let Some(value) = meta.get(key) {
            new["metadata"][key] = value.clone();
        }
    }
}

/// Puts a pod on a node, as the scheduler asks (`assignPod`).
///
/// # Errors
/// Why it can't be: it is deleted, or has a node.
pub fn bind(pod: &Value, binding: &Value, now: &str) -> Result<Value, String> {
    let node = binding["target"]["name"].as_str().unwrap_or_default();
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    if pod["metadata"]["deletionTimestamp"].is_string() {
        return Err(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    if let Some(has) = pod["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) {
        return Err(format!("pod {name} is already assigned to node \"{has}\""));
    }
    if pod["spec"]["schedulingGates"].as_array().is_some_and(|g| !g.is_empty()) {
        return Err(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    let mut new = pod.clone();
    new["spec"]["nodeName"] = node.into();
    if let Some(notes) = binding["metadata"]["annotations"].as_object() {
        strategy::child(&mut new["metadata"], "annotations").extend(notes.clone());
    }
    set_condition(&mut new, json!({"type": "PodScheduled", "status": "True"}), now);
    Ok(new)
}

/// Replaces or adds a condition by its type; the time of the transition moves only with the status.
pub fn set_condition(pod: &mut Value, mut condition: Value, now: &str) {
    let generation = pod["metadata"]["generation"].clone();
    let status = strategy::child(pod, "status");
    let list = status.entry("conditions").or_insert_with(|| json!([]));
    let Some(list) = list.as_array_mut() else { return };
    condition["lastProbeTime"] = Value::Null;
    if !generation.is_null() {
        condition["observedGeneration"] = generation;
    }
    let old = list.iter_mut().find(|c| c["type"] == condition["type"]);
    let same = old.as_ref().is_some_and(|o| o["status"] == condition["status"]);
    condition["lastTransitionTime"] = match &old {
        Some(old) if same => old["lastTransitionTime"].clone(),
        _ => now.into(),
    };
    match old {
        Some(old) => *old = condition,
        None => list.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_bound_once() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {}});
        let binding = json!({"target": {"name": "n1"}, "metadata": {"annotations": {"a": "b"}}});
        let bound = bind(&pod, &binding, "t").unwrap();
        assert_eq!(bound["spec"]["nodeName"], "n1");
        assert_eq!(bound["metadata"]["annotations"]["a"], "b");
        assert_eq!(bound["status"]["conditions"][0]["status"], "True");
        assert!(bind(&bound, &binding, "t").unwrap_err().contains("already assigned"));
    }

    #[test]
    fn a_resize_touches_resources_only() {
        let live =
            json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "x", "resources": {}}]}});
        let mut new = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "y", "resources": {"limits": {"cpu": "1"}}}]}});
        only_resources(&mut new, &live);
        assert_eq!(new["spec"]["containers"][0]["image"], "x");
        assert_eq!(new["spec"]["containers"][0]["resources"]["limits"]["cpu"], "1");
    }
}
