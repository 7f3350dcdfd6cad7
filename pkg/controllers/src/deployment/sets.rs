//! A Deployment's ReplicaSets: which is the new one, what it is called, and what is noted on it.
use super::plan::{REVISION, is_rolling, limits, replicas};
use crate::{hash, owned};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;

/// The label that tells a Deployment's sets and their pods apart.
const HASH: &str = "pod-template-hash";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// How many replicas the Deployment wanted when the set was last scaled: a difference is a scaling event.
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// That plus the surge of the time.
pub(super) const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations that are not copied from a Deployment to its sets.
const OWN: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
    // A set has a home of its own, given at its creation.
    api::home::HOME,
];
/// Characters of the revision history.
const HISTORY_CHARS: usize = 2000;
/// Characters of an object's name.
const NAME_CHARS: usize = 253;

pub(super) fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

pub(super) fn actual(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map(|status| status.replicas).unwrap_or_default()
}

pub(super) fn ready(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or_default()
}

pub(super) fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or_default()
}

/// The sum, unless a set that was looked at doesn't tell.
pub(super) fn terminating<'a>(sets: impl Iterator<Item = &'a ReplicaSet>) -> Option<i32> {
    let statuses = sets.map(|set| set.status.clone().unwrap_or_default());
    let seen = statuses.filter(|status| status.observed_generation.is_some() || status.terminating_replicas.is_some());
    seen.map(|status| status.terminating_replicas).sum()
}

/// Why pods of the set can't be made or deleted.
pub(super) fn failure(set: &ReplicaSet) -> Option<DeploymentCondition> {
    let conditions = set.status.as_ref()?.conditions.as_ref()?;
    let failure = conditions.iter().find(|condition| condition.type_ == "ReplicaFailure")?.clone();
    Some(DeploymentCondition {
        type_: failure.type_,
        status: failure.status,
        reason: failure.reason,
        message: failure.message,
        last_update_time: failure.last_transition_time.clone(),
        last_transition_time: failure.last_transition_time,
    })
}

/// No pods, none wanted, and its controller has seen that.
pub(super) fn is_idle(set: &ReplicaSet) -> bool {
    let observed = set.status.as_ref().and_then(|status| status.observed_generation).unwrap_or_default();
    size(set) == 0 && actual(set) == 0 && set.metadata.generation.unwrap_or_default() <= observed
}

pub(super) fn by_age(a: &ReplicaSet, b: &ReplicaSet) -> Ordering {
    let age = |set: &ReplicaSet| set.metadata.creation_timestamp.as_ref().map(|time| time.0);
    age(a).cmp(&age(b)).then_with(|| a.name_any().cmp(&b.name_any()))
}

pub(super) fn number(set: &ReplicaSet, annotation: &str) -> Option<i32> {
    set.annotations().get(annotation)?.parse().ok().filter(|number| *number >= 0)
}

pub(super) fn revision(set: &ReplicaSet) -> i64 {
    set.annotations().get(REVISION).and_then(|revision| revision.parse().ok()).unwrap_or_default()
}

pub(super) fn next_revision(old: &[ReplicaSet]) -> i64 {
    old.iter().map(revision).max().unwrap_or_default() + 1
}

/// Everything wanted is there, of this set alone.
pub(super) fn is_saturated(set: &ReplicaSet, want: i32) -> bool {
    size(set) == want && number(set, DESIRED) == Some(want) && available(set) == want
}

/// The set of the current template (the oldest, should there be several), and the others.
pub(super) fn split(deployment: &Deployment, sets: &[ReplicaSet]) -> (Option<ReplicaSet>, Vec<ReplicaSet>) {
    let mut sets = sets.to_vec();
    sets.sort_by(by_age);
    let wanted = deployment.spec.as_ref().map(|spec| without_hash(&spec.template));
    let is_new = |set: &ReplicaSet| {
        let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
        template.map(without_hash) == wanted
    };
    let new = sets.iter().position(is_new).map(|n| sets.remove(n));
    (new, sets)
}

/// The template as the Deployment has it; an empty map is the same as none.
fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    let metadata = template.metadata.get_or_insert_default();
    if let Some(labels) = &mut metadata.labels {
        labels.remove(HASH);
    }
    metadata.labels = metadata.labels.take().filter(|labels| !labels.is_empty());
    metadata.annotations = metadata.annotations.take().filter(|annotations| !annotations.is_empty());
    metadata.creation_timestamp = None;
    template
}

/// The name of the set for the current template.
pub(super) fn name(deployment: &Deployment, hash: &str) -> String {
    let name = deployment.name_any();
    let room = NAME_CHARS - 1 - hash.len();
    format!("{}-{hash}", &name[..name.len().min(room)])
}

pub(super) fn hash_of(deployment: &Deployment, collisions: Option<i32>) -> String {
    let template = deployment.spec.as_ref().map(|spec| &spec.template);
    hash::of(&template, collisions)
}

/// A new set for the current template.
pub(super) fn make(deployment: &Deployment, collisions: Option<i32>, revision: i64, size: i32) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let hash = hash_of(deployment, collisions);
    let mut template = spec.template;
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH.into(), hash.clone());
    let labels = labels.clone();
    let mut selector = spec.selector;
    selector.match_labels.get_or_insert_default().insert(HASH.into(), hash.clone());
    let mut set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(name(deployment, &hash)),
            namespace: deployment.namespace(),
            labels: Some(labels),
            owner_references: Some(vec![owned::reference_to(deployment)]),
            ..Default::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(size),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    };
    let annotations = annotations(deployment, &set, revision).unwrap_or_default();
    let (surge, _) = limits(deployment);
    let want = replicas(deployment);
    set.annotations_mut().extend(annotations);
    set.annotations_mut().insert(DESIRED.into(), want.to_string());
    let max = if is_rolling(deployment) { want + surge } else { want };
    set.annotations_mut().insert(MAX.into(), max.to_string());
    set
}

/// Annotations that the new set lacks: the Deployment's, its revision, and the revisions it had before when the
/// Deployment comes back to it.
pub(super) fn annotations(deployment: &Deployment, set: &ReplicaSet, next: i64) -> Option<BTreeMap<String, String>> {
    let copied = deployment.annotations().iter().filter(|(key, _)| !OWN.contains(&key.as_str()));
    let mut changed: BTreeMap<String, String> = copied
        .filter(|(key, value)| set.annotations().get(*key) != Some(value))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let current = set.annotations().get(REVISION);
    if revision(set) < next {
        changed.insert(REVISION.into(), next.to_string());
        if let Some(before) = current {
            changed.insert(HISTORY.into(), history(set.annotations().get(HISTORY), before));
        }
    }
    (!changed.is_empty()).then_some(changed)
}

fn history(older: Option<&String>, revision: &str) -> String {
    let mut all: Vec<&str> =
        older.map(String::as_str).unwrap_or_default().split(',').filter(|r| !r.is_empty()).collect();
    all.push(revision);
    while all.iter().map(|revision| revision.len() + 1).sum::<usize>() > HISTORY_CHARS + 1 {
        all.remove(0);
    }
    all.join(",")
}

/// New sizes of the active sets when `allowed` pods in all are to be shared among them as they are now.
pub(super) fn in_proportion<'a>(
    active: impl Iterator<Item = &'a ReplicaSet>,
    want: i32,
    allowed: i32,
    before: i32,
) -> Vec<(String, i32)> {
    let mut active: Vec<&ReplicaSet> = active.collect();
    let to_add = allowed - active.iter().map(|set| size(set)).sum::<i32>();
    match to_add > 0 {
        true => active.sort_by(|a, b| Reverse(size(a)).cmp(&Reverse(size(b))).then_with(|| by_age(b, a))),
        false => active.sort_by(|a, b| Reverse(size(a)).cmp(&Reverse(size(b))).then_with(|| by_age(a, b))),
    }
    let mut added = 0;
    let mut sizes = Vec::new();
    for set in active {
        let left = to_add - added;
        let share = share(set, want, allowed, before);
        let share = if to_add > 0 { share.min(left) } else { share.max(left) };
        let share = if left == 0 { 0 } else { share };
        added += share;
        sizes.push((set.name_any(), size(set) + share));
    }
    if let Some((_, largest)) = sizes.first_mut() {
        *largest = (*largest + to_add - added).max(0);
    }
    sizes
}

fn share(set: &ReplicaSet, want: i32, allowed: i32, before: i32) -> i32 {
    if want == 0 {
        return -size(set);
    }
    match number(set, MAX).filter(|max| *max > 0).unwrap_or(before) {
        0 => 0,
        max => (f64::from(size(set)) * f64::from(allowed) / f64::from(max)).round() as i32 - size(set),
    }
}
