//! The status of a pod, from what the runtime has (`k8s.io/kubernetes/pkg/kubelet/status`). Pure.
use super::config::spec;
use super::observed::{Observed, restart_count};
use super::probe::Health;
use super::resources::Qos;
use super::step::{is_sidecar_spec, restart_policy};
use crate::cri::{ContainerState, ContainerStatus as Cri};
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// What is known beyond the runtime.
pub struct Context<'a> {
    pub pod: &'a Pod,
    pub observed: &'a Observed,
    pub health: &'a dyn Health,
    /// Why containers that do not run wait: reason and message, by name.
    pub waiting: &'a BTreeMap<String, (String, String)>,
    pub host_ip: &'a str,
    /// RFC 3339.
    pub now: &'a str,
    /// Termination messages, by container id.
    pub messages: &'a BTreeMap<String, String>,
    /// The pod was ended for a reason of the node's: phase Failed, with reason and message.
    pub evicted: Option<(&'a str, &'a str)>,
    /// The node ends a pod that had begun: the message of `DisruptionTarget`.
    pub disruption: Option<&'a str>,
    pub ending: bool,
    /// Requests and limits that are in force, by container.
    pub actual: &'a BTreeMap<String, ResourceRequirements>,
    pub resize: Resize<'a>,
}

/// How a resize stands.
#[derive(Clone, Copy, Debug, Default)]
pub struct Resize<'a> {
    /// Not granted: reason and message.
    pub pending: Option<(&'a str, &'a str)>,
    /// Granted and not yet in force.
    pub under_way: bool,
    pub error: Option<&'a str>,
}

/// The whole status as it should be sent.
pub fn status(context: &Context<'_>) -> Value {
    let spec = spec(context.pod);
    let init: Vec<Value> = spec.init_containers.iter().flatten().map(|c| container_status(context, c, true)).collect();
    let main: Vec<Value> = spec.containers.iter().map(|c| container_status(context, c, false)).collect();
    let phase = phase(context, &init, &main);
    let mut out = json!({
        "phase": phase,
        "conditions": conditions(context, phase, &init, &main),
        "containerStatuses": main,
        "hostIP": context.host_ip,
        "hostIPs": [{"ip": context.host_ip}],
        "qosClass": Qos::of(spec).name(),
    });
    let fields = out.as_object_mut().expect("built as an object above");
    if !init.is_empty() {
        fields.insert("initContainerStatuses".into(), init.into());
    }
    let ephemeral: Vec<Value> = spec
        .ephemeral_containers
        .iter()
        .flatten()
        .filter_map(|c| serde_json::to_value(c).and_then(serde_json::from_value::<Container>).ok())
        .map(|c| container_status(context, &c, false))
        .collect();
    if !ephemeral.is_empty() {
        fields.insert("ephemeralContainerStatuses".into(), ephemeral.into());
    }
    let old = context.pod.status.as_ref();
    let start = old.and_then(|status| status.start_time.as_ref()).map(|time| json!(time));
    fields.insert("startTime".into(), start.unwrap_or_else(|| context.now.into()));
    if let Some(generation) = context.pod.metadata.generation {
        fields.insert("observedGeneration".into(), generation.into());
    }
    let ips = ips(context);
    if let Some(first) = ips.first() {
        fields.insert("podIP".into(), first.clone().into());
        fields.insert("podIPs".into(), ips.iter().map(|ip| json!({"ip": ip})).collect());
    }
    if let Some((reason, message)) = context.evicted {
        fields.insert("reason".into(), reason.into());
        fields.insert("message".into(), message.into());
    }
    out
}

/// The pod's addresses; once known they stay until the pod is gone.
fn ips(context: &Context<'_>) -> Vec<String> {
    if spec(context.pod).host_network == Some(true) {
        return if context.observed.sandboxes.is_empty() { Vec::new() } else { vec![context.host_ip.to_owned()] };
    }
    match context.observed.sandbox() {
        Some(sandbox) => sandbox.ips.clone(),
        None => {
            let known = context.pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten());
            known.map(|ip| ip.ip.clone()).collect()
        }
    }
}

fn container_status(context: &Context<'_>, container: &Container, init: bool) -> Value {
    let latest = context.observed.latest(&container.name);
    let waiting = context.waiting.get(&container.name);
    let mut out = json!({
        "name": container.name,
        "image": latest.and_then(|s| s.image.as_ref()).map(|i| shown_image(&i.image, container)).unwrap_or_else(|| container.image.clone().unwrap_or_default()),
        "imageID": latest.map_or("", |status| status.image_ref.as_str()),
        "restartCount": latest.map_or(0, restart_count),
        "ready": ready(context, container, latest, init),
        "started": started(context, container, latest),
    });
    let fields = out.as_object_mut().expect("built as an object above");
    if let Some(latest) = latest {
        fields.insert("containerID".into(), format!("containerd://{}", latest.id).into());
    }
    resources(context, container, latest, fields);
    let (state, last) = states(context, container, latest, waiting);
    fields.insert("state".into(), state);
    if let Some(last) = last {
        fields.insert("lastState".into(), last);
    } else {
        fields.insert("lastState".into(), json!({}));
    }
    out
}

/// What the container was granted, and what is in force (KEP-1287).
fn resources(context: &Context<'_>, container: &Container, latest: Option<&Cri>, fields: &mut Map<String, Value>) {
    let granted = container.resources.clone().unwrap_or_default();
    if let Some(requests) = &granted.requests {
        fields.insert("allocatedResources".into(), json!(requests));
    }
    let actual = context.actual.get(&container.name).filter(|_| is_running(latest));
    let ResourceRequirements { limits, requests, .. } = actual.cloned().unwrap_or(granted);
    fields.insert("resources".into(), json!(ResourceRequirements { limits, requests, claims: None }));
}

/// The runtime may know an image by its id: show the name that was asked for.
fn shown_image(runtime: &str, container: &Container) -> String {
    match runtime.starts_with("sha256:") || runtime.is_empty() {
        true => container.image.clone().unwrap_or_default(),
        false => runtime.to_owned(),
    }
}

fn states(
    context: &Context<'_>,
    container: &Container,
    latest: Option<&Cri>,
    waiting: Option<&(String, String)>,
) -> (Value, Option<Value>) {
    let previous = || context.observed.previous(&container.name).map(|status| terminated(context, status));
    let wait = |reason: &str, message: &str| match message {
        "" => json!({"waiting": {"reason": reason}}),
        _ => json!({"waiting": {"reason": reason, "message": message}}),
    };
    match latest.map(|status| (status, status.state())) {
        Some((status, ContainerState::ContainerRunning)) => {
            (json!({"running": {"startedAt": time(status.started_at)}}), previous())
        }
        Some((status, ContainerState::ContainerExited)) => {
            match waiting.filter(|_| !context.ending && starts_again(context.pod, container, status)) {
                Some((reason, message)) => (wait(reason, message), Some(terminated(context, status))),
                None => (terminated(context, status), previous()),
            }
        }
        _ => {
            let first_init = spec(context.pod).init_containers.iter().flatten().next().is_some();
            let reason = if first_init { "PodInitializing" } else { "ContainerCreating" };
            let (reason, message) = waiting.map_or((reason, ""), |(reason, message)| (reason, message));
            (wait(reason, message), previous())
        }
    }
}

/// Whether a container that has ended is one that runs again: only then it waits.
fn starts_again(pod: &Pod, container: &Container, status: &Cri) -> bool {
    is_sidecar_spec(container)
        || match restart_policy(spec(pod)) {
            "Never" => false,
            "OnFailure" => status.exit_code != 0,
            _ => true,
        }
}

fn terminated(context: &Context<'_>, status: &Cri) -> Value {
    let reason = match (status.reason.as_str(), status.exit_code) {
        ("", 0) => "Completed",
        ("", _) => "Error",
        (reason, _) => reason,
    };
    let mut out = json!({"terminated": {
        "exitCode": status.exit_code,
        "reason": reason,
        "startedAt": time(status.started_at),
        "finishedAt": time(status.finished_at),
        "containerID": format!("containerd://{}", status.id),
    }});
    let message = context.messages.get(&status.id).map(String::as_str).unwrap_or(&status.message);
    if !message.is_empty() {
        out["terminated"]["message"] = message.into();
    }
    out
}

fn time(ns: i64) -> String {
    let time = jiff::Timestamp::from_nanosecond(i128::from(ns)).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn is_running(status: Option<&Cri>) -> bool {
    status.is_some_and(|status| status.state() == ContainerState::ContainerRunning)
}

fn ready(context: &Context<'_>, container: &Container, latest: Option<&Cri>, init: bool) -> bool {
    if init && !is_sidecar_spec(container) {
        return latest.is_some_and(|s| s.state() == ContainerState::ContainerExited && s.exit_code == 0);
    }
    latest.filter(|_| is_running(latest)).is_some_and(|status| context.health.ready(container, &status.id))
}

fn started(context: &Context<'_>, container: &Container, latest: Option<&Cri>) -> bool {
    latest.filter(|_| is_running(latest)).is_some_and(|status| context.health.started(container, &status.id))
}

/// Whether an agent let the pod in, as its object says.
pub fn has_begun(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(|status| status.start_time.is_some())
}

/// Whether the pod has ended for good, as its object says.
pub fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn phase(context: &Context<'_>, init: &[Value], main: &[Value]) -> &'static str {
    if context.evicted.is_some() && context.observed.running().next().is_none() {
        return "Failed";
    }
    if let Some("Succeeded" | "Failed") = context.pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
        return if context.pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Failed") {
            "Failed"
        } else {
            "Succeeded"
        };
    }
    let policy = restart_policy(spec(context.pod));
    let exit = |status: &Value| {
        let of = |state: &str| status[state]["terminated"]["exitCode"].as_i64();
        of("state").or_else(|| status["state"].get("waiting").and_then(|_| of("lastState")))
    };
    let specs = spec(context.pod).init_containers.iter().flatten();
    let plain_init =
        || init.iter().zip(specs.clone()).filter(|(_, spec)| !is_sidecar_spec(spec)).map(|(status, _)| status);
    if policy == "Never" && plain_init().any(|status| exit(status).is_some_and(|code| code != 0)) {
        return "Failed";
    }
    let running = |status: &Value| !status["state"]["running"].is_null();
    let waiting_first = |status: &Value| exit(status).is_none() && !running(status);
    if plain_init().any(|status| exit(status) != Some(0)) || main.iter().any(waiting_first) {
        let all_waiting = main.iter().all(waiting_first);
        return if all_waiting || main.iter().any(waiting_first) { "Pending" } else { "Running" };
    }
    if main.iter().any(running) || policy == "Always" {
        return "Running";
    }
    match main.iter().all(|status| exit(status) == Some(0)) {
        true => "Succeeded",
        false if policy == "Never" => "Failed",
        false => "Running",
    }
}

fn conditions(context: &Context<'_>, phase: &str, init: &[Value], main: &[Value]) -> Value {
    let names = |statuses: &[Value], field: fn(&Value) -> bool| -> Vec<String> {
        statuses.iter().filter(|s| !field(s)).map(|s| s["name"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let init_spec = spec(context.pod).init_containers.iter().flatten();
    let incomplete: Vec<String> = init
        .iter()
        .zip(init_spec)
        .filter(
            |(status, spec)| if is_sidecar_spec(spec) { status["started"] != true } else { status["ready"] != true },
        )
        .map(|(status, _)| status["name"].as_str().unwrap_or_default().to_owned())
        .collect();
    let unready = names(main, |status| status["ready"] == true);
    let done = phase == "Succeeded";
    let past_init = main.iter().any(|status| status["state"].get("waiting").is_none());
    let sandbox = context.observed.sandbox().is_some();
    let initialized = match incomplete.is_empty() || done || past_init {
        true => (true, "", String::new()),
        false => (
            false,
            "ContainersNotInitialized",
            format!("containers with incomplete status: [{}]", incomplete.join(" ")),
        ),
    };
    let containers = match (phase, unready.is_empty()) {
        ("Succeeded", _) => (false, "PodCompleted", String::new()),
        ("Failed", _) => (false, "PodFailed", String::new()),
        (_, true) => (true, "", String::new()),
        _ => (false, "ContainersNotReady", format!("containers with unready status: [{}]", unready.join(" "))),
    };
    let gates_open = readiness_gates(context.pod);
    let ready = match (&containers, gates_open) {
        ((true, ..), Some(closed)) => (false, "ReadinessGatesNotReady", closed),
        (containers, _) => containers.clone(),
    };
    let list = [
        ("PodReadyToStartContainers", (sandbox, "", String::new())),
        ("Initialized", if done { (true, "PodCompleted", String::new()) } else { initialized }),
        ("Ready", ready),
        ("ContainersReady", containers),
        ("PodScheduled", (true, "", String::new())),
    ];
    let list = list.into_iter().map(|(kind, (ok, reason, message))| condition(context, kind, ok, reason, &message));
    let disruption =
        context.disruption.map(|message| condition(context, "DisruptionTarget", true, "TerminationByKubelet", message));
    list.chain(resize_conditions(context)).chain(disruption).collect()
}

fn resize_conditions(context: &Context<'_>) -> Vec<Value> {
    let Resize { pending, under_way, error } = context.resize;
    let mut out = Vec::new();
    if let Some((reason, message)) = pending {
        out.push(condition(context, "PodResizePending", true, reason, message));
    }
    if under_way {
        let (reason, message) = error.map_or(("", ""), |message| ("Error", message));
        out.push(condition(context, "PodResizeInProgress", true, reason, message));
    }
    out
}

/// None: all gates are open; else what to say.
fn readiness_gates(pod: &Pod) -> Option<String> {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let open = |kind: &str| conditions.clone().any(|c| c.type_ == kind && c.status == "True");
    let gates = spec(pod).readiness_gates.iter().flatten();
    let closed = gates.map(|gate| gate.condition_type.as_str()).find(|kind| !open(kind))?;
    Some(format!("the status of pod readiness gate \"{closed}\" is not \"True\", but False"))
}

/// A condition whose time of transition is kept while its status stays.
fn condition(context: &Context<'_>, kind: &str, ok: bool, reason: &str, message: &str) -> Value {
    let status = if ok { "True" } else { "False" };
    let old = context.pod.status.iter().flat_map(|s| s.conditions.iter().flatten()).find(|old| old.type_ == kind);
    let since = old.filter(|old| old.status == status).and_then(|old| old.last_transition_time.as_ref());
    let mut out = json!({
        "type": kind,
        "status": status,
        "lastProbeTime": null,
        "lastTransitionTime": since.map_or_else(|| context.now.into(), |time| json!(time)),
    });
    if let Some(generation) = context.pod.metadata.generation {
        out["observedGeneration"] = generation.into();
    }
    if !reason.is_empty() {
        out["reason"] = reason.into();
    }
    if !message.is_empty() {
        out["message"] = message.into();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::label;
    use crate::pod::observed::Sandbox;
    use std::collections::HashMap;

    struct Well;

    impl Health for Well {
        fn started(&self, _: &Container, _: &str) -> bool {
            true
        }
        fn ready(&self, _: &Container, _: &str) -> bool {
            true
        }
        fn failed(&self, _: &Container, _: &str) -> Option<&'static str> {
            None
        }
    }

    fn of(policy: &str, containers: &[(&str, ContainerState, i32)]) -> Value {
        with_waiting(policy, containers, &BTreeMap::new())
    }

    fn with_waiting(
        policy: &str,
        containers: &[(&str, ContainerState, i32)],
        waiting: &BTreeMap<String, (String, String)>,
    ) -> Value {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"},
            "spec": {"restartPolicy": policy, "containers": [{"name": "a"}]}}))
        .unwrap();
        let containers = containers.iter().map(|(name, state, exit_code)| Cri {
            id: "1".into(),
            state: (*state).into(),
            exit_code: *exit_code,
            labels: HashMap::from([(label::CONTAINER_NAME.to_owned(), (*name).to_owned())]),
            ..Cri::default()
        });
        let sandbox = Sandbox { id: "s".into(), ready: true, ips: vec!["10.42.0.2".into()], ..Sandbox::default() };
        let observed = Observed { sandboxes: vec![sandbox], containers: containers.collect() };
        let messages = BTreeMap::new();
        status(&Context {
            pod: &pod,
            observed: &observed,
            health: &Well,
            waiting,
            host_ip: "192.0.2.1",
            now: "2026-01-01T00:00:00Z",
            messages: &messages,
            evicted: None,
            disruption: None,
            ending: false,
            actual: &BTreeMap::new(),
            resize: Resize::default(),
        })
    }

    #[test]
    fn phases() {
        use ContainerState::{ContainerExited as Exited, ContainerRunning as Running};
        assert_eq!(of("Always", &[])["phase"], "Pending");
        assert_eq!(of("Always", &[("a", Running, 0)])["phase"], "Running");
        assert_eq!(of("Always", &[("a", Exited, 1)])["phase"], "Running");
        assert_eq!(of("Never", &[("a", Exited, 1)])["phase"], "Failed");
        assert_eq!(of("Never", &[("a", Exited, 0)])["phase"], "Succeeded");
        assert_eq!(of("OnFailure", &[("a", Exited, 1)])["phase"], "Running");
    }

    #[test]
    fn what_never_runs_again_does_not_wait() {
        let waiting = BTreeMap::from([("a".to_owned(), ("RunContainerError".to_owned(), String::new()))]);
        let state = |policy: &str| {
            let got = with_waiting(policy, &[("a", ContainerState::ContainerExited, 128)], &waiting);
            got["containerStatuses"][0]["state"].clone()
        };
        assert_eq!(state("Never")["terminated"]["exitCode"], 128);
        assert_eq!(state("OnFailure")["waiting"]["reason"], "RunContainerError");
    }

    #[test]
    fn a_running_pod_is_ready_and_has_its_address() {
        let got = of("Always", &[("a", ContainerState::ContainerRunning, 0)]);
        assert_eq!((&got["podIP"], &got["containerStatuses"][0]["ready"]), (&json!("10.42.0.2"), &json!(true)));
        let ready = got["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Ready").unwrap();
        assert_eq!(ready["status"], "True");
    }
}
