//! The agent as a whole: its parts made, run and drained.
use crate::context::Context;
use crate::cri::Cri;
use crate::images::Images;
use crate::logs::{self, Rotation};
use crate::machine::Machine;
use crate::manager::Manager;
use crate::node::shutdown;
use crate::objects::Objects;
use crate::options::{DEFAULT_INSTANCE, DEFAULT_LOG_DIR, Options};
use crate::pod::config::{Resolver, Settings};
use crate::stats::Stats;
use crate::{images, node, server, statics};
use client::events;
use k8s_openapi::api::core::v1::{Node, Pod, Service as ServiceObject};
use kube::runtime::watcher;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often logs are looked at for rotation.
const ROTATE: Duration = Duration::from_secs(10);

/// Evictions waiting for the manager: they come one at a time.
const EVICTIONS: usize = 4;

/// Why an agent can't run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("directory {0}")]
    Directory(PathBuf, #[source] io::Error),
    #[error("kubelet API on {0}")]
    Listen(std::net::SocketAddr, #[source] io::Error),
}

/// One node's agent.
pub struct Service {
    context: Arc<Context>,
    events: events::Service,
    requests: mpsc::Sender<shutdown::Request>,
    requested: mpsc::Receiver<shutdown::Request>,
}

/// What others may ask of a running agent.
#[derive(Clone)]
pub struct Handle {
    requests: mpsc::WeakSender<shutdown::Request>,
}

impl Handle {
    /// Ends the node's pods because the machine goes down, as the kubelet does with `shutdownGracePeriod`: the least
    /// important first, each in its time. Returns when they have ended or their time is over; at once where the agent
    /// has no grace periods, or does not run.
    pub async fn shut_down_node(&self) {
        let Some(requests) = self.requests.upgrade() else { return };
        let (done, ended) = oneshot::channel();
        if requests.send(done).await.is_ok() {
            let _ = ended.await;
        }
    }
}

impl Service {
    /// Needs a tokio runtime; nothing runs yet.
    pub fn new(options: Options) -> Self {
        let machine = Machine::look();
        let events = events::Service::new(events::Options {
            client: options.client.clone(),
            component: "kubelet".to_owned(),
            host: options.node_name.clone(),
        });
        let context = Context {
            cri: Cri::new(&options.cri_socket),
            settings: settings(&options, &machine),
            cgroups: qos::Cgroups::detect(),
            recorder: events.recorder(),
            objects: Arc::new(Objects::new(options.client.clone())),
            images: Images::default(),
            services: options.informers.reflector::<ServiceObject>(),
            nodes: nodes(&options),
            machine,
            stats: Stats::default(),
            tracker: TaskTracker::new(),
            owners: Default::default(),
            ledger: Default::default(),
            statics: Default::default(),
            pressure: Default::default(),
            going_down: Default::default(),
            status_due: Default::default(),
            options,
        };
        let (requests, requested) = mpsc::channel(1);
        Self { context: Arc::new(context), events, requests, requested }
    }

    /// For whoever must ask something of it later.
    pub fn handle(&self) -> Handle {
        Handle { requests: self.requests.downgrade() }
    }

    /// Runs the node until shutdown; containers go on.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let context = self.context;
        for dir in [
            context.options.data_dir.join("pods"),
            context.options.data_dir.join("checkpoints"),
            context.options.manifest_dir(),
            context.settings.log_dir.clone(),
        ] {
            fs::create_dir_all(&dir).map_err(|error| Error::Directory(dir, error))?;
        }
        let listener = tokio::net::TcpListener::bind(context.options.listen).await;
        let listener = listener.map_err(|error| Error::Listen(context.options.listen, error))?;
        let pods = pods(&context.options);
        let tracker = context.tracker.clone();
        tracker.spawn(self.events.run(shutdown.clone()));
        tracker.spawn(node::run(context.clone(), shutdown.clone()));
        tracker.spawn(server::run(context.clone(), pods.clone(), listener, shutdown.clone()));
        tracker.spawn(Stats::run(context.clone(), pods.clone(), shutdown.clone()));
        tracker.spawn(rotate(context.clone(), shutdown.clone()));
        tracker.spawn(images::gc::run(context.clone(), shutdown.clone()));
        let (sender, evictions) = mpsc::channel(EVICTIONS);
        tracker.spawn(node::pressure::run(context.clone(), pods.clone(), sender.clone(), shutdown.clone()));
        let ending = shutdown::run(context.clone(), pods.clone(), sender, self.requested);
        let (stop, requests) = (shutdown.clone(), self.requests);
        tracker.spawn(async move {
            stop.run_until_cancelled(Box::pin(ending)).await;
            drop(requests);
        });
        let (objects, stopping) = (context.objects.clone(), shutdown.clone());
        let (sender, statics) = mpsc::channel(1);
        let follow = statics::follow(context.options.manifest_dir(), context.options.node_name.clone(), sender);
        tracker.spawn(async move { stopping.run_until_cancelled(follow).await });
        Manager::new(context, shutdown).run(pods, evictions, statics).await;
        objects.unfollow_all();
        tracker.close();
        tracker.wait().await;
        Ok(())
    }
}

/// Removes what the agent of an instance leaves on its host when all its containers have ended: groups and logs.
///
/// # Errors
/// What could not be removed; running it again goes on from there.
pub fn cleanup(instance: &str) -> io::Result<()> {
    crate::runtime::remove_cgroups(instance)?;
    if instance == DEFAULT_INSTANCE {
        crate::files::remove_dir(std::path::Path::new(DEFAULT_LOG_DIR))?;
    }
    Ok(())
}

fn pods(options: &Options) -> client::Reflector<Pod> {
    if !options.narrow_reflectors {
        return options.informers.reflector();
    }
    let ours = format!("spec.nodeName={}", options.node_name);
    options.informers.reflector_with(watcher::Config::default().fields(&ours))
}

fn nodes(options: &Options) -> client::Reflector<Node> {
    if !options.narrow_reflectors {
        return options.informers.reflector();
    }
    let ours = format!("metadata.name={}", options.node_name);
    options.informers.reflector_with(watcher::Config::default().fields(&ours))
}

fn settings(options: &Options, machine: &Machine) -> Settings {
    Settings {
        instance: options.instance.clone(),
        cluster_dns: options.cluster_dns.clone(),
        cluster_domain: options.cluster_domain.clone(),
        host_dns: Resolver::parse(&fs::read_to_string(&options.resolv_conf).unwrap_or_default()),
        node_memory_bytes: machine.memory_bytes,
        oom_floor: machine.oom_floor,
        log_dir: options.log_dir(),
        seccomp_dir: options.data_dir.join("seccomp"),
        host_name: machine.host_name.clone(),
    }
}

async fn rotate(context: Arc<Context>, shutdown: CancellationToken) {
    let work = async {
        loop {
            tokio::time::sleep(ROTATE).await;
            let root = context.settings.log_dir.clone();
            let rotated = tokio::task::spawn_blocking(move || logs::rotate_all(&root, Rotation::default())).await;
            match rotated {
                Ok(Ok(logs)) if !logs.is_empty() => reopen(&context, &logs).await,
                Ok(Err(error)) => tracing::warn!(%error, "logs can't be rotated"),
                _ => {}
            }
        }
    };
    shutdown.run_until_cancelled(work).await;
}

/// Tells the runtime to write to the new files: it knows containers by id, we find them by their logs.
async fn reopen(context: &Context, logs: &[PathBuf]) {
    use crate::cri::{ContainerStatusRequest, ListContainersRequest, ReopenContainerLogRequest, request};
    let Ok(all) = context.cri.runtime().list_containers(request(ListContainersRequest { filter: None })).await else {
        return;
    };
    for container in all.into_inner().containers {
        let ask = ContainerStatusRequest { container_id: container.id.clone(), verbose: false };
        let status = context.cri.runtime().container_status(request(ask)).await;
        let path =
            status.ok().and_then(|answer| answer.into_inner().status).map(|status| PathBuf::from(status.log_path));
        if path.is_some_and(|path| logs.contains(&path)) {
            let ask = ReopenContainerLogRequest { container_id: container.id };
            if let Err(status) = context.cri.runtime().reopen_container_log(request(ask)).await {
                tracing::debug!(%status, "log not reopened");
            }
        }
    }
}
