//! What the pods of a node hold of it: requests and host ports. Pure.
//!
//! Two pods, or two resizes, can't take the same room: whoever is let in is entered here first. An entry is closed as
//! soon as others may have what it held, though the last of the pod is still being cleared away.
use super::config::spec;
use super::resources;
use super::step::is_sidecar_spec;
use k8s_openapi::api::core::v1::Pod;
use std::collections::HashMap;

/// CPU in thousandths of a core, memory and local disk in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    pub cpu_milli: i64,
    pub memory_bytes: i64,
    pub ephemeral_bytes: i64,
}

impl Requests {
    /// What a pod asks of its node.
    pub fn of(pod: &Pod) -> Self {
        let Some(spec) = &pod.spec else { return Self::default() };
        let of = |name| resources::pod_request(spec, name);
        Self { cpu_milli: of("cpu"), memory_bytes: of("memory"), ephemeral_bytes: of("ephemeral-storage") }
    }

    /// By the resources' names.
    pub fn each(self) -> [(&'static str, i64); 3] {
        [("cpu", self.cpu_milli), ("memory", self.memory_bytes), ("ephemeral-storage", self.ephemeral_bytes)]
    }

    fn plus(self, other: Self) -> Self {
        Self {
            cpu_milli: self.cpu_milli + other.cpu_milli,
            memory_bytes: self.memory_bytes + other.memory_bytes,
            ephemeral_bytes: self.ephemeral_bytes + other.ephemeral_bytes,
        }
    }
}

/// A port of the node that a pod wants for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// `0.0.0.0`: all addresses of the node.
    ip: String,
    protocol: String,
    port: i32,
}

impl HostPort {
    /// Those of a pod's containers that run side by side.
    fn of(pod: &Pod) -> Vec<Self> {
        let sidecars = spec(pod).init_containers.iter().flatten().filter(|c| is_sidecar_spec(c));
        let ports = spec(pod).containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
        let port = |port: &k8s_openapi::api::core::v1::ContainerPort| {
            let all = || "0.0.0.0".to_owned();
            Some(Self {
                ip: port.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(all),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                port: port.host_port.filter(|port| *port > 0)?,
            })
        };
        ports.filter_map(port).collect()
    }

    fn clashes(&self, other: &Self) -> bool {
        let all = |port: &Self| port.ip == "0.0.0.0";
        self.port == other.port && self.protocol == other.protocol && (self.ip == other.ip || all(self) || all(other))
    }
}

/// What one pod holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub requests: Requests,
    pub ports: Vec<HostPort>,
    /// Pods that this stands for.
    pub pods: usize,
}

impl Held {
    pub fn of(pod: &Pod) -> Self {
        Self { requests: Requests::of(pod), ports: HostPort::of(pod), pods: 1 }
    }

    /// Whether both want one port.
    pub fn clashes(&self, other: &Self) -> bool {
        self.ports.iter().any(|port| other.ports.iter().any(|taken| port.clashes(taken)))
    }
}

/// What the pods of this node have been granted, by uid.
#[derive(Debug, Default)]
pub struct Ledger {
    /// `None`: closed.
    entries: HashMap<String, Option<Held>>,
}

impl Ledger {
    /// Enters what a pod holds; nothing once it is closed.
    pub fn set(&mut self, uid: &str, held: Held) {
        match self.entries.get_mut(uid) {
            Some(entry) => *entry = entry.is_some().then_some(held),
            None => drop(self.entries.insert(uid.to_owned(), Some(held))),
        }
    }

    /// From now on others may have what this pod held; it takes nothing any more.
    pub fn close(&mut self, uid: &str) {
        self.entries.insert(uid.to_owned(), None);
    }

    /// The pod is no more.
    pub fn forget(&mut self, uid: &str) {
        self.entries.remove(uid);
    }

    /// What all but one pod hold together.
    pub fn others(&self, uid: &str) -> Held {
        let others = self.entries.iter().filter(|(other, _)| *other != uid).filter_map(|(_, held)| held.as_ref());
        others.fold(Held::default(), |mut sum, one| {
            sum.requests = sum.requests.plus(one.requests);
            sum.ports.extend(one.ports.iter().cloned());
            sum.pods += one.pods;
            sum
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_closed_entry_holds_nothing_and_takes_nothing() {
        let mut ledger = Ledger::default();
        let held = |cpu_milli| Held { requests: Requests { cpu_milli, ..Requests::default() }, ports: vec![], pods: 1 };
        ledger.set("a", held(100));
        ledger.set("a", held(200));
        ledger.set("b", held(5));
        assert_eq!((ledger.others("b").requests.cpu_milli, ledger.others("b").pods), (200, 1));
        ledger.close("a");
        ledger.set("a", held(300));
        assert_eq!(ledger.others("b"), Held::default());
        ledger.forget("a");
        ledger.set("a", held(300));
        assert_eq!(ledger.others("b").requests.cpu_milli, 300);
    }

    #[test]
    fn ports_clash_by_protocol_and_address() {
        let of = |ip: &str, protocol: &str, port: i32| {
            let port = json!({"containerPort": 1, "hostPort": port, "hostIP": ip, "protocol": protocol});
            let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "ports": [port]}]}});
            Held::of(&serde_json::from_value(pod).expect("a pod"))
        };
        assert!(of("", "TCP", 80).clashes(&of("127.0.0.1", "TCP", 80)));
        assert!(!of("127.0.0.2", "TCP", 80).clashes(&of("127.0.0.1", "TCP", 80)));
        assert!(!of("", "UDP", 80).clashes(&of("", "TCP", 80)));
        assert!(!of("", "TCP", 0).clashes(&of("", "TCP", 0)), "zero is none");
    }
}
