//! A server's life: everything is made here, handed to one another through constructors, and ended in order.
use crate::config::Server;
use crate::datastore::Datastore;
use crate::peers::Peers;
use crate::pki::{Authority, Pair, Subject};
use crate::site::Site;
use crate::token::Token;
use crate::trust::Trust;
use crate::{api, components, etcd, files, host, join, kubeconfig, lock, nodes, parts, peers, snapshot, token};
use anyhow::Context;
use apiserver::registry::Registry;
use apiserver::registry::summarize::Summarizer;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use store::Store;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long tasks may take to end once asked.
const DRAIN: Duration = Duration::from_secs(20);
/// This server's number in revisions, until it has joined others.
pub(crate) const FIRST_SERVER: u16 = 1;

/// History kept by a store whose clients compact it themselves, as kube-apiserver does every five minutes: for those that
/// forget to.
const KEEP_FOR_CLIENTS: Duration = Duration::from_secs(24 * 60 * 60);

/// Runs a server until it is told to end (SIGTERM, SIGINT) or a part that it can't be without fails.
///
/// # Errors
/// What kept it from starting, or which part failed.
pub async fn run(mut config: Server) -> anyhow::Result<()> {
    // Only this process installs a provider; a second installation in tests is no error.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let _lock = lock::take(&config.data_dir.join("server"))?;
    let name = config.node.node_name.clone().unwrap_or_else(host::node_name);
    join::ensure_joined(&mut config, &name).await?;
    let mut server = Parts::open(config).await?;
    let ended = tokio::select! {
        signal = stopped() => match signal {
            Ok(name) => {
                server.told_to_end(name).await;
                Ok(())
            }
            Err(error) => Err(error),
        },
        failure = server.failed() => Err(failure),
    };
    server.close().await?;
    ended
}

/// Waits for the signal to end, and names it.
pub(crate) async fn stopped() -> anyhow::Result<&'static str> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

/// The running parts of a server.
pub struct Parts {
    store: Datastore,
    tasks: Tasks,
    /// None where there is no API to speak to.
    agent: Option<parts::AgentHandle>,
    failures: tokio::sync::mpsc::Receiver<anyhow::Error>,
}

/// Owned tasks, ended together.
#[derive(Clone)]
pub struct Tasks {
    pub tracker: TaskTracker,
    pub shutdown: CancellationToken,
    failures: tokio::sync::mpsc::Sender<anyhow::Error>,
}

impl Tasks {
    /// No tasks yet, and where the failure of one is heard.
    pub fn new() -> (Self, tokio::sync::mpsc::Receiver<anyhow::Error>) {
        let (failures, failed) = tokio::sync::mpsc::channel(1);
        (Self { tracker: TaskTracker::new(), shutdown: CancellationToken::new(), failures }, failed)
    }

    /// Tells all to end and waits until they have, or their time is over.
    pub async fn end(&self) {
        self.shutdown.cancel();
        self.tracker.close();
        if tokio::time::timeout(DRAIN, self.tracker.wait()).await.is_err() {
            tracing::warn!(left = self.tracker.len(), "tasks did not end within {} s", DRAIN.as_secs());
        }
    }

    /// Runs a part that the server can't be without: its failure ends the server.
    pub fn run<E>(&self, name: &'static str, part: impl Future<Output = Result<(), E>> + Send + 'static)
    where
        E: Into<anyhow::Error> + Send,
    {
        let failures = self.failures.clone();
        self.tracker.spawn(async move {
            if let Err(error) = part.await {
                // Nobody listening means that the server is ending already.
                let _ = failures.send(error.into().context(name)).await;
            }
        });
    }
}

/// What the parts of a server know of it.
pub(crate) struct Known {
    pub config: Server,
    pub authority: Arc<Authority>,
    /// Whose certificates hold.
    pub trust: Arc<Trust>,
    pub token: Token,
    /// What `--agent-token` says.
    pub agent_token: Option<String>,
    /// What the API accepts besides certificates.
    pub tokens: apiserver::Tokens,
    pub node_name: String,
    pub address: Ipv4Addr,
    /// Other sites, as everything here that acts is told of them.
    pub sites: apiserver::Sites,
    /// Which objects were deleted, where the store keeps a record of that.
    pub tombstones: Option<controllers::Tombstones>,
}

impl Known {
    fn new(config: Server) -> anyhow::Result<Self> {
        let authority = Arc::new(Authority::open(&config.tls_dir())?);
        let trust = Arc::new(Trust::new(authority.root_pem(), authority.intermediate_pem())?);
        let token = token::ensure(&config.token_file(), config.token.as_deref(), authority.root_pem())?;
        let agent_token = nodes::token::given(config.agent_token.as_deref(), &token)?;
        let tokens = apiserver::Tokens::new([(&token.password, api::join_user())]);
        let node_name = config.node.node_name.clone().unwrap_or_else(host::node_name);
        let given = config.advertise_address.or(config.node.node_ip);
        let IpAddr::V4(address) = given.unwrap_or_else(host::primary_address) else {
            anyhow::bail!("the advertised address must be IPv4");
        };
        Ok(Self {
            config,
            authority,
            trust,
            token,
            agent_token,
            tokens,
            node_name,
            address,
            sites: apiserver::Sites::default(),
            tombstones: None,
        })
    }

    /// Links up with the other servers of the cluster. Servers on an etcd have their one truth there.
    async fn meet(&mut self, store: &Datastore, site: Site, tasks: &Tasks) -> anyhow::Result<Option<Peers>> {
        let Datastore::Local(store) = store else { return Ok(None) };
        let mut peers = peers::open(self, site, store.clone(), tasks).await?;
        peers.first_sync(self).await?;
        self.sites = peers.sites();
        let store = Arc::clone(store);
        let ended =
            move |uid| -> Pin<Box<dyn Future<Output = bool> + Send>> { Box::pin(has_ended(store.clone(), uid)) };
        self.tombstones = Some(Arc::new(ended));
        Ok(Some(peers))
    }

    /// What the API serves with.
    pub fn serving(&self) -> anyhow::Result<Pair> {
        let domain = &self.config.cluster_domain;
        let fixed = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned);
        let mut subject = self.reached_as("kube-apiserver");
        subject.dns_names.extend(fixed);
        subject.dns_names.push(format!("kubernetes.default.svc.{domain}"));
        subject.addresses.push(IpAddr::V4(self.config.kubernetes_ip()));
        Ok(self.authority.leaf("serving-apiserver", &subject)?)
    }

    /// A server under all names and addresses that this host is reached at.
    pub fn reached_as(&self, common_name: &str) -> Subject {
        let mut subject = Subject { common_name: common_name.into(), ..Subject::default() };
        subject.dns_names.extend(["localhost".into(), self.node_name.clone()]);
        let loopback = [Ipv4Addr::LOCALHOST.into(), std::net::Ipv6Addr::LOCALHOST.into()];
        subject.addresses.extend(loopback.into_iter().chain([IpAddr::V4(self.address)]));
        for san in &self.config.tls_san {
            match san.parse() {
                Ok(address) => subject.addresses.push(address),
                Err(_) => subject.dns_names.push(san.clone()),
            }
        }
        subject
    }

    /// What the agent serves the kubelet's API with.
    pub fn agent_tls(&self) -> anyhow::Result<rustls::ServerConfig> {
        let subject = Subject {
            dns_names: vec![self.node_name.clone()],
            addresses: vec![IpAddr::V4(self.address), Ipv4Addr::LOCALHOST.into()],
            ..Subject::user(&format!("system:node:{}", self.node_name), &["system:nodes"])
        };
        let pair = self.authority.leaf("serving-kubelet", &subject)?;
        Ok(crate::tls::server(self.trust.clone(), &pair)?)
    }

    /// This server's node.
    pub fn parts(&self) -> parts::Parts {
        parts::Parts {
            instance: self.config.instance.clone(),
            data_dir: self.config.data_dir.clone(),
            config: self.config.node.clone(),
            name: self.node_name.clone(),
            address: self.address,
            cluster: self.config.cluster(),
            ownership: self.sites.ownership.clone(),
        }
    }

    fn write_kubeconfig(&self) -> anyhow::Result<()> {
        let admin = self.authority.leaf("client-admin", &Subject::user("system:admin", &["system:masters"]))?;
        let host = if self.config.bind_address.is_unspecified() {
            Ipv4Addr::LOCALHOST.into()
        } else {
            self.config.bind_address
        };
        let server = format!("https://{}", SocketAddr::new(host, self.config.https_listen_port));
        let text = kubeconfig::render(&self.config.instance, &server, self.authority.root_pem(), &admin);
        let path = &self.config.write_kubeconfig;
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
        }
        Ok(files::write(path, text.as_bytes(), self.config.write_kubeconfig_mode)?)
    }
}

impl Parts {
    /// Opens the store, starts the API, then everything that stands on it; or etcd's endpoint alone.
    async fn open(config: Server) -> anyhow::Result<Self> {
        let (tasks, failures) = Tasks::new();
        let mut known = Known::new(config)?;
        let datastore_only = known.config.datastore_only;
        // The slowest part by far, and it needs nothing of the others.
        let node = !known.config.disable_agent && !datastore_only;
        let runtime = node.then(|| known.parts().start_runtime(&tasks));
        let registry = Arc::new(Registry::builtin(::api::schema::Schemas::builtin()));
        let keep = if datastore_only { KEEP_FOR_CLIENTS } else { store::KEEP };
        let site = Site::open(&known.config, &known.node_name)?;
        let place = site.clone();
        let store = match &known.config.datastore {
            Some(external) => Datastore::connect(external, Arc::new(Summarizer::new(registry.clone())), &tasks).await?,
            None => {
                let dir = known.config.store_dir();
                Datastore::Local(open_store(&dir, site.number, registry.clone(), keep).await?)
            }
        };
        let peers = known.meet(&store, site, &tasks).await?;
        if let (Some(scheduled), Datastore::Local(_)) = (known.config.snapshots.clone(), &store) {
            let run = snapshot::run_scheduled(known.config.data_dir.clone(), scheduled, tasks.shutdown.clone());
            tasks.tracker.spawn(run);
        }
        if let (Some(settings), Datastore::Local(store)) = (&known.config.etcd, &store) {
            etcd::start(&known, settings, store.clone(), &tasks)?;
        }
        let mut agent = None;
        if datastore_only {
            // Alone it opens no port but etcd's.
            if let Some(peers) = peers.filter(|peers| peers.site.several) {
                peers.start_alone(&known, &tasks)?;
            }
        } else {
            let nodes = Arc::new(nodes::Extension::new(&known, &place, peers.as_ref(), &tasks)?);
            let token = nodes.token_service(&known, store.backend());
            token.load().await.context("the token of nodes")?;
            let api = api::start(&known, registry, store.backend(), nodes.clone(), &tasks).await?;
            nodes.serve_through(components::administrator(&api));
            let (shutdown, client) = (tasks.shutdown.clone(), components::administrator(&api));
            tasks.tracker.spawn(async move { shutdown.run_until_cancelled(token.run(client)).await });
            known.write_kubeconfig()?;
            if let Some(peers) = peers {
                peers.start(&known, &api, components::administrator(&api), &tasks)?;
            }
            tracing::info!(address = %known.address, port = known.config.https_listen_port, "the API serves");
            agent = Some(components::start(&known, &api, runtime, &tasks)?);
        }
        Ok(Self { store, tasks, agent, failures })
    }

    async fn failed(&mut self) -> anyhow::Error {
        match self.failures.recv().await {
            Some(error) => error,
            None => std::future::pending().await,
        }
    }

    async fn told_to_end(&self, signal: &'static str) {
        told_to_end(self.agent.as_ref(), signal).await;
    }

    /// Ends all tasks, then the store.
    async fn close(self) -> anyhow::Result<()> {
        self.tasks.end().await;
        Ok(self.store.close().await?)
    }
}

/// Containers outlive us, but not the machine: when that goes down, their pods end first.
pub(crate) async fn told_to_end(agent: Option<&parts::AgentHandle>, signal: &'static str) {
    tracing::info!(signal, "ending");
    let agent = agent.and_then(|agent| agent.borrow().clone());
    if let (Some(agent), true) = (agent, host::is_going_down().await) {
        agent.shut_down_node().await;
    }
}

/// Whether an object was deleted. What can't be read proves nothing.
async fn has_ended(store: Arc<Store>, uid: String) -> bool {
    let read = store.has_ended(&uid).await;
    read.inspect_err(|error| tracing::warn!(%error, uid, "looking for an object's end")).unwrap_or(false)
}

async fn open_store(dir: &Path, server: u16, registry: Arc<Registry>, keep: Duration) -> anyhow::Result<Arc<Store>> {
    let options = store::Options { dir: dir.to_owned(), server, summarize: Arc::new(Summarizer::new(registry)), keep };
    Ok(tokio::task::spawn_blocking(move || Store::open(options)).await??)
}
