//! Objects for tests.
use crate::pod::PodInfo;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use std::sync::Arc;

/// A node of 4 cores, 8 GiB and 110 pods, with `extra` merged into it.
pub fn node(name: &str, extra: Value) -> Arc<Node> {
    let mut node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}}});
    merge(&mut node, extra);
    Arc::new(serde_json::from_value(node).expect("a node"))
}

/// A pending pod of one container, with `extra` merged into its object; its uid is its name.
pub fn pod(name: &str, requests: Value, extra: Value) -> Arc<PodInfo> {
    Arc::new(PodInfo::new(pod_object(name, requests, extra)))
}

pub fn pod_object(name: &str, requests: Value, extra: Value) -> Arc<Pod> {
    let mut pod = json!({"metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": {"schedulerName": "default-scheduler",
            "containers": [{"name": "c", "image": "web", "resources": {"requests": requests}}]}});
    merge(&mut pod, extra);
    Arc::new(serde_json::from_value(pod).expect("a pod"))
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}
