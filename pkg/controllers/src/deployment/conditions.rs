//! A Deployment's conditions.
use super::plan::replicas;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

pub(super) const AVAILABLE: &str = "Available";
pub(super) const PROGRESSING: &str = "Progressing";
pub(super) const REPLICA_FAILURE: &str = "ReplicaFailure";

pub(super) fn get<'a>(status: &'a DeploymentStatus, type_: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == type_)
}

pub(super) fn reason<'a>(status: &'a DeploymentStatus, type_: &str) -> Option<&'a str> {
    get(status, type_)?.reason.as_deref()
}

/// Sets a condition unless it has that status and reason already.
pub(super) fn set(status: &mut DeploymentStatus, type_: &str, to: &str, why: &str, message: &str, now: Timestamp) {
    let current = get(status, type_);
    if !current.is_some_and(|current| current.status == to && current.reason.as_deref() == Some(why)) {
        renew(status, type_, to, why, message, now);
    }
}

/// Sets a condition and the time it was updated; the time of its transition stays while the status does.
pub(super) fn renew(status: &mut DeploymentStatus, type_: &str, to: &str, why: &str, message: &str, now: Timestamp) {
    let same = get(status, type_).filter(|current| current.status == to);
    let last_transition_time = same.and_then(|current| current.last_transition_time.clone()).or(Some(Time(now)));
    copy(
        status,
        DeploymentCondition {
            type_: type_.into(),
            status: to.into(),
            reason: Some(why.into()),
            message: Some(message.into()),
            last_update_time: Some(Time(now)),
            last_transition_time,
        },
    );
}

/// Puts a condition as it is, unless one of that status and reason stands.
pub(super) fn copy(status: &mut DeploymentStatus, condition: DeploymentCondition) {
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|other| other.type_ != condition.type_);
    conditions.push(condition);
}

pub(super) fn remove(status: &mut DeploymentStatus, type_: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_ != type_);
    }
}

/// All replicas are of the new template and available, and nothing else is left.
pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let want = replicas(deployment);
    [status.updated_replicas, status.replicas, status.available_replicas].iter().all(|n| n.unwrap_or_default() == want)
        && status.observed_generation.unwrap_or_default() >= deployment.metadata.generation.unwrap_or_default()
}

/// Whether more is new, ready or available, or less is old.
pub(super) fn moved(before: Option<&DeploymentStatus>, after: &DeploymentStatus) -> bool {
    let none = DeploymentStatus::default();
    let before = before.unwrap_or(&none);
    let old = |s: &DeploymentStatus| s.replicas.unwrap_or_default() - s.updated_replicas.unwrap_or_default();
    let more = |a: Option<i32>, b: Option<i32>| b.unwrap_or_default() > a.unwrap_or_default();
    more(before.updated_replicas, after.updated_replicas)
        || old(after) < old(before)
        || more(before.ready_replicas, after.ready_replicas)
        || more(before.available_replicas, after.available_replicas)
}
