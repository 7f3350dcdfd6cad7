//! Pods: the one line that everybody reads.
use super::text::{age, has_condition, int, list, name, seconds, since, str_of, str_or};
use serde_json::{Value, json};

pub(super) fn pod(pod: &Value, now: i64) -> Vec<Value> {
    let summary = Summary::of(pod);
    let (spec, status) = (&pod["spec"], &pod["status"]);
    vec![
        name(pod),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.clone().into(),
        summary.restarts_text(now).into(),
        age(pod, now),
        str_or(&status["podIPs"][0]["ip"], "<none>").into(),
        str_or(&spec["nodeName"], "<none>").into(),
        str_or(&status["nominatedNodeName"], "<none>").into(),
        readiness_gates(pod).into(),
    ]
}

pub(super) fn conditions(pod: &Value) -> Vec<Value> {
    let completed = |reason: &str, message: &str| {
        vec![json!({"type": "Completed", "status": "True", "reason": reason, "message": message})]
    };
    match pod["status"]["phase"].as_str() {
        Some("Succeeded") => completed("Succeeded", "The pod has completed successfully."),
        Some("Failed") => completed("Failed", "The pod failed."),
        _ => Vec::new(),
    }
}

fn readiness_gates(pod: &Value) -> String {
    let gates = list(&pod["spec"]["readinessGates"]);
    if gates.is_empty() {
        return "<none>".into();
    }
    let holds = |gate: &&Value| has_condition(&pod["status"]["conditions"], str_of(&gate["conditionType"]));
    format!("{}/{}", gates.iter().filter(holds).count(), gates.len())
}

/// Restarts and when the last was.
#[derive(Default)]
struct Restarts {
    count: i64,
    last: Value,
}

impl Restarts {
    fn add(&mut self, container: &Value) {
        self.count += int(&container["restartCount"]);
        let finished = &container["lastState"]["terminated"]["finishedAt"];
        if seconds(finished) > seconds(&self.last) {
            self.last = finished.clone();
        }
    }
}

struct Summary {
    ready: usize,
    total: usize,
    reason: String,
    restarts: Restarts,
}

impl Summary {
    fn of(pod: &Value) -> Self {
        let (spec, status) = (&pod["spec"], &pod["status"]);
        let sidecars = list(&spec["initContainers"]).iter().filter(|c| is_sidecar(c)).count();
        let mut summary = Self {
            ready: 0,
            total: list(&spec["containers"]).len() + sidecars,
            reason: base_reason(status),
            restarts: Restarts::default(),
        };
        let initializing = summary.init_containers(spec, status);
        if !initializing || has_condition(&status["conditions"], "Initialized") {
            summary.restarts = Restarts::default();
            for container in list(&status["initContainerStatuses"]) {
                if sidecar_named(spec, container) {
                    summary.restarts.add(container);
                }
            }
            summary.containers(status);
        }
        summary.deletion(pod);
        summary
    }

    /// Walks the init containers up to the one that holds the pod back; says whether one does.
    fn init_containers(&mut self, spec: &Value, status: &Value) -> bool {
        for (i, container) in list(&status["initContainerStatuses"]).iter().enumerate() {
            self.restarts.add(container);
            let state = &container["state"];
            let terminated = &state["terminated"];
            if terminated.is_object() && int(&terminated["exitCode"]) == 0 {
                continue;
            }
            if sidecar_named(spec, container) && container["started"] == true {
                self.ready += usize::from(container["ready"] == true);
                continue;
            }
            let waiting = str_of(&state["waiting"]["reason"]);
            self.reason = if terminated.is_object() {
                format!("Init:{}", ended(terminated))
            } else if !waiting.is_empty() && waiting != "PodInitializing" {
                format!("Init:{waiting}")
            } else {
                format!("Init:{i}/{}", list(&spec["initContainers"]).len())
            };
            return true;
        }
        false
    }

    fn containers(&mut self, status: &Value) {
        let mut has_running = false;
        let mut error = String::new();
        for container in list(&status["containerStatuses"]).iter().rev() {
            self.restarts.add(container);
            let state = &container["state"];
            let terminated = &state["terminated"];
            let waiting = str_of(&state["waiting"]["reason"]);
            if !waiting.is_empty() {
                self.reason = waiting.into();
            } else if terminated.is_object() {
                self.reason = ended(terminated);
                if int(&terminated["exitCode"]) != 0 {
                    error.clone_from(&self.reason);
                }
            } else if container["ready"] == true && state["running"].is_object() {
                has_running = true;
                self.ready += 1;
            }
        }
        // One container that has completed doesn't make the pod completed.
        if self.reason == "Completed" {
            if has_running && has_condition(&status["conditions"], "Ready") {
                self.reason = "Running".into();
            } else if !error.is_empty() {
                self.reason = error;
            } else if has_running {
                self.reason = "NotReady".into();
            }
        }
    }

    fn deletion(&mut self, pod: &Value) {
        if pod["metadata"]["deletionTimestamp"].is_null() {
            return;
        }
        if pod["status"]["reason"] == "NodeLost" {
            self.reason = "Unknown".into();
        } else if !matches!(str_of(&pod["status"]["phase"]), "Succeeded" | "Failed") {
            self.reason = "Terminating".into();
        }
    }

    fn restarts_text(&self, now: i64) -> String {
        let Restarts { count, last } = &self.restarts;
        if *count != 0 && !last.is_null() { format!("{count} ({} ago)", since(last, now)) } else { count.to_string() }
    }
}

fn base_reason(status: &Value) -> String {
    let gated = |c: &Value| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated";
    if list(&status["conditions"]).iter().any(gated) {
        return "SchedulingGated".into();
    }
    str_or(&status["reason"], str_of(&status["phase"])).into()
}

/// Why a container ended.
fn ended(terminated: &Value) -> String {
    let signal = int(&terminated["signal"]);
    match str_of(&terminated["reason"]) {
        "" if signal != 0 => format!("Signal:{signal}"),
        "" => format!("ExitCode:{}", int(&terminated["exitCode"])),
        reason => reason.into(),
    }
}

fn is_sidecar(container: &Value) -> bool {
    container["restartPolicy"] == "Always"
}

fn sidecar_named(spec: &Value, status: &Value) -> bool {
    list(&spec["initContainers"]).iter().any(|c| c["name"] == status["name"] && is_sidecar(c))
}
