//! One step of a Job: count what ended, decide whether it is over, keep enough pods at work.
use super::indexes::Indexes;
use super::pods_of::{self, FINALIZER};
use crate::action::{self, Action, Note, Patch, Target, Told};
use crate::pods;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use serde_json::json;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// Pause before a failed pod is replaced; it doubles with every failure in a row.
const BACKOFF: SignedDuration = SignedDuration::from_secs(10);
/// The longest such pause, upstream's.
const BACKOFF_LAST: SignedDuration = SignedDuration::from_secs(600);
/// Pods made in one step.
const BURST: usize = 500;

pub(super) struct Step<'a> {
    job: &'a Job,
    spec: JobSpec,
    pods: &'a [Arc<Pod>],
    now: Timestamp,
    status: JobStatus,
    completed: Indexes,
    actions: Vec<Action>,
}

/// Whether a final condition stands.
pub(crate) fn is_finished(job: &Job) -> bool {
    finished(job).is_some()
}

/// The final condition: Complete or Failed.
pub(crate) fn finished(job: &Job) -> Option<&JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| matches!(&*c.type_, "Complete" | "Failed") && c.status == "True")
}

/// What to do for a Job, given the pods it manages.
pub(super) fn plan(job: &Job, pods: &[Arc<Pod>], now: Timestamp) -> Vec<Action> {
    let Some(spec) = job.spec.clone() else { return Vec::new() };
    if is_finished(job) || job.metadata.deletion_timestamp.is_some() {
        let held = pods.iter().filter(|pod| pods_of::is_tracked(pod));
        return held.map(|pod| release(pod)).collect();
    }
    let status = job.status.clone().unwrap_or_default();
    let completed = Indexes::parse(status.completed_indexes.as_deref().unwrap_or_default());
    Step { job, spec, pods, now, status, completed, actions: Vec::new() }.run()
}

/// Lets a pod go whose end is counted.
fn release(pod: &Pod) -> Action {
    let patch =
        Patch::Strategic(json!({"metadata": {"uid": pod.uid(), "$deleteFromPrimitiveList/finalizers": [FINALIZER]}}));
    Action::Patch { target: Target::of(pod), patch, subresource: None, told: Told::nothing() }
}

impl Step<'_> {
    fn run(mut self) -> Vec<Action> {
        let ended = self.count();
        self.suspend_or_resume();
        let over = self.judge();
        let active: Vec<Arc<Pod>> = self.pods.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
        let mut work = Vec::new();
        if over.is_some() || self.is_suspended() {
            work.extend(active.iter().map(|pod| self.delete(pod)));
        } else if self.job.metadata.deletion_timestamp.is_none() {
            work = self.manage(&active);
        }
        if let Some(condition) = over {
            self.finish(condition, ended.is_empty() && active.is_empty());
        }
        self.write(&active, &work, ended)
    }

    fn is_indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    fn is_suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }

    /// Counts ends: a pod's uid is noted first, its finalizer goes next, and once it is gone the uid becomes a number.
    /// So no end is lost or counted twice, whenever we are interrupted. Returns the pods to let go.
    fn count(&mut self) -> Vec<Arc<Pod>> {
        let held: HashSet<String> =
            self.pods.iter().filter(|p| pods_of::is_tracked(p)).filter_map(|p| p.uid()).collect();
        let mut uncounted = self.status.uncounted_terminated_pods.clone().unwrap_or_default();
        let settle = |uids: &mut Option<Vec<String>>, count: &mut Option<i32>| {
            let uids = uids.get_or_insert_default();
            let before = uids.len();
            uids.retain(|uid| held.contains(uid));
            let gone = (before - uids.len()) as i32;
            *count = Some(count.unwrap_or_default() + gone).filter(|count| *count > 0);
        };
        settle(&mut uncounted.succeeded, &mut self.status.succeeded);
        settle(&mut uncounted.failed, &mut self.status.failed);
        let mut ended = Vec::new();
        for pod in self.pods.iter().filter(|pod| pods_of::is_tracked(pod)) {
            let Some(uid) = pod.uid() else { continue };
            let (succeeded, failed) = (pods::phase(pod) == "Succeeded", pods_of::has_failed(pod));
            let list = match (succeeded, failed, self.is_indexed()) {
                (true, _, true) => {
                    self.completed
                        .extend(pods_of::index(pod).filter(|i| *i < self.spec.completions.unwrap_or_default()));
                    None
                }
                (true, _, false) => Some(&mut uncounted.succeeded),
                (false, true, _) => Some(&mut uncounted.failed),
                (false, false, _) => continue,
            };
            if let Some(list) = list.map(Option::get_or_insert_default).filter(|list| !list.contains(&uid)) {
                list.push(uid);
            }
            ended.push(pod.clone());
        }
        for list in [&mut uncounted.succeeded, &mut uncounted.failed] {
            *list = list.take().filter(|list| !list.is_empty());
        }
        self.status.uncounted_terminated_pods = Some(uncounted);
        if self.is_indexed() {
            self.status.succeeded = Some(self.completed.len()).filter(|count| *count > 0);
            self.status.completed_indexes = Some(self.completed.to_string()).filter(|text| !text.is_empty());
        }
        ended
    }

    fn succeeded(&self) -> i32 {
        let uncounted = self.status.uncounted_terminated_pods.as_ref().and_then(|u| u.succeeded.as_ref());
        self.status.succeeded.unwrap_or_default() + uncounted.map_or(0, |uids| uids.len() as i32)
    }

    fn failed(&self) -> i32 {
        let uncounted = self.status.uncounted_terminated_pods.as_ref().and_then(|u| u.failed.as_ref());
        self.status.failed.unwrap_or_default() + uncounted.map_or(0, |uids| uids.len() as i32)
    }

    fn condition(&self, type_: &str) -> Option<&JobCondition> {
        self.status.conditions.iter().flatten().find(|c| c.type_ == type_ && c.status == "True")
    }

    fn suspend_or_resume(&mut self) {
        let was = self.condition("Suspended").is_some();
        if self.is_suspended() {
            if !was {
                self.set("Suspended", "True", "JobSuspended", "Job suspended");
                self.tell(false, "Suspended", "Job suspended".into());
            }
            self.status.start_time = None;
            return;
        }
        if was {
            self.set("Suspended", "False", "JobResumed", "Job resumed");
            self.tell(false, "Resumed", "Job resumed".into());
        }
        self.status.start_time.get_or_insert(Time(self.now));
    }

    /// Whether the Job's fate is decided: reason and message, and whether it is a success.
    fn judge(&mut self) -> Option<(bool, String, String)> {
        let decided = |c: &JobCondition| (c.reason.clone().unwrap_or_default(), c.message.clone().unwrap_or_default());
        if let Some((reason, message)) = self.condition("FailureTarget").map(decided) {
            return Some((false, reason, message));
        }
        if let Some((reason, message)) = self.condition("SuccessCriteriaMet").map(decided) {
            return Some((true, reason, message));
        }
        let limit = self.spec.backoff_limit.unwrap_or(6);
        let over = |reason: &str, message: &str, success| Some((success, reason.to_owned(), message.to_owned()));
        if self.failed() > limit || self.restarts() > limit {
            return over("BackoffLimitExceeded", "Job has reached the specified backoff limit", false);
        }
        if self.past_deadline() {
            return over("DeadlineExceeded", "Job was active longer than specified deadline", false);
        }
        let complete = match self.spec.completions {
            Some(completions) => self.succeeded() >= completions,
            None => self.succeeded() > 0 && !self.pods.iter().any(|pod| pods::is_active(pod)),
        };
        let complete = complete && !self.is_suspended();
        complete.then(|| (true, "CompletionsReached".into(), "Reached expected number of succeeded pods".into()))
    }

    /// With restartPolicy OnFailure, restarts count as failures.
    fn restarts(&self) -> i32 {
        let on_failure =
            self.spec.template.spec.as_ref().and_then(|s| s.restart_policy.as_deref()) == Some("OnFailure");
        let active = self.pods.iter().filter(|pod| on_failure && pods::is_active(pod));
        let statuses = active.filter_map(|pod| pod.status.as_ref()).flat_map(|status| {
            status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten())
        });
        statuses.map(|status| status.restart_count).sum()
    }

    fn past_deadline(&mut self) -> bool {
        let (Some(seconds), Some(start)) = (self.spec.active_deadline_seconds, &self.status.start_time) else {
            return false;
        };
        let left = (start.0 + SignedDuration::from_secs(seconds)).duration_since(self.now);
        match Duration::try_from(left) {
            Ok(left) if !left.is_zero() => {
                self.actions.push(Action::Again(left));
                false
            }
            _ => !self.is_suspended(),
        }
    }

    /// Pods to make or to delete so that as many are at work as should be.
    fn manage(&mut self, active: &[Arc<Pod>]) -> Vec<Action> {
        let parallelism = self.spec.parallelism.unwrap_or(1);
        let want = match self.spec.completions {
            Some(completions) => parallelism.min(completions - self.succeeded()).max(0),
            // A work queue: after the first success no new pods.
            None if self.succeeded() > 0 => parallelism.min(active.len() as i32),
            None => parallelism,
        } as usize;
        if active.len() > want {
            let mut order = active.to_vec();
            pods::deletion_order(&mut order, active, self.now);
            return order.iter().take(active.len() - want).map(|pod| self.delete(pod)).collect();
        }
        let waits = self.spec.pod_replacement_policy.as_deref() == Some("Failed");
        let leaving = self.pods.iter().filter(|p| pods::is_terminating(p) && !pods::is_finished(p)).count();
        let missing = (want - active.len()).saturating_sub(if waits { leaving } else { 0 }).min(BURST);
        match self.backoff() {
            Some(left) if missing > 0 => {
                self.actions.push(Action::Again(left));
                Vec::new()
            }
            _ => self.create(missing, active),
        }
    }

    /// How long the next pod has to wait after failures in a row.
    fn backoff(&self) -> Option<Duration> {
        let ended =
            |phase| self.pods.iter().filter(move |p| pods::phase(p) == phase).filter_map(|p| pods_of::ended_at(p));
        let success = ended("Succeeded").max();
        let failures: Vec<Timestamp> =
            ended("Failed").filter(|at| success.is_none_or(|success| *at > success)).collect();
        let last = failures.iter().max()?;
        let doublings = (failures.len() as u32 - 1).min(10);
        let due = *last + (BACKOFF * (1 << doublings)).min(BACKOFF_LAST);
        Duration::try_from(due.duration_since(self.now)).ok().filter(|left| !left.is_zero())
    }

    fn create(&self, missing: usize, active: &[Arc<Pod>]) -> Vec<Action> {
        let about = client::reference(self.job);
        let new = |index| action::create(&pods_of::make(self.job, index), Told::pod_created(&about));
        if !self.is_indexed() {
            return (0..missing).map(|_| new(None)).collect();
        }
        let taken: HashSet<i32> = active.iter().filter_map(|pod| pods_of::index(pod)).collect();
        let free = (0..self.spec.completions.unwrap_or_default())
            .filter(|index| !taken.contains(index) && !self.completed.contains(*index));
        free.take(missing).map(|index| new(Some(index))).collect()
    }

    fn delete(&self, pod: &Pod) -> Action {
        action::delete(pod, Told::pod_deleted(&client::reference(self.job)))
    }

    /// First the interim condition; the final one when no pod of the Job is left running or uncounted.
    fn finish(&mut self, (success, reason, message): (bool, String, String), all_released: bool) {
        let (interim, last) = if success { ("SuccessCriteriaMet", "Complete") } else { ("FailureTarget", "Failed") };
        self.set(interim, "True", &reason, &message);
        let uncounted = self.status.uncounted_terminated_pods.clone().unwrap_or_default();
        let settled = uncounted.succeeded.is_none() && uncounted.failed.is_none();
        let leaving = self.pods.iter().any(|pod| !pods::is_finished(pod));
        if !all_released || !settled || leaving {
            return;
        }
        self.set(last, "True", &reason, &message);
        if success {
            self.status.completion_time = Some(Time(self.now));
            self.tell(false, "Completed", "Job completed".into());
        } else {
            let reason: &'static str = match &*reason {
                "DeadlineExceeded" => "DeadlineExceeded",
                _ => "BackoffLimitExceeded",
            };
            self.tell(true, reason, message);
        }
    }

    fn set(&mut self, type_: &str, status: &str, reason: &str, message: &str) {
        let conditions = self.status.conditions.get_or_insert_default();
        if conditions.iter().any(|c| c.type_ == type_ && c.status == status && c.reason.as_deref() == Some(reason)) {
            return;
        }
        conditions.retain(|c| c.type_ != type_);
        conditions.push(JobCondition {
            type_: type_.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_probe_time: Some(Time(self.now)),
            last_transition_time: Some(Time(self.now)),
        });
    }

    fn tell(&mut self, warning: bool, reason: &'static str, message: String) {
        let about = client::reference(self.job);
        self.actions.push(Action::Tell(Note { about, warning, reason, message }));
    }

    /// The status goes first: what it notes must be stored before finalizers go.
    fn write(mut self, active: &[Arc<Pod>], work: &[Action], ended: Vec<Arc<Pod>>) -> Vec<Action> {
        let count = |number: usize| Some(number as i32).filter(|number| *number > 0);
        let made = work.iter().filter(|action| matches!(action, Action::Create { .. })).count();
        let deleted = work.iter().filter(|action| matches!(action, Action::Delete { .. })).count();
        let leaving = self.pods.iter().filter(|p| pods::is_terminating(p) && !pods::is_finished(p)).count();
        self.status.active = count(active.len() + made - deleted);
        self.status.ready = Some(active.iter().filter(|pod| pods::is_ready(pod)).count() as i32);
        self.status.terminating = Some(leaving as i32);
        let old = self.job.status.clone().unwrap_or_default();
        let mut all = Vec::new();
        if let Some(mut write) = action::status(self.job, &old, &self.status) {
            if let Action::Patch { patch: Patch::Merge(patch), .. } = &mut write {
                // Counts build on what was read: only on that copy.
                patch["metadata"] = json!({"uid": self.job.uid(), "resourceVersion": self.job.resource_version()});
            }
            all.push(write);
        }
        all.extend(self.actions);
        all.extend(ended.iter().map(|pod| release(pod)));
        all.extend_from_slice(work);
        all
    }
}
