//! The garbage collector: deletes what no owner holds any more, lets owners wait for their dependents (foreground) or
//! leave them behind (orphan). It watches the metadata of every kind that the API serves.
mod collect;
mod graph;
mod watches;

use crate::error::Error;
use crate::options::Tombstones;
use api::home::Ownership;
use client::WorkQueue;
use graph::{Graph, Kind, Uid};
use kube::core::ApiResource;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Also the ServiceAccount that it acts as.
pub(crate) const NAME: &str = "generic-garbage-collector";
/// Objects looked at, at once.
const WORKERS: usize = 10;

/// What the watches write and the workers read.
#[derive(Clone)]
pub(super) struct Shared {
    client: kube::Client,
    queue: WorkQueue<Uid>,
    graph: Arc<Mutex<Graph>>,
    /// Watched kinds by apiVersion and kind, to find owners.
    kinds: Arc<Mutex<HashMap<(String, String), Watched>>>,
    sites: Sites,
}

/// Other sites, and what is known of objects that are not here.
#[derive(Clone)]
pub(crate) struct Sites {
    pub(crate) ownership: watch::Receiver<Ownership>,
    pub(crate) tombstones: Option<Tombstones>,
}

#[derive(Clone)]
pub(super) struct Watched {
    kind: Kind,
    namespaced: bool,
}

/// Runs until shutdown.
pub(crate) async fn run(client: kube::Client, sites: Sites, shutdown: CancellationToken) {
    let shared = Shared { client, queue: WorkQueue::new(), graph: Arc::default(), kinds: Arc::default(), sites };
    let mut tasks = JoinSet::new();
    tasks.spawn(watches::run(shared.clone(), shutdown.clone()));
    for _ in 0..WORKERS {
        tasks.spawn(work(shared.clone(), shutdown.clone()));
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(panic) = ended {
            tracing::error!(controller = NAME, %panic, "a task panicked");
            tasks.spawn(work(shared.clone(), shutdown.clone()));
        }
    }
}

async fn work(shared: Shared, shutdown: CancellationToken) {
    while let Some(uid) = shutdown.run_until_cancelled(shared.queue.next()).await {
        match collect::look_at(&shared, &uid).await {
            Ok(()) => shared.queue.forget(&uid),
            Err(error) => {
                tracing::debug!(controller = NAME, uid, message = error.message(), %error, "will try again");
                shared.queue.retry(uid.clone());
            }
        }
        shared.queue.done(&uid);
    }
}

impl Shared {
    /// Whether an owner that the API does not have was really deleted.
    async fn is_deleted(&self, uid: &Uid) -> bool {
        if !self.sites.ownership.borrow().marked || self.graph.lock().is_buried(uid) {
            return true;
        }
        match &self.sites.tombstones {
            Some(known) => known(uid.clone()).await,
            None => false,
        }
    }

    fn look_at(&self, uids: Vec<Uid>) {
        uids.into_iter().for_each(|uid| self.queue.add(uid));
    }

    fn find_kind(&self, api_version: &str, kind: &str) -> Result<Watched, Error> {
        let kinds = self.kinds.lock();
        let exact = kinds.get(&(api_version.to_owned(), kind.to_owned()));
        // An owner may be named in another version than the one that is watched.
        let group = api_version.rsplit_once('/').map(|(group, _)| group).unwrap_or_default();
        let same = |watched: &&Watched| watched.kind.kind == kind && watched.kind.group == group;
        let found = exact.or_else(|| kinds.values().find(same)).cloned();
        found
            .ok_or_else(|| Error::Refused(format!("{api_version} {kind} is not served; its dependents are left alone")))
    }
}

fn key_of(resource: &ApiResource) -> (String, String) {
    (resource.api_version.clone(), resource.kind.clone())
}
