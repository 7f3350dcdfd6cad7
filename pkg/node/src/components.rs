//! What stands on the API: scheduler, container runtime, network. Each has an identity and a client of its own; one
//! set of caches serves them all.
use crate::server::{Known, Tasks};
use agent::runtime;
use apiserver::User;
use client::{Informers, kube};
use std::path::PathBuf;

/// Where the host says how names are resolved.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// A client that acts as `name`.
fn client_as(api: &apiserver::Handle, name: &str, groups: &[&str]) -> kube::Client {
    let groups = groups.iter().map(ToString::to_string).collect();
    client::in_process(api.service(User { name: name.into(), groups, ..User::default() }))
}

/// Starts the container runtime, which goes on without us.
pub(crate) fn start_runtime(known: &Known, tasks: &Tasks) -> runtime::Handle {
    let config = &known.config;
    let mut options = runtime::Options::new(&config.instance, &config.data_dir);
    options.endpoint = config.node.container_runtime_endpoint.as_ref().map(|path| path.display().to_string());
    let service = runtime::Service::new(options);
    let handle = service.handle();
    tasks.run("container runtime", service.run(tasks.shutdown.clone()));
    handle
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
) -> anyhow::Result<()> {
    let cache = client_as(api, "eyot:cache", &[]);
    let informers = Informers::new(cache, tasks.tracker.clone(), tasks.shutdown.clone());
    start_scheduler(api, &informers, tasks);
    if runtime.is_some() {
        start_network(known, &informers, tasks);
    }
    Ok(())
}

fn start_scheduler(api: &apiserver::Handle, informers: &Informers, tasks: &Tasks) {
    let options = scheduler::Options {
        client: client_as(api, "system:kube-scheduler", &[]),
        informers: informers.clone(),
        name: "default-scheduler".into(),
    };
    let shutdown = tasks.shutdown.clone();
    tasks.tracker.spawn(async move { scheduler::Service::new(options).run(shutdown).await });
}

fn start_network(known: &Known, informers: &Informers, tasks: &Tasks) {
    let config = &known.config;
    let options = net::Options {
        informers: informers.clone(),
        node_name: known.node_name.clone(),
        instance: config.instance.clone(),
        data_dir: config.data_dir.clone(),
        cluster_cidr: config.cluster_cidr,
        service_cidr: config.service_cidr,
        cluster_dns: config.dns_ip(),
        cluster_domain: config.cluster_domain.clone(),
        resolv_conf: resolv_conf(known),
    };
    tasks.run("network", net::Service::new(options).run(tasks.shutdown.clone()));
}

fn resolv_conf(known: &Known) -> PathBuf {
    known.config.node.resolv_conf.clone().unwrap_or_else(|| RESOLV_CONF.into())
}
