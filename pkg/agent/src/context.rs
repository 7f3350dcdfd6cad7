//! What all parts of one agent share.
use crate::Options;
use crate::cri::Cri;
use crate::images::Images;
use crate::machine::Machine;
use crate::objects::Objects;
use crate::pod::config::Settings;
use crate::pod::resize::Ledger;
use crate::stats::Stats;
use client::Reflector;
use client::events::Recorder;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service};
use kube::Resource;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
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
    /// What the pods of this node hold of its CPU and memory.
    pub ledger: Mutex<Ledger>,
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
