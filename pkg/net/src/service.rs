//! The component: starts the parts and keeps them running.
use crate::cni::{self, Network};
use crate::dns::index::Index;
use crate::dns::zone::Zone;
use crate::dns::{self, Follower, Upstreams};
use crate::host;
use crate::proxy::model::Base;
use crate::proxy::{Proxy, nft};
use crate::routes::{self, Backend, Device, Facts, Router, vtep};
use api::home::Ownership;
use client::{Event, Informers, Reflector, events};
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use parking_lot::RwLock;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The port of DNS.
const DNS_PORT: u16 = 53;

/// How long to wait before writing the CNI configuration again after a failure.
const RETRY: Duration = Duration::from_secs(5);

/// What the network of a node depends on.
#[derive(Clone)]
pub struct Options {
    pub informers: Informers,
    /// Writes Events under the network's own identity.
    pub client: kube::Client,
    /// This node's name, as endpoints and pods carry it.
    pub node_name: String,
    /// By which other nodes reach this one.
    pub node_address: Ipv4Addr,
    /// The instance from which host-wide names derive: the nftables table, the CNI network, the VXLAN device, the resolver's
    /// address.
    pub instance: String,
    /// Eyot's data directory.
    pub data_dir: PathBuf,
    /// All pods of the cluster.
    pub cluster_cidr: Ipv4Net,
    /// All Services of the cluster.
    pub service_cidr: Ipv4Net,
    /// How packets get to other nodes' pods.
    pub backend: Backend,
    /// The address of the Service `kube-system/kube-dns`.
    pub cluster_dns: Ipv4Addr,
    /// `cluster.local` by default.
    pub cluster_domain: String,
    /// Names the resolvers for everything outside the cluster; `/etc/resolv.conf` by default.
    pub resolv_conf: PathBuf,
    /// Which sites there are, and which are in reach.
    pub ownership: watch::Receiver<Ownership>,
}

impl Options {
    /// Where containerd looks for CNI configurations.
    pub fn cni_conf_dir(&self) -> PathBuf {
        self.data_dir.join("agent/etc/cni/net.d")
    }
}

fn cni_state_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("agent/cni")
}

fn loopback_memo(data_dir: &Path) -> PathBuf {
    data_dir.join("agent/net/routes-loopback")
}

fn routes_memo(data_dir: &Path) -> PathBuf {
    data_dir.join("agent/net/pod-routes")
}

/// Why a node has no network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the machine can't be prepared")]
    Host(#[from] host::Error),
    #[error(transparent)]
    Dns(#[from] dns::Error),
    #[error("cluster domain {0:?} is no domain name")]
    Domain(String, #[source] hickory_proto::ProtoError),
    #[error("nftables rules can't be removed")]
    Rules(#[from] nft::Error),
    #[error("routing of the loopback network can't be switched off")]
    Loopback(#[source] io::Error),
    #[error("routes to other nodes can't be removed")]
    Routes(#[from] routes::Error),
    #[error("CNI state can't be removed")]
    Cni(#[source] io::Error),
}

/// The network of one node.
pub struct Service {
    options: Options,
}

impl Service {
    pub fn new(options: Options) -> Self {
        Self { options }
    }

    /// Runs until `shutdown`; rules, links and configuration stay.
    ///
    /// # Errors
    /// When the machine refuses what everything else needs: forwarding, the resolver's address or its port.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let options = &self.options;
        host::prepare()?;
        let listen = SocketAddrV4::new(host::resolver_address(&options.instance), DNS_PORT);
        host::add_address(*listen.ip()).await?;
        host::add_service_route(options.service_cidr, *listen.ip()).await?;
        let index = Arc::new(RwLock::new(Index::default()));
        let server = self.dns_server(listen, index.clone()).await?;
        let base = Base {
            table: options.instance.clone(),
            cluster_cidr: options.cluster_cidr,
            service_cidr: options.service_cidr,
            dns: Some((options.cluster_dns, listen)),
            vxlan: options.backend.tunnels().then(|| vtep::network_identifier(options.cluster_cidr)),
            links_pods: options.backend != Backend::None,
        };
        let events = self.events();
        let memo = loopback_memo(&options.data_dir);
        let ownership = options.ownership.clone();
        let proxy = Proxy::new(base, &options.node_name, memo, &options.informers, ownership, events.recorder());
        let follower = Follower::new(index, &options.informers);
        let stopped = shutdown.clone();
        let others = async { tokio::join!(proxy.run(), follower.run(), self.pod_network()) };
        tokio::join!(server.run(shutdown.clone()), events.run(shutdown), stopped.run_until_cancelled(others));
        Ok(())
    }

    fn events(&self) -> events::Service {
        events::Service::new(events::Options {
            client: self.options.client.clone(),
            component: "eyot-net".to_owned(),
            host: self.options.node_name.clone(),
        })
    }

    async fn dns_server(&self, listen: SocketAddrV4, index: Arc<RwLock<Index>>) -> Result<dns::Server, Error> {
        let options = &self.options;
        let networks = vec![options.cluster_cidr, options.service_cidr];
        let zone = Zone::new(&options.cluster_domain, options.cluster_dns, networks)
            .map_err(|error| Error::Domain(options.cluster_domain.clone(), error))?;
        let own = vec![options.cluster_dns.into(), (*listen.ip()).into()];
        let upstreams = Upstreams::new(&options.resolv_conf, own);
        Ok(dns::Server::bind(listen.into(), zone, index, upstreams).await?)
    }

    /// Links of this node's pods, and ways to those of others.
    async fn pod_network(&self) {
        let Options { instance, backend, cluster_cidr, node_address, .. } = &self.options;
        let device = loop {
            match routes::prepare(instance, *backend, *cluster_cidr, *node_address).await {
                Ok(device) => break device,
                Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "the pod network must wait"),
            }
            tokio::time::sleep(RETRY).await;
        };
        let tunnel = device.is_some();
        tokio::join!(self.follow_node(tunnel), self.router(device).run());
    }

    fn router(&self, device: Option<Device>) -> Router {
        let options = &self.options;
        let options_of_routes = routes::Options {
            node_name: options.node_name.clone(),
            node_address: options.node_address,
            cluster_cidr: options.cluster_cidr,
            backend: options.backend,
            device,
            memo: routes_memo(&options.data_dir),
        };
        Router::new(&options.informers, options_of_routes)
    }

    /// Writes the CNI configuration when the node's pod CIDR becomes known, and when it changes. `tunnel` is whether there is
    /// VXLAN.
    async fn follow_node(&self, tunnel: bool) {
        let nodes: Reflector<Node> = self.options.informers.reflector();
        let mut notices = nodes.subscribe();
        let name = self.options.node_name.as_str();
        loop {
            let pod_cidr = nodes.get("", name).and_then(|node| routes::cidrs(&node).next());
            let failed = match pod_cidr {
                _ if self.options.backend == Backend::None => !self.leave_cni(),
                Some(pod_cidr) => !self.write_cni(pod_cidr, tunnel).await,
                None => false,
            };
            tokio::select! {
                () = next_about(&mut notices, name) => {}
                () = tokio::time::sleep(RETRY), if failed => {}
            }
        }
    }

    async fn write_cni(&self, pod_cidr: Ipv4Net, tunnel: bool) -> bool {
        let Options { instance, data_dir, .. } = &self.options;
        let mtu = match self.facts().await {
            Ok(facts) => facts.pod_mtu(self.options.node_address, tunnel),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "pod network not configured");
                return false;
            }
        };
        let network = Network { name: instance.clone(), pod_cidr, mtu, state_dir: cni_state_dir(data_dir) };
        match cni::write(&self.options.cni_conf_dir(), &network) {
            Ok(written) => {
                if written {
                    tracing::info!(%pod_cidr, mtu = network.mtu, "pod network configured");
                }
                true
            }
            Err(error) => {
                tracing::warn!(%error, dir = %self.options.cni_conf_dir().display(), "pod network not configured");
                false
            }
        }
    }

    async fn facts(&self) -> Result<Facts, routes::Error> {
        Facts::read(&host::Netlink::open().map_err(routes::Error::Netlink)?).await
    }

    /// Another program's configuration holds.
    fn leave_cni(&self) -> bool {
        let dir = self.options.cni_conf_dir();
        let removed = cni::remove(&dir, &self.options.instance);
        if let Err(error) = &removed {
            tracing::warn!(%error, dir = %dir.display(), "the pod network is still Eyot's");
        }
        removed.is_ok()
    }
}

/// The next notice about our node; heartbeats of others pass by.
async fn next_about(notices: &mut client::Subscription<Node>, name: &str) {
    loop {
        match notices.next().await {
            Some(Event::Applied { new, .. }) if new.name_any() == name => return,
            Some(Event::Resync) => return,
            Some(_) => {}
            None => std::future::pending().await,
        }
    }
}

/// Removes all that an instance's network left on the machine. Its pods must be gone.
///
/// # Errors
/// With the first thing that could not be removed; what is not there is no error.
pub async fn cleanup(instance: &str, data_dir: &Path) -> Result<(), Error> {
    host::unroute_loopback(&loopback_memo(data_dir)).map_err(Error::Loopback)?;
    nft::delete_table(instance).await?;
    routes::forget(&routes_memo(data_dir), instance).await?;
    host::remove_address(host::resolver_address(instance)).await?;
    cni::forget(instance, &cni_state_dir(data_dir)).map_err(Error::Cni)
}
