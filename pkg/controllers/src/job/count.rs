//! Counting ends exactly: a pod's uid is noted in the status first, its finalizer goes next, and once it is gone the uid
//! becomes a number. So no end is lost or counted twice, whenever we are interrupted.
use super::plan::Step;
use super::pods_of::{self, Failures};
use super::policy::{self, Failure};
use crate::pods;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// Ends noted in the status and not yet numbers: keeps the list of uids below 20 KB.
const UNCOUNTED_MAX: usize = 500;

/// What one step lets go.
pub(super) struct Ended {
    pub release: Vec<Arc<Pod>>,
    /// More ends are waiting than one step notes.
    pub more: bool,
}

impl Step<'_> {
    /// Whether a pod counts as failed: deleted ones do before they end, unless replacements wait for their end.
    pub(super) fn has_failed(&self, pod: &Pod) -> bool {
        let phase = pods::phase(pod);
        phase == "Failed" || (!self.waits_for_end() && pods::is_terminating(pod) && phase != "Succeeded")
    }

    /// Pods are replaced only when they have ended.
    pub(super) fn waits_for_end(&self) -> bool {
        self.spec.pod_replacement_policy.as_deref() == Some("Failed") || self.spec.pod_failure_policy.is_some()
    }

    pub(super) fn failure(&self, pod: &Pod) -> Failure {
        policy::judge(self.spec.pod_failure_policy.as_ref(), pod)
    }

    /// The index that a pod works at, if it is one of the Job's.
    pub(super) fn index(&self, pod: &Pod) -> Option<i32> {
        pods_of::index(pod).filter(|index| self.is_indexed() && *index < self.completions())
    }

    fn is_index_failed(&self, pod: &Pod) -> bool {
        let limit = self.spec.backoff_limit_per_index.unwrap_or(i32::MAX);
        self.has_failed(pod)
            && match self.failure(pod) {
                Failure::FailsIndex => true,
                Failure::Ignored => false,
                Failure::Counts | Failure::FailsJob(_) => Failures::before(pod).counted >= limit,
            }
    }

    /// Uids whose pods have lost their finalizer become numbers.
    pub(super) fn settle(&mut self) {
        let held: HashSet<String> = self.held().filter_map(|pod| pod.uid()).collect();
        let settle = |uids: &mut Option<Vec<String>>, count: &mut Option<i32>| {
            let before = uids.iter().flatten().count();
            let left: Vec<String> = uids.take().into_iter().flatten().filter(|uid| held.contains(uid)).collect();
            let gone = (before - left.len()) as i32;
            *uids = Some(left).filter(|left| !left.is_empty());
            *count = Some(count.unwrap_or_default() + gone).filter(|count| *count > 0);
        };
        let uncounted = self.status.uncounted_terminated_pods.get_or_insert_default();
        settle(&mut uncounted.succeeded, &mut self.status.succeeded);
        settle(&mut uncounted.failed, &mut self.status.failed);
    }

    fn held(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods.iter().filter(|pod| pods_of::is_tracked(pod))
    }

    fn is_noted_failed(&self, pod: &Pod) -> bool {
        let uncounted = self.status.uncounted_terminated_pods.as_ref().and_then(|u| u.failed.as_ref());
        uncounted.is_some_and(|uids| pod.metadata.uid.as_ref().is_some_and(|uid| uids.contains(uid)))
    }

    fn noted(&self) -> (i32, i32) {
        let count = |uids: Option<&Vec<String>>| uids.map_or(0, Vec::len) as i32;
        let uncounted = self.status.uncounted_terminated_pods.as_ref();
        (count(uncounted.and_then(|u| u.succeeded.as_ref())), count(uncounted.and_then(|u| u.failed.as_ref())))
    }

    /// Ended pods that the status doesn't tell of yet.
    fn new_ends(&self) -> impl Iterator<Item = &Arc<Pod>> {
        let uncounted = self.status.uncounted_terminated_pods.as_ref();
        let noted: HashSet<&String> =
            uncounted.into_iter().flat_map(|u| u.succeeded.iter().chain(&u.failed).flatten()).collect();
        let valid = |pod: &&Arc<Pod>| !self.is_indexed() || self.index(pod).is_some();
        let new = move |pod: &&Arc<Pod>| pod.metadata.uid.as_ref().is_some_and(|uid| !noted.contains(uid));
        self.held().filter(valid).filter(new)
    }

    /// Successes so far, with those that the status is about to note.
    pub(super) fn succeeded(&self) -> i32 {
        if self.is_indexed() {
            return self.succeeded.len();
        }
        let new = self.new_ends().filter(|pod| pods::phase(pod) == "Succeeded").count() as i32;
        self.status.succeeded.unwrap_or_default() + self.noted().0 + new
    }

    /// Failures that count, in the same way.
    pub(super) fn failed(&self) -> i32 {
        let counts = |pod: &&Arc<Pod>| self.has_failed(pod) && self.failure(pod) != Failure::Ignored;
        self.status.failed.unwrap_or_default() + self.noted().1 + self.new_ends().filter(counts).count() as i32
    }

    /// Which indexes are through, and which failed pods must stay until their index has a new one.
    pub(super) fn see_indexes(&mut self) {
        if !self.is_indexed() {
            return;
        }
        let succeeded = self.held().filter(|pod| pods::phase(pod) == "Succeeded").filter_map(|pod| self.index(pod));
        self.succeeded = self.succeeded.with(succeeded.collect::<Vec<_>>());
        if let Some(failed) = &self.failed_indexes {
            let new = self.held().filter(|pod| self.is_index_failed(pod)).filter_map(|pod| self.index(pod));
            self.failed_indexes = Some(failed.with(new.collect::<Vec<_>>()));
            self.delayed = self.to_be_replaced();
        }
    }

    /// Per index the latest failed pod, which tells its replacement how often the index failed.
    fn to_be_replaced(&self) -> BTreeMap<i32, Arc<Pod>> {
        let active: HashSet<i32> = self.active.iter().filter_map(|pod| self.index(pod)).collect();
        let over =
            |index| self.succeeded.contains(index) || self.failed_indexes.as_ref().is_some_and(|f| f.contains(index));
        let mut last: BTreeMap<i32, Arc<Pod>> = BTreeMap::new();
        for pod in self.held().filter(|pod| self.has_failed(pod)) {
            let Some(index) = self.index(pod).filter(|index| !active.contains(index) && !over(*index)) else {
                continue;
            };
            let order = |pod: &Pod| (Failures::before(pod).total(), pods_of::ended_at(pod));
            if last.get(&index).is_none_or(|other| order(other) <= order(pod)) {
                last.insert(index, pod.clone());
            }
        }
        last
    }

    /// Notes ends in the status. `decided` is set when the Job's fate is, to whether it is a success.
    pub(super) fn count(&mut self, decided: Option<bool>) -> Ended {
        let mut ended = Ended { release: Vec::new(), more: false };
        let pods: Vec<Arc<Pod>> = self.held().filter(|pod| self.may_go(pod, decided)).cloned().collect();
        for pod in pods {
            let (succeeded, failed) = self.noted();
            if (succeeded + failed) as usize >= UNCOUNTED_MAX {
                ended.more = true;
                break;
            }
            self.note(&pod, decided);
            ended.release.push(pod);
        }
        if self.is_indexed() {
            self.status.succeeded = Some(self.succeeded.len()).filter(|count| *count > 0);
            self.status.completed_indexes = Some(self.succeeded.to_string()).filter(|text| !text.is_empty());
            self.status.failed_indexes = self.failed_indexes.as_ref().map(ToString::to_string);
        }
        ended
    }

    fn may_go(&self, pod: &Pod, decided: Option<bool>) -> bool {
        if pods::phase(pod) == "Succeeded" {
            return true;
        }
        if decided.is_some() {
            // Those at work are deleted first.
            return !pods::is_active(pod);
        }
        let waits = || self.index(pod).and_then(|index| self.delayed.get(&index)).is_some_and(|p| p.uid() == pod.uid());
        self.has_failed(pod) && !waits()
    }

    fn note(&mut self, pod: &Pod, decided: Option<bool>) {
        let Some(uid) = pod.uid().filter(|_| !self.is_noted_failed(pod)) else { return };
        let has_failed = match decided {
            // Pods that a success made superfluous are no failures.
            Some(true) => pods::phase(pod) == "Failed",
            Some(false) => true,
            None => self.has_failed(pod),
        };
        let list = if pods::phase(pod) == "Succeeded" {
            (!self.is_indexed()).then_some(true)
        } else {
            let valid = !self.is_indexed() || self.index(pod).is_some();
            (has_failed && valid && self.failure(pod) != Failure::Ignored).then_some(false)
        };
        let uncounted = self.status.uncounted_terminated_pods.get_or_insert_default();
        let list = list.map(|success| if success { &mut uncounted.succeeded } else { &mut uncounted.failed });
        if let Some(list) = list.map(Option::get_or_insert_default).filter(|list| !list.contains(&uid)) {
            list.push(uid);
        }
    }
}
