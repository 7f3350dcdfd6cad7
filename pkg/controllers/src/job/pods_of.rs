//! A Job's pods: how they are made, and how they ended.
use crate::{owned, pods};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod, PodSpec};
use kube::ResourceExt;

/// Holds a pod until its end is counted.
pub(super) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// Which of an indexed Job's completions a pod works at; label and annotation.
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Failures of the index before this pod that count, and those that a policy ignored.
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
const IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
/// Characters of a generated name's prefix.
const PREFIX_CHARS: usize = 58;
const INDEX_ENV: &str = "JOB_COMPLETION_INDEX";

pub(super) fn is_tracked(pod: &Pod) -> bool {
    pod.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
}

pub(super) fn index(pod: &Pod) -> Option<i32> {
    pod.annotations().get(INDEX)?.parse().ok().filter(|index| *index >= 0)
}

/// How often an index failed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Failures {
    pub counted: i32,
    pub ignored: i32,
}

impl Failures {
    /// Those before this pod.
    pub(super) fn before(pod: &Pod) -> Self {
        let number = |key: &str| pod.annotations().get(key).and_then(|n| n.parse().ok()).filter(|n: &i32| *n >= 0);
        Self { counted: number(FAILURES).unwrap_or_default(), ignored: number(IGNORED_FAILURES).unwrap_or_default() }
    }

    pub(super) fn total(self) -> i32 {
        self.counted.saturating_add(self.ignored)
    }

    fn note(self, pod: &mut Pod) {
        pod.annotations_mut().insert(FAILURES.to_owned(), self.counted.to_string());
        if self.ignored > 0 {
            pod.annotations_mut().insert(IGNORED_FAILURES.to_owned(), self.ignored.to_string());
        }
    }
}

/// When the last of its containers ended, or what comes nearest to that.
pub(super) fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref();
    let statuses = status.into_iter().flat_map(|status| status.container_statuses.iter().flatten());
    let ended = statuses.map(|s| s.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|time| time.0));
    let all_ended = ended.collect::<Option<Vec<_>>>().and_then(|ended| ended.into_iter().max());
    let unready = pods::condition(pod, "Ready").filter(|ready| ready.status == "False");
    let unready = unready.and_then(|ready| ready.last_transition_time.as_ref()).map(|time| time.0);
    let grace = SignedDuration::from_secs(pod.metadata.deletion_grace_period_seconds.unwrap_or_default());
    let deleted = pod.metadata.deletion_timestamp.as_ref().map(|time| time.0 - grace);
    all_ended.or(unready).or(deleted).or(pod.metadata.creation_timestamp.as_ref().map(|time| time.0))
}

/// A pod of the Job; for an indexed Job with its index, and with the index's failures when they are limited.
pub(super) fn make(job: &Job, index: Option<i32>, failures: Option<Failures>) -> Pod {
    let template = job.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let (name, namespace) = (job.name_any(), job.namespace().unwrap_or_default());
    let prefix = index.map_or(name.clone(), |index| indexed_prefix(&name, index));
    let mut pod = pods::from_template(&template, &namespace, &prefix, owned::reference_to(job));
    pod.finalizers_mut().push(FINALIZER.to_owned());
    let uid = job.uid().unwrap_or_default();
    for (key, value) in [("job-name", &name), ("controller-uid", &uid)] {
        pod.labels_mut().insert(format!("batch.kubernetes.io/{key}"), value.clone());
        pod.labels_mut().insert(key.to_owned(), value.clone());
    }
    if let Some(index) = index {
        pod.labels_mut().insert(INDEX.to_owned(), index.to_string());
        pod.annotations_mut().insert(INDEX.to_owned(), index.to_string());
        if let Some(spec) = &mut pod.spec {
            spec.hostname = Some(format!("{name}-{index}"));
            tell_index(spec);
        }
    }
    if let Some(failures) = failures {
        failures.note(&mut pod);
    }
    pod
}

/// The index stays even when the Job's name has to be cut.
fn indexed_prefix(name: &str, index: i32) -> String {
    let suffix = format!("-{index}");
    let room = PREFIX_CHARS - suffix.len() - 1;
    format!("{}{suffix}", &name[..name.len().min(room)])
}

fn tell_index(spec: &mut PodSpec) {
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        let env = container.env.get_or_insert_default();
        if env.iter().any(|var| var.name == INDEX_ENV) {
            continue;
        }
        let field = ObjectFieldSelector { field_path: format!("metadata.labels['{INDEX}']"), api_version: None };
        let source = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
        env.push(EnvVar { name: INDEX_ENV.into(), value_from: Some(source), value: None });
    }
}
