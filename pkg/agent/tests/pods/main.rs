//! Real pods on a real containerd: started, restarted, adopted by a new agent, and gone without a trace; refused, or
//! begun again where an earlier agent was cut off.
mod api;
mod node;
mod starts;
mod statics;

use api::Api;
use eyot_agent::runtime;
use node::{Agent, IMAGE, Place, Supervisor, WAIT, eventually, obstacle, path, pod, until};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn pods_live_and_leave() {
    if let Some(obstacle) = obstacle(&runtime::programs::check().await) {
        return eprintln!("skipped: {obstacle}");
    }
    let place = Place::new(0);
    place.furnish();
    let supervisor = Supervisor::start(&place).await;

    let api = Api::new();
    let agent = Agent::start(&place, &api);
    until(&api, "/api/v1/nodes/n1", "the node is Ready", |node| {
        let all = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
    })
    .await;

    let script = "cat /cfg/key; echo; test -e /data/flag || exit 3; test -x /files/bin/busybox || exit 4; touch /files/x && exit 5; trap 'exit 0' TERM; while true; do sleep 0.1; done";
    api.put(
        "/api/v1/namespaces/default/configmaps/cfg",
        json!({"metadata": {"name": "cfg"}, "data": {"key": "value"}}),
    );
    let long = json!({
        "initContainers": [{"name": "i", "image": IMAGE, "command": ["sh", "-c", "touch /data/flag"],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
        "containers": [{"name": "c", "image": IMAGE, "command": ["sh", "-c", script],
            "readinessProbe": {"exec": {"command": ["test", "-e", "/data/flag"]}, "periodSeconds": 1},
            "resources": {"limits": {"memory": "32Mi", "cpu": "1"}},
            "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "cfg", "mountPath": "/cfg"},
                {"name": "files", "mountPath": "/files"}]}],
        "volumes": [{"name": "data", "emptyDir": {}}, {"name": "files", "image": {"reference": IMAGE, "pullPolicy": "IfNotPresent"}}, {"name": "cfg", "configMap": {"name": "cfg"}}],
    });
    api.put(&path("long"), pod("long", long));
    let failing = json!({"containers": [{"name": "c", "image": IMAGE, "terminationMessagePath": "/dev/termination-log",
        "command": ["sh", "-c", "echo why > /dev/termination-log; exit 3"]}]});
    api.put(&path("failing"), pod("failing", failing));
    let once = json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": IMAGE, "command": ["true"]}]});
    api.put(&path("once"), pod("once", once));

    let long = until(&api, &path("long"), "ready after its init container", |pod| {
        pod["status"]["containerStatuses"][0]["ready"] == true
    })
    .await;
    assert_eq!(long["status"]["phase"], "Running");
    assert_eq!(long["status"]["qosClass"], "Burstable", "its init container has no limits");
    let log = place.agent_dir().join("log/pods/default_long_uid-long/c/0.log");
    assert!(std::fs::read_to_string(log).expect("log").contains("stdout F value\n"));
    let container = long["status"]["containerStatuses"][0]["containerID"].clone();
    until(&api, &path("once"), "succeeded", |pod| pod["status"]["phase"] == "Succeeded").await;
    let failing = until(&api, &path("failing"), "waits after its second crash", |pod| {
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    })
    .await;
    let last = &failing["status"]["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], &last["message"]), (&json!(3), &json!("why\n")));

    // A new agent finds everything as it is; pods that went meanwhile are ended.
    agent.end().await;
    api.remove(&path("failing"));
    let agent = Agent::start(&place, &api);
    until(&api, "/api/v1/nodes/n1", "there", |node| !node.is_null()).await;
    let pods = place.agent_dir().join("checkpoints");
    let start = Instant::now();
    while pods.join("uid-failing").exists() {
        assert!(start.elapsed() < WAIT, "a pod that left the API is not ended");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let long = api.get(&path("long")).expect("it is there");
    assert_eq!(long["status"]["containerStatuses"][0]["containerID"], container, "not started again");
    assert_eq!(long["status"]["containerStatuses"][0]["restartCount"], 0);

    // A changed ConfigMap is in its volume within a moment.
    let map = json!({"metadata": {"name": "cfg"}, "data": {"key": "news"}});
    api.put("/api/v1/namespaces/default/configmaps/cfg", map);
    let shown = place.agent_dir().join("pods/uid-long/volumes/kubernetes.io~configmap/cfg/key");
    eventually("the change is seen", || std::fs::read_to_string(&shown).is_ok_and(|text| text == "news")).await;

    // A resize changes the container that runs.
    let resized = api.edit(&path("long"), |pod| {
        pod["metadata"]["generation"] = 2.into();
        pod["spec"]["containers"][0]["resources"] = json!({"limits": {"memory": "48Mi", "cpu": "500m"}});
    });
    assert!(resized.is_some(), "it is there");
    let long = until(&api, &path("long"), "resized", |pod| {
        pod["status"]["containerStatuses"][0]["resources"]["limits"]["memory"] == "48Mi"
    })
    .await;
    assert_eq!(long["status"]["containerStatuses"][0]["containerID"], container, "while it runs");
    let id = container.as_str().expect("text").trim_start_matches("containerd://");
    let usage = qos::Cgroups::detect().usage(&format!("/{}pods/burstable/poduid-long/{id}", place.instance));
    assert_eq!((usage.memory_limit_bytes, usage.cpu_quota_us), (Some(48 << 20), Some(50_000)));

    // The machine starts again and no server answers: pods come back from what was seen last.
    agent.end().await;
    supervisor.end().await;
    runtime::stop(&place.runtime).expect("all ends");
    let supervisor = Supervisor::start(&place).await;
    let silent = Api::new();
    silent.fall_silent();
    let agent = Agent::start(&place, &silent);
    let logs = place.agent_dir().join("log/pods");
    let again = logs.join("default_long_uid-long/c/1.log");
    eventually("it runs without a server", || {
        std::fs::read_to_string(&again).is_ok_and(|text| text.contains("stdout F news\n"))
    })
    .await;
    assert!(!logs.join("default_once_uid-once/c/1.log").exists(), "what had ended stays so");
    agent.end().await;
    let agent = Agent::start(&place, &api);

    for name in ["long", "once"] {
        let deleted = api.edit(&path(name), |pod| {
            pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            pod["metadata"]["deletionGracePeriodSeconds"] = 1.into();
        });
        assert!(deleted.is_some(), "{name} is there");
    }
    for name in ["long", "once"] {
        until(&api, &path(name), "deleted", Value::is_null).await;
    }
    let start = Instant::now();
    while std::fs::read_dir(&pods).expect("directory").next().is_some() {
        assert!(start.elapsed() < WAIT, "checkpoints are left");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    agent.end().await;
    supervisor.end().await;
    drop(place);
}
