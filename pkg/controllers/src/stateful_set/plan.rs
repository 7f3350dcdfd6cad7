//! One step of a StatefulSet: pods in order, each under its own name, updated from the last to the first.
use super::{identity, retention};
use crate::action::{self, Action, Told};
use crate::amount;
use crate::history::REVISION_HASH;
use crate::pods;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};
use kube::ResourceExt;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What the caches show.
pub(super) struct Observed {
    /// The set's pods by ordinal.
    pub pods: BTreeMap<i32, Arc<Pod>>,
    /// The claims that exist, by name.
    pub claims: HashMap<String, Arc<PersistentVolumeClaim>>,
    /// The name of the revision of the current template.
    pub update: String,
    /// The revision that pods are still at, and its template.
    pub current: (String, PodTemplateSpec),
}

pub(super) struct Step<'a> {
    set: &'a StatefulSet,
    spec: &'a StatefulSetSpec,
    observed: &'a Observed,
    now: Timestamp,
}

impl<'a> Step<'a> {
    pub(super) fn new(set: &'a StatefulSet, spec: &'a StatefulSetSpec, observed: &'a Observed, now: Timestamp) -> Self {
        Self { set, spec, observed, now }
    }

    fn start(&self) -> i32 {
        self.spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or_default()
    }

    fn end(&self) -> i32 {
        self.start() + self.spec.replicas.unwrap_or(1)
    }

    fn ordered(&self) -> bool {
        self.spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    fn rolling(&self) -> bool {
        let strategy = self.spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref());
        strategy != Some("OnDelete")
    }

    /// Pods below this ordinal stay at the current revision.
    fn partition(&self) -> i32 {
        let rolling = self.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
        self.start() + rolling.and_then(|rolling| rolling.partition).unwrap_or_default()
    }

    fn max_unavailable(&self) -> i32 {
        let rolling = self.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
        let max = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
        max.map_or(1, |max| amount::scaled(Some(max), self.spec.replicas.unwrap_or(1), true)).max(1)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        let running = pods::phase(pod) == "Running" && !pods::is_terminating(pod);
        running && pods::is_available(pod, self.spec.min_ready_seconds.unwrap_or_default(), self.now)
    }

    /// Makes, replaces, removes and updates pods as far as order allows now.
    pub(super) fn actions(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.set.metadata.deletion_timestamp.is_some() {
            return actions;
        }
        actions.extend(self.own_claims());
        if !self.fill(&mut actions) || !self.shrink(&mut actions) || !self.rolling() {
            return actions;
        }
        self.roll(&mut actions);
        actions
    }

    /// Before a pod goes, its claims must know whether to go with it.
    fn own_claims(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        for (ordinal, pod) in &self.observed.pods {
            let (condemned, name) = (!(self.start()..self.end()).contains(ordinal), pod.name_any());
            let claims = identity::claim_names(self.spec, &name).filter_map(|name| self.observed.claims.get(&name));
            actions.extend(claims.filter_map(|claim| retention::own(self.set, self.spec, claim, pod, condemned)));
        }
        actions
    }

    /// True when order allows to go on.
    fn fill(&self, actions: &mut Vec<Action>) -> bool {
        for ordinal in self.start()..self.end() {
            let settled = match self.observed.pods.get(&ordinal) {
                None => {
                    actions.extend(self.create(ordinal));
                    false
                }
                Some(pod) if pods::is_finished(pod) && !pods::is_terminating(pod) => {
                    actions.push(self.delete(pod));
                    false
                }
                Some(pod) => {
                    if pods::phase(pod) == "Pending" {
                        actions.extend(self.missing_claims(ordinal));
                    }
                    self.is_available(pod)
                }
            };
            if !settled && self.ordered() {
                return false;
            }
        }
        true
    }

    /// Removes pods past the end, the highest first; when ordered, one at a time, and an unhealthy pod is passed over
    /// only for being the first unhealthy one.
    fn shrink(&self, actions: &mut Vec<Action>) -> bool {
        let (inside, mut condemned): (Vec<_>, Vec<_>) =
            self.observed.pods.iter().partition(|(n, _)| (self.start()..self.end()).contains(*n));
        let mut unhealthy = inside.iter().chain(&condemned).filter(|(_, pod)| !self.is_available(pod));
        let first_unhealthy = unhealthy.next().map(|(ordinal, _)| **ordinal);
        condemned.reverse();
        for (ordinal, pod) in condemned {
            let blocks = self.ordered() && !self.is_available(pod) && first_unhealthy != Some(*ordinal);
            if !pods::is_terminating(pod) && !blocks {
                actions.push(self.delete(pod));
            }
            if self.ordered() {
                return false;
            }
        }
        true
    }

    /// Replaces pods of older revisions from the last to the first, as many at a time as may be unavailable.
    fn roll(&self, actions: &mut Vec<Action>) {
        let in_range: Vec<_> = self.observed.pods.range(self.start()..self.end()).collect();
        // What is not there yet is unavailable too.
        let available = in_range.iter().filter(|(_, pod)| self.is_available(pod)).count() as i32;
        let mut unavailable = self.end() - self.start() - available;
        for (_, pod) in in_range.into_iter().rev().filter(|(ordinal, _)| **ordinal >= self.partition()) {
            if unavailable >= self.max_unavailable() && self.is_available(pod) {
                return;
            }
            if !self.is_at(pod, &self.observed.update) && !pods::is_terminating(pod) {
                unavailable += i32::from(self.is_available(pod));
                actions.push(self.delete(pod));
            } else if !self.is_available(pod) && self.max_unavailable() == 1 {
                return;
            }
        }
    }

    fn is_at(&self, pod: &Pod, revision: &str) -> bool {
        pod.labels().get(REVISION_HASH).is_some_and(|hash| hash == revision)
    }

    fn make(&self, ordinal: i32) -> (Pod, Vec<PersistentVolumeClaim>) {
        let keeps_current = self.rolling() && ordinal < self.partition();
        let (revision, template) = match keeps_current {
            true => (&self.observed.current.0, &self.observed.current.1),
            false => (&self.observed.update, &self.spec.template),
        };
        identity::make(self.set, self.spec, ordinal, revision, template)
    }

    /// Claims of an ordinal that are not there, or not there any more.
    fn missing_claims(&self, ordinal: i32) -> Vec<Action> {
        let (pod, claims) = self.make(ordinal);
        let (about, set, name) = (client::reference(self.set), self.set.name_any(), pod.name_any());
        let missing = claims.into_iter().filter(|claim| !self.observed.claims.contains_key(&claim.name_any()));
        let claim = |claim: PersistentVolumeClaim| {
            let done = format!("create Claim {} Pod {name} in StatefulSet {set} success", claim.name_any());
            let failed = format!(
                "create Claim {} for Pod {name} in StatefulSet {set} failed error: {{error}}",
                claim.name_any()
            );
            action::create(&claim, Told::done(&about, "SuccessfulCreate", done).or("FailedCreate", failed))
        };
        missing.map(claim).collect()
    }

    fn create(&self, ordinal: i32) -> Vec<Action> {
        let mut actions = self.missing_claims(ordinal);
        let (pod, _) = self.make(ordinal);
        let (about, set, name) = (client::reference(self.set), self.set.name_any(), pod.name_any());
        let told = Told::done(&about, "SuccessfulCreate", format!("create Pod {name} in StatefulSet {set} successful"))
            .or("FailedCreate", format!("create Pod {name} in StatefulSet {set} failed error: {{error}}"));
        actions.push(action::create(&pod, told));
        actions
    }

    fn delete(&self, pod: &Pod) -> Action {
        let (about, set, name) = (client::reference(self.set), self.set.name_any(), pod.name_any());
        let told = Told::done(&about, "SuccessfulDelete", format!("delete Pod {name} in StatefulSet {set} successful"))
            .or("FailedDelete", format!("delete Pod {name} in StatefulSet {set} failed error: {{error}}"));
        action::delete(pod, told)
    }

    pub(super) fn status(&self) -> StatefulSetStatus {
        let old = self.set.status.clone().unwrap_or_default();
        let all = || self.observed.pods.values();
        let count = |which: &dyn Fn(&Pod) -> bool| all().filter(|pod| which(pod)).count() as i32;
        let some = |number: i32| Some(number).filter(|number| *number != 0);
        let alive = |pod: &Pod| !pods::is_terminating(pod);
        let (replicas, ready) =
            (all().count() as i32, count(&|pod| pods::phase(pod) == "Running" && pods::is_ready(pod)));
        let updated = count(&|pod| alive(pod) && self.is_at(pod, &self.observed.update));
        let mut current =
            (self.observed.current.0.clone(), count(&|p| alive(p) && self.is_at(p, &self.observed.current.0)));
        if self.rolling() && updated == replicas && ready == replicas && replicas == self.spec.replicas.unwrap_or(1) {
            current = (self.observed.update.clone(), updated);
        }
        StatefulSetStatus {
            observed_generation: self.set.metadata.generation,
            replicas,
            ready_replicas: some(ready),
            available_replicas: Some(count(&|pod| self.is_available(pod))),
            current_replicas: some(current.1),
            updated_replicas: some(updated),
            current_revision: Some(current.0),
            update_revision: Some(self.observed.update.clone()),
            collision_count: old.collision_count.or(Some(0)),
            conditions: old.conditions,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    struct Cluster {
        set: StatefulSet,
        observed: Observed,
    }

    impl Cluster {
        fn new(spec: Value) -> Self {
            let mut set = json!({"metadata": {"name": "db", "namespace": "ns", "uid": "s"}, "spec": {"serviceName": "db",
                "selector": {"matchLabels": {"app": "db"}}, "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": []}},
                "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]}});
            set["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
            let set: StatefulSet = serde_json::from_value(set).unwrap();
            let current = ("db-1".to_owned(), set.spec.as_ref().unwrap().template.clone());
            let observed = Observed { pods: BTreeMap::new(), claims: HashMap::new(), update: "db-1".into(), current };
            Self { set, observed }
        }

        /// Carries out one step; the names of what was made (+) and deleted (-).
        fn step(&mut self) -> Vec<String> {
            let spec = self.set.spec.clone().unwrap();
            let actions = Step::new(&self.set, &spec, &self.observed, Timestamp::UNIX_EPOCH).actions();
            actions.into_iter().map(|action| self.apply(action)).collect()
        }

        fn apply(&mut self, action: Action) -> String {
            match action {
                Action::Create { target, object, .. } if target.resource.kind == "PersistentVolumeClaim" => {
                    let claim = serde_json::from_value(object).unwrap();
                    self.observed.claims.insert(target.name.clone(), Arc::new(claim));
                    format!("+{}", target.name)
                }
                Action::Create { target, object, .. } => {
                    let ordinal = target.name[3..].parse().unwrap();
                    self.observed.pods.insert(ordinal, Arc::new(serde_json::from_value(object).unwrap()));
                    format!("+{}", target.name)
                }
                Action::Delete { target, .. } => {
                    self.observed.pods.retain(|_, pod| pod.name_any() != target.name);
                    format!("-{}", target.name)
                }
                other => panic!("{other:?}"),
            }
        }

        fn make_ready(&mut self) {
            for pod in self.observed.pods.values_mut() {
                let ready = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
                Arc::make_mut(pod).status = Some(serde_json::from_value(ready).unwrap());
            }
        }

        fn revisions(&self) -> Vec<String> {
            self.observed.pods.values().map(|pod| pod.labels()[REVISION_HASH].clone()).collect()
        }
    }

    #[test]
    fn pods_come_and_go_in_order_with_their_claims() {
        let mut cluster = Cluster::new(json!({"replicas": 2}));
        assert_eq!(cluster.step(), ["+data-db-0", "+db-0"]);
        assert_eq!(cluster.step(), Vec::<String>::new(), "the first isn't ready yet");
        cluster.make_ready();
        assert_eq!(cluster.step(), ["+data-db-1", "+db-1"]);
        cluster.make_ready();
        let pod = &cluster.observed.pods[&1];
        let spec = pod.spec.as_ref().unwrap();
        assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("db-1"), Some("db")));
        assert_eq!(pod.labels()["statefulset.kubernetes.io/pod-name"], "db-1");
        cluster.set.spec.as_mut().unwrap().replicas = Some(0);
        let ready = cluster.observed.pods.clone();
        cluster.observed.pods.values_mut().for_each(|pod| Arc::make_mut(pod).status = None);
        assert_eq!(cluster.step(), Vec::<String>::new(), "several unhealthy pods halt it");
        cluster.observed.pods = ready;
        assert_eq!(cluster.step(), ["-db-1"]);
        assert_eq!(cluster.step(), ["-db-0"]);
        cluster.set.spec.as_mut().unwrap().replicas = Some(1);
        assert_eq!(cluster.step(), ["+db-0"], "the claim is still there");
    }

    #[test]
    fn an_update_goes_from_the_last_to_the_partition() {
        let mut cluster = Cluster::new(json!({"replicas": 3, "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}}));
        assert_eq!(cluster.step().len(), 6, "all at once");
        cluster.make_ready();
        cluster.observed.update = "db-2".into();
        assert_eq!(cluster.step(), ["-db-2"]);
        assert_eq!(cluster.step(), ["+db-2"]);
        assert_eq!(cluster.step(), Vec::<String>::new());
        cluster.make_ready();
        assert_eq!(cluster.step(), ["-db-1"]);
        cluster.step();
        cluster.make_ready();
        assert_eq!(cluster.step(), Vec::<String>::new());
        assert_eq!(cluster.revisions(), ["db-1", "db-2", "db-2"]);
        cluster.observed.pods.remove(&0);
        cluster.step();
        assert_eq!(cluster.revisions()[0], "db-1", "below the partition the old template is used");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn ordered_sets_never_lack_two(replicas in 1i32..6, lost in prop::collection::vec(0i32..6, 0..8)) {
            let mut cluster = Cluster::new(json!({"replicas": replicas}));
            for _ in 0..2 * replicas { cluster.step(); cluster.make_ready(); }
            prop_assert_eq!(cluster.observed.pods.len() as i32, replicas);
            cluster.observed.update = "db-2".into();
            for lost in lost {
                cluster.make_ready();
                let changes = cluster.step();
                prop_assert!(changes.len() <= 1, "{:?}", changes);
                if cluster.observed.pods.len() as i32 == replicas { cluster.observed.pods.remove(&(lost % replicas)); }
            }
            for _ in 0..6 * replicas { cluster.make_ready(); cluster.step(); }
            prop_assert!(cluster.revisions().iter().all(|revision| revision == "db-2"));
            prop_assert_eq!(cluster.observed.pods.len() as i32, replicas);
        }
    }
}
