//! Rollouts played through: plans are applied to a model of the cluster in which pods become ready at will.
use super::plan::{Observed, plan};
use super::sets;
use crate::action::{Action, Patch};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::HashSet;

fn deployment(replicas: i32, surge: Value, unavailable: Value) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "d", "generation": 1},
        "spec": {"replicas": replicas, "progressDeadlineSeconds": 600, "revisionHistoryLimit": 1,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "v1"}]}}},
    }))
    .unwrap()
}

fn set_image(deployment: &mut Deployment, image: &str) {
    let spec = deployment.spec.as_mut().unwrap();
    spec.template.spec.as_mut().unwrap().containers[0].image = Some(image.into());
    *deployment.metadata.generation.as_mut().unwrap() += 1;
}

/// A cluster of one Deployment whose ReplicaSet controller is instant and whose pods get ready when told.
struct Cluster {
    deployment: Deployment,
    sets: Vec<ReplicaSet>,
    now: Timestamp,
    events: Vec<String>,
}

impl Cluster {
    fn new(deployment: Deployment) -> Self {
        Self { deployment, sets: Vec::new(), now: Timestamp::from_second(1_800_000_000).unwrap(), events: Vec::new() }
    }

    /// One step; false when nothing was left to do.
    fn step(&mut self) -> bool {
        self.now += SignedDuration::from_secs(1);
        let status = self.deployment.status.as_ref();
        let name =
            sets::name(&self.deployment, &sets::hash_of(&self.deployment, status.and_then(|s| s.collision_count)));
        let name_taken = self.sets.iter().any(|set| set.name_any() == name);
        let with_pods = self.sets.iter().filter(|set| sets::actual(set) > 0).filter_map(ResourceExt::uid).collect();
        let observed = Observed { sets: self.sets.clone(), with_pods, name_taken };
        let actions = plan(&self.deployment, &observed, self.now);
        let writes = actions.iter().filter(|action| !matches!(action, Action::Again(_))).count();
        actions.into_iter().for_each(|action| self.apply(action));
        self.follow();
        writes > 0
    }

    fn apply(&mut self, action: Action) {
        match action {
            Action::Create { object, told, .. } => {
                let mut set: ReplicaSet = serde_json::from_value(object).unwrap();
                set.metadata.uid = set.metadata.name.clone();
                set.metadata.generation = Some(1);
                set.metadata.creation_timestamp = Some(Time(self.now));
                self.events.extend(told.done.map(|note| note.message));
                self.sets.push(set);
            }
            Action::Patch { target, patch: Patch::Merge(patch), told, .. } => {
                self.events.extend(told.done.map(|note| note.message));
                if target.resource.kind == "Deployment" {
                    self.deployment = merged(&self.deployment, &patch);
                } else {
                    let set = self.sets.iter_mut().find(|set| set.name_any() == target.name).unwrap();
                    *set = merged(set, &patch);
                }
            }
            Action::Delete { target, .. } => self.sets.retain(|set| set.name_any() != target.name),
            Action::Again(_) => {}
            other => panic!("{other:?}"),
        }
    }

    /// What the ReplicaSet controller would report: pods exist as asked, and no more can be ready than exist.
    fn follow(&mut self) {
        for set in &mut self.sets {
            let size = sets::size(set);
            let ready = sets::ready(set).min(size);
            set.status = Some(ReplicaSetStatus {
                replicas: size,
                ready_replicas: Some(ready),
                available_replicas: Some(ready),
                observed_generation: set.metadata.generation,
                terminating_replicas: Some(0),
                ..Default::default()
            });
        }
    }

    fn make_ready(&mut self, count: i32) {
        let mut left = count;
        for set in &mut self.sets {
            let (size, status) = (sets::size(set), set.status.as_mut().unwrap());
            let more = left.min(size - status.ready_replicas.unwrap_or_default());
            status.ready_replicas = Some(status.ready_replicas.unwrap_or_default() + more);
            status.available_replicas = status.ready_replicas;
            left -= more;
        }
    }

    fn settle(&mut self) {
        for _ in 0..200 {
            self.make_ready(i32::MAX / 2);
            if !self.step() {
                return;
            }
        }
        panic!("no end in sight: {:?}", self.deployment.status);
    }

    fn condition(&self, type_: &str) -> String {
        let status = self.deployment.status.as_ref().unwrap();
        let found = status.conditions.iter().flatten().find(|condition| condition.type_ == type_).unwrap();
        format!("{} {}", found.status, found.reason.as_deref().unwrap())
    }

    fn images(&self) -> Vec<(String, i32)> {
        let image = |set: &ReplicaSet| {
            let template = set.spec.as_ref().unwrap().template.as_ref().unwrap();
            template.spec.as_ref().unwrap().containers[0].image.clone().unwrap()
        };
        self.sets.iter().map(|set| (image(set), sets::size(set))).collect()
    }
}

fn merged<K: serde::Serialize + serde::de::DeserializeOwned>(object: &K, patch: &Value) -> K {
    let mut object = serde_json::to_value(object).unwrap();
    let mut patch = patch.clone();
    if let Some(metadata) = patch.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("resourceVersion");
    }
    merge(&mut object, &patch);
    serde_json::from_value(object).unwrap()
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else { return *target = patch.clone() };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch.iter() {
        match value {
            Value::Null => _ = target.as_object_mut().unwrap().remove(key),
            value => merge(&mut target[key.as_str()], value),
        }
    }
}

#[test]
fn a_new_deployment_gets_one_set_and_becomes_complete() {
    let mut cluster = Cluster::new(deployment(3, json!("25%"), json!("25%")));
    assert!(cluster.step());
    assert_eq!(cluster.images(), [("v1".to_owned(), 3)]);
    assert_eq!(cluster.condition("Progressing"), "True NewReplicaSetCreated");
    assert_eq!(cluster.condition("Available"), "False MinimumReplicasUnavailable");
    cluster.settle();
    assert_eq!(cluster.condition("Progressing"), "True NewReplicaSetAvailable");
    assert_eq!(cluster.condition("Available"), "True MinimumReplicasAvailable");
    assert_eq!(cluster.deployment.annotations()["deployment.kubernetes.io/revision"], "1");
    let set = &cluster.sets[0];
    let hash = &set.labels()["pod-template-hash"];
    assert_eq!(set.name_any(), format!("web-{hash}"));
    assert_eq!(set.spec.as_ref().unwrap().selector.match_labels.as_ref().unwrap()["pod-template-hash"], *hash);
    assert_eq!(cluster.events, [format!("Scaled up replica set {} from 0 to 3", set.name_any())]);
    assert_eq!(set.annotations()["deployment.kubernetes.io/max-replicas"], "4");
}

#[test]
fn undo_brings_the_old_set_back_with_a_new_revision_and_history_is_limited() {
    let mut cluster = Cluster::new(deployment(2, json!(1), json!(0)));
    cluster.settle();
    for image in ["v2", "v1", "v3", "v4"] {
        set_image(&mut cluster.deployment, image);
        cluster.settle();
    }
    let of = |image: &str| cluster.images().iter().any(|(other, _)| other == image);
    assert!(of("v4") && of("v3") && !of("v2") && !of("v1"), "one old set is kept: {:?}", cluster.images());
    assert_eq!(cluster.deployment.annotations()["deployment.kubernetes.io/revision"], "5");

    let mut cluster = Cluster::new(deployment(2, json!(1), json!(0)));
    cluster.settle();
    for image in ["v2", "v1"] {
        set_image(&mut cluster.deployment, image);
        cluster.settle();
    }
    let back = cluster.sets.iter().find(|set| sets::size(set) == 2).unwrap();
    assert_eq!(back.annotations()["deployment.kubernetes.io/revision"], "3");
    assert_eq!(back.annotations()["deployment.kubernetes.io/revision-history"], "1");
}

#[test]
fn a_stuck_rollout_is_reported_after_its_deadline_and_keeps_the_old_pods() {
    let mut cluster = Cluster::new(deployment(4, json!(1), json!(1)));
    cluster.settle();
    set_image(&mut cluster.deployment, "broken");
    for _ in 0..20 {
        cluster.step();
    }
    assert_eq!(cluster.images().iter().map(|(_, size)| size).sum::<i32>(), 5);
    assert!(cluster.images().iter().any(|(image, size)| image == "v1" && *size == 3));
    assert_eq!(cluster.condition("Progressing"), "True ReplicaSetUpdated");
    cluster.now += SignedDuration::from_secs(700);
    cluster.step();
    assert_eq!(cluster.condition("Progressing"), "False ProgressDeadlineExceeded");
    assert_eq!(cluster.condition("Available"), "True MinimumReplicasAvailable");
}

#[test]
fn a_paused_rollout_stops_but_scales_in_proportion() {
    let mut cluster = Cluster::new(deployment(10, json!(3), json!(2)));
    cluster.settle();
    set_image(&mut cluster.deployment, "v2");
    cluster.step();
    cluster.step();
    assert_eq!(cluster.images().iter().map(|(_, size)| *size).collect::<Vec<_>>(), [8, 5]);
    cluster.deployment.spec.as_mut().unwrap().paused = Some(true);
    cluster.deployment.spec.as_mut().unwrap().replicas = Some(20);
    cluster.settle();
    let sizes: Vec<_> = cluster.images().iter().map(|(_, size)| *size).collect();
    assert_eq!(sizes, [14, 9], "23 = 20 + surge, shared as 8 : 5");
    assert_eq!(cluster.condition("Progressing"), "Unknown DeploymentPaused");
    cluster.deployment.spec.as_mut().unwrap().paused = None;
    cluster.settle();
    assert!(cluster.images().contains(&("v2".to_owned(), 20)));
}

#[test]
fn recreate_waits_until_the_last_old_pod_is_gone() {
    let mut d = deployment(3, json!(null), json!(null));
    d.spec.as_mut().unwrap().strategy = serde_json::from_value(json!({"type": "Recreate"})).unwrap();
    let mut cluster = Cluster::new(d);
    cluster.settle();
    set_image(&mut cluster.deployment, "v2");
    let old = cluster.sets[0].uid().unwrap();
    cluster.step();
    assert_eq!(cluster.images(), [("v1".to_owned(), 0)]);
    let observed = Observed { sets: cluster.sets.clone(), with_pods: HashSet::from([old]), name_taken: false };
    let waiting = plan(&cluster.deployment, &observed, cluster.now);
    assert!(!waiting.iter().any(|action| matches!(action, Action::Create { .. })), "a pod is still terminating");
    cluster.settle();
    assert!(cluster.images().contains(&("v2".to_owned(), 3)));
}

#[test]
fn a_taken_name_raises_the_collision_count() {
    let d = deployment(1, json!(1), json!(0));
    let observed = Observed { sets: Vec::new(), with_pods: HashSet::new(), name_taken: true };
    let actions = plan(&d, &observed, Timestamp::UNIX_EPOCH);
    assert!(!actions.iter().any(|action| matches!(action, Action::Create { .. })));
    let status = actions.iter().find_map(|action| match action {
        Action::Patch { patch: Patch::Merge(patch), subresource: Some("status"), .. } => Some(patch),
        _ => None,
    });
    assert_eq!(status.unwrap()["status"]["collisionCount"], 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever happens on the way: never more pods than surge allows, never fewer available than promised, and the
    /// rollout ends with the new template alone.
    #[test]
    fn a_rollout_keeps_its_promises(
        replicas in 1i32..12, surge in 0i32..4, unavailable in 0i32..4,
        ready in prop::collection::vec(0i32..4, 0..40), second in 0usize..40,
    ) {
        let mut cluster = Cluster::new(deployment(replicas, json!(surge), json!(unavailable)));
        cluster.settle();
        let (surge, unavailable) = if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) };
        set_image(&mut cluster.deployment, "v2");
        for (n, ready) in ready.into_iter().enumerate() {
            if n == second {
                set_image(&mut cluster.deployment, "v3");
            }
            let before: i32 = cluster.sets.iter().map(sets::available).sum();
            cluster.step();
            let total: i32 = cluster.sets.iter().map(sets::size).sum();
            let available: i32 = cluster.sets.iter().map(sets::available).sum();
            prop_assert!(total <= replicas + surge, "{} pods", total);
            prop_assert!(available >= before.min(replicas - unavailable.min(replicas)), "{} available", available);
            cluster.make_ready(ready);
        }
        cluster.settle();
        let active: Vec<_> = cluster.images().into_iter().filter(|(_, size)| *size > 0).collect();
        prop_assert_eq!(active.len(), 1);
        prop_assert_eq!(active[0].1, replicas);
        prop_assert_eq!(cluster.condition("Progressing"), "True NewReplicaSetAvailable");
    }
}
