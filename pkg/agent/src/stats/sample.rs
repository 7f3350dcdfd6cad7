//! One look at all groups.
use super::network::{self, Interface};
use crate::context::Context;
use crate::cri::{ContainerState, ListContainersRequest, label, request};
use crate::machine::Machine;
use crate::pod::config::spec;
use crate::pod::resources::{Qos, cgroup_parent};
use client::Reflector;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use qos::Usage;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Everything at one time.
pub struct Sample {
    pub at: Instant,
    pub time: Timestamp,
    pub node_cpu_ns: u64,
    pub node_memory_bytes: u64,
    pub node_available_bytes: u64,
    pub node_network: Vec<Interface>,
    /// By uid.
    pub pods: BTreeMap<String, PodSample>,
}

pub struct PodSample {
    pub name: String,
    pub namespace: String,
    /// The path of its group.
    pub cgroup: String,
    pub usage: Usage,
    pub started: Option<Timestamp>,
    /// Empty: on the host's network.
    pub network: Vec<Interface>,
    /// By name.
    pub containers: BTreeMap<String, Container>,
}

pub struct Container {
    pub id: String,
    pub image: String,
    pub started: Timestamp,
    pub usage: Usage,
}

/// Reads what runs now.
pub async fn take(context: &Context, pods: &Reflector<Pod>) -> Sample {
    let answer = context.cri.runtime().list_containers(request(ListContainersRequest { filter: None })).await;
    let all = answer.map(|answer| answer.into_inner().containers).unwrap_or_default();
    let mut by_pod: BTreeMap<String, Vec<crate::cri::Container>> = BTreeMap::new();
    for container in all.into_iter().filter(|container| container.state() == ContainerState::ContainerRunning) {
        if let Some(uid) = container.labels.get(label::POD_UID).cloned() {
            by_pod.entry(uid).or_default().push(container);
        }
    }
    let ours: Vec<Arc<Pod>> = context.pods_here(pods);
    let job = Job { cgroups: context.cgroups.clone(), instance: context.options.instance.clone(), by_pod, pods: ours };
    // Files of the kernel, but many.
    tokio::task::spawn_blocking(move || job.read()).await.unwrap_or_else(|_| Sample::of(BTreeMap::new()))
}

struct Job {
    cgroups: qos::Cgroups,
    instance: String,
    by_pod: BTreeMap<String, Vec<crate::cri::Container>>,
    pods: Vec<Arc<Pod>>,
}

impl Job {
    fn read(self) -> Sample {
        let mut pods = BTreeMap::new();
        for pod in &self.pods {
            let Some(uid) = &pod.metadata.uid else { continue };
            if let Some(containers) = self.by_pod.get(uid) {
                pods.insert(uid.clone(), self.pod(pod, containers));
            }
        }
        Sample::of(pods)
    }

    fn pod(&self, pod: &Pod, containers: &[crate::cri::Container]) -> PodSample {
        let cgroup = cgroup_parent(&self.instance, pod, Qos::of(spec(pod)));
        let on_host = spec(pod).host_network == Some(true);
        let first = containers.first().map(|container| format!("{cgroup}/{}", container.id));
        let process = first.and_then(|path| self.cgroups.processes(&path).first().copied());
        let read = |container: &crate::cri::Container| {
            let name = container.labels.get(label::CONTAINER_NAME).cloned().unwrap_or_default();
            let started = Timestamp::from_nanosecond(i128::from(container.created_at)).unwrap_or_default();
            let image = container.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
            let usage = self.cgroups.usage(&format!("{cgroup}/{}", container.id));
            (name, Container { id: container.id.clone(), image, started, usage })
        };
        PodSample {
            name: pod.metadata.name.clone().unwrap_or_default(),
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            usage: self.cgroups.usage(&cgroup),
            started: pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0),
            network: process.filter(|_| !on_host).map(network::of_process).unwrap_or_default(),
            containers: containers.iter().map(read).collect(),
            cgroup,
        }
    }
}

impl Sample {
    fn of(pods: BTreeMap<String, PodSample>) -> Self {
        let memory = Machine::memory();
        Self {
            at: Instant::now(),
            time: Timestamp::now(),
            node_cpu_ns: (Machine::cpu_seconds() * 1e9) as u64,
            node_memory_bytes: memory.total_bytes.saturating_sub(memory.available_bytes),
            node_available_bytes: memory.available_bytes,
            node_network: network::of_host(),
            pods,
        }
    }
}
