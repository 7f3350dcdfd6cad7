//! Jobs: pods that run to their end, counted exactly; and the removal of finished Jobs after their time to live.
mod count;
mod indexes;
mod manage;
mod orphans;
pub(crate) mod plan;
mod pods_of;
mod policy;
#[cfg(test)]
mod tests;

use crate::action::{self, Told};
use crate::error::Error;
use crate::execute::Run;
use crate::owned;
use crate::replica_set::{owners_of_pod, still_alive};
use crate::runner::{Reconciler, Watches};
use client::Reflector;
use client::informers::Key;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use std::time::Duration;

pub(crate) use orphans::Orphans;

pub(crate) struct Jobs {
    pub(crate) jobs: Reflector<Job>,
    pub(crate) pods: Reflector<Pod>,
}

impl Reconciler for Jobs {
    const NAME: &'static str = "job-controller";

    fn watch(&self, watches: &mut Watches) {
        watches.own::<Job>();
        let jobs = self.jobs.clone();
        watches.on::<Pod>(move |change| owners_of_pod(change, &jobs, selects));
    }

    async fn reconcile(&self, (namespace, name): Key, run: &mut Run) -> Result<(), Error> {
        let Some(job) = self.jobs.get(&namespace, &name) else { return Ok(()) };
        let Some(spec) = job.spec.as_ref().filter(|spec| is_ours(spec)) else { return Ok(()) };
        let Some(selector) = &spec.selector else { return Ok(()) };
        let selector = owned::selector(&*job, selector)?;
        let candidates = run.present(&*job, owned::candidates(&self.pods, &*job));
        let claimed = owned::claim_held(&*job, &selector, candidates, Some(pods_of::FINALIZER));
        if claimed.adopts() {
            still_alive(run, &*job).await?;
        }
        run.all(claimed.actions).await?;
        match run.all(plan::plan(&job, &claimed.mine, Timestamp::now())).await {
            Err(error) if error.is_namespace_terminating() => Ok(()),
            result => result,
        }
    }
}

/// A Job may be left to another controller by `spec.managedBy`.
fn is_ours(spec: &JobSpec) -> bool {
    spec.managed_by.as_deref().is_none_or(|by| by == "kubernetes.io/job-controller")
}

fn selects(job: &Job, pod: &Pod) -> bool {
    let selector = job.spec.as_ref().filter(|spec| is_ours(spec)).and_then(|spec| spec.selector.as_ref());
    let selector = selector.and_then(|selector| owned::selector(job, selector).ok());
    selector.is_some_and(|s| !s.is_everything() && s.matches(pod.labels()))
}

/// `spec.ttlSecondsAfterFinished`.
pub(crate) struct TtlAfterFinished {
    pub(crate) jobs: Reflector<Job>,
}

/// How long the Job may still stay; `None` for ever.
fn time_left(job: &Job, now: Timestamp) -> Option<SignedDuration> {
    let ttl_s = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let at = plan::finished(job)?.last_transition_time.as_ref()?.0;
    Some((at + SignedDuration::from_secs(ttl_s.into())).duration_since(now))
}

impl Reconciler for TtlAfterFinished {
    const NAME: &'static str = "ttl-after-finished-controller";

    fn watch(&self, watches: &mut Watches) {
        watches.own::<Job>();
    }

    async fn reconcile(&self, (namespace, name): Key, run: &mut Run) -> Result<(), Error> {
        let job = self.jobs.get(&namespace, &name).filter(|job| job.metadata.deletion_timestamp.is_none());
        let Some(job) = job else { return Ok(()) };
        match time_left(&job, Timestamp::now()) {
            None => Ok(()),
            Some(left) if left.is_positive() => {
                run.again(Duration::try_from(left).unwrap_or_default());
                Ok(())
            }
            Some(_) => run.all(vec![action::delete(&*job, Told::nothing())]).await,
        }
    }
}
