//! Jobs played through on a model of the cluster.
use super::plan::{finished, plan};
use crate::action::{Action, Patch};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::Arc;

struct Cluster {
    job: Job,
    pods: Vec<Arc<Pod>>,
    now: Timestamp,
    made: usize,
    events: Vec<String>,
}

impl Cluster {
    fn new(spec: Value) -> Self {
        let mut spec = spec;
        spec["template"] = json!({"spec": {"containers": [{"name": "c"}], "restartPolicy": "Never"}});
        let job =
            json!({"metadata": {"name": "j", "namespace": "ns", "uid": "job", "resourceVersion": "1"}, "spec": spec});
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        Self { job: serde_json::from_value(job).unwrap(), pods: Vec::new(), now, made: 0, events: Vec::new() }
    }

    fn step(&mut self) {
        for action in plan(&self.job, &self.pods, self.now) {
            self.apply(action);
        }
    }

    fn apply(&mut self, action: Action) {
        match action {
            Action::Create { object, .. } => {
                let mut pod: Pod = serde_json::from_value(object).unwrap();
                self.made += 1;
                pod.metadata.name = Some(format!("p{}", self.made));
                pod.metadata.uid = pod.metadata.name.clone();
                self.pods.push(Arc::new(pod));
            }
            Action::Patch { target, patch: Patch::Merge(patch), subresource: Some("status"), .. } => {
                assert_eq!(target.resource.kind, "Job");
                let mut job = serde_json::to_value(&self.job).unwrap();
                merge(&mut job["status"], &patch["status"]);
                self.job = serde_json::from_value(job).unwrap();
            }
            Action::Patch { target, patch: Patch::Strategic(_), .. } => {
                // Without its finalizer a pod that is being deleted is gone.
                self.pods.retain(|pod| pod.name_any() != target.name || pod.metadata.deletion_timestamp.is_none());
                self.edit(&target.name, |pod| pod.metadata.finalizers = None);
            }
            Action::Delete { target, .. } => self.edit(&target.name, |pod| {
                pod.metadata.deletion_timestamp = Some(serde_json::from_value(json!("2027-01-15T08:00:00Z")).unwrap());
            }),
            Action::Tell(note) => self.events.push(format!("{} {}", note.reason, note.message)),
            Action::Again(_) => {}
            other => panic!("{other:?}"),
        }
    }

    fn edit(&mut self, name: &str, edit: impl Fn(&mut Pod)) {
        for pod in self.pods.iter_mut().filter(|pod| pod.name_any() == name) {
            edit(Arc::make_mut(pod));
        }
    }

    fn end(&mut self, name: &str, phase: &str) {
        self.exit(name, phase, 0);
    }

    fn exit(&mut self, name: &str, phase: &str, code: i32) {
        let ended = self.now;
        let status = json!({"phase": phase, "containerStatuses": [{"name": "c", "ready": false, "restartCount": 0, "image": "", "imageID": "",
            "state": {"terminated": {"exitCode": code, "finishedAt": ended}}}]});
        self.edit(name, |pod| pod.status = Some(serde_json::from_value(status.clone()).unwrap()));
    }

    fn running(&self) -> Vec<String> {
        self.pods.iter().filter(|pod| crate::pods::is_active(pod)).map(|pod| pod.name_any()).collect()
    }

    fn outcome(&self) -> String {
        let condition = finished(&self.job);
        condition.map_or("-".into(), |c| format!("{} {}", c.type_, c.reason.as_deref().unwrap_or_default()))
    }

    fn counts(&self) -> (i32, i32) {
        let status = self.job.status.as_ref().unwrap();
        (status.succeeded.unwrap_or_default(), status.failed.unwrap_or_default())
    }
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else { return *target = patch.clone() };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        match value {
            Value::Null => _ = target.as_object_mut().unwrap().remove(key),
            value => merge(&mut target[key.as_str()], value),
        }
    }
}

#[test]
fn completions_are_reached_with_bounded_parallelism() {
    let mut cluster = Cluster::new(json!({"completions": 5, "parallelism": 2}));
    for _ in 0..40 {
        cluster.step();
        assert!(cluster.running().len() <= 2);
        if let Some(first) = cluster.running().first() {
            cluster.end(first, "Succeeded");
        }
    }
    assert_eq!(cluster.outcome(), "Complete CompletionsReached");
    assert_eq!((cluster.counts(), cluster.made), ((5, 0), 5));
    let conditions = cluster.job.status.clone().unwrap().conditions.unwrap();
    assert_eq!(conditions.iter().map(|c| &*c.type_).collect::<Vec<_>>(), ["SuccessCriteriaMet", "Complete"]);
    assert_eq!(cluster.events, ["Completed Job completed"]);
}

#[test]
fn failures_back_off_and_end_the_job_past_the_limit() {
    let mut cluster = Cluster::new(json!({"completions": 1, "backoffLimit": 2}));
    let mut waited = Vec::new();
    for _ in 0..3 {
        let start = cluster.now;
        cluster.step();
        cluster.step();
        while cluster.running().is_empty() {
            cluster.now += SignedDuration::from_secs(1);
            cluster.step();
        }
        waited.push(cluster.now.duration_since(start).as_secs());
        let pod = cluster.running()[0].clone();
        cluster.end(&pod, "Failed");
    }
    assert_eq!(waited, [0, 10, 20]);
    (0..3).for_each(|_| cluster.step());
    assert_eq!(cluster.outcome(), "Failed BackoffLimitExceeded");
    assert_eq!((cluster.counts(), cluster.made), ((0, 3), 3));
    assert_eq!(cluster.events, ["BackoffLimitExceeded Job has reached the specified backoff limit"]);
}

#[test]
fn the_deadline_deletes_what_runs() {
    let mut cluster = Cluster::new(json!({"completions": 2, "parallelism": 2, "activeDeadlineSeconds": 30}));
    cluster.step();
    assert_eq!(cluster.running().len(), 2);
    cluster.now += SignedDuration::from_secs(30);
    (0..4).for_each(|_| cluster.step());
    assert_eq!(cluster.outcome(), "Failed DeadlineExceeded");
    assert_eq!(cluster.counts(), (0, 2));
    assert!(cluster.pods.is_empty());
}

#[test]
fn indexed_jobs_run_each_index_once() {
    let mut cluster = Cluster::new(json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed"}));
    cluster.step();
    let index = |pod: &Arc<Pod>| pod.annotations()["batch.kubernetes.io/job-completion-index"].clone();
    assert_eq!(cluster.pods.iter().map(index).collect::<Vec<_>>(), ["0", "1", "2"]);
    assert_eq!(cluster.pods[2].spec.as_ref().unwrap().hostname.as_deref(), Some("j-2"));
    cluster.end("p1", "Succeeded");
    cluster.end("p3", "Succeeded");
    cluster.step();
    assert_eq!(cluster.job.status.as_ref().unwrap().completed_indexes.as_deref(), Some("0,2"));
    cluster.end("p2", "Failed");
    cluster.step();
    cluster.now += SignedDuration::from_secs(11);
    cluster.step();
    assert_eq!(index(cluster.pods.last().unwrap()), "1", "a failed index is tried again");
    cluster.end("p4", "Succeeded");
    (0..3).for_each(|_| cluster.step());
    assert_eq!((cluster.outcome().as_str(), cluster.counts()), ("Complete CompletionsReached", (3, 1)));
}

#[test]
fn a_suspended_job_has_no_pods_and_starts_anew() {
    let mut cluster = Cluster::new(json!({"completions": 1}));
    cluster.step();
    cluster.job.spec.as_mut().unwrap().suspend = Some(true);
    cluster.step();
    assert!(cluster.running().is_empty());
    assert!(cluster.job.status.as_ref().unwrap().start_time.is_none());
    cluster.job.spec.as_mut().unwrap().suspend = Some(false);
    (0..3).for_each(|_| cluster.step());
    assert_eq!(cluster.running().len(), 1);
    assert_eq!(cluster.events, ["Suspended Job suspended", "Resumed Job resumed"]);
}

impl Cluster {
    fn settle(&mut self) {
        (0..5).for_each(|_| self.step());
    }

    fn status(&self) -> k8s_openapi::api::batch::v1::JobStatus {
        self.job.status.clone().unwrap_or_default()
    }

    /// Ends the pod at work at an index.
    fn end_index(&mut self, index: &str, phase: &str, code: i32) {
        let at = |pod: &&Arc<Pod>| pod.annotations()["batch.kubernetes.io/job-completion-index"] == index;
        let pod = self.pods.iter().filter(|pod| crate::pods::is_active(pod)).find(at).unwrap().name_any();
        self.exit(&pod, phase, code);
        self.settle();
    }
}

#[test]
fn failures_are_limited_by_index() {
    let mut cluster = Cluster::new(
        json!({"completions": 2, "parallelism": 2, "completionMode": "Indexed", "backoffLimitPerIndex": 1, "backoffLimit": i32::MAX}),
    );
    cluster.step();
    cluster.end_index("0", "Failed", 1);
    assert_eq!(cluster.running().len(), 1, "the index waits");
    cluster.now += SignedDuration::from_secs(10);
    cluster.step();
    let count = "batch.kubernetes.io/job-index-failure-count";
    assert_eq!(cluster.pods.last().unwrap().annotations()[count], "1");
    assert!(!cluster.pods[0].finalizers().is_empty(), "kept until the cache shows its replacement");
    cluster.settle();
    assert!(cluster.pods[0].finalizers().is_empty());
    cluster.end_index("0", "Failed", 1);
    assert_eq!(cluster.status().failed_indexes.as_deref(), Some("0"));
    assert_eq!(cluster.running().len(), 1, "the other index goes on");
    cluster.end_index("1", "Succeeded", 0);
    assert_eq!((cluster.outcome().as_str(), cluster.counts()), ("Failed FailedIndexes", (1, 2)));
}

#[test]
fn too_many_failed_indexes_end_the_job() {
    let mut cluster = Cluster::new(
        json!({"completions": 5, "parallelism": 3, "completionMode": "Indexed", "backoffLimitPerIndex": 0, "maxFailedIndexes": 1,
            "backoffLimit": i32::MAX}),
    );
    cluster.step();
    cluster.end_index("0", "Failed", 1);
    assert_eq!((cluster.outcome(), cluster.running().len()), ("-".to_owned(), 3));
    cluster.end_index("1", "Failed", 1);
    assert_eq!(cluster.outcome(), "Failed MaxFailedIndexesExceeded");
    assert!(cluster.running().is_empty());
    assert_eq!(
        cluster.events,
        ["MaxFailedIndexesExceeded Job has exceeded the specified maximal number of failed indexes"]
    );
}

#[test]
fn a_failure_policy_fails_ignores_and_gives_up_indexes() {
    let rules = json!([
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}},
        {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [7]}},
        {"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [9]}},
    ]);
    let mut cluster = Cluster::new(
        json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed", "backoffLimitPerIndex": 1, "backoffLimit": i32::MAX,
            "podFailurePolicy": {"rules": rules}}),
    );
    cluster.step();
    cluster.end_index("0", "Failed", 7);
    cluster.now += SignedDuration::from_secs(10);
    cluster.settle();
    assert_eq!((cluster.counts(), cluster.running().len()), ((0, 0), 3), "tried again, not counted");
    cluster.end_index("1", "Failed", 9);
    assert_eq!(cluster.status().failed_indexes.as_deref(), Some("1"));
    cluster.end_index("2", "Failed", 42);
    assert_eq!(cluster.outcome(), "Failed PodFailurePolicy");
}

#[test]
fn enough_successes_end_the_job_by_policy() {
    let mut cluster = Cluster::new(
        json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed", "successPolicy": {"rules": [{"succeededCount": 1}]}}),
    );
    cluster.step();
    cluster.end_index("1", "Succeeded", 0);
    cluster.pods.retain(|pod| !crate::pods::is_terminating(pod));
    cluster.settle();
    assert_eq!((cluster.outcome().as_str(), cluster.counts()), ("Complete SuccessPolicy", (1, 0)));
    assert_eq!(cluster.status().completed_indexes.as_deref(), Some("1"));
}

#[test]
fn pods_taken_away_by_suspension_or_scaling_are_no_failures() {
    let mut cluster = Cluster::new(json!({"completions": 5, "parallelism": 3}));
    cluster.step();
    cluster.job.spec.as_mut().unwrap().parallelism = Some(1);
    cluster.settle();
    assert_eq!((cluster.running().len(), cluster.counts()), (1, (0, 0)));
    cluster.job.spec.as_mut().unwrap().suspend = Some(true);
    cluster.settle();
    assert_eq!((cluster.running().len(), cluster.counts()), (0, (0, 0)));
    assert_eq!(cluster.status().ready, Some(0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever order things happen in, every end is counted once.
    #[test]
    fn every_end_counts_once(completions in 1i32..6, parallelism in 1i32..4, fates in prop::collection::vec((0usize..4, any::<bool>()), 0..60)) {
        let mut cluster = Cluster::new(json!({"completions": completions, "parallelism": parallelism, "backoffLimit": 100}));
        let (mut succeeded, mut failed) = (0, 0);
        for (which, success) in fates {
            cluster.step();
            cluster.now += SignedDuration::from_secs(601);
            cluster.step();
            let running = cluster.running();
            if finished(&cluster.job).is_none() && !running.is_empty() {
                cluster.end(&running[which % running.len()], if success { "Succeeded" } else { "Failed" });
                if success { succeeded += 1 } else { failed += 1 }
            }
        }
        (0..4).for_each(|_| cluster.step());
        prop_assert_eq!(cluster.counts(), (succeeded, failed));
        prop_assert_eq!(cluster.outcome() != "-", succeeded >= completions);
    }
}
