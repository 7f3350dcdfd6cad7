//! A node as the scheduler sees it: what it has, and what the pods on it hold, kept up to date pod by pod.
use crate::pod::{HostPort, PodInfo};
use crate::resources::Resources;
use k8s_openapi::api::core::v1::{Node, Taint};
use kube::ResourceExt;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

const ZONE: &str = "topology.kubernetes.io/zone";

#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    pub name: Arc<str>,
    /// Absent for a node that is gone, or not yet seen, while pods still name it.
    pub object: Option<Arc<Node>>,
    pub allocatable: Resources,
    pub max_pods: i64,
    pub requested: Resources,
    pub scored_cpu_milli: i64,
    pub scored_memory_bytes: i64,
    /// Pods on it, by uid.
    pub pods: HashMap<Arc<str>, Arc<PodInfo>>,
    /// How many of them are of each class, by the class's number in the cluster.
    pub classes: Vec<(usize, u32)>,
    pub ports: Vec<HostPort>,
    /// Bytes by every name of an image.
    pub images: HashMap<Box<str>, i64>,
    /// Where it stands, if it says so; kept when the node itself is gone.
    pub zone: Option<Arc<str>>,
    /// Its home, if it names one.
    pub home: Option<Arc<str>>,
}

impl NodeInfo {
    pub fn new(name: Arc<str>) -> Self {
        Self { name, ..Self::default() }
    }

    pub fn set_object(&mut self, node: Arc<Node>) {
        let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
        self.allocatable = Resources::of(allocatable);
        let pods = allocatable.and_then(|list| list.get("pods"));
        let pods = pods.and_then(|quantity| api::quantity::Quantity::parse(&quantity.0).ok());
        self.max_pods = pods.map_or(0, |quantity| quantity.value());
        self.images = images(&node);
        self.zone = node.labels().get(ZONE).map(|zone| zone.as_str().into());
        self.home = client::home::claim(&*node).home.map(Into::into);
        self.object = Some(node);
    }

    pub fn labels(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.object.as_ref().map_or(&NONE, |node| node.labels())
    }

    pub fn taints(&self) -> &[Taint] {
        let spec = self.object.as_ref().and_then(|node| node.spec.as_ref());
        spec.and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
    }

    pub fn is_unschedulable(&self) -> bool {
        let spec = self.object.as_ref().and_then(|node| node.spec.as_ref());
        spec.and_then(|spec| spec.unschedulable).unwrap_or_default()
    }

    pub(crate) fn count_class(&mut self, class: usize, more: bool) {
        match self.classes.iter().position(|(number, _)| *number == class) {
            None if more => self.classes.push((class, 1)),
            None => {}
            Some(at) if more => self.classes[at].1 += 1,
            Some(at) => {
                self.classes[at].1 -= 1;
                if self.classes[at].1 == 0 {
                    self.classes.swap_remove(at);
                }
            }
        }
    }

    pub fn add_pod(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.request.exact);
        self.scored_cpu_milli += pod.request.scored_cpu_milli;
        self.scored_memory_bytes += pod.request.scored_memory_bytes;
        self.ports.extend(pod.ports.iter().cloned());
        self.pods.insert(pod.uid.clone(), pod);
    }

    pub fn remove_pod(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let pod = self.pods.remove(uid)?;
        self.requested.subtract(&pod.request.exact);
        self.scored_cpu_milli -= pod.request.scored_cpu_milli;
        self.scored_memory_bytes -= pod.request.scored_memory_bytes;
        for port in &pod.ports {
            if let Some(at) = self.ports.iter().position(|taken| taken == port) {
                self.ports.swap_remove(at);
            }
        }
        Some(pod)
    }
}

fn images(node: &Node) -> HashMap<Box<str>, i64> {
    let images = node.status.iter().flat_map(|status| status.images.iter().flatten());
    let named = images.flat_map(|image| {
        let size = image.size_bytes.unwrap_or_default();
        image.names.iter().flatten().map(move |name| (name.as_str().into(), size))
    });
    named.collect()
}
