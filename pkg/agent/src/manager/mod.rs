//! Which pods this node runs, and an actor for each: from the API, or from checkpoints while no server answers.
//!
//! Ends of containers come from containerd's events; a relist finds what those missed.
use crate::context::Context;
use crate::cri::events::{Envelope, SubscribeRequest, TaskExit};
use crate::cri::{Container, ContainerFilter, ListContainersRequest, ListPodSandboxRequest, label, request};
use crate::files;
use crate::node::pressure::Eviction;
use crate::pod::status::{has_begun, has_ended};
use crate::statics;
use crate::worker::{self, Handle, Wanted};
use client::{Event, Reflector};
use k8s_openapi::api::core::v1::Pod;
use prost::Message;
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The net below the events.
const RELIST: Duration = Duration::from_secs(10);
/// Without an answer of the API for this long, pods are started from their checkpoints.
const OFFLINE_AFTER: Duration = Duration::from_secs(3);
/// Before containerd's event stream is opened again.
const RESUBSCRIBE: Duration = Duration::from_secs(1);
/// Ends waiting for the manager.
const ENDS: usize = 256;
/// The namespace in which containerd keeps what CRI made.
const NAMESPACE: &str = "k8s.io";

mod absent;
mod own;
use absent::{Absent, was_told};
use own::Statics;

/// What containerd's stream told.
enum End {
    /// The first process of a container or sandbox has ended.
    Of(String),
    /// The stream began: anything may have happened before.
    Unknown,
}

/// One process's pods.
pub struct Manager {
    context: Arc<Context>,
    workers: HashMap<String, Handle>,
    running: JoinSet<String>,
    /// What the runtime had at the last relist, by pod.
    listed: HashMap<String, BTreeSet<(String, i32)>>,
    /// What an earlier process left has been looked through.
    settled: bool,
    absent: Absent,
    statics: Statics,
    shutdown: CancellationToken,
}

impl Manager {
    pub fn new(context: Arc<Context>, shutdown: CancellationToken) -> Self {
        Self {
            context,
            workers: HashMap::new(),
            running: JoinSet::new(),
            listed: HashMap::new(),
            settled: false,
            absent: Absent::default(),
            statics: Statics::default(),
            shutdown,
        }
    }

    /// Until shutdown; containers stay.
    pub async fn run(
        mut self,
        pods: Reflector<Pod>,
        mut evictions: mpsc::Receiver<Eviction>,
        mut manifests: mpsc::Receiver<Vec<Pod>>,
    ) {
        let (sender, mut ends) = mpsc::channel(ENDS);
        if self.context.options.containerd_events {
            let (context, shutdown) = (self.context.clone(), self.shutdown.clone());
            self.context.tracker.spawn(async move { shutdown.run_until_cancelled(follow(context, sender)).await });
        }
        self.start_from_manifests();
        let mut notices = pods.subscribe();
        let synced = tokio::time::timeout(OFFLINE_AFTER, pods.synced()).await.is_ok();
        if !synced {
            self.start_from_checkpoints();
        }
        let mut known = synced;
        if known {
            self.adopt(&pods);
        }
        let mut relist = tokio::time::interval(RELIST);
        let shutdown = self.shutdown.clone();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = pods.synced(), if !known => {
                    known = true;
                    self.adopt(&pods);
                }
                notice = notices.next() => match notice {
                    Some(Event::Applied { new, .. }) => self.apply(&new),
                    Some(Event::Deleted(last)) => self.deleted(&last),
                    Some(Event::Resync) => self.adopt(&pods),
                    None => break,
                },
                Some(end) = ends.recv() => self.end(end),
                Some((uid, refusal)) = evictions.recv() => {
                    if let Some(handle) = self.workers.get(&uid) {
                        handle.evict(refusal);
                    }
                }
                Some(described) = manifests.recv() => self.take_statics(described),
                Some((pod, verdict)) = self.absent.answer() => {
                    let listed = self.is_listed(&pods, &pod);
                    self.answered(&pod, verdict, listed);
                }
                Some(done) = self.running.join_next() => self.finished(done.ok()),
                _ = relist.tick() => self.relist(known).await,
            }
        }
        while self.running.join_next().await.is_some() {}
    }

    fn is_ours(&self, pod: &Pod) -> bool {
        pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(&self.context.options.node_name)
    }

    /// All pods of the API; those that it does not have (any more) are missed.
    fn adopt(&mut self, pods: &Reflector<Pod>) {
        let mut ours: Vec<_> = pods.list().into_iter().filter(|pod| self.is_ours(pod)).collect();
        // Who is here already takes the room before who comes.
        ours.sort_by_key(|pod| (!has_begun(pod), pod.metadata.creation_timestamp.clone()));
        self.statics.shown.clear();
        let current: BTreeSet<_> = ours.iter().filter_map(|pod| pod.metadata.uid.clone()).collect();
        ours.iter().for_each(|pod| self.apply(pod));
        let missed = self.workers.iter().filter(|(uid, _)| !current.contains(*uid));
        let missed = missed.map(|(_, handle)| handle.wanted.borrow().clone()).filter(|wanted| !wanted.gone);
        let missed: Vec<_> = missed.map(|wanted| wanted.pod).filter(|pod| !statics::is_static(pod)).collect();
        missed.iter().for_each(|pod| self.miss(pod));
    }

    fn is_listed(&self, pods: &Reflector<Pod>, pod: &Pod) -> bool {
        let part = |part: &Option<String>| part.clone().unwrap_or_default();
        let shown = pods.get(&part(&pod.metadata.namespace), &part(&pod.metadata.name));
        shown.is_some_and(|shown| shown.metadata.uid == pod.metadata.uid)
    }

    fn apply(&mut self, pod: &Arc<Pod>) {
        if !self.is_ours(pod) {
            return;
        }
        if statics::is_mirror(pod) {
            return self.show(pod);
        }
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        self.checkpoint(&uid, pod);
        if has_ended(pod) {
            // The scheduler gives away what it held.
            self.context.ledger.lock().close(&uid);
        }
        let wanted = Wanted { pod: pod.clone(), gone: false, mirror: None };
        match self.workers.get(&uid) {
            Some(handle) => drop(handle.wanted.send_replace(wanted)),
            None => self.spawn(uid, wanted),
        }
    }

    /// The API told of the pod's end, or a list lacks it.
    fn deleted(&mut self, last: &Arc<Pod>) {
        let uid = last.metadata.uid.as_deref().unwrap_or_default();
        let shown = self.workers.get(uid).map(|handle| handle.wanted.borrow().pod.clone());
        match shown {
            Some(shown) if !statics::is_mirror(last) && !was_told(&shown, last) => self.miss(last),
            _ => self.gone(last),
        }
    }

    fn gone(&mut self, pod: &Arc<Pod>) {
        if statics::is_mirror(pod) {
            return self.hide(pod);
        }
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        self.stop_asking(uid);
        self.context.ledger.lock().close(uid);
        match self.workers.get(uid) {
            Some(handle) => handle.wanted.send_modify(|wanted| wanted.gone = true),
            None => {
                self.context.ledger.lock().forget(uid);
                self.forget_checkpoint(uid);
            }
        }
    }

    fn spawn(&mut self, uid: String, wanted: Wanted) {
        let (handle, work) = worker::spawn(self.context.clone(), wanted, self.shutdown.child_token());
        self.workers.insert(uid.clone(), handle);
        self.running.spawn(async move {
            work.await;
            uid
        });
    }

    fn finished(&mut self, uid: Option<String>) {
        let Some(uid) = uid else { return tracing::error!("a pod's actor panicked") };
        if let Some(handle) = self.workers.remove(&uid) {
            let wanted = handle.wanted.borrow().clone();
            if self.shutdown.is_cancelled() {
                return;
            }
            self.context.ledger.lock().forget(&uid);
            if !wanted.gone && wanted.pod.metadata.deletion_timestamp.is_none() {
                // Said to be gone, then not: a new actor takes over.
                self.spawn(uid, wanted);
                return;
            }
            // A notice of its last change may have come after the actor had removed it.
            self.forget_checkpoint(&uid);
            self.start_statics();
            if self.settled {
                self.remove_stale_mirrors();
            }
        }
        self.context.owners.lock().retain(|_, owner| *owner != uid);
    }

    fn checkpoint(&self, uid: &str, pod: &Pod) {
        let file = self.context.checkpoint_dir(uid).join("pod.json");
        let saved = serde_json::to_vec(pod).map_err(std::io::Error::other);
        if let Err(error) = saved.and_then(|bytes| files::write_private(&file, &bytes)) {
            tracing::warn!(file = %file.display(), %error, "checkpoint not written");
        }
    }

    fn forget_checkpoint(&self, uid: &str) {
        let dir = self.context.checkpoint_dir(uid);
        if let Err(error) = files::remove_dir(&dir) {
            tracing::warn!(dir = %dir.display(), %error, "checkpoint not removed");
        }
    }

    fn start_from_checkpoints(&mut self) {
        let dir = self.context.options.data_dir.join("checkpoints");
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let pod = fs::read(entry.path().join("pod.json")).ok();
            let Some(pod) = pod.and_then(|bytes| serde_json::from_slice::<Pod>(&bytes).ok()) else { continue };
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            if self.is_ours(&pod) && !statics::is_static(&pod) && !self.workers.contains_key(&uid) {
                tracing::info!(pod = pod.metadata.name, "started from its checkpoint: no server answers");
                self.spawn(uid, Wanted { pod: Arc::new(pod), gone: false, mirror: None });
            }
        }
    }

    fn end(&mut self, end: End) {
        match end {
            End::Unknown => self.workers.values().for_each(Handle::wake),
            End::Of(id) => {
                let owner = self.context.owners.lock().get(&id).cloned();
                if let Some(handle) = owner.and_then(|uid| self.workers.get(&uid)) {
                    handle.ended(id);
                }
            }
        }
    }

    /// Wakes the actors of pods in which something changed, and ends pods that nobody knows.
    async fn relist(&mut self, known: bool) {
        let Ok(now) = list(&self.context).await else { return };
        let mut orphans = Vec::new();
        for (uid, state) in &now.states {
            match self.workers.get(uid) {
                Some(handle) if self.listed.get(uid) != Some(state) => handle.wake(),
                Some(_) => {}
                // Later only when seen twice: its actor may just have removed it.
                None if known && (!self.settled || self.listed.contains_key(uid)) => orphans.push(uid.clone()),
                None => {}
            }
        }
        for uid in orphans {
            self.miss_orphan(&uid, &now);
        }
        self.listed = now.states;
        self.settled |= known;
        if known {
            self.remove_stale_mirrors();
        }
    }

    /// A pod that the runtime has and the API does not, as an earlier process kept it.
    fn miss_orphan(&mut self, uid: &str, now: &Listed) {
        let checkpoint = fs::read(self.context.checkpoint_dir(uid).join("pod.json")).ok();
        let pod = checkpoint.and_then(|bytes| serde_json::from_slice::<Pod>(&bytes).ok());
        let Some(mut pod) = pod.or_else(|| now.skeleton(uid)) else { return };
        if statics::is_static(&pod) {
            // The manifests are what it is known by.
            pod.metadata.resource_version = None;
        }
        self.miss(&Arc::new(pod));
    }
}

/// What the runtime has, by pod.
struct Listed {
    states: HashMap<String, BTreeSet<(String, i32)>>,
    labels: HashMap<String, HashMap<String, String>>,
}

impl Listed {
    fn skeleton(&self, uid: &str) -> Option<Pod> {
        let labels = self.labels.get(uid)?;
        let value = serde_json::json!({
            "metadata": {"name": labels.get(label::POD_NAME)?, "namespace": labels.get(label::POD_NAMESPACE)?, "uid": uid},
            "spec": {"containers": []},
        });
        serde_json::from_value(value).ok()
    }
}

async fn list(context: &Context) -> Result<Listed, tonic::Status> {
    let ask = ListPodSandboxRequest { filter: None };
    let sandboxes = context.cri.runtime().list_pod_sandbox(request(ask)).await?.into_inner().items;
    let ask = ListContainersRequest { filter: Some(ContainerFilter::default()) };
    let containers: Vec<Container> = context.cri.runtime().list_containers(request(ask)).await?.into_inner().containers;
    let mut listed = Listed { states: HashMap::new(), labels: HashMap::new() };
    let sandboxes = sandboxes.into_iter().map(|s| (s.id, s.state, s.labels));
    for (id, state, labels) in sandboxes.chain(containers.into_iter().map(|c| (c.id, c.state, c.labels))) {
        // What others made with this runtime is theirs.
        let Some(uid) = labels.get(label::POD_UID).cloned() else { continue };
        listed.states.entry(uid.clone()).or_default().insert((id, state));
        listed.labels.insert(uid, labels);
    }
    Ok(listed)
}

async fn follow(context: Arc<Context>, ends: mpsc::Sender<End>) {
    loop {
        if let Err(status) = follow_once(&context, &ends).await {
            tracing::debug!(%status, "containerd's event stream ended");
        }
        if ends.is_closed() {
            return;
        }
        tokio::time::sleep(RESUBSCRIBE).await;
    }
}

async fn follow_once(context: &Context, ends: &mpsc::Sender<End>) -> Result<(), tonic::Status> {
    let filter = format!("namespace=={NAMESPACE},topic==\"/tasks/exit\"");
    let ask = SubscribeRequest { filters: vec![filter] };
    let mut stream = context.cri.events().subscribe(ask).await?.into_inner();
    let _ = ends.send(End::Unknown).await;
    while let Some(envelope) = stream.message().await? {
        if let Some(id) = exited(&envelope)
            && ends.send(End::Of(id)).await.is_err()
        {
            return Ok(());
        }
    }
    Ok(())
}

/// The container whose first process ended; an exec session has an id of its own and doesn't matter.
fn exited(envelope: &Envelope) -> Option<String> {
    let event = TaskExit::decode(envelope.event.as_ref()?.value.as_slice()).ok()?;
    (event.container_id == event.id).then_some(event.container_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::events::Any;

    #[test]
    fn the_end_of_an_exec_is_not_the_end_of_its_container() {
        let envelope = |id: &str| {
            let exit = TaskExit { container_id: "c1".into(), id: id.into(), pid: 7, exit_status: 1 };
            let event = Any { type_url: "containerd.events.TaskExit".into(), value: exit.encode_to_vec() };
            Envelope { namespace: NAMESPACE.into(), topic: "/tasks/exit".into(), event: Some(event) }
        };
        assert_eq!(exited(&envelope("c1")).as_deref(), Some("c1"));
        assert_eq!(exited(&envelope("exec-7")), None);
    }
}
