//! What all parts of one agent share.
use crate::Options;
use crate::cri::Cri;
use crate::images::Images;
use crate::machine::{Machine, allocatable_bytes};
use crate::node::pressure::Pressure;
use crate::objects::Objects;
use crate::pod::admit::Room;
use crate::pod::config::Settings;
use crate::pod::ledger::{Ledger, Requests};
use crate::statics;
use crate::stats::Stats;
use client::Reflector;
use client::events::Recorder;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service};
use kube::Resource;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

/// The agent's shared parts.
pub struct Context {
    pub options: Options,
    pub cri: Cri,
    pub settings: Settings,
    pub cgroups: qos::Cgroups,
    pub recorder: Recorder,
    pub objects: Arc<Objects>,
    pub images: Images,
    pub services: Reflector<Service>,
    pub machine: Machine,
    pub stats: Stats,
    pub tracker: TaskTracker,
    /// Which pod (by uid) a container or sandbox belongs to, so that its end finds its actor.
    pub owners: Mutex<HashMap<String, String>>,
    /// What the pods of this node hold of it.
    pub ledger: Mutex<Ledger>,
    /// The machine is about to go down: no pod begins.
    pub going_down: AtomicBool,
    /// The Node's status is to be looked at now.
    pub status_due: Notify,
    /// What the node is short of.
    pub pressure: Pressure,
    /// Static pods of this node by namespace and name, as they run: the API shows their mirrors.
    pub statics: Mutex<HashMap<(String, String), Arc<Pod>>>,
    /// This node's object, among others.
    pub nodes: Reflector<Node>,
}

impl Context {
    /// Where a pod's volumes and files lie.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.options.data_dir.join("pods").join(uid)
    }

    /// A pod as last seen, with what it refers to.
    pub fn checkpoint_dir(&self, uid: &str) -> PathBuf {
        self.options.data_dir.join("checkpoints").join(uid)
    }

    pub fn node_ip(&self) -> String {
        self.options.node_ip.to_string()
    }

    /// What this node has for pods.
    pub fn room(&self) -> Room {
        let requests = Requests {
            cpu_milli: i64::from(self.machine.cpus) * 1000,
            memory_bytes: self.machine.memory_bytes,
            ephemeral_bytes: i64::try_from(self.allocatable_disk_bytes()).unwrap_or(i64::MAX),
        };
        let closing = self.going_down.load(Ordering::Acquire);
        let pressure = (self.pressure.of_memory(), self.pressure.of_disk());
        Room { requests, pods: usize::try_from(self.options.max_pods).unwrap_or(usize::MAX), pressure, closing }
    }

    fn allocatable_disk_bytes(&self) -> u64 {
        allocatable_bytes(Machine::disk(&self.options.data_dir).size_bytes)
    }

    /// The pod that really runs: the static one where the API shows its mirror; `None` for a mirror of nothing.
    pub fn real(&self, pod: Arc<Pod>) -> Option<Arc<Pod>> {
        if !statics::is_mirror(&pod) {
            return Some(pod);
        }
        self.statics.lock().get(&statics::full_name(&pod)).cloned()
    }

    /// The pods of this node that really run here or shall.
    pub fn pods_here(&self, pods: &Reflector<Pod>) -> Vec<Arc<Pod>> {
        let node = Some(self.options.node_name.as_str());
        let ours = |pod: &Arc<Pod>| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == node;
        let plain = pods.list().into_iter().filter(|pod| ours(pod) && !statics::is_mirror(pod));
        plain.chain(self.statics.lock().values().cloned()).collect()
    }

    /// A warning about a pod.
    pub fn warn(&self, pod: &Pod, reason: &str, message: impl Into<String>) {
        self.recorder.warning(&pod.object_ref(&()), reason, message);
    }
}

/// A container as Events name it.
pub fn container_reference(pod: &Pod, name: &str) -> ObjectReference {
    let init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten()).any(|c| c.name == name);
    let list = if init { "initContainers" } else { "containers" };
    ObjectReference { field_path: Some(format!("spec.{list}{{{name}}}")), ..pod.object_ref(&()) }
}
