//! CronJobs: Jobs by the clock.
mod plan;

use crate::error::Error;
use crate::execute::{Run, unless_exists};
use crate::owned;
use crate::runner::{Reconciler, Watches};
use client::Reflector;
use client::informers::Key;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, Job};

pub(crate) struct CronJobs {
    pub(crate) crons: Reflector<CronJob>,
    pub(crate) jobs: Reflector<Job>,
}

impl Reconciler for CronJobs {
    const NAME: &'static str = "cronjob-controller";

    fn watch(&self, watches: &mut Watches) {
        watches.own::<CronJob>();
        watches.on::<Job>(|change| owned::owner_key(change.new, "CronJob").into_iter().collect());
    }

    async fn reconcile(&self, (namespace, name): Key, run: &mut Run) -> Result<(), Error> {
        let Some(cron) = self.crons.get(&namespace, &name) else { return Ok(()) };
        let jobs = self.jobs.select(&namespace, |job| owned::is_controlled_by(job, &*cron));
        match run.all(plan::plan(&cron, &jobs, Timestamp::now())).await {
            Err(error) if error.is_namespace_terminating() => Ok(()),
            result => unless_exists(result),
        }
    }
}
