//! What stands on the API: scheduler, container runtime, network, agent. Each has an identity and a client of its own; one
//! set of caches serves them all.
use crate::server::{Known, Tasks};
use agent::runtime;
use apiserver::User;
use client::{Informers, Whole, kube};
use k8s_openapi::api::core::v1::Taint;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;

/// Where the host says how names are resolved.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Prefix length of one node's pod network: 254 addresses, more than twice the pods of a node by default.
pub(crate) const NODE_CIDR_MASK: u8 = 24;

/// A client that acts as `name`.
fn client_as(api: &apiserver::Handle, name: &str, groups: &[&str]) -> kube::Client {
    let groups = groups.iter().map(ToString::to_string).collect();
    client::in_process(api.service(User { name: name.into(), groups, ..User::default() }))
}

/// The client of what the server itself writes.
pub(crate) fn administrator(api: &apiserver::Handle) -> kube::Client {
    client_as(api, "eyot:server", &["system:masters"])
}

/// Starts the container runtime, which goes on without us.
pub(crate) fn start_runtime(known: &Known, tasks: &Tasks) -> runtime::Handle {
    let config = &known.config;
    let mut options = runtime::Options::new(&config.instance, &config.data_dir);
    options.endpoint = config.node.container_runtime_endpoint.as_ref().map(|path| path.display().to_string());
    options.pause_image = config.node.pause_image.clone();
    let service = runtime::Service::new(options);
    let handle = service.handle();
    tasks.run("container runtime", service.run(tasks.shutdown.clone()));
    handle
}

/// The agent, once it runs.
pub(crate) type AgentHandle = watch::Receiver<Option<agent::Handle>>;

/// Starts everything that speaks to the API.
///
/// # Errors
/// Settings that a component can't work with.
pub(crate) fn start(
    known: &Known,
    api: &apiserver::Handle,
    runtime: Option<runtime::Handle>,
    tasks: &Tasks,
) -> anyhow::Result<AgentHandle> {
    let (sender, agent) = watch::channel(None);
    let cache = client_as(api, "eyot:cache", &[]);
    let whole = if runtime.is_some() { Whole::PodsOf(known.node_name.clone()) } else { Whole::None };
    let informers = Informers::new(cache, tasks.tracker.clone(), tasks.shutdown.clone()).whole(whole);
    start_controllers(known, api, &informers, tasks);
    start_signing(known, api, &informers, tasks);
    start_scheduler(known, api, &informers, tasks);
    if let Some(runtime) = runtime {
        start_network(known, api, &informers, tasks);
        start_local_path(known, api, &informers, tasks);
        start_agent(known, api, &informers, runtime, sender, tasks)?;
    }
    Ok(agent)
}

/// Each controller acts as the ServiceAccount that it has upstream, with the role made for it at birth.
fn start_controllers(known: &Known, api: &apiserver::Handle, informers: &Informers, tasks: &Tasks) {
    let api = api.clone();
    let client_for = move |name: &str| {
        let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system"];
        client_as(&api, &format!("system:serviceaccount:kube-system:{name}"), &groups)
    };
    let options = controllers::Options {
        client_for: Arc::new(client_for),
        informers: informers.clone(),
        cluster_cidr: known.config.cluster_cidr.to_string(),
        node_cidr_mask: NODE_CIDR_MASK,
        root_ca_pem: known.authority.root_pem().to_owned(),
        service_lb: !known.config.disable_service_lb,
        reserved_ports: vec![known.config.https_listen_port, known.config.node.agent_port],
        ownership: known.sites.ownership.clone(),
        tombstones: None,
        share: known.sites.shares.clone(),
    };
    tasks.run("controllers", controllers::Service::new(options).run(tasks.shutdown.clone()));
}

fn start_signing(known: &Known, api: &apiserver::Handle, informers: &Informers, tasks: &Tasks) {
    let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system"];
    let service = crate::signing::Service {
        authority: known.authority.clone(),
        client: client_as(api, "system:serviceaccount:kube-system:certificate-controller", &groups),
        informers: informers.clone(),
        ownership: known.sites.ownership.clone(),
    };
    tasks.tracker.spawn(service.run(tasks.shutdown.clone()));
}

fn start_scheduler(known: &Known, api: &apiserver::Handle, informers: &Informers, tasks: &Tasks) {
    let options = scheduler::Options {
        client: client_as(api, "system:kube-scheduler", &[]),
        informers: informers.clone(),
        name: "default-scheduler".into(),
        ownership: known.sites.ownership.clone(),
    };
    let shutdown = tasks.shutdown.clone();
    tasks.tracker.spawn(async move { scheduler::Service::new(options).run(shutdown).await });
}

fn start_network(known: &Known, api: &apiserver::Handle, informers: &Informers, tasks: &Tasks) {
    let config = &known.config;
    let options = net::Options {
        informers: informers.clone(),
        client: client_as(api, "eyot:net", &[]),
        node_name: known.node_name.clone(),
        instance: config.instance.clone(),
        data_dir: config.data_dir.clone(),
        cluster_cidr: config.cluster_cidr,
        service_cidr: config.service_cidr,
        cluster_dns: config.dns_ip(),
        cluster_domain: config.cluster_domain.clone(),
        resolv_conf: resolv_conf(known),
        ownership: known.sites.ownership.clone(),
    };
    tasks.run("network", net::Service::new(options).run(tasks.shutdown.clone()));
}

/// Storage of this node for claims: directories below the data directory.
fn start_local_path(known: &Known, api: &apiserver::Handle, informers: &Informers, tasks: &Tasks) {
    let account = "system:serviceaccount:kube-system:local-path-provisioner";
    let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system"];
    let options = agent::local_path::Options {
        client: client_as(api, account, &groups),
        informers: informers.clone(),
        node_name: known.node_name.clone(),
        dir: known.config.data_dir.join("storage"),
    };
    let shutdown = tasks.shutdown.clone();
    tasks.tracker.spawn(async move { agent::local_path::Service::new(options).run(shutdown).await });
}

/// The agent begins when the container runtime is ready; it outlasts the runtime's later absences.
fn start_agent(
    known: &Known,
    api: &apiserver::Handle,
    informers: &Informers,
    mut runtime: runtime::Handle,
    handle: watch::Sender<Option<agent::Handle>>,
    tasks: &Tasks,
) -> anyhow::Result<()> {
    let client = client_as(api, &format!("system:node:{}", known.node_name), &["system:nodes"]);
    let mut options = agent_options(known, client, informers.clone())?;
    let (roles, own) = options.labels.into_iter().partition(|(key, _)| key.starts_with(crate::role::PREFIX));
    options.labels = own;
    let role = crate::role::Service {
        client: administrator(api),
        informers: informers.clone(),
        node_name: known.node_name.clone(),
        labels: roles,
    };
    tasks.tracker.spawn(role.run(tasks.shutdown.clone()));
    let shutdown = tasks.shutdown.clone();
    tasks.run("agent", async move {
        let Some(Some(endpoint)) = shutdown.run_until_cancelled(runtime.ready()).await else { return Ok(()) };
        options.cri_socket = endpoint.socket;
        let service = agent::Service::new(options);
        handle.send_replace(Some(service.handle()));
        service.run(shutdown).await
    });
    Ok(())
}

fn agent_options(known: &Known, client: kube::Client, informers: Informers) -> anyhow::Result<agent::Options> {
    let config = &known.config;
    let port = config.node.agent_port;
    let own_runtime = config.node.container_runtime_endpoint.is_none();
    let given = config.node.node_label.iter().map(|label| {
        let (key, value) = label.split_once('=').unwrap_or((label, ""));
        (key.to_owned(), value.to_owned())
    });
    Ok(agent::Options {
        client,
        informers,
        narrow_reflectors: false,
        node_name: known.node_name.clone(),
        node_ip: config.node.node_ip.unwrap_or(known.address.into()),
        data_dir: config.agent_dir(),
        log_dir: None,
        instance: config.instance.clone(),
        cri_socket: PathBuf::new(),
        containerd_events: own_runtime,
        cluster_dns: config.dns_ip().to_string(),
        cluster_domain: config.cluster_domain.clone(),
        resolv_conf: resolv_conf(known),
        serving_tls: Arc::new(known.agent_tls()?),
        listen: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port),
        labels: given.collect(),
        taints: config.node.node_taint.iter().map(|text| taint(text)).collect::<anyhow::Result<_>>()?,
        max_pods: config.node.max_pods,
        thresholds: config.node.eviction_hard,
        shutdown_grace_periods: agent::GracePeriod::of(
            config.node.shutdown_grace_period,
            config.node.shutdown_grace_period_critical_pods,
        ),
        kubelet_version: apiserver::version::GIT_VERSION.to_owned(),
    })
}

/// `key[=value]:effect`, as kubectl and k3s take it.
fn taint(text: &str) -> anyhow::Result<Taint> {
    let Some((key, effect)) = text.rsplit_once(':') else {
        anyhow::bail!("taint {text:?}: it must be key=value:effect");
    };
    let (key, value) = key.split_once('=').map_or((key, None), |(key, value)| (key, Some(value.to_owned())));
    Ok(Taint { key: key.to_owned(), value, effect: effect.to_owned(), time_added: None })
}

fn resolv_conf(known: &Known) -> PathBuf {
    known.config.node.resolv_conf.clone().unwrap_or_else(|| RESOLV_CONF.into())
}
