//! The parts of a node: container runtime, network, storage, agent. A server has them beside its API, an agent alone.
use crate::config;
use crate::server::Tasks;
use crate::trust::Trust;
use agent::runtime;
use api::home::Ownership;
use client::{Informers, kube};
use k8s_openapi::api::core::v1::Taint;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;

/// Where the host says how names are resolved.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The agent, once it runs.
pub(crate) type AgentHandle = watch::Receiver<Option<agent::Handle>>;

/// What the parts of a node know of it and of its cluster.
#[derive(Clone)]
pub(crate) struct Parts {
    pub instance: String,
    pub data_dir: PathBuf,
    pub config: config::Node,
    pub name: String,
    pub address: Ipv4Addr,
    pub cluster: config::Cluster,
    pub ownership: watch::Receiver<Ownership>,
}

impl Parts {
    /// Starts the container runtime, which goes on without us.
    pub fn start_runtime(&self, tasks: &Tasks) -> runtime::Handle {
        let mut options = runtime::Options::new(&self.instance, &self.data_dir);
        options.endpoint = self.config.container_runtime_endpoint.as_ref().map(|path| path.display().to_string());
        options.pause_image = self.config.pause_image.clone();
        let service = runtime::Service::new(options);
        let handle = service.handle();
        tasks.run("container runtime", service.run(tasks.shutdown.clone()));
        handle
    }

    pub fn start_network(&self, client: kube::Client, informers: &Informers, tasks: &Tasks) {
        let options = net::Options {
            informers: informers.clone(),
            client,
            node_name: self.name.clone(),
            node_address: match self.config.node_ip {
                Some(IpAddr::V4(address)) => address,
                _ => self.address,
            },
            instance: self.instance.clone(),
            data_dir: self.data_dir.clone(),
            backend: self.cluster.flannel_backend,
            cluster_cidr: self.cluster.cluster_cidr,
            service_cidr: self.cluster.service_cidr,
            cluster_dns: self.cluster.dns,
            cluster_domain: self.cluster.domain.clone(),
            resolv_conf: self.resolv_conf(),
            ownership: self.ownership.clone(),
        };
        tasks.run("network", net::Service::new(options).run(tasks.shutdown.clone()));
    }

    /// Storage of this node for claims: directories below the data directory.
    pub fn start_local_path(&self, client: kube::Client, informers: &Informers, tasks: &Tasks) {
        let options = agent::local_path::Options {
            client,
            informers: informers.clone(),
            node_name: self.name.clone(),
            dir: self.data_dir.join("storage"),
        };
        let shutdown = tasks.shutdown.clone();
        tasks.tracker.spawn(async move { agent::local_path::Service::new(options).run(shutdown).await });
    }

    /// The agent begins when the container runtime is ready; it outlasts the runtime's later absences.
    pub fn start_agent(&self, mut options: agent::Options, mut runtime: runtime::Handle, tasks: &Tasks) -> AgentHandle {
        let (handle, receiver) = watch::channel(None);
        let shutdown = tasks.shutdown.clone();
        tasks.run("agent", async move {
            let Some(Some(endpoint)) = shutdown.run_until_cancelled(runtime.ready()).await else { return Ok(()) };
            options.cri_socket = endpoint.socket;
            let service = agent::Service::new(options);
            handle.send_replace(Some(service.handle()));
            service.run(shutdown).await
        });
        receiver
    }

    /// What the agent is told; its runtime's socket follows.
    ///
    /// # Errors
    /// A taint that can't be read.
    pub fn agent_options(
        &self,
        client: kube::Client,
        informers: Informers,
        serving_tls: Arc<rustls::ServerConfig>,
        trust: Arc<Trust>,
    ) -> anyhow::Result<agent::Options> {
        let config = &self.config;
        let taints = config.node_taint.iter().map(|text| taint(text)).collect::<anyhow::Result<_>>()?;
        Ok(agent::Options {
            client,
            informers,
            narrow_reflectors: false,
            node_name: self.name.clone(),
            node_ip: config.node_ip.unwrap_or(self.address.into()),
            data_dir: self.data_dir.join("agent"),
            log_dir: None,
            instance: self.instance.clone(),
            cri_socket: PathBuf::new(),
            containerd_events: config.container_runtime_endpoint.is_none(),
            cluster_dns: self.cluster.dns.to_string(),
            cluster_domain: self.cluster.domain.clone(),
            resolv_conf: self.resolv_conf(),
            serving_tls,
            guard: Some(Arc::new(move |stream| trust.guard(stream))),
            listen: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), config.agent_port),
            labels: labels(&config.node_label),
            taints,
            max_pods: config.max_pods,
            thresholds: config.eviction_hard,
            shutdown_grace_periods: agent::GracePeriod::of(
                config.shutdown_grace_period,
                config.shutdown_grace_period_critical_pods,
            ),
            kubelet_version: apiserver::version::GIT_VERSION.to_owned(),
        })
    }

    fn resolv_conf(&self) -> PathBuf {
        self.config.resolv_conf.clone().unwrap_or_else(|| RESOLV_CONF.into())
    }
}

fn labels(given: &[String]) -> BTreeMap<String, String> {
    let pair = |label: &String| {
        let (key, value) = label.split_once('=').unwrap_or((label, ""));
        (key.to_owned(), value.to_owned())
    };
    given.iter().map(pair).collect()
}

/// `key[=value]:effect`, as kubectl and k3s take it.
fn taint(text: &str) -> anyhow::Result<Taint> {
    let Some((key, effect)) = text.rsplit_once(':') else {
        anyhow::bail!("taint {text:?}: it must be key=value:effect");
    };
    let (key, value) = key.split_once('=').map_or((key, None), |(key, value)| (key, Some(value.to_owned())));
    Ok(Taint { key: key.to_owned(), value, effect: effect.to_owned(), time_added: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_taints_read_as_kubectl_reads_them() {
        assert_eq!(labels(&["a=b=c".into(), "d".into()])["a"], "b=c");
        let taint = taint("k=v:NoSchedule").unwrap();
        assert_eq!((taint.key.as_str(), taint.value.as_deref(), taint.effect.as_str()), ("k", Some("v"), "NoSchedule"));
        assert!(super::taint("nothing").is_err());
    }
}
