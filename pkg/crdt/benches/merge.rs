//! What a document costs, in time and bytes: `cargo bench -p eyot-crdt`.
use eyot_crdt::{Actor, Delta, Document, Stamp};
use serde_json::{Value, json};
use std::hint::black_box;
use std::time::{Duration, Instant};

const KEY: &[u8] = b"/registry/pods/default/web-5d9c7b";
/// Rounds of each measurement; the median of three is told.
const ROUNDS: u32 = 2_000;

fn main() {
    for (what, object) in [("1 KB pod", pod(1)), ("10 KB pod", pod(34))] {
        run(what, object);
    }
}

fn pod(containers: usize) -> Value {
    let containers: Vec<Value> = (0..containers)
        .map(|n| json!({"name": format!("c{n}"), "image": "registry.example/team/app:1.2.3", "imagePullPolicy": "IfNotPresent",
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "128Mi"}},
            "ports": [{"containerPort": 80, "protocol": "TCP"}], "terminationMessagePath": "/dev/termination-log"}))
        .collect();
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web-5d9c7b", "namespace": "default", "uid": "9e8f3c1e-0d0f-4a51-8f5d-0b8d3f0a7c11", "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"app": "web", "pod-template-hash": "5d9c7b"},
            "annotations": {"example.com/team": "boats", "example.com/revision": "a41be7c"}},
        "spec": {"containers": containers, "restartPolicy": "Always", "serviceAccountName": "default", "nodeName": "n1"},
        "status": {"phase": "Running", "podIP": "10.42.0.5", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:05Z"},
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:01Z"}]}})
}

fn stamp(actor: u8, n: u64) -> Stamp {
    Stamp { time: (1_767_225_600_000 << 10) | n, actor: Actor([actor; 16]) }
}

fn run(what: &str, mut object: Value) {
    let first = object.to_string();
    let mut one = Document::default();
    let birth = one.write(KEY, Some(first.as_bytes()), stamp(1, 0)).expect("it is new");
    let mut two = Document::default();
    two.merge(&birth);
    object["spec"]["nodeName"] = "n2".into();
    let edited = object.to_string();
    let delta = one.clone().write(KEY, Some(edited.as_bytes()), stamp(1, 1)).expect("it differs");
    let (document, change) = (one.encode(), delta.encode());
    println!(
        "{what}: {} bytes of JSON, {} as a document ({:+} %), {} as the change that makes it, {} as a change of one field",
        first.len(),
        document.len(),
        document.len() as i64 * 100 / first.len() as i64 - 100,
        birth.encode().len(),
        change.len(),
    );
    time("derive the change of one field", || {
        one.clone().write(KEY, Some(edited.as_bytes()), stamp(1, 1)).expect("it differs")
    });
    time("merge it", || two.clone().merge(&delta));
    time("of the two: copy the document", || two.clone());
    time("encode the document", || one.encode());
    time("decode the document", || Document::decode(&document).expect("it was encoded"));
    time("encode and decode the change", || Delta::decode(&delta.encode()).expect("it was encoded"));
    time("what is served after a merge", || two.visible(KEY, None));
    time("join two whole documents", || two.clone().join(one.clone(), one.version(), two.version()));
}

fn time<T>(what: &str, mut work: impl FnMut() -> T) {
    let mut runs: Vec<Duration> = (0..3)
        .map(|_| {
            let began = Instant::now();
            (0..ROUNDS).for_each(|_| drop(black_box(work())));
            began.elapsed() / ROUNDS
        })
        .collect();
    runs.sort();
    println!("  {what}: {:.1} us", runs[1].as_nanos() as f64 / 1000.0);
}
