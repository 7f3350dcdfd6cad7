//! What the runtime has of one pod.
use crate::cri::{
    Container, ContainerFilter, ContainerState, ContainerStatus, ContainerStatusRequest, Cri, ListContainersRequest,
    ListPodSandboxRequest, PodSandboxFilter, PodSandboxState, PodSandboxStatusRequest, label, request,
};
use std::collections::HashMap;

/// A pod's sandboxes and containers, newest first each.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    pub sandboxes: Vec<Sandbox>,
    pub containers: Vec<ContainerStatus>,
}

#[derive(Clone, Debug, Default)]
pub struct Sandbox {
    pub id: String,
    pub attempt: u32,
    pub ready: bool,
    pub created_at_ns: i64,
    /// Empty: on the host's network, or none yet.
    pub ips: Vec<String>,
}

impl Observed {
    /// The sandbox that the pod lives in now.
    pub fn sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first().filter(|sandbox| sandbox.ready)
    }

    /// The newest instance of a container.
    pub fn latest(&self, name: &str) -> Option<&ContainerStatus> {
        self.containers.iter().find(|status| container_name(status) == name)
    }

    /// The instance before the newest.
    pub fn previous(&self, name: &str) -> Option<&ContainerStatus> {
        self.containers.iter().filter(|status| container_name(status) == name).nth(1)
    }

    pub fn running(&self) -> impl Iterator<Item = &ContainerStatus> {
        self.containers.iter().filter(|status| status.state() == ContainerState::ContainerRunning)
    }
}

pub fn container_name(status: &ContainerStatus) -> &str {
    status.labels.get(label::CONTAINER_NAME).map_or("", String::as_str)
}

pub fn restart_count(status: &ContainerStatus) -> u32 {
    status.annotations.get(label::RESTART_COUNT).and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// Without what nobody here reads: it is kept for every container of the node.
fn essential(mut status: ContainerStatus) -> ContainerStatus {
    status.mounts = Vec::new();
    status.labels.retain(|name, _| name == label::CONTAINER_NAME);
    status.log_path = String::new();
    status
}

/// Statuses of containers that have ended never change: they are asked for once.
#[derive(Default)]
pub struct Observer {
    ended: HashMap<String, ContainerStatus>,
    ips: HashMap<String, Vec<String>>,
}

impl Observer {
    /// Asks the runtime for everything of one pod.
    pub async fn look(&mut self, cri: &Cri, uid: &str) -> Result<Observed, tonic::Status> {
        let labels = HashMap::from([(label::POD_UID.to_owned(), uid.to_owned())]);
        let filter = PodSandboxFilter { label_selector: labels.clone(), ..Default::default() };
        let sandboxes =
            async { cri.runtime().list_pod_sandbox(request(ListPodSandboxRequest { filter: Some(filter) })).await };
        let filter = ContainerFilter { label_selector: labels, ..Default::default() };
        let containers =
            async { cri.runtime().list_containers(request(ListContainersRequest { filter: Some(filter) })).await };
        let (sandboxes, containers) = futures::try_join!(sandboxes, containers)?;
        let mut observed = Observed::default();
        for item in sandboxes.into_inner().items {
            let ready = item.state() == PodSandboxState::SandboxReady;
            observed.sandboxes.push(Sandbox {
                ips: if ready { self.ips(cri, &item.id).await? } else { Vec::new() },
                attempt: item.metadata.as_ref().map_or(0, |metadata| metadata.attempt),
                created_at_ns: item.created_at,
                ready,
                id: item.id,
            });
        }
        observed.sandboxes.sort_by_key(|sandbox| std::cmp::Reverse(sandbox.created_at_ns));
        for item in containers.into_inner().containers {
            observed.containers.extend(self.status(cri, &item).await?);
        }
        observed.containers.sort_by_key(|status| std::cmp::Reverse(status.created_at));
        self.ended.retain(|id, _| observed.containers.iter().any(|status| status.id == *id));
        Ok(observed)
    }

    async fn ips(&mut self, cri: &Cri, id: &str) -> Result<Vec<String>, tonic::Status> {
        if let Some(ips) = self.ips.get(id) {
            return Ok(ips.clone());
        }
        let ask = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let answer = cri.runtime().pod_sandbox_status(request(ask)).await?.into_inner();
        let network = answer.status.and_then(|status| status.network).unwrap_or_default();
        let ips: Vec<String> = std::iter::once(network.ip)
            .chain(network.additional_ips.into_iter().map(|ip| ip.ip))
            .filter(|ip| !ip.is_empty())
            .collect();
        self.ips.clear();
        self.ips.insert(id.to_owned(), ips.clone());
        Ok(ips)
    }

    /// None: the container went away between the list and now.
    async fn status(&mut self, cri: &Cri, item: &Container) -> Result<Option<ContainerStatus>, tonic::Status> {
        if let Some(status) = self.ended.get(&item.id) {
            return Ok(Some(status.clone()));
        }
        let ask = ContainerStatusRequest { container_id: item.id.clone(), verbose: false };
        let status = match cri.runtime().container_status(request(ask)).await {
            Ok(answer) => answer.into_inner().status.map(essential),
            Err(status) if status.code() == tonic::Code::NotFound => None,
            Err(status) => return Err(status),
        };
        if let Some(status) = status.as_ref().filter(|status| status.state() == ContainerState::ContainerExited) {
            self.ended.insert(item.id.clone(), status.clone());
        }
        Ok(status)
    }
}
