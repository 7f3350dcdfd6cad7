//! Storage on the nodes' own disks for claims of class `local-path`, as k3s has it: a directory a volume, made on the node
//! that the scheduler chose, and removed with the volume by its reclaim policy.
//!
//! Place in the flow: `scheduler (selected-node on the claim) -> provisioner of that node -> PersistentVolume -> binder`.
mod plan;

use crate::files;
use client::events::{self, Recorder};
use client::{Informers, Reflector};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use kube::{Resource, ResourceExt};
use plan::Work;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// The StorageClass that is made at the start.
pub const CLASS: &str = "local-path";
/// The provisioner's name in StorageClasses, as in k3s.
pub const PROVISIONER: &str = "rancher.io/local-path";

/// Notices that come within this time are looked at together.
const GATHER: Duration = Duration::from_millis(20);
/// What failed is tried again after this.
const RETRY: Duration = Duration::from_secs(15);
/// Everything is looked at this often, whatever the watches say.
const RESYNC: Duration = Duration::from_secs(600);
/// The events' recorder needs this long at most to write what it has at the end.
const DRAIN: Duration = Duration::from_secs(2);
/// Whoever a container runs as may write.
const MODE: u32 = 0o777;

pub struct Options {
    pub client: kube::Client,
    pub informers: Informers,
    pub node_name: String,
    /// Volumes lie below it.
    pub dir: PathBuf,
}

/// The provisioner of one node. [`Service::run`] it until it is told to stop.
pub struct Service {
    options: Options,
    claims: Reflector<PersistentVolumeClaim>,
    volumes: Reflector<PersistentVolume>,
    classes: Reflector<StorageClass>,
    nodes: Reflector<Node>,
    /// When work on a claim or volume, by uid, failed; bounded by what there is.
    failed: HashMap<String, Instant>,
}

/// Why a directory or its volume was not made or removed.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("directory {}", .path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("PersistentVolume {name}")]
    Api { name: String, source: Box<kube::Error> },
}

impl Service {
    pub fn new(options: Options) -> Self {
        let informers = options.informers.clone();
        Self {
            options,
            claims: informers.reflector(),
            volumes: informers.reflector(),
            classes: informers.reflector(),
            nodes: informers.reflector(),
            failed: HashMap::new(),
        }
    }

    /// Makes and removes volumes until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let events = events::Service::new(events::Options {
            client: self.options.client.clone(),
            component: PROVISIONER.to_owned(),
            host: self.options.node_name.clone(),
        });
        let recorder = events.recorder();
        let writer = tokio::spawn(events.run(shutdown.clone()));
        shutdown.run_until_cancelled(self.follow(&recorder)).await;
        drop(recorder);
        if tokio::time::timeout(DRAIN, writer).await.is_err() {
            tracing::debug!("events of the provisioner were given up at shutdown");
        }
    }

    async fn follow(&mut self, recorder: &Recorder) {
        let (mut claims, mut volumes) = (self.claims.subscribe(), self.volumes.subscribe());
        let (mut classes, mut nodes) = (self.classes.subscribe(), self.nodes.subscribe());
        self.claims.synced().await;
        self.volumes.synced().await;
        self.classes.synced().await;
        self.nodes.synced().await;
        self.make_class().await;
        loop {
            self.work(recorder).await;
            let pause = if self.failed.is_empty() { RESYNC } else { RETRY };
            let changed = async {
                tokio::select! {
                    event = claims.next() => event.is_some(),
                    event = volumes.next() => event.is_some(),
                    event = classes.next() => event.is_some(),
                    event = nodes.next() => event.is_some(),
                }
            };
            if tokio::time::timeout(pause, changed).await == Ok(false) {
                return;
            }
            tokio::time::sleep(GATHER).await;
        }
    }

    /// The class that claims get by default, unless there is one of its name.
    async fn make_class(&self) {
        if self.classes.get("", CLASS).is_some() {
            return;
        }
        let api: Api<StorageClass> = Api::all(self.options.client.clone());
        match api.create(&PostParams::default(), &plan::class()).await {
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {}
            Err(error) => tracing::warn!(%error, class = CLASS, "the StorageClass was not made"),
            Ok(_) => {}
        }
    }

    async fn work(&mut self, recorder: &Recorder) {
        let Some(node) = self.nodes.get("", &self.options.node_name) else { return };
        let (claims, volumes, classes) = (self.claims.list(), self.volumes.list(), self.classes.list());
        let here = plan::Here { node: &node, dir: &self.options.dir };
        let work = plan::plan(&here, &claims, &volumes, &classes);
        self.failed.retain(|uid, _| work.iter().any(|work| work.uid() == uid));
        for work in work {
            if self.failed.get(work.uid()).is_some_and(|at| at.elapsed() < RETRY) {
                continue;
            }
            if self.one(&work, recorder).await {
                self.failed.remove(work.uid());
            } else {
                self.failed.insert(work.uid().to_owned(), Instant::now());
            }
        }
    }

    /// Does it and tells about it; false if it is to be tried again.
    async fn one(&self, work: &Work, recorder: &Recorder) -> bool {
        match work {
            Work::Refuse { claim, why } => {
                let text = format!(
                    "failed to provision volume with StorageClass {:?}: {why}",
                    client::volumes::class_of_claim(claim)
                );
                recorder.warning(&claim.object_ref(&()), "ProvisioningFailed", text);
                false
            }
            Work::Make { claim, volume, path } => match self.make(volume, path).await {
                Ok(()) => {
                    let text = format!("Successfully provisioned volume {}", volume.name_any());
                    recorder.normal(&claim.object_ref(&()), "ProvisioningSucceeded", text);
                    true
                }
                Err(error) => {
                    recorder.warning(&claim.object_ref(&()), "ProvisioningFailed", chain(&error));
                    false
                }
            },
            Work::Remove { volume, path } => match self.remove(volume, path).await {
                Ok(()) => true,
                Err(error) => {
                    recorder.warning(&volume.object_ref(&()), "VolumeFailedDelete", chain(&error));
                    false
                }
            },
        }
    }

    async fn make(&self, volume: &PersistentVolume, path: &Path) -> Result<(), Error> {
        make_dir(path).map_err(|source| Error::Directory { path: path.to_owned(), source })?;
        match self.api().create(&PostParams::default(), volume).await {
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
            result => result.map(drop).map_err(|source| self.failed(volume, source)),
        }
    }

    async fn remove(&self, volume: &PersistentVolume, path: &Path) -> Result<(), Error> {
        let dir = path.to_owned();
        let removed = tokio::task::spawn_blocking(move || files::remove_dir(&dir)).await;
        let removed = removed.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        removed.map_err(|source| Error::Directory { path: path.to_owned(), source })?;
        let uid = Preconditions { uid: volume.uid(), resource_version: None };
        let params = DeleteParams { preconditions: Some(uid), ..DeleteParams::default() };
        match self.api().delete(&volume.name_any(), &params).await {
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            result => result.map(drop).map_err(|source| self.failed(volume, source)),
        }
    }

    fn failed(&self, volume: &PersistentVolume, source: kube::Error) -> Error {
        Error::Api { name: volume.name_any(), source: Box::new(source) }
    }

    fn api(&self) -> Api<PersistentVolume> {
        Api::all(self.options.client.clone())
    }
}

fn make_dir(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(MODE))
}

/// An error and what caused it, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
