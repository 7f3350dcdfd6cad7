//! The actor of one pod: looks at the runtime, asks the pure `step`, carries out what it says, reports.
//!
//! Actions run as jobs of the actor's own; while one runs, `step`'s wish for the same is skipped. A failed job is
//! tried again after a wait that grows.
mod admit;
mod end;
mod hooks;
mod mirror;
mod report;
mod resize;
mod start;

use crate::context::Context;
use crate::cri::ContainerState;
use crate::objects::Listener;
use crate::pod::admit::Refusal;
use crate::pod::config::{log_directory, spec};
use crate::pod::observed::{Observed, Observer, container_name};
use crate::pod::probe::{OnFailure, Probes};
use crate::pod::step::{Action, Decision, View, Why, step};
use crate::volumes::{self, Volumes};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use report::Reporter;
use resize::Resizes;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Waits after failures of sandbox, volumes and the like: doubled from the first to the last.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(20);
/// Wait after a container's configuration was wrong; upstream looks again about that often.
const CONFIG_RETRY: Duration = Duration::from_secs(5);
/// First and longest wait after a failed pull; doubled.
const PULL_MIN: Duration = Duration::from_secs(10);
const PULL_MAX: Duration = Duration::from_secs(300);
/// How long a pod shows `ErrImagePull` before it shows that it waits.
const PULL_SHOWN: Duration = Duration::from_secs(3);
/// Volumes that follow objects are brought up to date this often.
const REFRESH: Duration = Duration::from_secs(45);
/// While the runtime doesn't answer.
const RUNTIME_RETRY: Duration = Duration::from_secs(1);
/// After a container's end was told, its status may lag a little: looks at it, and the pause between.
const LAG_LOOKS: u32 = 25;
const LAG_PAUSE: Duration = Duration::from_millis(8);

/// What the manager wants of a pod.
#[derive(Clone)]
pub struct Wanted {
    pub pod: Arc<Pod>,
    /// The object is gone from the API (or was never there): end it all.
    pub gone: bool,
    /// Of a static pod: what the API shows of it.
    pub mirror: Option<Arc<Pod>>,
}

/// The manager's end of an actor.
pub struct Handle {
    pub wanted: watch::Sender<Wanted>,
    ended: Arc<parking_lot::Mutex<Vec<String>>>,
    evicted: Arc<parking_lot::Mutex<Option<Refusal>>>,
    wake: Arc<Notify>,
}

impl Handle {
    /// The node can't keep the pod.
    pub fn evict(&self, refusal: Refusal) {
        *self.evicted.lock() = Some(refusal);
        self.wake.notify_one();
    }

    /// The runtime's things of this pod have changed.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// A container or sandbox of this pod has ended.
    pub fn ended(&self, id: String) {
        self.ended.lock().push(id);
        self.wake.notify_one();
    }
}

/// Something that is done once at a time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Job {
    Volumes,
    Sandbox,
    StopSandbox(String),
    RemoveSandbox(String),
    Start(String),
    Kill(String),
    RemoveContainer(String),
    Resize,
    Mirror,
    Report,
    Release,
    Forget,
}

/// How a job ended.
enum Outcome {
    Done,
    /// With the wait before it is tried again, where not the usual one.
    Failed,
    Volumes(Volumes, bool),
    Start(start::Result),
    Resized(resize::Updated),
    Report(report::Sent),
    /// The mirror pod as it is now.
    Shown(Option<Arc<Pod>>),
}

struct Retry {
    at: Instant,
    failures: u32,
}

/// The actor.
pub struct Worker {
    context: Arc<Context>,
    uid: String,
    pod: Arc<Pod>,
    gone: bool,
    /// What the API shows of a static pod.
    mirror: Option<Arc<Pod>>,
    wanted: watch::Receiver<Wanted>,
    ended: Arc<parking_lot::Mutex<Vec<String>>>,
    wake: Arc<Notify>,
    observer: Observer,
    observed: Observed,
    stale: bool,
    probes: Probes,
    jobs: JoinSet<(Job, Outcome)>,
    busy: HashMap<Job, Instant>,
    retries: HashMap<Job, Retry>,
    /// When SIGKILL comes, by container that is being killed.
    kills: HashMap<String, Instant>,
    volumes: Option<Volumes>,
    /// Hears of changes of what volumes show.
    listener: Listener,
    mounted: Option<Instant>,
    waiting: BTreeMap<String, (String, String)>,
    /// When a failed pull was noticed, by container.
    pull_failed: HashMap<String, Instant>,
    /// The crash of which the wait was told, by container.
    told: HashMap<String, String>,
    messages: BTreeMap<String, String>,
    /// When everything must have ended, once it must.
    deadline: Option<Instant>,
    began: Timestamp,
    released: bool,
    forgotten: bool,
    reporter: Reporter,
    resizes: Resizes,
    /// The node ends the pod, or never began it.
    refused: Option<Refusal>,
    /// It needs nobody's leave to be here (any more).
    admitted: bool,
    inherited: admit::Inherited,
    /// The node can't keep the pod: not taken up yet.
    evicted: Arc<parking_lot::Mutex<Option<Refusal>>>,
}

/// Starts the actor of a pod.
pub fn spawn(context: Arc<Context>, wanted: Wanted, shutdown: CancellationToken) -> (Handle, impl Future<Output = ()>) {
    let ended = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let wake = Arc::new(Notify::new());
    let (sender, receiver) = watch::channel(wanted.clone());
    let evicted = Arc::default();
    let handle = Handle { wanted: sender, ended: ended.clone(), evicted: Arc::clone(&evicted), wake: wake.clone() };
    let mut worker = Worker::new(context, wanted, receiver, ended, wake);
    worker.evicted = evicted;
    (handle, worker.run(shutdown))
}

impl Worker {
    fn new(
        context: Arc<Context>,
        wanted: Wanted,
        receiver: watch::Receiver<Wanted>,
        ended: Arc<parking_lot::Mutex<Vec<String>>>,
        wake: Arc<Notify>,
    ) -> Self {
        let pod = wanted.pod;
        let probes =
            Probes::new(context.cri.clone(), wake.clone(), unhealthy(context.clone(), &pod), context.tracker.clone());
        let listener = Listener::new(wake.clone());
        let mut worker = Self {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            gone: wanted.gone,
            mirror: None,
            wanted: receiver,
            ended,
            wake,
            observer: Observer::default(),
            observed: Observed::default(),
            stale: true,
            probes,
            jobs: JoinSet::new(),
            busy: HashMap::new(),
            retries: HashMap::new(),
            kills: HashMap::new(),
            volumes: Some(Volumes::default()),
            listener,
            mounted: None,
            waiting: BTreeMap::new(),
            pull_failed: HashMap::new(),
            told: HashMap::new(),
            messages: BTreeMap::new(),
            deadline: None,
            began: began(&pod),
            released: false,
            forgotten: false,
            reporter: Reporter::new(&pod),
            resizes: Resizes::default(),
            refused: None,
            admitted: false,
            inherited: admit::Inherited::default(),
            evicted: Arc::default(),
            context,
            pod: pod.clone(),
        };
        worker.show_as(wanted.mirror);
        worker.take_up(pod);
        worker
    }

    /// Until nothing is left of the pod, or until shutdown, which leaves its containers alone.
    async fn run(mut self, shutdown: CancellationToken) {
        let work = async {
            self.judge_place().await;
            self.admitted = true;
            while !self.forgotten {
                let again_in = self.turn().await;
                self.wait(again_in).await;
            }
        };
        shutdown.run_until_cancelled(work).await;
        self.probes.stop();
    }

    /// Looks, decides, begins what is due. The longest time until the next turn.
    async fn turn(&mut self) -> Duration {
        if let Err(status) = self.look().await {
            tracing::debug!(pod = self.uid, %status, "the runtime does not answer");
            self.stale = true;
            return RUNTIME_RETRY;
        }
        self.note_ends();
        let ending = self.ending();
        self.probe(ending.is_some());
        let resize = if ending.is_none() { self.resize() } else { REFRESH };
        let decision = step(&View {
            pod: &self.pod,
            observed: &self.observed,
            health: &self.probes,
            ending: ending.clone(),
            now_ns: i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX),
            again: &self.resizes.again,
        });
        let mut again = decision.again_in.unwrap_or(REFRESH).min(self.deadline_in()).min(resize);
        self.back_off(&decision);
        if decision.finished {
            self.finish();
        }
        for action in decision.actions {
            again = again.min(self.begin(action));
        }
        if ending.is_none() && !decision.finished {
            again = again.min(self.refresh_volumes());
        }
        again = again.min(self.pulls_waiting());
        again = again.min(self.keep_mirror());
        again = again.min(self.report(ending.is_some(), decision.finished));
        again.min(self.next_retry())
    }

    async fn wait(&mut self, again_in: Duration) {
        tokio::select! {
            Some(done) = self.jobs.join_next() => self.settle(done),
            () = self.wake.notified() => self.stale = true,
            changed = self.wanted.changed() => self.take_wanted(changed.is_ok()),
            () = tokio::time::sleep(again_in) => {}
        }
        while let Some(done) = self.jobs.try_join_next() {
            self.settle(done);
        }
    }

    fn take_wanted(&mut self, alive: bool) {
        let wanted = self.wanted.borrow_and_update().clone();
        // The manager lets go of an actor only when the process ends.
        if alive {
            self.gone |= wanted.gone;
            self.show_as(wanted.mirror);
            let held = self.pod.clone();
            self.pod = self.grant(wanted.pod, &held);
            let shown = |pod: &Pod| (pod.metadata.labels.clone(), pod.metadata.annotations.clone());
            if shown(&held) != shown(&self.pod) {
                self.listener.tell();
            }
        }
    }

    async fn look(&mut self) -> Result<(), tonic::Status> {
        if !std::mem::take(&mut self.stale) {
            return Ok(());
        }
        let ended = std::mem::take(&mut *self.ended.lock());
        for _ in 0..LAG_LOOKS {
            self.observed = self.observer.look(&self.context.cri, &self.uid).await?;
            self.inherited.mend(&mut self.observed);
            let lags = |id: &String| self.observed.running().any(|status| status.id == *id);
            if !ended.iter().any(lags) {
                break;
            }
            tokio::time::sleep(LAG_PAUSE).await;
        }
        let mut owners = self.context.owners.lock();
        for status in &self.observed.containers {
            owners.entry(status.id.clone()).or_insert_with(|| self.uid.clone());
        }
        for sandbox in &self.observed.sandboxes {
            owners.entry(sandbox.id.clone()).or_insert_with(|| self.uid.clone());
        }
        Ok(())
    }

    /// Last words of containers that have ended since.
    fn note_ends(&mut self) {
        let directory = log_directory(&self.pod, &self.context.settings);
        for status in &self.observed.containers {
            if status.state() == ContainerState::ContainerExited && !self.messages.contains_key(&status.id) {
                let container = find(&self.pod, container_name(status));
                let message = end::last_words(status, container.as_ref(), &directory);
                self.messages.insert(status.id.clone(), message);
            }
        }
        self.resizes.again.retain(|id| self.observed.containers.iter().any(|status| status.id == *id));
        self.messages.retain(|id, _| self.observed.containers.iter().any(|status| status.id == *id));
    }

    /// Why the pod is to end, if it is; the time that is left begins with the first such reason and only shrinks.
    fn ending(&mut self) -> Option<Why> {
        let evicted = self.evicted.lock().take();
        if let Some(refusal) = evicted
            && self.refused.is_none()
        {
            self.refuse(refusal);
        }
        let metadata = &self.pod.metadata;
        let why = if self.gone || metadata.deletion_timestamp.is_some() {
            Some(Why::Deleted)
        } else if self.refused.is_some() {
            Some(Why::Refused)
        } else if self.reporter.has_ended() {
            // It ended under an earlier agent: whatever the runtime has forgotten since, it never starts again.
            Some(Why::Finished)
        } else {
            self.past_deadline().then_some(Why::Deadline)
        };
        why.as_ref()?;
        let own = spec(&self.pod).termination_grace_period_seconds.unwrap_or(30);
        let grace = metadata.deletion_grace_period_seconds.unwrap_or(own).max(0);
        let grace = Duration::from_secs(grace.unsigned_abs());
        let latest = Instant::now() + grace;
        self.deadline = Some(self.deadline.map_or(latest, |known| known.min(latest)));
        why
    }

    fn past_deadline(&self) -> bool {
        self.active_left().is_some_and(|left| left.is_zero())
    }

    /// What is left of activeDeadlineSeconds.
    fn active_left(&self) -> Option<Duration> {
        let seconds = spec(&self.pod).active_deadline_seconds?;
        let passed = Timestamp::now().duration_since(self.began).as_secs_f64().max(0.0);
        Some(Duration::from_secs_f64((seconds as f64 - passed).max(0.0)))
    }

    fn deadline_in(&self) -> Duration {
        match self.active_left() {
            Some(left) if !left.is_zero() => left + Duration::from_millis(5),
            _ => REFRESH,
        }
    }

    fn probe(&mut self, ending: bool) {
        let spec = spec(&self.pod);
        // While a pod ends, upstream keeps probing readiness alone; its Endpoints have left it already.
        let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let running: Vec<(&Container, String)> = all
            .filter(|_| !ending)
            .filter_map(|c| {
                let status = self.observed.latest(&c.name)?;
                (status.state() == ContainerState::ContainerRunning).then(|| (c, status.id.clone()))
            })
            .collect();
        let ip = self.ips().into_iter().next().unwrap_or_default();
        self.probes.reconcile(&running, &ip);
    }

    /// The pod's addresses: the sandbox's, or the host's.
    fn ips(&self) -> Vec<String> {
        if spec(&self.pod).host_network == Some(true) {
            return vec![self.context.node_ip()];
        }
        self.observed.sandbox().map(|sandbox| sandbox.ips.clone()).unwrap_or_default()
    }

    /// Containers that wait for their restart say so.
    fn back_off(&mut self, decision: &Decision) {
        for (name, wait) in &decision.backing_off {
            let pod = full_name(&self.pod);
            let message =
                format!("back-off {} restarting failed container={name} pod={pod}", go_duration(wait.as_secs()));
            self.waiting.insert(name.clone(), ("CrashLoopBackOff".into(), message));
            let crash = self.observed.latest(name).map(|status| status.id.clone()).unwrap_or_default();
            if self.told.insert(name.clone(), crash.clone()).is_none_or(|told| told != crash) {
                let about = crate::context::container_reference(&self.pod, name);
                let message = format!("Back-off restarting failed container {name} in pod {pod}");
                self.context.recorder.warning(&about, "BackOff", message);
            }
        }
    }

    /// Pods whose pull failed show the error for a moment, then that they wait.
    fn pulls_waiting(&mut self) -> Duration {
        let mut next = REFRESH;
        for (name, since) in &self.pull_failed {
            let left = PULL_SHOWN.saturating_sub(since.elapsed());
            let Some((reason, message)) = self.waiting.get_mut(name).filter(|(reason, _)| reason == "ErrImagePull")
            else {
                continue;
            };
            if !left.is_zero() {
                next = next.min(left);
                continue;
            }
            let image = find(&self.pod, name).and_then(|c| c.image).unwrap_or_default();
            let about = crate::context::container_reference(&self.pod, name);
            self.context.recorder.normal(&about, "BackOff", format!("Back-off pulling image \"{image}\""));
            self.context.recorder.warning(&about, "Failed", "Error: ImagePullBackOff");
            *message = format!("Back-off pulling image \"{image}\": ErrImagePull: {message}");
            *reason = "ImagePullBackOff".into();
        }
        next
    }

    /// Begins an action unless it runs or must wait; the time until it may.
    fn begin(&mut self, action: Action) -> Duration {
        match action {
            Action::StartSandbox { attempt } => {
                if self.mounted.is_none() {
                    return self.mount();
                }
                let ((context, pod), uid) = (self.shared(), self.uid.clone());
                self.job(Job::Sandbox, async move { start::sandbox(&context, &pod, &uid, attempt).await })
            }
            Action::StopSandbox { id } => {
                let ((context, _), key) = (self.shared(), Job::StopSandbox(id.clone()));
                self.job(key, async move { end::stop_sandbox(&context, &id).await })
            }
            Action::RemoveSandbox { id } => {
                let ((context, _), key) = (self.shared(), Job::RemoveSandbox(id.clone()));
                self.job(key, async move { end::remove_sandbox(&context, &id).await })
            }
            Action::RemoveContainer { id } => {
                let ((context, pod), key) = (self.shared(), Job::RemoveContainer(id.clone()));
                let status = self.observed.containers.iter().find(|status| status.id == id).cloned();
                // Created and not started yet: by a job that is at it.
                let name = status.as_ref().map(|status| container_name(status).to_owned()).unwrap_or_default();
                if self.busy.contains_key(&Job::Start(name)) {
                    return REFRESH;
                }
                self.job(key, async move { end::remove_old(&context, &pod, &id, status).await })
            }
            Action::StartContainer { name, restart_count } => self.start(name, restart_count),
            Action::Kill { id, name, why } => self.kill(id, name, &why),
        }
    }

    fn start(&mut self, name: String, restart_count: u32) -> Duration {
        // A restarted agent finds the sandbox but has not looked at the volumes yet.
        if self.mounted.is_none() {
            return self.mount();
        }
        let (Some(container), Some(sandbox)) = (find(&self.pod, &name), self.observed.sandbox().cloned()) else {
            return REFRESH;
        };
        let ips = self.ips();
        let (context, pod) = self.shared();
        // The runtime forgets when its machine starts again; logs stay, and are not written over.
        let restart_count = match self.observed.latest(&name) {
            Some(_) => restart_count,
            None => start::count_by_logs(&log_directory(&self.pod, &self.context.settings).join(&name)),
        };
        let target = start::target(&self.pod, &self.observed, &name);
        self.resizes.actual.insert(name.clone(), container.resources.clone().unwrap_or_default());
        self.job(Job::Start(name), async move {
            let wanted = start::Wanted { pod, container, sandbox, restart_count, ips, target };
            Outcome::Start(start::container(&context, wanted).await)
        })
    }

    fn kill(&mut self, id: String, name: String, why: &Why) -> Duration {
        let container = find(&self.pod, &name);
        let grace = self.grace(container.as_ref(), why);
        let deadline = Instant::now() + grace;
        let known = self.kills.get(&id).copied();
        // A kill that runs is overtaken by one with less time.
        if known.is_some_and(|known| deadline + Duration::from_secs(1) > known) {
            return REFRESH;
        }
        if matches!(why, Why::Changed(_)) {
            self.resizes.again.insert(id.clone());
        }
        let job = Job::Kill(id.clone());
        let again = known.is_some();
        if let Some(wait) = self.must_wait(&job).filter(|_| !again) {
            return wait;
        }
        self.kills.insert(id.clone(), deadline);
        let why = why.clone();
        let ip = self.ips().into_iter().next().unwrap_or_default();
        let (context, pod) = self.shared();
        let kill = end::Kill { pod, container, id, name, why, grace, again, ip };
        self.busy.remove(&job);
        self.job(job, async move { end::kill(&context, kill).await })
    }

    fn grace(&self, container: Option<&Container>, why: &Why) -> Duration {
        let own = spec(&self.pod).termination_grace_period_seconds.unwrap_or(30).max(0).unsigned_abs();
        let of_probe = match why {
            Why::Unhealthy(which) => container.and_then(|c| match *which {
                "startup" => c.startup_probe.as_ref(),
                _ => c.liveness_probe.as_ref(),
            }),
            _ => None,
        };
        let probe = of_probe.and_then(|probe| probe.termination_grace_period_seconds);
        match self.deadline {
            Some(deadline) => deadline.saturating_duration_since(Instant::now()),
            None => Duration::from_secs(probe.map_or(own, |seconds| seconds.max(0).unsigned_abs())),
        }
    }

    fn mount(&mut self) -> Duration {
        let Some(mut volumes) = self.volumes.take() else { return REFRESH };
        if let Some(wait) = self.must_wait(&Job::Volumes) {
            self.volumes = Some(volumes);
            return wait;
        }
        let (context, pod) = self.shared();
        context.objects.follow(&self.uid, &pod, &self.listener, &context.tracker);
        let first = self.mounted.is_none();
        self.job(Job::Volumes, async move {
            let ready = start::prepare(&context, &pod, &mut volumes, first).await;
            Outcome::Volumes(volumes, ready)
        })
    }

    /// Begins to bring volumes up to date when it is time; the time until then.
    fn refresh_volumes(&mut self) -> Duration {
        if !volumes::change(&self.pod) || self.observed.sandbox().is_none() {
            return REFRESH;
        }
        // A restarted agent has not looked yet.
        let Some(at) = self.mounted else { return self.mount() };
        if !self.busy.contains_key(&Job::Volumes) && self.listener.take() {
            return self.mount();
        }
        match REFRESH.checked_sub(at.elapsed()) {
            Some(left) if !left.is_zero() => left,
            _ => self.mount(),
        }
    }

    /// Nothing runs any more: give back what the pod held, and forget it when its object is to go.
    fn finish(&mut self) {
        let (context, pod) = self.shared();
        if !self.released {
            // Volumes that are still being made would be made again.
            if !self.busy.contains_key(&Job::Volumes) {
                self.job(Job::Release, async move { end::release(&context, &pod).await });
            }
            return;
        }
        let deleted = self.gone || self.pod.metadata.deletion_timestamp.is_some();
        if deleted && (self.gone || self.reporter.is_settled()) {
            let (gone, observed) = (self.gone, self.observed.clone());
            self.job(Job::Forget, async move { end::forget(&context, &pod, &observed, gone).await });
        }
    }

    fn shared(&self) -> (Arc<Context>, Arc<Pod>) {
        (self.context.clone(), self.pod.clone())
    }

    /// Begins a job unless it runs or must wait; the time until it may.
    fn job(&mut self, key: Job, work: impl Future<Output = Outcome> + Send + 'static) -> Duration {
        if let Some(wait) = self.must_wait(&key) {
            return wait;
        }
        self.busy.insert(key.clone(), Instant::now());
        self.jobs.spawn(async move { (key, work.await) });
        REFRESH
    }

    fn must_wait(&self, key: &Job) -> Option<Duration> {
        if self.busy.contains_key(key) {
            return Some(REFRESH);
        }
        let left = self.retries.get(key)?.at.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    fn next_retry(&self) -> Duration {
        let now = Instant::now();
        let waits = self.retries.iter().filter(|(key, _)| !self.busy.contains_key(key));
        let waits = waits.map(|(_, retry)| retry.at.saturating_duration_since(now)).filter(|wait| !wait.is_zero());
        waits.min().map_or(REFRESH, |wait| wait + Duration::from_millis(1))
    }

    fn settle(&mut self, done: Result<(Job, Outcome), tokio::task::JoinError>) {
        let Ok((key, outcome)) = done else {
            // A job that panicked is a bug; the pod must not hang on it.
            self.busy.clear();
            self.stale = true;
            return;
        };
        self.busy.remove(&key);
        let wait = match outcome {
            Outcome::Done => None,
            Outcome::Failed => Some(self.growing(&key, RETRY_MIN, RETRY_MAX)),
            Outcome::Volumes(volumes, ready) => {
                self.volumes = Some(volumes);
                if ready {
                    self.mounted = Some(Instant::now());
                }
                (!ready).then(|| self.growing(&key, RETRY_MIN, RETRY_MAX))
            }
            Outcome::Resized(updated) => self.resized(updated).then(|| self.growing(&key, RETRY_MIN, RETRY_MAX)),
            Outcome::Start(result) => self.started(&key, result),
            Outcome::Shown(mirror) => {
                self.show_as(mirror);
                None
            }
            Outcome::Report(sent) => self.reporter.sent(sent).then(|| self.growing(&key, RETRY_MIN, RETRY_MAX)),
        };
        match (&key, wait) {
            (Job::Release, None) => {
                self.released = true;
                self.context.objects.unfollow(&self.uid);
            }
            (Job::Forget, None) => self.forgotten = true,
            (Job::Kill(id), _) => drop(self.kills.remove(id)),
            _ => {}
        }
        self.stale |= key != Job::Report && key != Job::Volumes;
        match wait {
            None => drop(self.retries.remove(&key)),
            Some(wait) => {
                let failures = self.retries.get(&key).map_or(0, |retry| retry.failures) + 1;
                self.retries.insert(key, Retry { at: Instant::now() + wait, failures });
            }
        }
    }

    fn growing(&self, key: &Job, min: Duration, max: Duration) -> Duration {
        let failures = self.retries.get(key).map_or(0, |retry| retry.failures);
        (min * 2u32.saturating_pow(failures.min(10))).min(max)
    }

    /// The wait before the next try when a start failed.
    fn started(&mut self, key: &Job, result: start::Result) -> Option<Duration> {
        let Job::Start(name) = key else { return None };
        match result {
            Ok(()) => {
                self.waiting.remove(name);
                self.pull_failed.remove(name);
                None
            }
            Err(failure) => {
                self.waiting.insert(name.clone(), (failure.reason.to_owned(), failure.message));
                match failure.reason {
                    "ErrImagePull" => {
                        self.pull_failed.insert(name.clone(), Instant::now());
                        Some(self.growing(key, PULL_MIN, PULL_MAX))
                    }
                    // There is a container: its end decides.
                    "RunContainerError" | "PostStartHookError" => None,
                    _ => Some(CONFIG_RETRY),
                }
            }
        }
    }
}

/// When the pod began on this node: a restarted agent goes on counting.
fn began(pod: &Pod) -> Timestamp {
    let known = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    known.map_or_else(Timestamp::now, |time| time.0)
}

/// Keeps of the pod only what Events name: this lives as long as the actor, and pods change.
fn unhealthy(context: Arc<Context>, pod: &Pod) -> OnFailure {
    let all = pod.spec.iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let probed = all.filter(|c| c.liveness_probe.is_some() || c.readiness_probe.is_some() || c.startup_probe.is_some());
    let references = probed.map(|c| (c.name.clone(), crate::context::container_reference(pod, &c.name)));
    let references: BTreeMap<_, _> = references.collect();
    Arc::new(move |container, kind, output| {
        let Some(about) = references.get(container) else { return };
        context.recorder.warning(about, "Unhealthy", format!("{} probe failed: {output}", kind.name()));
    })
}

/// A container of any sort by its name; ephemeral ones differ only in what they may not have.
pub fn find(pod: &Pod, name: &str) -> Option<Container> {
    let spec = pod.spec.as_ref()?;
    let plain = spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|c| c.name == name);
    plain.cloned().or_else(|| {
        let ephemeral = spec.ephemeral_containers.iter().flatten().find(|c| c.name == name)?;
        serde_json::to_value(ephemeral).and_then(serde_json::from_value).ok()
    })
}

/// The pod as messages name it.
pub fn full_name(pod: &Pod) -> String {
    let part = |part: &Option<String>| part.clone().unwrap_or_default();
    let metadata = &pod.metadata;
    format!("{}_{}({})", part(&metadata.name), part(&metadata.namespace), part(&metadata.uid))
}

/// A duration as Go prints it, which users know from messages.
fn go_duration(seconds: u64) -> String {
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
}
