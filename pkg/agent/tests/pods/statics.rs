//! Static pods: what a directory of manifests says runs, and the API shows it.
use crate::api::Api;
use crate::node::{Agent, IMAGE, Place, Supervisor, eventually, obstacle, path, until};
use eyot_agent::runtime;
use serde_json::Value;

fn manifest(command: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n\
         \x20 - {{name: c, image: {IMAGE:?}, command: [sh, -c, {command:?}]}}\n"
    )
}

fn is_running(pod: &Value) -> bool {
    pod["status"]["phase"] == "Running" && pod["status"]["containerStatuses"][0]["ready"] == true
}

fn uid(pod: &Value) -> &str {
    pod["metadata"]["uid"].as_str().unwrap_or_default()
}

fn container(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]["containerID"]
}

#[tokio::test(flavor = "multi_thread")]
async fn static_pods_follow_their_manifests() {
    if let Some(obstacle) = obstacle(&runtime::programs::check().await) {
        return eprintln!("skipped: {obstacle}");
    }
    let place = Place::new(2);
    place.furnish();
    let supervisor = Supervisor::start(&place).await;
    let dir = place.agent_dir().join("pod-manifests");
    std::fs::create_dir_all(&dir).expect("directory");
    let file = dir.join("web.yaml");
    std::fs::write(&file, manifest("echo first; sleep 1000")).expect("manifest");

    // It runs before any server answers.
    let silent = Api::new();
    silent.fall_silent();
    let agent = Agent::start(&place, &silent);
    let logs = place.agent_dir().join("log/pods");
    let says = |text: &str| {
        let pods = std::fs::read_dir(&logs).into_iter().flatten().flatten();
        let logs = pods.map(|pod| std::fs::read_to_string(pod.path().join("c/0.log")).unwrap_or_default());
        logs.into_iter().any(|log| log.contains(text))
    };
    eventually("it runs without a server", || says("F first")).await;
    agent.end().await;

    // The API shows it under its node's name; who deletes what is shown deletes nothing.
    let api = Api::new();
    let agent = Agent::start(&place, &api);
    let shown = path("web-n1");
    let first = until(&api, &shown, "shown", is_running).await;
    let annotations = &first["metadata"]["annotations"];
    assert_eq!(annotations["kubernetes.io/config.source"], "file");
    assert_eq!(annotations["kubernetes.io/config.mirror"], annotations["kubernetes.io/config.hash"]);
    assert_eq!(first["metadata"]["ownerReferences"][0]["kind"], "Node");
    assert_ne!(first["metadata"]["uid"], annotations["kubernetes.io/config.hash"]);
    api.remove(&shown);
    let again = until(&api, &shown, "shown again", |pod| is_running(pod) && uid(pod) != uid(&first)).await;
    assert_eq!(container(&again), container(&first), "the same container");

    // A changed manifest is another pod, an empty directory none.
    std::fs::write(&file, manifest("echo second; sleep 1000")).expect("manifest");
    let changed = |pod: &Value| is_running(pod) && container(pod) != container(&first);
    let second = until(&api, &shown, "changed", changed).await;
    assert_ne!(
        second["metadata"]["annotations"]["kubernetes.io/config.hash"],
        annotations["kubernetes.io/config.hash"]
    );
    assert!(says("F second") && !says("F first"), "the first one's log is gone with it");
    std::fs::remove_file(&file).expect("removed");
    until(&api, &shown, "not shown any more", Value::is_null).await;
    let checkpoints = place.agent_dir().join("checkpoints");
    eventually("nothing is left", || std::fs::read_dir(&checkpoints).is_ok_and(|mut all| all.next().is_none())).await;

    agent.end().await;
    supervisor.end().await;
    drop(place);
}
