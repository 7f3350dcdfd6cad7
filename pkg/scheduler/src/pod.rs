//! A pod as the scheduler sees it: what decisions need, worked out once.
use crate::affinity::Affinity;
use crate::resources::Request;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodSpec};
use kube::ResourceExt;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A port of the node that a pod takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// `0.0.0.0` takes the port on all addresses.
    pub ip: Box<str>,
    pub protocol: Box<str>,
    pub port: i32,
}

impl HostPort {
    pub fn collides(&self, other: &Self) -> bool {
        let any = |port: &Self| &*port.ip == "0.0.0.0";
        self.port == other.port && self.protocol == other.protocol && (any(self) || any(other) || self.ip == other.ip)
    }
}

/// One pod, pending or placed.
#[derive(Clone, Debug)]
pub struct PodInfo {
    pub uid: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub priority: i32,
    pub request: Request,
    pub ports: Box<[HostPort]>,
    /// uid of the controller that owns it: its siblings are spread.
    pub controller: Option<Arc<str>>,
    /// Equal for pods that no selector and no wish tells apart: all pods of a ReplicaSet, say.
    pub class: Arc<str>,
    /// What it wants of other pods; absent for most.
    pub affinity: Option<Box<Affinity>>,
    pub object: Arc<Pod>,
}

impl PodInfo {
    pub fn new(object: Arc<Pod>) -> Self {
        let owners = object.metadata.owner_references.iter().flatten();
        let controller = owners.into_iter().find(|owner| owner.controller == Some(true));
        Self {
            uid: object.metadata.uid.as_deref().unwrap_or_default().into(),
            namespace: object.metadata.namespace.as_deref().unwrap_or_default().into(),
            name: object.metadata.name.as_deref().unwrap_or_default().into(),
            priority: object.spec.as_ref().and_then(|spec| spec.priority).unwrap_or_default(),
            request: Request::of(&object),
            ports: host_ports(&object),
            controller: controller.map(|owner| owner.uid.as_str().into()),
            class: class(&object),
            affinity: Affinity::of(&object).map(Box::new),
            object,
        }
    }

    pub fn spec(&self) -> Option<&PodSpec> {
        self.object.spec.as_ref()
    }

    pub fn labels(&self) -> &BTreeMap<String, String> {
        self.object.labels()
    }

    /// The node that the API says it runs on.
    pub fn node_name(&self) -> Option<&str> {
        self.spec()?.node_name.as_deref().filter(|name| !name.is_empty())
    }

    /// Has it ended? Then it holds nothing any more.
    pub fn is_terminal(&self) -> bool {
        let phase = self.object.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    }

    pub fn is_gated(&self) -> bool {
        self.spec().and_then(|spec| spec.scheduling_gates.as_ref()).is_some_and(|gates| !gates.is_empty())
    }

    pub fn is_deleting(&self) -> bool {
        self.object.metadata.deletion_timestamp.is_some()
    }

    /// The node that room is being made on for it, as the API has it.
    pub fn nominated_node(&self) -> Option<&str> {
        self.object.status.as_ref()?.nominated_node_name.as_deref().filter(|name| !name.is_empty())
    }

    /// Is it on its way out because another pod needs its room?
    pub fn is_preempted(&self) -> bool {
        let conditions = self.object.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let disrupted = conditions.into_iter().find(|condition| condition.type_ == "DisruptionTarget");
        let preempted = |c: &PodCondition| c.status == "True" && c.reason.as_deref() == Some("PreemptionByScheduler");
        self.is_deleting() && disrupted.is_some_and(preempted)
    }

    pub fn started(&self) -> Option<Timestamp> {
        Some(self.object.status.as_ref()?.start_time.as_ref()?.0)
    }

    pub fn scheduler_name(&self) -> &str {
        self.spec().and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or("default-scheduler")
    }
}

fn class(pod: &Pod) -> Arc<str> {
    let meta = &pod.metadata;
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    let parts = (&meta.namespace, meta.deletion_timestamp.is_some(), &meta.labels, affinity);
    // Maps of strings and plain structs: there is nothing in them that JSON can't hold.
    serde_json::to_string(&parts).unwrap_or_default().into()
}

fn host_ports(pod: &Pod) -> Box<[HostPort]> {
    let Some(spec) = &pod.spec else { return Box::default() };
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let taken = ports.filter_map(|port| {
        Some(HostPort {
            port: port.host_port.filter(|port| *port > 0)?,
            ip: port.host_ip.as_deref().filter(|ip| !ip.is_empty()).unwrap_or("0.0.0.0").into(),
            protocol: port.protocol.as_deref().filter(|p| !p.is_empty()).unwrap_or("TCP").into(),
        })
    });
    taken.collect()
}
