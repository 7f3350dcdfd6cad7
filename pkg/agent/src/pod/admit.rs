//! What this node refuses to run, although somebody put it here, and what it can't keep. Pure.
//!
//! Order, reasons and texts follow the kubelet's admit handlers (`k8s.io/kubernetes/pkg/kubelet/lifecycle`).
use super::config::spec;
use super::ledger::{Held, Requests};
use super::resources::Qos;
use crate::statics::is_static;
use client::node_selector;
use client::taints::{tolerates, tolerations};
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use std::time::Duration;

/// Pods from this priority on are the cluster's own (`system-cluster-critical`).
pub const CRITICAL: i32 = 2_000_000_000;

/// Why a pod ends without having run, or before it is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// Of the status and of the Event.
    pub reason: &'static str,
    /// Of the status.
    pub message: String,
    /// What the Event says; `None`: there is none.
    pub told: Option<String>,
    /// The status says that the node disrupted the pod (condition `DisruptionTarget`).
    pub disruption: bool,
    /// What a running pod gets to end.
    pub grace: Duration,
    /// The pod was not let in: its status says nothing of containers.
    pub at_the_door: bool,
}

impl Refusal {
    /// The pod never began.
    pub fn rejected(reason: &'static str, told: String) -> Self {
        let message = format!("Pod was rejected: {told}");
        Self { reason, message, told: Some(told), at_the_door: true, ..Self::default() }
    }
}

const MEMORY_PRESSURE: &str = "node.kubernetes.io/memory-pressure";

/// What the node has for pods.
#[derive(Clone, Copy, Debug, Default)]
pub struct Room {
    pub requests: Requests,
    pub pods: usize,
    /// The node is short of memory, of disk.
    pub pressure: (bool, bool),
    /// The node is going down.
    pub closing: bool,
}

/// Kernel parameters that are a pod's own and can't hurt others (Kubernetes documentation, "Using sysctls").
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// The first reason to refuse a pod beside what `others` hold.
pub fn refusal(pod: &Pod, room: &Room, others: &Held, apparmor: bool) -> Option<Refusal> {
    closing(room.closing)
        .or_else(|| pressure(pod, room.pressure))
        .or_else(|| sysctls(pod))
        .or_else(|| other_system(pod))
        .or_else(|| no_room(&Held::of(pod), room, others))
        .or_else(|| ports_taken(&Held::of(pod), others))
        .or_else(|| unconfinable(pod, apparmor))
}

fn closing(closing: bool) -> Option<Refusal> {
    let told = || "Pod was rejected as the node is shutting down.".to_owned();
    closing.then(|| Refusal::rejected("NodeShutdown", told()))
}

/// A node that is short takes nothing more; of memory alone, nothing that promises no bound.
fn pressure(pod: &Pod, (memory, disk): (bool, bool)) -> Option<Refusal> {
    let critical = is_static(pod) || spec(pod).priority.unwrap_or(0) >= CRITICAL;
    let taint = Taint { key: MEMORY_PRESSURE.into(), effect: "NoSchedule".into(), ..Taint::default() };
    let endures = || tolerations(pod).iter().any(|toleration| tolerates(toleration, &taint));
    let bounded = || Qos::of(spec(pod)) != Qos::BestEffort || endures();
    if critical || !(memory || disk) || (!disk && bounded()) {
        return None;
    }
    let names = [(memory, "MemoryPressure"), (disk, "DiskPressure")].into_iter().filter(|(is, _)| *is);
    let names: Vec<_> = names.map(|(_, name)| name).collect();
    Some(Refusal::rejected("Evicted", format!("The node had condition: [{}]. ", names.join(" "))))
}

fn sysctls(pod: &Pod) -> Option<Refusal> {
    let sysctls = spec(pod).security_context.iter().flat_map(|context| context.sysctls.iter().flatten());
    let unsafe_one = sysctls.map(|sysctl| &sysctl.name).find(|name| !is_safe(name))?;
    Some(Refusal::rejected("SysctlForbidden", format!("forbidden sysctl: {unsafe_one:?} not allowlisted")))
}

/// A name may be written with dots or slashes.
fn is_safe(name: &str) -> bool {
    SAFE_SYSCTLS.contains(&name.replace('/', ".").as_str())
}

fn other_system(pod: &Pod) -> Option<Refusal> {
    let labels = pod.metadata.labels.as_ref();
    if labels.and_then(|labels| labels.get("kubernetes.io/os")).is_some_and(|os| os != "linux") {
        let told = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label".to_owned();
        return Some(Refusal::rejected("PodOSSelectorNodeLabelDoesNotMatch", told));
    }
    spec(pod).os.as_ref().filter(|os| os.name != "linux")?;
    let told = "Failed to admit pod as the OS field doesn't match node OS".to_owned();
    Some(Refusal::rejected("PodOSNotSupported", told))
}

/// What is there is compared in the scheduler's order: pods, then what each asks for.
fn no_room(held: &Held, room: &Room, others: &Held) -> Option<Refusal> {
    let short = |reason, name: &str, requested: i64, used: i64, capacity: i64| {
        let told = format!(
            "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
        );
        Some(Refusal::rejected(reason, told))
    };
    if others.pods + 1 > room.pods {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        return short("OutOfpods", "pods", 1, count(others.pods), count(room.pods));
    }
    let all = held.requests.each().into_iter().zip(others.requests.each()).zip(room.requests.each());
    let ((name, requested), used, capacity) = all
        .map(|((wanted, used), capacity)| (wanted, used.1, capacity.1))
        .find(|((_, wanted), used, capacity)| *wanted > 0 && *wanted > capacity - used)?;
    let reason = match name {
        "cpu" => "OutOfcpu",
        "memory" => "OutOfmemory",
        _ => "OutOfephemeral-storage",
    };
    short(reason, name, requested, used, capacity)
}

fn ports_taken(held: &Held, others: &Held) -> Option<Refusal> {
    held.clashes(others).then(|| predicate("NodePorts", "node(s) didn't have free ports for the requested pod ports"))
}

fn predicate(name: &'static str, why: &str) -> Refusal {
    Refusal::rejected(name, format!("Predicate {name} failed: {why}"))
}

/// A profile can't be put in force where the kernel has no AppArmor.
fn unconfinable(pod: &Pod, apparmor: bool) -> Option<Refusal> {
    if apparmor || !super::apparmor::is_wanted(pod) {
        return None;
    }
    let told = "Cannot enforce AppArmor: AppArmor is not enabled on the host".to_owned();
    Some(Refusal::rejected("AppArmor", told))
}

/// Whether the node is one that the pod asked for and may be on. `node` may lag behind what the scheduler saw: who asks
/// reads it again before it counts.
pub fn misplaced(pod: &Pod, node: &Node) -> Option<Refusal> {
    if !is_wanted(pod, node) {
        return Some(predicate("NodeAffinity", "node(s) didn't match Pod's node affinity/selector"));
    }
    let mut taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let drives_out = |taint: &&Taint| {
        taint.effect == "NoExecute" && !tolerations(pod).iter().any(|toleration| tolerates(toleration, taint))
    };
    taints.find(drives_out)?;
    Some(predicate("TaintToleration", "node(s) had taints that the pod didn't tolerate"))
}

fn is_wanted(pod: &Pod, node: &Node) -> bool {
    let nothing = Default::default();
    let labels = node.metadata.labels.as_ref().unwrap_or(&nothing);
    let selected = spec(pod).node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let affinity = spec(pod).affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|node| node.required_during_scheduling_ignored_during_execution.as_ref());
    let name = node.metadata.name.as_deref().unwrap_or_default();
    selected && required.is_none_or(|terms| node_selector::any_matches(&terms.node_selector_terms, name, labels))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> Pod {
        let mut spec = spec;
        if spec["containers"].is_null() {
            spec["containers"] = json!([]);
        }
        serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}, "spec": spec})).expect("a pod")
    }

    fn asking(requests: Value, host_port: i32) -> Pod {
        pod(json!({"containers": [{"name": "c", "resources": {"requests": requests},
            "ports": [{"containerPort": 1, "hostPort": host_port}]}]}))
    }

    const ROOM: Room = Room {
        requests: Requests { cpu_milli: 2000, memory_bytes: 1 << 30, ephemeral_bytes: 1 << 30 },
        pods: 2,
        pressure: (false, false),
        closing: false,
    };

    #[test]
    fn a_node_that_goes_down_takes_nothing() {
        let got = refusal(&pod(json!({})), &Room { closing: true, ..ROOM }, &Held::default(), false);
        assert_eq!(got.map(|refusal| refusal.reason), Some("NodeShutdown"));
    }

    #[test]
    fn a_node_that_is_short_takes_only_what_it_can_bound() {
        let of = |pod: &Pod, pressure| refusal(pod, &Room { pressure, ..ROOM }, &Held::default(), false);
        let (greedy, modest) = (pod(json!({})), asking(json!({"memory": "1Mi"}), 0));
        let got = of(&greedy, (true, false)).expect("refused");
        let text = "Pod was rejected: The node had condition: [MemoryPressure]. ";
        assert_eq!((got.reason, got.message.as_str()), ("Evicted", text));
        assert_eq!(of(&modest, (true, false)), None);
        assert!(of(&modest, (false, true)).is_some());
        assert_eq!(of(&pod(json!({"priority": CRITICAL})), (true, true)), None);
        let endures = json!({"tolerations": [{"key": MEMORY_PRESSURE, "operator": "Exists"}]});
        assert_eq!(of(&pod(endures), (true, false)), None);
    }

    fn of(pod: &Pod, others: &Held) -> Option<(&'static str, String)> {
        refusal(pod, &ROOM, others, false).map(|refusal| (refusal.reason, refusal.told.unwrap_or_default()))
    }

    #[test]
    fn unsafe_sysctls_are_refused() {
        let of = |name: &str| {
            let pod = pod(json!({"securityContext": {"sysctls": [{"name": name, "value": "1"}]}}));
            of(&pod, &Held::default()).map(|(reason, _)| reason)
        };
        assert_eq!((of("kernel.shm_rmid_forced"), of("net/ipv4/tcp_rmem")), (None, None));
        assert_eq!(of("kernel.msgmax"), Some("SysctlForbidden"));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let others = Held::of(&asking(json!({"cpu": "1500m", "memory": "1Mi"}), 0));
        assert_eq!(of(&asking(json!({"cpu": "500m"}), 0), &others), None);
        let told = "Node didn't have enough resource: cpu, requested: 600, used: 1500, capacity: 2000".to_owned();
        assert_eq!(of(&asking(json!({"cpu": "600m"}), 0), &others), Some(("OutOfcpu", told)));
        let reason = |requests| of(&asking(requests, 0), &others).map(|(reason, _)| reason);
        assert_eq!(reason(json!({"memory": "1Gi"})), Some("OutOfmemory"));
        assert_eq!(reason(json!({"ephemeral-storage": "2Gi"})), Some("OutOfephemeral-storage"));
        let full = Held { pods: 2, ..others };
        let told = "Node didn't have enough resource: pods, requested: 1, used: 2, capacity: 2".to_owned();
        assert_eq!(of(&asking(json!({}), 0), &full), Some(("OutOfpods", told)));
        let over = Held { requests: Requests { cpu_milli: 9000, ..Requests::default() }, ..Held::default() };
        assert_eq!(of(&asking(json!({}), 0), &over), None, "what asks for nothing fits");
    }

    #[test]
    fn a_host_port_has_one_holder() {
        let others = Held::of(&asking(json!({}), 80));
        let told = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports".to_owned();
        assert_eq!(of(&asking(json!({}), 80), &others), Some(("NodePorts", told)));
        assert_eq!(of(&asking(json!({}), 81), &others), None);
    }

    #[test]
    fn other_systems_and_profiles_that_nothing_enforces_are_refused() {
        let reason = |spec| of(&pod(spec), &Held::default()).map(|(reason, _)| reason);
        assert_eq!(reason(json!({"os": {"name": "windows"}})), Some("PodOSNotSupported"));
        let profile = json!({"securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}});
        assert_eq!(reason(profile.clone()), Some("AppArmor"));
        assert_eq!(refusal(&pod(profile), &ROOM, &Held::default(), true), None);
        assert_eq!(reason(json!({"securityContext": {"appArmorProfile": {"type": "Unconfined"}}})), None);
    }

    #[test]
    fn a_pod_is_only_where_it_asked_to_be_and_may_be() {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n1", "labels": {"zone": "a"}},
            "spec": {"taints": [{"key": "full", "effect": "NoSchedule"}, {"key": "down", "effect": "NoExecute"}]}}))
        .expect("a node");
        let reason = |spec| misplaced(&pod(spec), &node).map(|refusal| refusal.reason);
        let down = json!([{"key": "down", "operator": "Exists"}]);
        assert_eq!(reason(json!({"nodeSelector": {"zone": "a"}, "tolerations": down})), None);
        assert_eq!(reason(json!({"nodeSelector": {"zone": "b"}, "tolerations": down})), Some("NodeAffinity"));
        let name = json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}]);
        let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": name}});
        assert_eq!(reason(json!({"affinity": {"nodeAffinity": required}})), Some("NodeAffinity"));
        assert_eq!(reason(json!({})), Some("TaintToleration"));
    }
}
