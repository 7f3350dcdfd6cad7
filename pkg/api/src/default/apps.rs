//! apps/v1 and batch/v1.
use super::{Object, child, empty, fill, fill_text, text};
use serde_json::{Value, json};

pub fn set(name: &str, object: &mut Object) {
    match name {
        "DeploymentSpec" => deployment(object),
        "ReplicaSetSpec" => fill(object, "replicas", 1),
        "StatefulSetSpec" => stateful_set(object),
        "DaemonSetSpec" => daemon_set(object),
        "Job" => job(object),
        "CronJobSpec" => cron_job(object),
        "DaemonSet" => template_generation(object),
        "PodFailurePolicyOnPodConditionsPattern" => fill_text(object, "status", "True"),
        _ => {}
    }
}

fn deployment(spec: &mut Object) {
    fill(spec, "replicas", 1);
    fill(spec, "revisionHistoryLimit", 10);
    fill(spec, "progressDeadlineSeconds", 600);
    rolling(spec, "strategy", &[("maxUnavailable", json!("25%")), ("maxSurge", json!("25%"))]);
}

fn stateful_set(spec: &mut Object) {
    fill(spec, "replicas", 1);
    fill(spec, "revisionHistoryLimit", 10);
    fill_text(spec, "podManagementPolicy", "OrderedReady");
    rolling(spec, "updateStrategy", &[("partition", json!(0))]);
    if let Some(policy) = child(spec, "persistentVolumeClaimRetentionPolicy") {
        fill_text(policy, "whenDeleted", "Retain");
        fill_text(policy, "whenScaled", "Retain");
    }
    let claims = spec.get_mut("volumeClaimTemplates").and_then(Value::as_array_mut).into_iter().flatten();
    for claim in claims.filter_map(Value::as_object_mut) {
        fill_text(claim, "apiVersion", "v1");
        fill_text(claim, "kind", "PersistentVolumeClaim");
    }
}

fn daemon_set(spec: &mut Object) {
    fill(spec, "revisionHistoryLimit", 10);
    rolling(spec, "updateStrategy", &[("maxUnavailable", json!(1)), ("maxSurge", json!(0))]);
}

/// What once was a field is an annotation in `apps/v1`; the strategy counts it.
fn template_generation(object: &mut Object) {
    if let Some(annotations) = child(object, "metadata").and_then(|meta| child(meta, "annotations")) {
        fill(annotations, "deprecated.daemonset.template.generation", "0");
    }
}

/// A strategy of type RollingUpdate, with these parameters, unless another type is named.
fn rolling(spec: &mut Object, field: &str, parameters: &[(&str, Value)]) {
    let Some(strategy) = child(spec, field) else { return };
    fill_text(strategy, "type", "RollingUpdate");
    if text(strategy, "type") != "RollingUpdate" {
        return;
    }
    if let Some(rolling) = child(strategy, "rollingUpdate") {
        parameters.iter().for_each(|(name, value)| fill(rolling, name, value.clone()));
    }
}

/// A Job, but not the template in a CronJob, which waits until it becomes one.
fn job(job: &mut Object) {
    let Some(spec) = child(job, "spec") else { return };
    if !spec.contains_key("completions") && !spec.contains_key("parallelism") {
        fill(spec, "completions", 1);
    }
    fill(spec, "parallelism", 1);
    let limit = if spec.contains_key("backoffLimitPerIndex") { i32::MAX } else { 6 };
    fill(spec, "backoffLimit", limit);
    fill(spec, "completionMode", "NonIndexed");
    fill(spec, "suspend", false);
    fill(spec, "manualSelector", false);
    let replacement = if spec.contains_key("podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    fill(spec, "podReplacementPolicy", replacement);
    let labels = spec.get("template").and_then(|template| template.pointer("/metadata/labels")).cloned();
    let metadata = job.entry("metadata").or_insert_with(empty).as_object_mut();
    if let (Some(labels), Some(metadata)) = (labels, metadata) {
        let unset = metadata.get("labels").and_then(Value::as_object).is_none_or(serde_json::Map::is_empty);
        if unset {
            metadata.insert("labels".into(), labels);
        }
    }
}

fn cron_job(spec: &mut Object) {
    fill_text(spec, "concurrencyPolicy", "Allow");
    fill(spec, "suspend", false);
    fill(spec, "successfulJobsHistoryLimit", 3);
    fill(spec, "failedJobsHistoryLimit", 1);
}
