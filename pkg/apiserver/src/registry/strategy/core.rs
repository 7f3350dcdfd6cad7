//! Strategies of the core group.
use super::{Context, child};
use serde_json::{Map, Value, json};

/// The finalizer that the namespace controller removes when the content is gone.
const KUBERNETES: &str = "kubernetes";
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Phase, the label with its name, and the controller's finalizer.
pub fn create_namespace(object: &mut Value, _: &Context<'_>) {
    object["status"] = json!({"phase": "Active"});
    let name = object["metadata"]["name"].clone();
    child(&mut object["metadata"], "labels").insert(NAME_LABEL.into(), name);
    let finalizers = child(object, "spec").entry("finalizers").or_insert_with(|| json!([]));
    if let Some(list) = finalizers.as_array_mut()
        && !list.iter().any(|f| f == KUBERNETES)
    {
        list.push(KUBERNETES.into());
    }
}

/// Finalizers change through `finalize` only.
pub fn update_namespace(new: &mut Value, old: &Value, _: &Context<'_>) {
    let name = old["metadata"]["name"].clone();
    child(&mut new["metadata"], "labels").insert(NAME_LABEL.into(), name);
    match old["spec"].get("finalizers") {
        Some(finalizers) => child(new, "spec").insert("finalizers".into(), finalizers.clone()),
        None => child(new, "spec").remove("finalizers"),
    };
}

/// The status of a Service always has its load balancer.
pub fn create_service(object: &mut Value, _: &Context<'_>) {
    object["status"] = json!({"loadBalancer": {}});
}

pub fn create_claim(object: &mut Value, _: &Context<'_>) {
    object["status"] = json!({"phase": "Pending"});
    same_data_source(object);
}

pub fn update_claim(new: &mut Value, _: &Value, _: &Context<'_>) {
    same_data_source(new);
}

/// `dataSource` and `dataSourceRef` name the same thing where only one is given and the group allows it.
fn same_data_source(claim: &mut Value) {
    let spec = child(claim, "spec");
    match (spec.get("dataSource").cloned(), spec.get("dataSourceRef").cloned()) {
        (Some(source), None) => spec.insert("dataSourceRef".into(), source),
        (None, Some(reference)) if reference.get("namespace").is_none() && is_volume_source(&reference) => {
            spec.insert("dataSource".into(), reference)
        }
        _ => None,
    };
}

/// What `dataSource` may hold: claims and snapshots.
fn is_volume_source(reference: &Value) -> bool {
    let group = reference["apiGroup"].as_str().unwrap_or_default();
    matches!(
        (group, reference["kind"].as_str().unwrap_or_default()),
        ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
    )
}

pub fn create_volume(object: &mut Value, context: &Context<'_>) {
    object["status"] = json!({"phase": "Pending", "lastPhaseTransitionTime": context.now});
}

/// The time of the phase's last change is kept with the phase.
pub fn update_volume_status(new: &mut Value, old: &Value, context: &Context<'_>) {
    const TIME: &str = "lastPhaseTransitionTime";
    let same_phase = new["status"]["phase"] == old["status"]["phase"];
    let (given, before) = (new["status"].get(TIME).cloned(), old["status"].get(TIME).cloned());
    let status = child(new, "status");
    match (same_phase, given, before) {
        (true, None, Some(before)) => status.insert(TIME.into(), before),
        (false, given, before) if given.is_none() || given == before => status.insert(TIME.into(), context.now.into()),
        _ => None,
    };
}

/// Pending, with its QoS class; a pod with scheduling gates says that it waits for them.
pub fn create_pod(object: &mut Value, _: &Context<'_>) {
    let mut status = json!({"phase": "Pending", "qosClass": qos_class(object)});
    if object["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
        status["conditions"] = json!([{
            "type": "PodScheduled",
            "status": "False",
            "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
            "lastProbeTime": null,
            "lastTransitionTime": null,
        }]);
    }
    object["status"] = status;
}

/// The pod's QoS class never changes; owner references and the deletion are not the status' business.
pub fn update_pod_status(new: &mut Value, old: &Value, _: &Context<'_>) {
    let status = child(new, "status");
    if !status.get("qosClass").is_some_and(|class| class != "")
        && let Some(class) = old["status"].get("qosClass")
    {
        status.insert("qosClass".into(), class.clone());
    }
    if status.get("observedGeneration").is_none()
        && let Some(generation) = old["status"].get("observedGeneration")
    {
        status.insert("observedGeneration".into(), generation.clone());
    }
}

/// The class by which memory is reclaimed (`pkg/apis/core/v1/helper/qos`): of CPU and memory, Guaranteed when
/// each container's limit is set and equals its request, BestEffort when nothing is set anywhere.
pub fn qos_class(pod: &Value) -> &'static str {
    let spec = &pod["spec"];
    if spec["resources"].is_object() {
        let whole = [&spec["resources"]];
        if let Some(class) = class_of(whole.into_iter()) {
            return class;
        }
    }
    let lists = ["containers", "initContainers"];
    let containers = lists.iter().flat_map(|list| spec[*list].as_array().into_iter().flatten());
    class_of(containers.map(|c| &c["resources"])).unwrap_or("BestEffort")
}

/// None: nothing is set.
fn class_of<'v>(all: impl Iterator<Item = &'v Value>) -> Option<&'static str> {
    let (mut any, mut guaranteed) = (false, true);
    for resources in all {
        for name in ["cpu", "memory"] {
            let quantity = |kind: &str| {
                let value = &resources[kind][name];
                let text = value.as_str().map_or_else(|| value.to_string(), Into::into);
                api::quantity::Quantity::parse(&text).ok().filter(|q| !q.is_zero())
            };
            let (request, limit) = (quantity("requests"), quantity("limits"));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    any.then_some(if guaranteed { "Guaranteed" } else { "Burstable" })
}

/// `stringData` is write-only: its values go into `data`.
pub fn merge_string_data(object: &mut Value) {
    use base64::Engine;
    let Some(Value::Object(plain)) = object.as_object_mut().and_then(|o| o.remove("stringData")) else { return };
    let data: &mut Map<String, Value> = child(object, "data");
    for (key, value) in plain {
        let bytes = value.as_str().unwrap_or_default();
        data.insert(key, base64::engine::general_purpose::STANDARD.encode(bytes).into());
    }
}

pub fn update_secret(new: &mut Value, old: &Value, _: &Context<'_>) {
    if new["type"].as_str().unwrap_or_default().is_empty()
        && let Some(kind) = old.get("type")
    {
        new["type"] = kind.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> (crate::User, &'static str) {
        (crate::User::default(), "2026-01-01T00:00:00Z")
    }

    fn with<R>(f: impl FnOnce(&Context<'_>) -> R) -> R {
        let (user, now) = context();
        f(&Context { user: &user, now })
    }

    #[test]
    fn qos_by_requests_and_limits() {
        let pod = |resources: Value| json!({"spec": {"containers": [{"resources": resources}]}});
        assert_eq!(qos_class(&pod(json!({}))), "BestEffort");
        assert_eq!(qos_class(&pod(json!({"requests": {"cpu": "100m"}}))), "Burstable");
        let full = json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1000m", "memory": "1024Mi"}});
        assert_eq!(qos_class(&pod(full)), "Guaranteed");
        assert_eq!(qos_class(&pod(json!({"limits": {"cpu": "1", "memory": "1Gi"}}))), "Guaranteed");
        assert_eq!(qos_class(&pod(json!({"limits": {"cpu": "1"}}))), "Burstable");
    }

    #[test]
    fn string_data_goes_into_data() {
        let mut secret = json!({"data": {"a": "eA=="}, "stringData": {"a": "1", "b": "2"}});
        merge_string_data(&mut secret);
        assert_eq!(secret, json!({"data": {"a": "MQ==", "b": "Mg=="}}));
    }

    #[test]
    fn a_namespaces_finalizers_survive_an_update() {
        let mut old = json!({"metadata": {"name": "a"}});
        with(|c| create_namespace(&mut old, c));
        assert_eq!(old["spec"]["finalizers"], json!(["kubernetes"]));
        let mut new = json!({"metadata": {"name": "a"}, "spec": {"finalizers": []}});
        with(|c| update_namespace(&mut new, &old, c));
        assert_eq!(new["spec"], old["spec"]);
        assert_eq!(new["metadata"]["labels"]["kubernetes.io/metadata.name"], "a");
    }

    #[test]
    fn a_volumes_transition_time_follows_its_phase() {
        let old = json!({"status": {"phase": "Pending", "lastPhaseTransitionTime": "t"}});
        let mut same = json!({"status": {"phase": "Pending"}});
        with(|c| update_volume_status(&mut same, &old, c));
        assert_eq!(same["status"]["lastPhaseTransitionTime"], "t");
        let mut bound = json!({"status": {"phase": "Bound", "lastPhaseTransitionTime": "t"}});
        with(|c| update_volume_status(&mut bound, &old, c));
        assert_eq!(bound["status"]["lastPhaseTransitionTime"], "2026-01-01T00:00:00Z");
    }
}
