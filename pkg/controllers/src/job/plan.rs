//! One step of a Job: count what ended, decide whether it is over, keep enough pods at work.
use super::indexes::Indexes;
use super::manage::Work;
use super::pods_of::{self, FINALIZER};
use super::policy::{self, Failure};
use crate::action::{self, Action, Note, Patch, Target, Told};
use crate::pods;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Why a Job failed: the reasons of its conditions and Events.
const REASONS: &[&str] =
    &["BackoffLimitExceeded", "DeadlineExceeded", "PodFailurePolicy", "MaxFailedIndexesExceeded", "FailedIndexes"];

pub(super) struct Step<'a> {
    pub job: &'a Job,
    pub spec: JobSpec,
    pub pods: &'a [Arc<Pod>],
    /// Those that are neither over nor on their way out.
    pub active: Vec<Arc<Pod>>,
    pub now: Timestamp,
    pub status: JobStatus,
    /// Indexes that are through.
    pub succeeded: Indexes,
    /// Indexes that are given up, when their failures are limited.
    pub failed_indexes: Option<Indexes>,
    /// By index, failed pods that are kept until they are replaced.
    pub delayed: BTreeMap<i32, Arc<Pod>>,
    pub actions: Vec<Action>,
}

/// A Job's fate.
struct Verdict {
    success: bool,
    reason: String,
    message: String,
}

impl Verdict {
    fn failure(reason: &str, message: impl Into<String>) -> Self {
        Self { success: false, reason: reason.to_owned(), message: message.into() }
    }

    fn success(reason: &str, message: impl Into<String>) -> Self {
        Self { success: true, reason: reason.to_owned(), message: message.into() }
    }
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
    Step::new(job, spec, pods, now).run()
}

/// Lets a pod go whose end is counted, or whose end counts for nobody.
pub(super) fn release(pod: &Pod) -> Action {
    let patch =
        Patch::Strategic(json!({"metadata": {"uid": pod.uid(), "$deleteFromPrimitiveList/finalizers": [FINALIZER]}}));
    Action::Patch { target: Target::of(pod), patch, subresource: None, told: Told::nothing() }
}

impl<'a> Step<'a> {
    fn new(job: &'a Job, spec: JobSpec, pods: &'a [Arc<Pod>], now: Timestamp) -> Self {
        let status = job.status.clone().unwrap_or_default();
        let completions = spec.completions.unwrap_or_default();
        let parse = |text: Option<&String>| Indexes::parse(text.map(String::as_str).unwrap_or_default(), completions);
        Self {
            job,
            pods,
            active: pods.iter().filter(|pod| pods::is_active(pod)).cloned().collect(),
            now,
            succeeded: parse(status.completed_indexes.as_ref()),
            failed_indexes: spec.backoff_limit_per_index.map(|_| parse(status.failed_indexes.as_ref())),
            delayed: BTreeMap::new(),
            actions: Vec::new(),
            status,
            spec,
        }
    }

    fn run(mut self) -> Vec<Action> {
        self.settle();
        self.see_indexes();
        if !self.is_suspended() {
            self.status.start_time.get_or_insert(Time(self.now));
        }
        let mut over = self.judge();
        let work = match &over {
            Some(_) => Work { delete: self.active.clone(), ..Work::default() },
            None => self.manage(),
        };
        let at_work = self.active.len() + work.create.len() - work.delete.len();
        if over.is_none() {
            over = self.complete(at_work);
        }
        if over.is_none() {
            self.suspend_or_resume();
        }
        let ended = self.count(over.as_ref().map(|verdict| verdict.success));
        if let Some(verdict) = over {
            let settled = ended.release.is_empty() && !ended.more && work.delete.is_empty();
            self.finish(&verdict, settled);
        }
        self.write(&work, &ended.release)
    }

    pub(super) fn is_indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    pub(super) fn completions(&self) -> i32 {
        self.spec.completions.unwrap_or_default()
    }

    pub(super) fn is_suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }

    fn condition(&self, type_: &str) -> Option<&JobCondition> {
        self.status.conditions.iter().flatten().find(|c| c.type_ == type_ && c.status == "True")
    }

    fn suspend_or_resume(&mut self) {
        let was = self.condition("Suspended").is_some();
        if self.is_suspended() && !was {
            self.set("Suspended", "True", "JobSuspended", "Job suspended");
            self.tell(false, "Suspended", "Job suspended".into());
            self.status.start_time = None;
        } else if !self.is_suspended() && was {
            self.set("Suspended", "False", "JobResumed", "Job resumed");
            self.tell(false, "Resumed", "Job resumed".into());
            // The deadline counts from here.
            self.status.start_time = Some(Time(self.now));
        }
    }

    /// Whether the Job's fate is decided, in upstream's order: what was decided before stands.
    fn judge(&mut self) -> Option<Verdict> {
        let decided = |c: &JobCondition, success| Verdict {
            success,
            reason: c.reason.clone().unwrap_or_default(),
            message: c.message.clone().unwrap_or_default(),
        };
        if let Some(condition) = self.condition("SuccessCriteriaMet") {
            return Some(decided(condition, true));
        }
        if let Some(condition) = self.condition("FailureTarget") {
            return Some(decided(condition, false));
        }
        self.judge_pods().or_else(|| self.judge_limits()).or_else(|| self.judge_indexes())
    }

    fn judge_pods(&self) -> Option<Verdict> {
        self.spec.pod_failure_policy.as_ref()?;
        let failed = self.pods.iter().filter(|pod| self.has_failed(pod));
        let mut messages = failed.filter_map(|pod| match self.failure(pod) {
            Failure::FailsJob(message) => Some(message),
            _ => None,
        });
        messages.next().map(|message| Verdict::failure("PodFailurePolicy", message))
    }

    fn judge_limits(&mut self) -> Option<Verdict> {
        let limit = self.spec.backoff_limit.unwrap_or(6);
        // With restartPolicy OnFailure, restarts count as failures.
        if self.failed() > limit || self.restarts() >= limit.max(1) {
            return Some(Verdict::failure("BackoffLimitExceeded", "Job has reached the specified backoff limit"));
        }
        let late = self.past_deadline();
        late.then(|| Verdict::failure("DeadlineExceeded", "Job was active longer than specified deadline"))
    }

    fn judge_indexes(&self) -> Option<Verdict> {
        if !self.is_indexed() {
            return None;
        }
        let failed = self.failed_indexes.as_ref().map_or(0, Indexes::len);
        if self.spec.max_failed_indexes.is_some_and(|max| failed > max) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return Some(Verdict::failure("MaxFailedIndexesExceeded", message));
        }
        if failed > 0 && failed + self.succeeded.len() >= self.completions() {
            return Some(Verdict::failure("FailedIndexes", "Job has failed indexes"));
        }
        let met = policy::met(self.spec.success_policy.as_ref(), self.completions(), &self.succeeded)?;
        Some(Verdict::success("SuccessPolicy", met))
    }

    fn complete(&self, at_work: usize) -> Option<Verdict> {
        let enough = match self.spec.completions {
            Some(completions) => self.succeeded() >= completions,
            None => self.succeeded() > 0,
        };
        let complete = enough && at_work == 0;
        complete.then(|| Verdict::success("CompletionsReached", "Reached expected number of succeeded pods"))
    }

    fn restarts(&self) -> i32 {
        let policy = self.spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
        let running = self.pods.iter().filter(|pod| policy == Some("OnFailure") && !pods::is_finished(pod));
        let statuses = running.filter_map(|pod| pod.status.as_ref()).flat_map(|status| {
            status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten())
        });
        statuses.map(|status| status.restart_count).sum()
    }

    fn past_deadline(&mut self) -> bool {
        let (Some(seconds), Some(start)) = (self.spec.active_deadline_seconds, &self.status.start_time) else {
            return false;
        };
        if self.is_suspended() {
            return false;
        }
        let left = (start.0 + SignedDuration::from_secs(seconds)).duration_since(self.now);
        match Duration::try_from(left) {
            Ok(left) if !left.is_zero() => {
                self.actions.push(Action::Again(left));
                false
            }
            _ => true,
        }
    }

    /// First the interim condition; the final one when no pod of the Job is left running or uncounted.
    fn finish(&mut self, verdict: &Verdict, settled: bool) {
        let (interim, last) =
            if verdict.success { ("SuccessCriteriaMet", "Complete") } else { ("FailureTarget", "Failed") };
        self.set(interim, "True", &verdict.reason, &verdict.message);
        let uncounted = self.status.uncounted_terminated_pods.clone().unwrap_or_default();
        let counted = uncounted.succeeded.is_none() && uncounted.failed.is_none();
        if !settled || !counted || self.leaving() > 0 {
            return;
        }
        self.set(last, "True", &verdict.reason, &verdict.message);
        if verdict.success {
            self.status.completion_time = Some(Time(self.now));
            self.tell(false, "Completed", "Job completed".into());
        } else {
            let reason = REASONS.iter().find(|reason| **reason == verdict.reason).unwrap_or(&REASONS[0]);
            self.tell(true, reason, verdict.message.clone());
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
    fn write(mut self, work: &Work, ended: &[Arc<Pod>]) -> Vec<Action> {
        let stay = || self.active.iter().filter(|pod| !work.delete.iter().any(|gone| Arc::ptr_eq(gone, pod)));
        let active = (stay().count() + work.create.len()) as i32;
        let ready = stay().filter(|pod| pods::is_ready(pod)).count() as i32;
        self.status.active = Some(active).filter(|active| *active > 0);
        self.status.ready = Some(ready);
        self.status.terminating = Some((self.leaving() + work.delete.len()) as i32);
        let old = self.job.status.clone().unwrap_or_default();
        let mut all = Vec::new();
        if let Some(mut write) = action::status(self.job, &old, &self.status) {
            if let Action::Patch { patch: Patch::Merge(patch), .. } = &mut write {
                // Counts build on what was read: only on that copy.
                patch["metadata"] = json!({"uid": self.job.uid(), "resourceVersion": self.job.resource_version()});
            }
            all.push(write);
        }
        let deleted = self.delete(&work.delete, work.uncounted);
        all.append(&mut self.actions);
        all.extend(ended.iter().map(|pod| release(pod)));
        all.extend(deleted);
        all.extend(work.create.iter().cloned());
        all
    }
}
