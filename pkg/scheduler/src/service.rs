//! The shell: feeds events to the core and carries its decisions out.
use crate::core::{Core, Decision, Handover, Nomination, Preemption};
use crate::follow::{StorageCaches, StorageEvent, StorageEvents};
use crate::plugins;
use crate::pod::PodInfo;
use crate::prebind;
use crate::report::{BindError, Failures, Reporter};
use crate::storage::Step;
use api::home::Ownership;
use client::{Informers, Reflector, Subscription};
use futures::FutureExt;
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Bindings on the way at once: enough to hide a round trip, few enough to leave the API to others.
const MAX_BINDS: usize = 64;
/// Pods whose volumes are waited for at once.
const MAX_VOLUME_WAITS: usize = 512;
/// Victims of one preemption that are ended at once.
const MAX_EVICTIONS: usize = 16;
/// Conditions and events being written at once.
const MAX_REPORTS: usize = 16;
/// Reports that wait; further ones are dropped, as the next try would report again.
const MAX_WAITING_REPORTS: usize = 8192;
/// Decisions between two looks at events, so that deciding stays current.
const DECISIONS_A_ROUND: usize = 16;
/// Events taken in a round.
const EVENTS_A_ROUND: usize = 4096;
/// Bindings and reports that are on the way may take this long at the end.
const DRAIN: Duration = Duration::from_secs(5);

pub struct Options {
    pub client: kube::Client,
    pub informers: Informers,
    /// `spec.schedulerName` of the pods that are ours; usually `default-scheduler`.
    pub name: String,
    /// Which sites there are, and whose objects are whose.
    pub ownership: watch::Receiver<Ownership>,
}

/// The scheduler. [`Service::run`] it until it is told to stop.
pub struct Service {
    core: Core,
    reporter: Reporter,
    pods: Reflector<Pod>,
    nodes: Reflector<Node>,
    namespaces: Reflector<Namespace>,
    budgets: Reflector<PodDisruptionBudget>,
    storage: StorageCaches,
    failures: Failures,
    tasks: TaskTracker,
    permits: Arc<Semaphore>,
    volume_permits: Arc<Semaphore>,
    reports: mpsc::Sender<Report>,
    waiting_reports: Option<mpsc::Receiver<Report>>,
    results: (mpsc::Sender<Done>, mpsc::Receiver<Done>),
    started: Instant,
    ownership: watch::Receiver<Ownership>,
}

/// Something to write that nobody waits for.
enum Report {
    Event(Box<k8s_openapi::api::events::v1::Event>),
    Condition { pod: Arc<PodInfo>, reason: &'static str, message: String, nomination: Nomination },
    Nomination { pod: Arc<PodInfo>, nomination: Nomination },
}

/// What a task of ours brought back.
enum Done {
    Bound(BindResult),
    /// The victims that could not be ended, of those that stood in this pod's way.
    Evicted {
        pod: Arc<PodInfo>,
        refused: Vec<Arc<str>>,
    },
    HandedOver {
        pod: Arc<PodInfo>,
        handover: Handover,
        result: Result<(), kube::Error>,
    },
}

struct BindResult {
    pod: Arc<PodInfo>,
    node: Arc<str>,
    steps: Vec<Step>,
    result: Result<(), BindError>,
}

/// What the loop follows.
struct Events {
    pods: Subscription<Pod>,
    nodes: Subscription<Node>,
    namespaces: Subscription<Namespace>,
    budgets: Subscription<PodDisruptionBudget>,
    storage: StorageEvents,
}

/// What the loop woke up for.
enum Wake {
    Pod(Option<client::Event<Pod>>),
    Node(Option<client::Event<Node>>),
    Namespace(Option<client::Event<Namespace>>),
    Budget(Option<client::Event<PodDisruptionBudget>>),
    Storage(Option<StorageEvent>),
    Sites,
    Done(Done),
    Time,
    Stop,
}

impl Service {
    pub fn new(options: Options) -> Self {
        let Options { client, informers, name, ownership } = options;
        let seed = RandomState::new().build_hasher().finish();
        let (reports, waiting_reports) = mpsc::channel(MAX_WAITING_REPORTS);
        Self {
            core: Core::new(&*name, plugins::default(), seed),
            reporter: Reporter::new(client, &name),
            pods: informers.reflector(),
            nodes: informers.reflector(),
            namespaces: informers.reflector(),
            budgets: informers.reflector(),
            storage: StorageCaches::new(&informers),
            failures: Failures::default(),
            tasks: TaskTracker::new(),
            permits: Arc::new(Semaphore::new(MAX_BINDS)),
            volume_permits: Arc::new(Semaphore::new(MAX_VOLUME_WAITS)),
            reports,
            waiting_reports: Some(waiting_reports),
            // As many results as there are permits: sending one never waits.
            results: mpsc::channel(MAX_BINDS),
            started: Instant::now(),
            ownership,
        }
    }

    /// Schedules until `shutdown`; then lets what is on the way arrive.
    pub async fn run(mut self, shutdown: CancellationToken) {
        if let Some(reports) = self.waiting_reports.take() {
            self.tasks.spawn(write_reports(reports, self.reporter.clone(), shutdown.clone()));
        }
        let mut events = Events {
            pods: self.pods.subscribe(),
            nodes: self.nodes.subscribe(),
            namespaces: self.namespaces.subscribe(),
            budgets: self.budgets.subscribe(),
            storage: self.storage.subscribe(),
        };
        let synced = async {
            self.namespaces.synced().await;
            self.budgets.synced().await;
            self.storage.synced().await;
            self.nodes.synced().await;
            self.pods.synced().await;
        };
        if shutdown.run_until_cancelled(synced).await.is_some() {
            self.sites_changed();
            tracing::info!(nodes = self.core.cluster().len(), waiting = self.core.waiting(), "scheduling");
            self.follow(&mut events, &shutdown).await;
        }
        self.tasks.close();
        if tokio::time::timeout(DRAIN, self.tasks.wait()).await.is_err() {
            tracing::warn!("bindings on the way were given up at shutdown");
        }
    }

    async fn follow(&mut self, events: &mut Events, shutdown: &CancellationToken) {
        loop {
            self.take_events(events);
            if self.decide() {
                tokio::task::yield_now().await;
                if shutdown.is_cancelled() {
                    return;
                }
                continue;
            }
            match self.wait(events, shutdown).await {
                Wake::Pod(Some(event)) => self.pod_event(event),
                Wake::Node(Some(event)) => self.node_event(event),
                Wake::Namespace(Some(event)) => self.namespace_event(event),
                Wake::Budget(Some(event)) => self.budget_event(event),
                Wake::Done(done) => self.finish(done),
                Wake::Time => {}
                Wake::Sites => self.sites_changed(),
                Wake::Storage(Some(event)) => self.storage.apply(event, &mut self.core),
                _ => return,
            }
        }
    }

    async fn wait(&mut self, events: &mut Events, shutdown: &CancellationToken) -> Wake {
        let due = self.core.next_tick_ms().map(|at_ms| self.started + Duration::from_millis(at_ms));
        let timer = sleep_until(due);
        tokio::select! {
            biased;
            () = shutdown.cancelled() => Wake::Stop,
            () = client::home::changed(&mut self.ownership) => Wake::Sites,
            Some(done) = self.results.1.recv() => Wake::Done(done),
            event = events.namespaces.next() => Wake::Namespace(event),
            event = events.budgets.next() => Wake::Budget(event),
            event = events.storage.next() => Wake::Storage(event),
            event = events.nodes.next() => Wake::Node(event),
            event = events.pods.next() => Wake::Pod(event),
            () = timer => Wake::Time,
        }
    }

    /// Takes what has already happened, without waiting.
    fn take_events(&mut self, events: &mut Events) {
        while let Ok(done) = self.results.1.try_recv() {
            self.finish(done);
        }
        for _ in 0..EVENTS_A_ROUND {
            let Some(Some(event)) = events.namespaces.next().now_or_never() else { break };
            self.namespace_event(event);
        }
        for _ in 0..EVENTS_A_ROUND {
            let Some(Some(event)) = events.budgets.next().now_or_never() else { break };
            self.budget_event(event);
        }
        for _ in 0..EVENTS_A_ROUND {
            let Some(Some(event)) = events.storage.next().now_or_never() else { break };
            self.storage.apply(event, &mut self.core);
        }
        for _ in 0..EVENTS_A_ROUND {
            let Some(Some(event)) = events.nodes.next().now_or_never() else { break };
            self.node_event(event);
        }
        for _ in 0..EVENTS_A_ROUND {
            let Some(Some(event)) = events.pods.next().now_or_never() else { break };
            self.pod_event(event);
        }
    }

    fn pod_event(&mut self, event: client::Event<Pod>) {
        let now_ms = self.now_ms();
        match event {
            client::Event::Applied { new, .. } => self.core.pod_changed(new, now_ms),
            client::Event::Deleted(pod) => self.core.pod_gone(pod.metadata.uid.as_deref().unwrap_or_default()),
            client::Event::Resync => self.resync(),
        }
    }

    fn node_event(&mut self, event: client::Event<Node>) {
        match event {
            client::Event::Applied { new, .. } => self.core.node_changed(new),
            client::Event::Deleted(node) => self.core.node_gone(&node.name_any()),
            client::Event::Resync => self.resync(),
        }
    }

    fn namespace_event(&mut self, event: client::Event<Namespace>) {
        match event {
            client::Event::Applied { new, .. } => self.core.namespace_changed(&new.name_any(), new.labels().clone()),
            client::Event::Deleted(namespace) => self.core.namespace_gone(&namespace.name_any()),
            client::Event::Resync => self.resync(),
        }
    }

    fn budget_event(&mut self, event: client::Event<PodDisruptionBudget>) {
        match event {
            client::Event::Applied { new, .. } => self.core.budget_changed(&new),
            client::Event::Deleted(budget) => self.core.budget_gone(&budget),
            client::Event::Resync => self.core.resync_budgets(self.budgets.list()),
        }
    }

    fn sites_changed(&mut self) {
        let ownership = self.ownership.borrow_and_update().clone();
        self.core.sites_changed(ownership);
        self.resync();
    }

    fn resync(&mut self) {
        self.core.resync_budgets(self.budgets.list());
        self.storage.resync(&mut self.core);
        for namespace in self.namespaces.list() {
            self.core.namespace_changed(&namespace.name_any(), namespace.labels().clone());
        }
        let now_ms = self.now_ms();
        self.core.resync(self.pods.list(), self.nodes.list(), now_ms);
    }

    /// A round of decisions; says whether there may be more to decide at once.
    fn decide(&mut self) -> bool {
        for _ in 0..DECISIONS_A_ROUND {
            // A permit first: a decision that can't be carried out yet would only grow old.
            let Ok(permit) = self.permits.clone().try_acquire_owned() else { return false };
            let now_ms = self.now_ms();
            match self.core.next(now_ms) {
                None => return false,
                Some(Decision::Unschedulable { pod, message, nomination }) => {
                    self.report_failure(pod, "Unschedulable", message, nomination);
                }
                Some(Decision::Preempt { pod, message, preemption }) => {
                    self.report_failure(
                        pod.clone(),
                        "Unschedulable",
                        message,
                        Nomination::Set(preemption.node.clone()),
                    );
                    self.preempt(pod, preemption, permit);
                }
                Some(Decision::HandOver { pod, handover }) => self.hand_over(pod, handover, permit),
                Some(Decision::Bind { pod, node, steps }) if steps.is_empty() => self.bind(pod, node, permit),
                Some(Decision::Bind { pod, node, steps }) => self.bind_with_volumes(pod, node, steps),
            }
        }
        true
    }

    fn bind(&self, pod: Arc<PodInfo>, node: Arc<str>, permit: OwnedSemaphorePermit) {
        let (reporter, results) = (self.reporter.clone(), self.results.0.clone());
        self.tasks.spawn(async move {
            let result = reporter.bind(&pod, &node).await;
            drop(permit);
            // The service is gone at shutdown only.
            let _ = results.send(Done::Bound(BindResult { pod, node, steps: Vec::new(), result })).await;
        });
    }

    fn hand_over(&self, pod: Arc<PodInfo>, handover: Handover, permit: OwnedSemaphorePermit) {
        let (reporter, results) = (self.reporter.clone(), self.results.0.clone());
        self.tasks.spawn(async move {
            let result = reporter.hand_over(&pod, &handover).await;
            drop(permit);
            let _ = results.send(Done::HandedOver { pod, handover, result }).await;
        });
    }

    /// Volumes may take long: others are bound in the meantime.
    fn bind_with_volumes(&self, pod: Arc<PodInfo>, node: Arc<str>, steps: Vec<Step>) {
        let (reporter, results) = (self.reporter.clone(), self.results.0.clone());
        let (permits, volume_permits) = (self.permits.clone(), self.volume_permits.clone());
        let claims = self.storage.claims.clone();
        self.tasks.spawn(async move {
            let bind = async {
                let _waiting = volume_permits.acquire().await;
                prebind::volumes(reporter.client(), &claims, &pod, &node, &steps).await?;
                let _permit = permits.acquire().await;
                reporter.bind(&pod, &node).await
            };
            let result = bind.await;
            let _ = results.send(Done::Bound(BindResult { pod, node, steps, result })).await;
        });
    }

    fn preempt(&self, pod: Arc<PodInfo>, preemption: Preemption, permit: OwnedSemaphorePermit) {
        let Preemption { node, victims, outranked } = preemption;
        for other in outranked {
            self.report(Report::Nomination { pod: other, nomination: Nomination::Clear });
        }
        let (reporter, results) = (self.reporter.clone(), self.results.0.clone());
        self.tasks.spawn(async move {
            let mut refused = Vec::new();
            for group in victims.chunks(MAX_EVICTIONS) {
                let ends = join_all(group.iter().map(|victim| reporter.evict(victim, &pod, &node))).await;
                for (victim, end) in group.iter().zip(ends) {
                    if let Err(error) = end {
                        tracing::warn!(%error, pod = %victim.name, namespace = %victim.namespace, "preemption failed");
                        refused.push(victim.uid.clone());
                    }
                }
            }
            drop(permit);
            let _ = results.send(Done::Evicted { pod, refused }).await;
        });
    }

    fn finish(&mut self, done: Done) {
        match done {
            Done::Bound(result) => self.finish_binding(result),
            Done::Evicted { pod, refused } => {
                let now_ms = self.now_ms();
                self.core.evicted(&pod.uid, &refused, now_ms);
            }
            Done::HandedOver { pod, handover, result } => {
                let now_ms = self.now_ms();
                if let Err(error) = &result {
                    tracing::warn!(%error, pod = %pod.name, namespace = %pod.namespace, "handing a pod over failed");
                }
                self.core.handed_over(&pod.uid, &handover, result.is_ok(), now_ms);
            }
        }
    }

    fn finish_binding(&mut self, BindResult { pod, node, steps, result }: BindResult) {
        let now_ms = self.now_ms();
        match result {
            Ok(()) => {
                self.core.bound(&pod.uid);
                self.report(Report::Event(Box::new(self.reporter.scheduled(&pod, &node))));
            }
            Err(error @ BindError::Settled { .. }) => {
                tracing::debug!(%error, "binding");
                self.core.bind_failed(&pod.uid, &steps, true, now_ms);
                // It may wait still, under another version than the one that was tried.
                if let Some(current) = self.pods.get(&pod.namespace, &pod.name) {
                    self.core.pod_changed(current, now_ms);
                }
            }
            Err(error) => {
                let message = chain(&error);
                tracing::warn!(error = message, "binding failed; trying again");
                self.core.bind_failed(&pod.uid, &steps, false, now_ms);
                self.report_failure(pod, "SchedulerError", message, Nomination::Keep);
            }
        }
    }

    fn report_failure(&mut self, pod: Arc<PodInfo>, reason: &'static str, message: String, nomination: Nomination) {
        tracing::debug!(pod = %pod.name, namespace = %pod.namespace, message, "not scheduled");
        if let Some(event) = self.failures.event(&self.reporter, &pod, &message, Timestamp::now()) {
            self.report(Report::Event(Box::new(event)));
        }
        self.report(Report::Condition { pod, reason, message, nomination });
    }

    fn report(&self, report: Report) {
        if self.reports.try_send(report).is_err() {
            tracing::debug!("too many reports are waiting; one was dropped");
        }
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
}

/// Writes reports, several at once, until the scheduler is gone or told to stop.
async fn write_reports(mut reports: mpsc::Receiver<Report>, reporter: Reporter, shutdown: CancellationToken) {
    let permits = Arc::new(Semaphore::new(MAX_REPORTS));
    let tasks = TaskTracker::new();
    while let Some(Some(report)) = shutdown.run_until_cancelled(reports.recv()).await {
        let Ok(permit) = permits.clone().acquire_owned().await else { break };
        let reporter = reporter.clone();
        tasks.spawn(async move {
            write(&reporter, report).await;
            drop(permit);
        });
    }
    tasks.close();
    tasks.wait().await;
}

async fn write(reporter: &Reporter, report: Report) {
    let result = match report {
        Report::Event(event) => reporter.event(&event).await,
        Report::Condition { pod, reason, message, nomination } => {
            reporter.condition(&pod, reason, &message, &nomination).await
        }
        Report::Nomination { pod, nomination } => reporter.nominate(&pod, &nomination).await,
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a report was not written");
    }
}

/// Never, without a time.
async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// An error and what caused it, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
