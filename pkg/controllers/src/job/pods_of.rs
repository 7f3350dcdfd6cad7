//! A Job's pods: how they are made, and how they ended.
use crate::{owned, pods};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod, PodSpec};
use kube::ResourceExt;

/// Holds a pod until its end is counted.
pub(super) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// Which of an indexed Job's completions a pod works at; label and annotation.
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const INDEX_ENV: &str = "JOB_COMPLETION_INDEX";

pub(super) fn is_tracked(pod: &Pod) -> bool {
    pod.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
}

pub(super) fn index(pod: &Pod) -> Option<i32> {
    pod.annotations().get(INDEX)?.parse().ok().filter(|index| *index >= 0)
}

/// Failed, or deleted before it could succeed.
pub(super) fn has_failed(pod: &Pod) -> bool {
    pods::phase(pod) == "Failed" || (pods::is_terminating(pod) && pods::phase(pod) != "Succeeded")
}

/// When the last of its containers ended.
pub(super) fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod.status.as_ref()?.container_statuses.iter().flatten();
    let ended = statuses.filter_map(|s| s.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|time| time.0));
    let unready = pods::condition(pod, "Ready").and_then(|c| c.last_transition_time.as_ref()).map(|time| time.0);
    ended.max().or(unready)
}

pub(super) fn make(job: &Job, index: Option<i32>) -> Pod {
    let template = job.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let (name, namespace) = (job.name_any(), job.namespace().unwrap_or_default());
    let prefix = index.map_or(name.clone(), |index| format!("{name}-{index}"));
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
            spec.hostname.get_or_insert(prefix);
            tell_index(spec);
        }
    }
    pod
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
