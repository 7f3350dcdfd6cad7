//! Volumes, claims, classes and devices.
use super::text::{age, count, joined, list, name, scalar, str_of, str_or};
use serde_json::Value;

const UNSET: &str = "<unset>";

pub(super) fn persistent_volume(o: &Value, now: i64) -> Vec<Value> {
    let spec = &o["spec"];
    let claim = &spec["claimRef"];
    let claim = if claim.is_null() {
        String::new()
    } else {
        format!("{}/{}", str_of(&claim["namespace"]), str_of(&claim["name"]))
    };
    vec![
        name(o),
        storage(&spec["capacity"]).into(),
        access_modes(&spec["accessModes"]).into(),
        str_of(&spec["persistentVolumeReclaimPolicy"]).into(),
        phase(o).into(),
        claim.into(),
        class(o).into(),
        str_or(&spec["volumeAttributesClassName"], UNSET).into(),
        str_of(&o["status"]["reason"]).into(),
        age(o, now),
        str_or(&spec["volumeMode"], UNSET).into(),
    ]
}

pub(super) fn persistent_volume_claim(o: &Value, now: i64) -> Vec<Value> {
    let (spec, status) = (&o["spec"], &o["status"]);
    let bound = !str_of(&spec["volumeName"]).is_empty();
    let if_bound = |text: String| if bound { text } else { String::new() };
    vec![
        name(o),
        phase(o).into(),
        str_of(&spec["volumeName"]).into(),
        if_bound(storage(&status["capacity"])).into(),
        if_bound(access_modes(&status["accessModes"])).into(),
        class(o).into(),
        str_or(&spec["volumeAttributesClassName"], UNSET).into(),
        age(o, now),
        str_or(&spec["volumeMode"], UNSET).into(),
    ]
}

fn storage(capacity: &Value) -> String {
    capacity.get("storage").map_or_else(|| "0".into(), scalar)
}

fn phase(o: &Value) -> &str {
    if o["metadata"]["deletionTimestamp"].is_null() { str_of(&o["status"]["phase"]) } else { "Terminating" }
}

/// The old annotation still comes before the field.
fn class(o: &Value) -> &str {
    let old = &o["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"];
    old.as_str().unwrap_or_else(|| str_of(&o["spec"]["storageClassName"]))
}

fn access_modes(modes: &Value) -> String {
    const SHORT: [(&str, &str); 4] =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let has = |mode: &str| list(modes).iter().any(|m| m == mode);
    SHORT.iter().filter(|(mode, _)| has(mode)).map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

pub(super) fn storage_class(o: &Value, now: i64) -> Vec<Value> {
    let annotation = |key: &str| o["metadata"]["annotations"][key] == "true";
    let default = annotation("storageclass.kubernetes.io/is-default-class")
        || annotation("storageclass.beta.kubernetes.io/is-default-class");
    vec![
        if default { format!("{} (default)", str_of(&name(o))).into() } else { name(o) },
        str_of(&o["provisioner"]).into(),
        str_or(&o["reclaimPolicy"], "Delete").into(),
        str_or(&o["volumeBindingMode"], "Immediate").into(),
        (o["allowVolumeExpansion"] == true).into(),
        age(o, now),
    ]
}

pub(super) fn volume_attachment(o: &Value, now: i64) -> Vec<Value> {
    let spec = &o["spec"];
    vec![
        name(o),
        str_of(&spec["attacher"]).into(),
        str_of(&spec["source"]["persistentVolumeName"]).into(),
        str_of(&spec["nodeName"]).into(),
        (o["status"]["attached"] == true).into(),
        age(o, now),
    ]
}

pub(super) fn volume_attributes_class(o: &Value, now: i64) -> Vec<Value> {
    vec![name(o), str_of(&o["driverName"]).into(), age(o, now)]
}

pub(super) fn csi_driver(o: &Value, now: i64) -> Vec<Value> {
    let spec = &o["spec"];
    let flag = |key: &str, absent: bool| Value::from(spec[key].as_bool().unwrap_or(absent));
    let modes = joined(&spec["volumeLifecycleModes"], ",");
    let tokens = match spec["tokenRequests"].as_array() {
        Some(tokens) => tokens.iter().map(|t| str_of(&t["audience"])).collect::<Vec<_>>().join(","),
        None => UNSET.into(),
    };
    vec![
        name(o),
        flag("attachRequired", true),
        flag("podInfoOnMount", false),
        flag("storageCapacity", false),
        tokens.into(),
        flag("requiresRepublish", false),
        if modes.is_empty() { "<none>".into() } else { modes.into() },
        age(o, now),
    ]
}

pub(super) fn csi_node(o: &Value, now: i64) -> Vec<Value> {
    vec![name(o), count(&o["spec"]["drivers"]).into(), age(o, now)]
}

pub(super) fn resource_claim(o: &Value, now: i64) -> Vec<Value> {
    let deleted = !o["metadata"]["deletionTimestamp"].is_null();
    let allocated = !o["status"]["allocation"].is_null();
    let states = [
        (deleted, "deleted"),
        (!allocated && !deleted, "pending"),
        (allocated, "allocated"),
        (allocated && !list(&o["status"]["reservedFor"]).is_empty(), "reserved"),
    ];
    let states: Vec<&str> = states.into_iter().filter(|(holds, _)| *holds).map(|(_, text)| text).collect();
    vec![name(o), states.join(",").into(), age(o, now)]
}

pub(super) fn resource_slice(o: &Value, now: i64) -> Vec<Value> {
    let spec = &o["spec"];
    vec![
        name(o),
        str_of(&spec["nodeName"]).into(),
        str_of(&spec["driver"]).into(),
        str_of(&spec["pool"]["name"]).into(),
        age(o, now),
    ]
}
