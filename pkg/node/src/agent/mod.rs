//! A node without a server: `eyot agent`.
//!
//! ```text
//! identity (keys, certificates) ─► connect (the API over the best of `servers`) ─► network, storage, agent
//!                                └► tunnel: a link to each server near, by which servers reach this node
//! ```
//!
//! It joins once, by a token; later starts need nobody: pods run from what the agent keeps until a server answers.

pub(crate) mod connect;
mod doors;
mod follow;
mod identity;
pub mod servers;
pub(crate) mod status;
mod tunnel;

use crate::config;
use crate::parts::{AgentHandle, Parts};
use crate::server::{Tasks, stopped, told_to_end};
use crate::{host, lock};
use ::api::home::{Ownership, SITE};
use anyhow::ensure;
use client::{Informers, Whole};
use connect::Api;
use identity::{Dir, Identity, Wanted};
use servers::Servers;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::sync::watch;

/// Runs a node until it is told to end (SIGTERM, SIGINT) or a part that it can't be without fails.
///
/// # Errors
/// What kept it from starting, or which part failed.
pub async fn run(config: config::Agent) -> anyhow::Result<()> {
    // Only this process installs a provider; a second installation in tests is no error.
    let _ = rustls::crypto::ring::default_provider().install_default();
    ensure!(
        !config.data_dir.join("server/site.json").exists(),
        "{} holds a server, whose node is part of it: give the agent another --data-dir",
        config.data_dir.display()
    );
    let dir = Dir::of(&config.data_dir);
    let _lock = lock::take(&dir.0)?;
    let node = Node::new(&config)?;
    let identity = tokio::select! {
        identity = identity::ensure(&config, &node.wanted) => identity?,
        signal = stopped() => {
            tracing::info!(signal = signal?, "ending");
            return Ok(());
        }
    };
    let (tasks, mut failures) = Tasks::new();
    let agent = node.start(config, &dir, identity, &tasks)?;
    let ended = tokio::select! {
        signal = stopped() => match signal {
            Ok(name) => {
                told_to_end(Some(&agent), name).await;
                Ok(())
            }
            Err(error) => Err(error),
        },
        Some(failure) = failures.recv() => Err(failure),
    };
    tasks.end().await;
    ended
}

/// This machine as a node.
struct Node {
    wanted: Wanted,
    address: Ipv4Addr,
}

impl Node {
    fn new(config: &config::Agent) -> anyhow::Result<Self> {
        let IpAddr::V4(address) = config.node.node_ip.unwrap_or_else(host::primary_address) else {
            anyhow::bail!("the node's address must be IPv4");
        };
        let name = config.node.node_name.clone().unwrap_or_else(host::node_name);
        Ok(Self { wanted: Wanted { name, addresses: vec![address.into()], site: config.site.clone() }, address })
    }

    /// Starts everything that a node has.
    fn start(self, config: config::Agent, dir: &Dir, identity: Identity, tasks: &Tasks) -> anyhow::Result<AgentHandle> {
        let given = config.server.as_deref().map(identity::address).transpose()?;
        let (membership, name) = (identity.membership.clone(), self.wanted.name.clone());
        let servers = Arc::new(Servers::open(dir.servers(), membership.site.clone(), given.as_deref())?);
        let identity = Arc::new(identity);
        let api = |settings, program| {
            Api::new(servers.clone(), settings, program, tasks.tracker.clone(), tasks.shutdown.clone())
        };
        let (node, network, storage) =
            (api(identity.node(), "kubelet"), api(identity.network(), "eyot"), api(identity.storage(), "eyot"));
        let informers = |client| Informers::new(client, tasks.tracker.clone(), tasks.shutdown.clone());
        let ownership = watch::Sender::new(Ownership::default());
        let parts = Parts {
            instance: config.instance,
            data_dir: config.data_dir,
            config: config.node,
            name: name.clone(),
            address: self.address,
            cluster: membership.cluster,
            ownership: ownership.subscribe(),
        };
        let runtime = parts.start_runtime(tasks);
        let shared = informers(network.client()).whole(Whole::PodsOf(name.clone()));
        let pods = shared.reflector();
        parts.start_network(network.client(), &shared, tasks);
        parts.start_local_path(storage.client(), &informers(storage.client()), tasks);
        let mut options = parts.agent_options(node.client(), shared, Arc::new(identity.serving()), identity.judge())?;
        if let Some(site) = membership.site {
            options.labels.entry(SITE.to_owned()).or_insert(site);
        }
        let kubelet = SocketAddr::new(options.node_ip, options.listen.port());
        let doors = doors::Doors { kubelet, node: name, cluster_cidr: parts.cluster.cluster_cidr, pods };
        let tunnels = tunnel::Service { servers: servers.clone(), tls: identity.node(), doors: Arc::new(doors) };
        let (shutdown, tracker) = (tasks.shutdown.clone(), tasks.tracker.clone());
        tasks.tracker.spawn(async move { tunnels.run(tracker, shutdown).await });
        let apis = [node, network, storage];
        let failed = parking_lot::Mutex::default();
        let follow = follow::Service { servers, apis, identity, ownership, wanted: self.wanted, failed };
        let (shutdown, following) = (tasks.shutdown.clone(), Box::pin(follow.run()));
        tasks.tracker.spawn(async move { shutdown.run_until_cancelled(following).await });
        Ok(parts.start_agent(options, runtime, tasks))
    }
}
