//! Pods that wait for room that is being made for them (`status.nominatedNodeName`): others of no higher priority
//! must leave it to them.
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use std::collections::HashMap;
use std::sync::Arc;

/// Who waits for which node.
#[derive(Debug, Default)]
pub struct Nominated {
    by_uid: HashMap<Arc<str>, Arc<str>>,
    by_node: HashMap<Arc<str>, Vec<Arc<PodInfo>>>,
}

impl Nominated {
    /// The node that a pod waits for.
    pub fn node_of(&self, uid: &str) -> Option<&Arc<str>> {
        self.by_uid.get(uid)
    }

    /// Pods that wait for this node.
    pub fn on(&self, node: &str) -> &[Arc<PodInfo>] {
        self.by_node.get(node).map(Vec::as_slice).unwrap_or_default()
    }

    pub fn set(&mut self, pod: Arc<PodInfo>, node: Arc<str>) {
        self.remove(&pod.uid);
        self.by_uid.insert(pod.uid.clone(), node.clone());
        self.by_node.entry(node).or_default().push(pod);
    }

    pub fn remove(&mut self, uid: &str) {
        let Some(node) = self.by_uid.remove(uid) else { return };
        let Some(pods) = self.by_node.get_mut(&node) else { return };
        pods.retain(|pod| &*pod.uid != uid);
        if pods.is_empty() {
            self.by_node.remove(&node);
        }
    }

    /// The node as it will be when those of at least the pod's priority have come; `None` when nobody else waits.
    pub fn filled(&self, node: &NodeInfo, pod: &PodInfo) -> Option<NodeInfo> {
        // Asked of every node for every pod, and mostly there is nobody.
        if self.by_uid.is_empty() {
            return None;
        }
        let waiting = self.on(&node.name).iter();
        let mut before = waiting.filter(|other| other.priority >= pod.priority && other.uid != pod.uid).peekable();
        before.peek()?;
        let mut filled = node.clone();
        before.for_each(|other| filled.add_pod(other.clone()));
        Some(filled)
    }
}
