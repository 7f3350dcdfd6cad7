//! A Node's status from what the machine and the runtime say. Pure.
use crate::cri::{Image, RuntimeCondition};
use crate::machine::{Disk, Machine, allocatable_bytes, capacity_bytes};
use crate::options::Options;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// How the runtime and its network are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// What is wrong; empty when all is well.
    problems: Vec<String>,
}

impl Health {
    pub fn of(conditions: Vec<RuntimeCondition>) -> Self {
        let mut problems = Vec::new();
        for (kind, name) in [("RuntimeReady", "container runtime"), ("NetworkReady", "container runtime network")] {
            match conditions.iter().find(|condition| condition.r#type == kind) {
                Some(condition) if condition.status => {}
                Some(c) => {
                    problems.push(format!("{name} not ready: {kind}=false reason:{} message:{}", c.reason, c.message))
                }
                None => problems.push(format!("{name} status unknown")),
            }
        }
        Self { problems }
    }

    pub fn away(error: &str) -> Self {
        Self { problems: vec![format!("container runtime is down: {error}")] }
    }

    pub fn going_down() -> Self {
        Self { problems: vec!["node is shutting down".to_owned()] }
    }

    pub fn is_ready(&self) -> bool {
        self.problems.is_empty()
    }
}

/// All that the status says.
pub struct Facts<'a> {
    pub options: &'a Options,
    pub machine: &'a Machine,
    pub disk: Disk,
    /// Short of memory, of the disk.
    pub memory_low: bool,
    pub disk_low: bool,
    /// `containerd://1.6.20`.
    pub runtime: String,
    pub images: Vec<Image>,
    pub health: Health,
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The labels that every node has, and those of the options.
pub fn labels(options: &Options) -> BTreeMap<String, String> {
    let own = [
        ("kubernetes.io/hostname", options.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture()),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", architecture()),
    ];
    let own = own.map(|(key, value)| (key.to_owned(), value.to_owned()));
    own.into_iter().chain(options.labels.clone()).collect()
}

/// The status to send; `old` is what was sent before.
pub fn status(facts: &Facts<'_>, old: Option<&Value>, now: &str) -> Value {
    let Facts { options, machine, disk, .. } = facts;
    let capacity = |disk: String| {
        json!({
            "cpu": machine.cpus.to_string(),
            "memory": format!("{}Ki", machine.memory_bytes >> 10),
            "ephemeral-storage": disk,
            "hugepages-2Mi": "0",
            "hugepages-1Gi": "0",
            "pods": options.max_pods.to_string(),
        })
    };
    json!({
        "capacity": capacity(format!("{}Ki", capacity_bytes(disk.size_bytes) >> 10)),
        "allocatable": capacity(allocatable_bytes(disk.size_bytes).to_string()),
        "addresses": [
            {"type": "InternalIP", "address": options.node_ip.to_string()},
            {"type": "Hostname", "address": options.node_name},
        ],
        "conditions": conditions(facts, old, now),
        "daemonEndpoints": {"kubeletEndpoint": {"Port": options.listen.port()}},
        "nodeInfo": {
            "machineID": machine.machine_id,
            "systemUUID": machine.machine_id,
            "bootID": machine.boot_id,
            "kernelVersion": machine.kernel,
            "osImage": machine.os_image,
            "containerRuntimeVersion": facts.runtime,
            "kubeletVersion": options.kubelet_version,
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": architecture(),
        },
        "images": facts.images.iter().map(image).collect::<Vec<_>>(),
        "runtimeHandlers": [{"name": ""}],
    })
}

fn image(image: &Image) -> Value {
    let names: Vec<_> = image.repo_digests.iter().chain(&image.repo_tags).collect();
    json!({"names": names, "sizeBytes": image.size})
}

fn conditions(facts: &Facts<'_>, old: Option<&Value>, now: &str) -> Vec<Value> {
    let pick = |bad, no: (&'static str, &str), yes: (&'static str, &str)| {
        let (reason, message) = if bad { yes } else { no };
        (bad, reason, message.to_owned())
    };
    let memory = pick(
        facts.memory_low,
        ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
    );
    let disk = pick(
        facts.disk_low,
        ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("KubeletHasDiskPressure", "kubelet has disk pressure"),
    );
    let pids = (false, "KubeletHasSufficientPID", "kubelet has sufficient PID available".to_owned());
    let ready = match facts.health.is_ready() {
        true => (true, "KubeletReady", "kubelet is posting ready status".to_owned()),
        false => (false, "KubeletNotReady", format!("[{}]", facts.health.problems.join(", "))),
    };
    let all = [("MemoryPressure", memory), ("DiskPressure", disk), ("PIDPressure", pids), ("Ready", ready)];
    all.into_iter()
        .map(|(kind, (is, reason, message))| {
            let status = if is { "True" } else { "False" };
            let before = old.and_then(|old| old["conditions"].as_array()?.iter().find(|c| c["type"] == kind));
            let since = before.filter(|c| c["status"] == status).map(|c| c["lastTransitionTime"].clone());
            json!({
                "type": kind,
                "status": status,
                "reason": reason,
                "message": message,
                "lastHeartbeatTime": now,
                "lastTransitionTime": since.unwrap_or_else(|| now.into()),
            })
        })
        .collect()
}

/// Whether anything but heartbeats differs.
pub fn differs(old: &Value, new: &Value) -> bool {
    let plain = |status: &Value| {
        let mut status = status.clone();
        for condition in status["conditions"].as_array_mut().into_iter().flatten() {
            condition["lastHeartbeatTime"] = Value::Null;
        }
        status
    };
    plain(old) != plain(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(kind: &str, status: bool) -> RuntimeCondition {
        RuntimeCondition { r#type: kind.into(), status, reason: "R".into(), message: "M".into() }
    }

    #[test]
    fn a_node_is_ready_when_runtime_and_network_are() {
        let both = |network| Health::of(vec![condition("RuntimeReady", true), condition("NetworkReady", network)]);
        assert!(both(true).is_ready());
        let not = both(false);
        assert_eq!(not.problems, ["container runtime network not ready: NetworkReady=false reason:R message:M"]);
        assert!(!Health::away("gone").is_ready());
    }

    #[test]
    fn heartbeats_alone_are_no_difference() {
        let of = |time: &str, status: &str| json!({"conditions": [{"lastHeartbeatTime": time, "status": status}]});
        assert!(!differs(&of("a", "True"), &of("b", "True")));
        assert!(differs(&of("a", "True"), &of("a", "False")));
    }
}
