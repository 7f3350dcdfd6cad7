//! What stands on the API: scheduler, container runtime, network, agent. Each has an identity and a client of its own; one
//! set of caches serves them all.
use crate::parts::AgentHandle;
use crate::server::{Known, Tasks};
use agent::runtime;
use apiserver::User;
use client::{Informers, Whole, kube};
use std::sync::Arc;
use tokio::sync::watch;

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
    let cache = client_as(api, "eyot:cache", &[]);
    let whole = if runtime.is_some() { Whole::PodsOf(known.node_name.clone()) } else { Whole::None };
    let informers = Informers::new(cache, tasks.tracker.clone(), tasks.shutdown.clone()).whole(whole);
    start_controllers(known, api, &informers, tasks);
    start_signing(known, api, &informers, tasks);
    start_scheduler(known, api, &informers, tasks);
    match runtime {
        Some(runtime) => start_node(known, api, &informers, runtime, tasks),
        None => Ok(watch::channel(None).1),
    }
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
        tombstones: known.tombstones.clone(),
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

/// What nodes' own agents do, done by this server for its node.
fn start_node(
    known: &Known,
    api: &apiserver::Handle,
    informers: &Informers,
    runtime: runtime::Handle,
    tasks: &Tasks,
) -> anyhow::Result<AgentHandle> {
    let parts = known.parts();
    parts.start_network(client_as(api, "eyot:net", &[]), informers, tasks);
    let account = "system:serviceaccount:kube-system:local-path-provisioner";
    let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system"];
    parts.start_local_path(client_as(api, account, &groups), informers, tasks);
    let client = client_as(api, &format!("system:node:{}", known.node_name), &["system:nodes"]);
    let mut options =
        parts.agent_options(client, informers.clone(), Arc::new(known.agent_tls()?), known.trust.clone())?;
    let (roles, own) = options.labels.into_iter().partition(|(key, _)| key.starts_with(crate::role::PREFIX));
    options.labels = own;
    let role = crate::role::Service {
        client: administrator(api),
        informers: informers.clone(),
        node_name: known.node_name.clone(),
        labels: roles,
    };
    tasks.tracker.spawn(role.run(tasks.shutdown.clone()));
    Ok(parts.start_agent(options, runtime, tasks))
}
