//! The API of this server, out of its certificates, store and settings.
use crate::pki::Subject;
use crate::server::{Known, Tasks};
use crate::{files, tls};
use anyhow::Context;
use apiserver::engine::Engine;
use apiserver::registry::Registry;
use apiserver::registry::summarize::Summarizer;
use apiserver::shared::Shared;
use apiserver::{Cluster, TokenKeys, User};
use std::net::{SocketAddr, SocketAddrV4};
use std::path::Path;
use std::sync::Arc;
use store::Backend;

/// Who hands requests on to extension API servers.
const FRONT_PROXY: &str = "system:auth-proxy";

/// Opens the port, writes what must exist at birth, and serves until shutdown.
///
/// # Errors
/// The port is taken, or the store can't be read.
pub(crate) async fn start(
    known: &Known,
    registry: Arc<Registry>,
    store: Arc<dyn Backend>,
    nodes: Arc<crate::nodes::Extension>,
    tasks: &Tasks,
) -> anyhow::Result<apiserver::Handle> {
    let config = &known.config;
    let address = SocketAddr::new(config.bind_address, config.https_listen_port);
    let listener = std::net::TcpListener::bind(address)
        .with_context(|| format!("listening on {address} (is another API server running, or the port taken?)"))?;
    let store = Shared::new(store, Arc::new(Summarizer::new(registry.clone())));
    let engine = Engine::new(apiserver::engine::Options {
        backend: store.clone(),
        registry: registry.clone(),
        service_cidr: apiserver::alloc::pools::Cidr::parse(&config.service_cidr.to_string())?,
        node_port_range: config.service_node_port_range.0..=config.service_node_port_range.1,
        clock: now,
        sites: known.sites.clone(),
        tunnels: Some(nodes.tunnels.clone()),
    });
    let (follower, shutdown) = (engine.clone(), tasks.shutdown.clone());
    tasks.tracker.spawn(async move { follower.run(shutdown).await });
    let root = known.authority.root_pem();
    let (serving, kubelet) = (known.serving()?, Subject::user("kube-apiserver", &["system:masters"]));
    let kubelet = known.authority.leaf("client-kube-apiserver", &kubelet)?;
    let (front_proxy_ca, front_proxy) = known.authority.front_proxy(FRONT_PROXY)?;
    let options = apiserver::Options {
        listener,
        backend: store,
        engine,
        registry,
        tls: apiserver::Tls {
            cert_chain: tls::certificates(&serving.chain_pem)?,
            key: tls::key(&serving.key_pem)?,
            clients: known.trust.clone(),
            distrust: known.trust.changes(),
            client_roots_pem: root.to_owned(),
        },
        tokens: known.tokens.clone(),
        service_accounts: TokenKeys {
            signing_key_pem: known.authority.service_account_key_pem().to_owned(),
            verifying_keys_pem: Vec::new(),
            issuer: format!("https://kubernetes.default.svc.{}", config.cluster_domain),
            audiences: Vec::new(),
        },
        cluster: Cluster {
            id: cluster_id(&config.data_dir.join("server/cluster-id"))?,
            api_service_ip: config.kubernetes_ip(),
            dns_ip: config.dns_ip(),
            service_cidr: config.service_cidr.to_string(),
            advertise: SocketAddrV4::new(known.address, config.https_listen_port),
        },
        kubelet_client: Arc::new(tls::client_of_members(known.trust.clone(), &kubelet)?),
        front_proxy: apiserver::FrontProxy {
            ca_pem: front_proxy_ca,
            name: FRONT_PROXY.into(),
            cert_chain: tls::certificates(&front_proxy.chain_pem)?,
            key: tls::key(&front_proxy.key_pem)?,
        },
        root_ca_pem: root.to_owned(),
        tunnels: Some(nodes.tunnels.clone()),
        extension: Some(nodes),
    };
    let service = apiserver::Service::new(options).await?;
    let handle = service.handle();
    let shutdown = tasks.shutdown.clone();
    tasks.tracker.spawn(service.run(shutdown));
    Ok(handle)
}

fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// Whom the server's token stands for: it may ask for a server's or a node's certificates and nothing else.
pub(crate) fn join_user() -> User {
    User { name: crate::peers::JOIN_USER.into(), groups: vec!["eyot:joiners".into()], ..User::default() }
}

/// Whom the token of nodes stands for: it may ask for a node's certificates and nothing else.
pub(crate) fn node_join_user() -> User {
    User { name: crate::peers::NODE_JOIN_USER.into(), groups: vec!["eyot:joiners".into()], ..User::default() }
}

/// The cluster's identity, made on first start.
pub(crate) fn cluster_id(path: &Path) -> anyhow::Result<uuid::Uuid> {
    if let Some(text) = files::read_if_there(path)? {
        return uuid::Uuid::parse_str(text.trim()).with_context(|| path.display().to_string());
    }
    let id = uuid::Uuid::new_v4();
    files::write(path, format!("{id}\n").as_bytes(), 0o600)?;
    Ok(id)
}
