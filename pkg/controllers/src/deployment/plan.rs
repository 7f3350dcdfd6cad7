//! One step of a rollout: upstream's deployment controller as a function of what is seen and the time.
use super::conditions::{self, AVAILABLE, PROGRESSING, REPLICA_FAILURE};
use super::sets::{self, DESIRED, MAX};
use crate::action::{self, Action, Told};
use crate::amount;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use kube::ResourceExt;
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::time::Duration;

/// The revision of a Deployment's or ReplicaSet's template.
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";

/// What the caches show.
pub(crate) struct Observed {
    /// The ReplicaSets that the Deployment manages.
    pub sets: Vec<ReplicaSet>,
    /// uids of those that have pods which are not over.
    pub with_pods: HashSet<String>,
    /// Set when a ReplicaSet of the new one's name exists and is none of ours.
    pub name_taken: bool,
}

/// Everything that one step decides.
pub(super) struct Step<'a> {
    deployment: &'a Deployment,
    now: Timestamp,
    new: Option<ReplicaSet>,
    old: Vec<ReplicaSet>,
    with_pods: &'a HashSet<String>,
    name_taken: bool,
    status: DeploymentStatus,
    revision: Option<String>,
    actions: Vec<Action>,
}

/// What to do for a Deployment now. The status comes last.
pub(crate) fn plan(deployment: &Deployment, observed: &Observed, now: Timestamp) -> Vec<Action> {
    let (new, old) = sets::split(deployment, &observed.sets);
    let step = Step {
        deployment,
        now,
        new,
        old,
        with_pods: &observed.with_pods,
        name_taken: observed.name_taken,
        status: deployment.status.clone().unwrap_or_default(),
        revision: None,
        actions: Vec::new(),
    };
    step.run()
}

pub(super) fn replicas(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

pub(super) fn is_rolling(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()).unwrap_or("RollingUpdate") == "RollingUpdate"
}

/// Surge and unavailability that a rollout may have now.
pub(super) fn limits(deployment: &Deployment) -> (i32, i32) {
    if !is_rolling(deployment) {
        return (0, 0);
    }
    let rolling = deployment.spec.as_ref().and_then(|s| s.strategy.as_ref()).and_then(|s| s.rolling_update.as_ref());
    let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref());
    let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
    let total = replicas(deployment);
    let (surge, unavailable) = amount::fenceposts(surge, unavailable, total);
    (surge, unavailable.min(total))
}

fn deadline_s(deployment: &Deployment) -> Option<i32> {
    deployment.spec.as_ref()?.progress_deadline_seconds.filter(|seconds| *seconds != i32::MAX)
}

impl Step<'_> {
    fn run(mut self) -> Vec<Action> {
        if self.deployment.metadata.deletion_timestamp.is_some() {
            self.sync_new();
            self.count();
            return self.finish();
        }
        self.pause_conditions();
        let paused = self.spec().paused == Some(true);
        if paused || self.is_scaling_event() {
            self.sync_new();
            self.scale();
            if paused {
                self.clean_up();
            }
            self.count();
            return self.finish();
        }
        match is_rolling(self.deployment) {
            true => self.roll(),
            false => self.recreate(),
        }
        self.count();
        self.progress();
        self.finish()
    }

    fn spec(&self) -> &k8s_openapi::api::apps::v1::DeploymentSpec {
        static NONE: std::sync::LazyLock<k8s_openapi::api::apps::v1::DeploymentSpec> =
            std::sync::LazyLock::new(Default::default);
        self.deployment.spec.as_ref().unwrap_or(&NONE)
    }

    fn all(&self) -> impl Iterator<Item = &ReplicaSet> {
        self.old.iter().chain(&self.new)
    }

    fn total(&self) -> i32 {
        self.all().map(sets::size).sum()
    }

    fn available(&self) -> i32 {
        self.all().map(sets::available).sum()
    }

    fn pause_conditions(&mut self) {
        if deadline_s(self.deployment).is_none() {
            return;
        }
        let reason = conditions::reason(&self.status, PROGRESSING);
        if reason == Some("ProgressDeadlineExceeded") {
            return;
        }
        let (was_paused, paused) = (reason == Some("DeploymentPaused"), self.spec().paused == Some(true));
        if paused && !was_paused {
            conditions::set(
                &mut self.status,
                PROGRESSING,
                "Unknown",
                "DeploymentPaused",
                "Deployment is paused",
                self.now,
            );
        } else if !paused && was_paused {
            let (reason, message) = ("DeploymentResumed", "Deployment is resumed");
            conditions::set(&mut self.status, PROGRESSING, "Unknown", reason, message, self.now);
        }
    }

    fn is_scaling_event(&self) -> bool {
        let active = self.all().filter(|set| sets::size(set) > 0);
        active.filter_map(|set| sets::number(set, DESIRED)).any(|desired| desired != replicas(self.deployment))
    }

    /// Keeps the new set's annotations and the revision in order.
    fn sync_new(&mut self) {
        let Some(new) = &mut self.new else { return };
        let revision = sets::next_revision(&self.old);
        let min_ready_s = self.deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
        let annotations = sets::annotations(self.deployment, new, revision);
        let mut patch = Map::new();
        if let Some(annotations) = &annotations {
            patch.insert("metadata".into(), json!({"annotations": annotations}));
        }
        if new.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or_default()
            != min_ready_s.unwrap_or_default()
        {
            patch.insert("spec".into(), json!({"minReadySeconds": min_ready_s.unwrap_or_default()}));
        }
        if !patch.is_empty() {
            self.actions.push(action::patch(new, Value::Object(patch)));
            new.annotations_mut().extend(annotations.unwrap_or_default());
        }
        self.revision = new.annotations().get(REVISION).cloned();
        if deadline_s(self.deployment).is_some() && conditions::reason(&self.status, PROGRESSING).is_none() {
            let message = format!("Found new replica set {:?}", new.name_any());
            conditions::set(&mut self.status, PROGRESSING, "True", "FoundNewReplicaSet", &message, self.now);
        }
    }

    /// The set for the current template, made now if there is none. False when its name belongs to something else.
    fn ensure_new(&mut self) -> bool {
        if self.new.is_some() {
            self.sync_new();
            return true;
        }
        if self.name_taken {
            self.status.collision_count = Some(self.status.collision_count.unwrap_or_default() + 1);
            self.actions.push(Action::Again(Duration::from_millis(10)));
            return false;
        }
        let size = if is_rolling(self.deployment) { self.grown(0) } else { replicas(self.deployment) };
        let revision = sets::next_revision(&self.old);
        let set = sets::make(self.deployment, self.status.collision_count, revision, size);
        let name = set.name_any();
        let about = client::reference(self.deployment);
        let told = match size {
            0 => Told::nothing(),
            _ => Told::done(&about, "ScalingReplicaSet", format!("Scaled up replica set {name} from 0 to {size}")),
        };
        self.actions.push(action::create(&set, told));
        self.revision = Some(revision.to_string());
        if deadline_s(self.deployment).is_some() {
            let message = format!("Created new replica set {name:?}");
            conditions::set(&mut self.status, PROGRESSING, "True", "NewReplicaSetCreated", &message, self.now);
        }
        self.new = Some(set);
        true
    }

    /// How large the new set may be, when it is `size` now: no more pods in all than surge allows.
    fn grown(&self, size: i32) -> i32 {
        let (surge, _) = limits(self.deployment);
        let room = replicas(self.deployment) + surge - self.total();
        size + room.min(replicas(self.deployment) - size).max(0)
    }

    fn roll(&mut self) {
        if !self.ensure_new() {
            return;
        }
        let (want, have) = (replicas(self.deployment), self.new.as_ref().map(sets::size).unwrap_or_default());
        let size = if have > want { want } else { self.grown(have) };
        if size != have {
            return self.resize_new(size);
        }
        if !self.shrink_old() && self.is_complete() {
            self.clean_up();
        }
    }

    fn recreate(&mut self) {
        self.sync_new();
        let mut scaled = false;
        for n in 0..self.old.len() {
            scaled |= self.resize_old(n, 0, false);
        }
        if scaled || self.old_pods_are_running() || !self.ensure_new() {
            return;
        }
        self.resize_new(replicas(self.deployment));
        if self.is_complete() {
            self.clean_up();
        }
    }

    fn old_pods_are_running(&self) -> bool {
        let new = self.new.as_ref().and_then(ResourceExt::uid);
        let counted = self.old.iter().any(|set| sets::actual(set) > 0);
        counted || self.with_pods.iter().any(|uid| Some(uid) != new.as_ref())
    }

    /// Takes pods from old sets as far as availability allows, unhealthy ones first.
    fn shrink_old(&mut self) -> bool {
        let (_, unavailable) = limits(self.deployment);
        let min_available = replicas(self.deployment) - unavailable;
        let (new_size, new_available) = self.new.as_ref().map_or((0, 0), |new| (sets::size(new), sets::available(new)));
        let budget = self.total() - min_available - (new_size - new_available);
        if budget <= 0 || self.old.iter().all(|set| sets::size(set) == 0) {
            return false;
        }
        self.old.sort_by(sets::by_age);
        let mut cleaned = 0;
        for n in 0..self.old.len() {
            let size = sets::size(&self.old[n]);
            let unhealthy = (size - sets::available(&self.old[n])).clamp(0, budget - cleaned);
            if unhealthy > 0 {
                self.resize_old(n, size - unhealthy, false);
                cleaned += unhealthy;
            }
        }
        let mut spare = (self.available() - min_available).max(0);
        let mut taken = 0;
        for n in 0..self.old.len() {
            let size = sets::size(&self.old[n]);
            let take = size.min(spare);
            if take > 0 {
                self.resize_old(n, size - take, false);
                (spare, taken) = (spare - take, taken + take);
            }
        }
        cleaned + taken > 0
    }

    /// Scaling outside of a rollout's steps: in proportion when several sets are active, so that a scaled Deployment
    /// rolls out no faster than before.
    fn scale(&mut self) {
        let want = replicas(self.deployment);
        self.old.sort_by(|a, b| sets::by_age(b, a));
        let active = self.old.iter().filter(|set| sets::size(set) > 0).count();
        let new_active = self.new.as_ref().is_some_and(|new| sets::size(new) > 0);
        match (active, new_active) {
            (0, _) if self.new.is_some() => return self.resize_new(want),
            (0, _) if self.old.is_empty() => return,
            (0, _) => {
                self.resize_old(0, want, false);
                return;
            }
            (1, false) => {
                let only = self.old.iter().position(|set| sets::size(set) > 0).unwrap_or_default();
                self.resize_old(only, want, false);
                return;
            }
            _ => {}
        }
        if self.new.as_ref().is_some_and(|new| sets::is_saturated(new, want)) {
            for n in 0..self.old.len() {
                self.resize_old(n, 0, false);
            }
        } else if is_rolling(self.deployment) {
            self.scale_in_proportion();
        }
    }

    fn scale_in_proportion(&mut self) {
        let (surge, _) = limits(self.deployment);
        let want = replicas(self.deployment);
        let before = self.deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or_default();
        let allowed = if want > 0 { want + surge } else { 0 };
        let sizes = sets::in_proportion(self.all().filter(|set| sets::size(set) > 0), want, allowed, before);
        for (name, size) in sizes {
            match self.old.iter().position(|set| set.name_any() == name) {
                Some(n) => _ = self.resize_old(n, size, true),
                None => self.resize(true, 0, size, true),
            }
        }
    }

    fn resize_new(&mut self, size: i32) {
        self.resize(true, 0, size, false);
    }

    fn resize_old(&mut self, n: usize, size: i32, force: bool) -> bool {
        let changes = sets::size(&self.old[n]) != size;
        self.resize(false, n, size, force);
        changes
    }

    fn resize(&mut self, new: bool, n: usize, size: i32, force: bool) {
        let set = match new {
            true => self.new.as_mut(),
            false => self.old.get_mut(n),
        };
        let Some(set) = set else { return };
        let have = sets::size(set);
        let (surge, _) = limits(self.deployment);
        let want = replicas(self.deployment);
        let noted = [(DESIRED, want.to_string()), (MAX, (want + surge).to_string())];
        let stale = noted.iter().any(|(key, value)| set.annotations().get(*key) != Some(value));
        if have == size && !(force && stale) {
            return;
        }
        let mut metadata =
            json!({"annotations": noted.clone().into_iter().collect::<std::collections::BTreeMap<_, _>>()});
        // What was decided on an older copy must not be done to a newer one.
        if let Some(version) = set.resource_version().filter(|_| !self.actions.iter().any(|a| patches(a, set))) {
            metadata["resourceVersion"] = version.into();
        }
        let direction = if have < size { "up" } else { "down" };
        let message = format!("Scaled {direction} replica set {} from {have} to {size}", set.name_any());
        let told = match have == size {
            true => Told::nothing(),
            false => Told::done(&client::reference(self.deployment), "ScalingReplicaSet", message),
        };
        let mut patch = action::patch(set, json!({"metadata": metadata, "spec": {"replicas": size}}));
        if let Action::Patch { told: slot, .. } = &mut patch {
            *slot = told;
        }
        self.actions.push(patch);
        set.spec.get_or_insert_default().replicas = Some(size);
        set.annotations_mut().extend(noted.map(|(key, value)| (key.to_owned(), value)));
    }

    fn is_complete(&self) -> bool {
        let status = self.deployment.status.clone().unwrap_or_default();
        conditions::is_complete(self.deployment, &status)
    }

    /// Deletes the oldest empty sets past the history limit.
    fn clean_up(&mut self) {
        let Some(limit) = self.spec().revision_history_limit.filter(|limit| *limit != i32::MAX) else { return };
        let mut alive: Vec<&ReplicaSet> =
            self.old.iter().filter(|set| set.metadata.deletion_timestamp.is_none()).collect();
        alive.sort_by(|a, b| sets::revision(a).cmp(&sets::revision(b)).then_with(|| sets::by_age(a, b)));
        let surplus = alive.len().saturating_sub(usize::try_from(limit).unwrap_or_default());
        let idle = alive.into_iter().take(surplus).filter(|set| sets::is_idle(set));
        let deletes: Vec<Action> = idle.map(|set| action::delete(set, Told::nothing())).collect();
        self.actions.extend(deletes);
    }

    /// The numbers, and whether enough is available.
    fn count(&mut self) {
        let (available, total) = (self.available(), self.total());
        let some = |number: i32| Some(number).filter(|number| *number != 0);
        let counted = DeploymentStatus {
            observed_generation: self.deployment.metadata.generation,
            replicas: some(self.all().map(sets::actual).sum()),
            updated_replicas: some(self.new.as_ref().map(sets::actual).unwrap_or_default()),
            ready_replicas: some(self.all().map(sets::ready).sum()),
            available_replicas: some(available),
            unavailable_replicas: some((total - available).max(0)),
            terminating_replicas: sets::terminating(self.all()),
            collision_count: self.status.collision_count,
            conditions: self.status.conditions.take(),
        };
        self.status = counted;
        let (_, unavailable) = limits(self.deployment);
        let (status, reason, message) = match available >= replicas(self.deployment) - unavailable {
            true => ("True", "MinimumReplicasAvailable", "Deployment has minimum availability."),
            false => ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability."),
        };
        conditions::set(&mut self.status, AVAILABLE, status, reason, message, self.now);
    }

    /// Whether the rollout moves, is done or has taken too long.
    fn progress(&mut self) {
        match deadline_s(self.deployment) {
            None => conditions::remove(&mut self.status, PROGRESSING),
            Some(deadline_s) => self.judge_progress(deadline_s),
        }
        let failure = self.new.iter().chain(&self.old).find_map(sets::failure);
        match failure {
            Some(failure) => conditions::copy(&mut self.status, failure),
            None => conditions::remove(&mut self.status, REPLICA_FAILURE),
        }
    }

    fn judge_progress(&mut self, deadline_s: i32) {
        let was_done = conditions::reason(&self.status, PROGRESSING) == Some("NewReplicaSetAvailable");
        if was_done && self.status.replicas == self.status.updated_replicas {
            return;
        }
        let what = match &self.new {
            Some(new) => format!("ReplicaSet {:?}", new.name_any()),
            None => format!("Deployment {:?}", self.deployment.name_any()),
        };
        if conditions::is_complete(self.deployment, &self.status) {
            let message = format!("{what} has successfully progressed.");
            conditions::set(&mut self.status, PROGRESSING, "True", "NewReplicaSetAvailable", &message, self.now);
        } else if conditions::moved(self.deployment.status.as_ref(), &self.status) {
            let message = format!("{what} is progressing.");
            conditions::renew(&mut self.status, PROGRESSING, "True", "ReplicaSetUpdated", &message, self.now);
        } else if let Some(left) = self.time_left(deadline_s) {
            if left.is_negative() {
                let message = format!("{what} has timed out progressing.");
                conditions::set(&mut self.status, PROGRESSING, "False", "ProgressDeadlineExceeded", &message, self.now);
            } else {
                let left = Duration::try_from(left).unwrap_or_default();
                self.actions.push(Action::Again(left + Duration::from_secs(1)));
            }
        }
    }

    fn time_left(&self, deadline_s: i32) -> Option<SignedDuration> {
        let condition = conditions::get(&self.status, PROGRESSING)?;
        if matches!(condition.reason.as_deref(), Some("NewReplicaSetAvailable" | "ProgressDeadlineExceeded")) {
            return None;
        }
        let from = condition.last_update_time.as_ref()?.0;
        Some((from + SignedDuration::from_secs(deadline_s.into())).duration_since(self.now))
    }

    fn finish(mut self) -> Vec<Action> {
        let current = self.deployment.annotations().get(REVISION);
        if let Some(revision) = self.revision.filter(|revision| Some(revision) != current) {
            self.actions
                .push(action::patch(self.deployment, json!({"metadata": {"annotations": {REVISION: revision}}})));
        }
        let old = self.deployment.status.clone().unwrap_or_default();
        self.actions.extend(action::status(self.deployment, &old, &self.status));
        self.actions
    }
}

fn patches(action: &Action, set: &ReplicaSet) -> bool {
    matches!(action, Action::Patch { target, .. } if target.uid == set.uid() && target.name == set.name_any())
}
