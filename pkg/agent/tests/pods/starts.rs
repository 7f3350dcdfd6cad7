//! What this node starts, what it refuses, and starts that were cut off.
use crate::api::Api;
use crate::node::{Agent, IMAGE, Place, Supervisor, obstacle, path, pod, until};
use eyot_agent::runtime;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;

fn once(command: &[&str]) -> Value {
    json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": IMAGE, "command": command}]})
}

async fn failed(api: &Api, name: &str) -> Value {
    until(api, &path(name), "failed", |pod| pod["status"]["phase"] == "Failed").await
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_are_judged_and_retried() {
    if let Some(obstacle) = obstacle(&runtime::programs::check().await) {
        return eprintln!("skipped: {obstacle}");
    }
    let place = Place::new(1);
    place.furnish();
    let supervisor = Supervisor::start(&place).await;
    let api = Api::new();
    let agent = Agent::start(&place, &api);

    // A program that isn't there: containerd says what it says of a start that was cut off.
    let programs = place.runtime.data_dir.join("programs");
    std::fs::create_dir_all(&programs).expect("directory");
    let mut spec = once(&["/programs/run"]);
    spec["containers"][0]["volumeMounts"] = json!([{"name": "programs", "mountPath": "/programs"}]);
    spec["volumes"] = json!([{"name": "programs", "hostPath": {"path": programs}}]);
    let cut = pod("cut", spec);
    api.put(&path("cut"), cut.clone());
    let ended = failed(&api, "cut").await["status"]["containerStatuses"][0]["state"]["terminated"].clone();
    assert_eq!((&ended["reason"], &ended["exitCode"]), (&json!("StartError"), &json!(128)));

    // What doesn't fit beside the others is refused, also when somebody puts it on the node by name.
    let holder = |name: &str, port: i32| {
        let mut spec = once(&["sleep", "1000"]);
        spec["containers"][0]["ports"] = json!([{"containerPort": port, "hostPort": port, "protocol": "TCP"}]);
        api.put(&path(name), pod(name, spec))
    };
    holder("holder", 61_999);
    until(&api, &path("holder"), "running", |pod| pod["status"]["phase"] == "Running").await;
    holder("second", 61_999);
    let second = failed(&api, "second").await;
    let message =
        "Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
    assert_eq!((&second["status"]["reason"], &second["status"]["message"]), (&json!("NodePorts"), &json!(message)));
    assert!(second["status"]["containerStatuses"].is_null(), "it was not let in: {second:#}");
    let mut large = once(&["true"]);
    large["containers"][0]["resources"] = json!({"requests": {"cpu": "100000"}});
    api.put(&path("large"), pod("large", large));
    assert_eq!(failed(&api, "large").await["status"]["reason"], "OutOfcpu");

    // Who waits for a container that ends at once hears of its end alone.
    let mut brief = once(&["true"]);
    brief["containers"][0]["stdin"] = true.into();
    brief["containers"][0]["stdinOnce"] = true.into();
    api.put(&path("brief"), pod("brief", brief));
    until(&api, &path("brief"), "done", |pod| pod["status"]["phase"] == "Succeeded").await;
    assert!(api.history(&path("brief")).iter().all(|pod| pod["status"]["phase"] != "Running"));

    // The machine goes down: what runs ends and says why, and nothing begins.
    agent.handle.shut_down_node().await;
    let ended = failed(&api, "holder").await;
    let message = "Pod was terminated in response to imminent node shutdown.";
    assert_eq!((&ended["status"]["reason"], &ended["status"]["message"]), (&json!("Terminated"), &json!(message)));
    let conditions = ended["status"]["conditions"].as_array().cloned().unwrap_or_default();
    assert!(conditions.iter().any(|c| c["type"] == "DisruptionTarget" && c["reason"] == "TerminationByKubelet"));
    api.put(&path("late"), pod("late", once(&["true"])));
    assert_eq!(failed(&api, "late").await["status"]["reason"], "NodeShutdown");

    // An agent that finds a failed start of which nobody has heard begins it again, as if it had never been.
    agent.end().await;
    let run = programs.join("run");
    std::fs::write(&run, "#!/bin/sh\nexit 0\n").expect("program");
    std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o755)).expect("mode");
    let later = Api::new();
    later.put(&path("cut"), cut);
    let agent = Agent::start(&place, &later);
    let cut = until(&later, &path("cut"), "done", |pod| pod["status"]["phase"] == "Succeeded").await;
    assert_eq!(cut["status"]["containerStatuses"][0]["restartCount"], 0);

    agent.end().await;
    supervisor.end().await;
    drop(place);
}
