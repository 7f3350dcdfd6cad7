//! Keeps as many of a Job's pods at work as should be.
use super::plan::{Step, release};
use super::pods_of::{self, Failures};
use super::policy::Failure;
use crate::action::{self, Action, Told};
use crate::pods;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Pause before a failed pod is replaced; it doubles with every failure in a row.
const BACKOFF: SignedDuration = SignedDuration::from_secs(10);
/// The longest such pause, upstream's.
const BACKOFF_LAST: SignedDuration = SignedDuration::from_secs(600);
/// Pods made or deleted in one step.
const BURST: usize = 500;

/// What one step does to the pods at work.
#[derive(Default)]
pub(super) struct Work {
    pub create: Vec<Action>,
    pub delete: Vec<Arc<Pod>>,
    /// Deleted pods are not counted as ends.
    pub uncounted: bool,
}

/// How long after so many failures in a row, the last at this time, the next pod has to wait.
fn pause(failures: i32, last: Timestamp, now: Timestamp) -> Option<Duration> {
    let doublings = u32::try_from(failures - 1).ok()?.min(10);
    let due = last + (BACKOFF * (1 << doublings)).min(BACKOFF_LAST);
    Duration::try_from(due.duration_since(now)).ok().filter(|left| !left.is_zero())
}

impl Step<'_> {
    pub(super) fn manage(&mut self) -> Work {
        let at_work = self.active.len();
        let want = if self.is_suspended() { 0 } else { self.wanted() };
        let surplus = self.surplus(at_work.saturating_sub(want));
        if !surplus.is_empty() || self.is_suspended() {
            return Work { delete: surplus, uncounted: true, ..Work::default() };
        }
        let leaving = if self.waits_for_end() { self.leaving() } else { 0 };
        let missing = want.saturating_sub(at_work + leaving).min(BURST);
        if missing == 0 {
            return Work::default();
        }
        Work { create: self.replacements(missing), ..Work::default() }
    }

    /// How many pods should be at work.
    fn wanted(&self) -> usize {
        let parallelism = self.spec.parallelism.unwrap_or(1);
        let want = match self.spec.completions {
            Some(completions) => parallelism.min(completions - self.succeeded()).max(0),
            // A work queue: after the first success no new pods.
            None if self.succeeded() > 0 => self.active.len() as i32,
            None => parallelism,
        };
        usize::try_from(want).unwrap_or_default()
    }

    pub(super) fn leaving(&self) -> usize {
        self.pods.iter().filter(|pod| pods::is_terminating(pod) && !pods::is_finished(pod)).count()
    }

    /// At least this many pods: first those without an index of their own.
    fn surplus(&self, at_least: usize) -> Vec<Arc<Pod>> {
        let mut order = self.active.clone();
        pods::deletion_order(&mut order, &self.active, |_| false, self.now);
        if !self.is_indexed() {
            order.truncate(at_least.min(BURST));
            return order;
        }
        // Of several pods at an index the one that would go last stays.
        let keep: HashMap<i32, Option<&String>> =
            order.iter().filter_map(|pod| Some((self.index(pod)?, pod.metadata.uid.as_ref()))).collect();
        let stays = |pod: &Arc<Pod>| self.index(pod).is_some_and(|i| keep[&i] == pod.metadata.uid.as_ref());
        let (rest, mut surplus): (Vec<_>, Vec<_>) = order.iter().cloned().partition(stays);
        let more = at_least.saturating_sub(surplus.len());
        surplus.extend(rest.into_iter().take(more));
        surplus.truncate(BURST);
        surplus
    }

    fn replacements(&mut self, missing: usize) -> Vec<Action> {
        let limited = self.spec.backoff_limit_per_index.is_some() && self.is_indexed();
        if !limited && let Some(left) = self.backoff() {
            self.actions.push(Action::Again(left));
            return Vec::new();
        }
        let about = client::reference(self.job);
        let new =
            |index, failures| action::create(&pods_of::make(self.job, index, failures), Told::pod_created(&about));
        if !self.is_indexed() {
            return (0..missing).map(|_| new(None, None)).collect();
        }
        let free: Vec<i32> = self.free_indexes(missing);
        if !limited {
            return free.into_iter().map(|index| new(Some(index), None)).collect();
        }
        let (ready, waiting): (Vec<i32>, Vec<i32>) = free.into_iter().partition(|i| self.index_backoff(*i).is_none());
        let made: Vec<Action> = ready.into_iter().map(|i| new(Some(i), Some(self.failures_of(i)))).collect();
        let next = waiting.into_iter().filter_map(|index| self.index_backoff(index)).min();
        self.actions.extend(next.map(Action::Again));
        made
    }

    /// Indexes that nobody works at.
    fn free_indexes(&self, count: usize) -> Vec<i32> {
        let leaving =
            self.pods.iter().filter(|p| self.waits_for_end() && pods::is_terminating(p) && !pods::is_finished(p));
        let taken = self.active.iter().chain(leaving).filter_map(|pod| self.index(pod));
        let mut taken = self.succeeded.with(taken.collect::<Vec<_>>());
        if let Some(failed) = &self.failed_indexes {
            taken = taken.union(failed);
        }
        taken.missing(self.completions()).take(count).collect()
    }

    /// How long the next pod has to wait after failures in a row.
    fn backoff(&self) -> Option<Duration> {
        let successes = self.pods.iter().filter(|pod| pods::phase(pod) == "Succeeded");
        let success = successes.filter_map(|pod| pods_of::ended_at(pod)).max();
        // What we let go uncounted didn't fail.
        let failed = |pod: &&Arc<Pod>| self.has_failed(pod) && (pods::is_finished(pod) || pods_of::is_tracked(pod));
        let failures: Vec<Timestamp> = (self.pods.iter().filter(failed))
            .filter_map(|pod| pods_of::ended_at(pod))
            .filter(|at| success.is_none_or(|success| *at > success))
            .collect();
        pause(failures.len() as i32, *failures.iter().max()?, self.now)
    }

    fn index_backoff(&self, index: i32) -> Option<Duration> {
        let pod = self.delayed.get(&index)?;
        pause(Failures::before(pod).total() + 1, pods_of::ended_at(pod)?, self.now)
    }

    /// What the next pod at an index is told of its predecessors.
    fn failures_of(&self, index: i32) -> Failures {
        let Some(pod) = self.delayed.get(&index) else { return Failures::default() };
        let before = Failures::before(pod);
        match self.failure(pod) {
            Failure::Ignored => Failures { ignored: before.ignored + 1, ..before },
            _ => Failures { counted: before.counted + 1, ..before },
        }
    }

    /// Deletes pods at work; without counting them, they are let go first.
    pub(super) fn delete(&self, pods: &[Arc<Pod>], uncounted: bool) -> Vec<Action> {
        let about = client::reference(self.job);
        let held = pods.iter().filter(|pod| uncounted && pods_of::is_tracked(pod));
        let released: Vec<Action> = held.map(|pod| release(pod)).collect();
        let deleted = pods.iter().map(|pod| action::delete(&**pod, Told::pod_deleted(&about)));
        released.into_iter().chain(deleted).collect()
    }
}
