//! How many pods the pure core places in a second: `cargo bench -p eyot-scheduler`.
use eyot_scheduler::core::{Core, Decision};
use eyot_scheduler::plugins;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;

const NODES: usize = 1_000;
const PODS: usize = 10_000;

fn main() {
    for (what, spec) in [
        ("plain", json!({})),
        ("node affinity and tolerations", affinity()),
        ("spread over zones and hosts", spread()),
        ("anti-affinity on hosts", anti_affinity()),
    ] {
        run(what, &spec);
    }
    run_full();
}

fn cluster() -> Core {
    let mut core = Core::new("default-scheduler", plugins::default(), 1);
    for i in 0..NODES {
        let node = json!({
            "metadata": {"name": format!("node-{i}"), "labels": {"kubernetes.io/hostname": format!("node-{i}"),
                "topology.kubernetes.io/zone": format!("zone-{}", i % 3), "disk": if i % 2 == 0 { "ssd" } else { "hdd" }}},
            "status": {"allocatable": {"cpu": "32", "memory": "64Gi", "pods": "110"}}});
        core.node_changed(Arc::new(serde_json::from_value::<Node>(node).expect("a node")));
    }
    core
}

fn pod(name: &str, spec: &Value, cpu: &str) -> Arc<Pod> {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"}, "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "web", "controller": true}]},
        "spec": {"schedulerName": "default-scheduler", "containers": [
            {"name": "c", "image": "web", "resources": {"requests": {"cpu": cpu, "memory": "64Mi"}}}]}});
    for (key, value) in spec.as_object().into_iter().flatten() {
        pod["spec"][key] = value.clone();
    }
    Arc::new(serde_json::from_value(pod).expect("a pod"))
}

fn affinity() -> Value {
    let on = |key: &str, value: &str| json!([{"key": key, "operator": "In", "values": [value]}]);
    json!({"tolerations": [{"key": "k", "operator": "Exists"}], "affinity": {"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": on("disk", "ssd")}]},
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 10, "preference": {"matchExpressions": on("topology.kubernetes.io/zone", "zone-1")}}]}}})
}

fn spread() -> Value {
    let over = |key: &str, skew: i32| {
        json!({"topologyKey": key, "maxSkew": skew, "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "web"}}})
    };
    json!({"topologySpreadConstraints": [over("topology.kubernetes.io/zone", 5), over("kubernetes.io/hostname", 15)]})
}

fn anti_affinity() -> Value {
    json!({"affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1,
        "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}}]}}})
}

fn run(what: &str, spec: &Value) {
    let mut core = cluster();
    for i in 0..PODS {
        core.pod_changed(pod(&format!("pod-{i}"), spec, "100m"), 0);
    }
    let started = Instant::now();
    let mut bound = 0;
    while let Some(decision) = core.next(0) {
        if let Decision::Bind { pod, .. } = decision {
            core.bound(&pod.uid);
            bound += 1;
        }
    }
    report(what, bound, started);
}

/// Pods that fit nowhere: every node is looked at, and the reasons are counted.
fn run_full() {
    let mut core = cluster();
    for i in 0..PODS / 10 {
        core.pod_changed(pod(&format!("pod-{i}"), &json!({}), "64"), 0);
    }
    let started = Instant::now();
    let rejected = std::iter::from_fn(|| core.next(0)).count();
    report("fits nowhere", rejected, started);
}

fn report(what: &str, pods: usize, started: Instant) {
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{what}: {pods} pods on {NODES} nodes, {:.0}/s, {:.0} us each",
        pods as f64 / seconds,
        seconds * 1e6 / pods as f64
    );
}
