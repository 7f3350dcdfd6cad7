//! One step of a DaemonSet: one pod on every node where it fits, updated a few at a time.
use super::pod;
use crate::action::{self, Action, Told};
use crate::amount;
use crate::history::REVISION_HASH;
use crate::{placement, pods};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Pods made or deleted in one step.
const BURST: usize = 250;

/// What the caches show.
pub(super) struct Observed {
    /// All nodes: what the status counts.
    pub nodes: Vec<Arc<Node>>,
    /// Those of this site, which get their pods from here.
    pub of_site: Vec<Arc<Node>>,
    /// The set's pods by the node they are on or meant for.
    pub pods: BTreeMap<String, Vec<Arc<Pod>>>,
    /// The hash of the current template.
    pub hash: String,
}

pub(super) struct Step<'a> {
    pub set: &'a DaemonSet,
    pub spec: &'a DaemonSetSpec,
    pub observed: &'a Observed,
    pub now: Timestamp,
}

impl Step<'_> {
    /// May a pod start there, and may one that is there stay?
    fn fits(&self, node: &Node) -> (bool, bool) {
        let template = pod::for_node(self.set, self.spec, &node.name_any(), &self.observed.hash);
        let tolerations = crate::taints::tolerations(&template);
        let selected = self.spec.template.spec.as_ref().is_some_and(|spec| placement::selects(spec, node));
        let start = selected && placement::tolerated(tolerations, node, &["NoSchedule", "NoExecute"]);
        (start, selected && placement::tolerated(tolerations, node, &["NoExecute"]))
    }

    fn on(&self, node: &Node) -> &[Arc<Pod>] {
        self.observed.pods.get(&node.name_any()).map(Vec::as_slice).unwrap_or_default()
    }

    fn is_updated(&self, pod: &Pod) -> bool {
        pod.labels().get(REVISION_HASH) == Some(&self.observed.hash)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        !pods::is_terminating(pod) && pods::is_available(pod, self.spec.min_ready_seconds.unwrap_or_default(), self.now)
    }

    fn desired(&self, nodes: &[Arc<Node>]) -> i32 {
        nodes.iter().filter(|node| self.fits(node).0).count() as i32
    }

    /// `(maxSurge, maxUnavailable)` of this site, or nothing when pods are updated only as they are deleted.
    fn rolling(&self) -> Option<(i32, i32)> {
        let strategy = self.spec.update_strategy.as_ref();
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
            return None;
        }
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let desired = self.desired(&self.observed.of_site);
        let surge = amount::scaled(rolling.and_then(|r| r.max_surge.as_ref()), desired, true);
        let unavailable = rolling.and_then(|r| r.max_unavailable.as_ref());
        let unavailable = unavailable.map_or(1, |value| amount::scaled(Some(value), desired, true));
        Some((surge, if surge == 0 { unavailable.max(1) } else { unavailable }))
    }

    /// Makes and deletes pods; updates once every node has what it should.
    pub(super) fn actions(&self) -> Vec<Action> {
        if self.set.metadata.deletion_timestamp.is_some() {
            return Vec::new();
        }
        let (mut create, mut delete) = (Vec::new(), Vec::new());
        for node in &self.observed.of_site {
            self.manage(node, &mut create, &mut delete);
        }
        // Pods of nodes that are gone are the pod collector's.
        if create.is_empty() && delete.is_empty() {
            self.roll(&mut create, &mut delete);
        }
        let about = client::reference(self.set);
        let deletes = delete.iter().map(|pod| action::delete(&**pod, Told::pod_deleted(&about)));
        let creates = create.iter().map(|node| {
            let pod = pod::for_node(self.set, self.spec, node, &self.observed.hash);
            action::create(&pod, Told::pod_created(&about))
        });
        deletes.take(BURST).chain(creates.take(BURST)).collect()
    }

    fn manage(&self, node: &Node, create: &mut Vec<String>, delete: &mut Vec<Arc<Pod>>) {
        let (start, stay) = self.fits(node);
        let pods = self.on(node);
        let finished = pods.iter().filter(|pod| pods::is_finished(pod) && !pods::is_terminating(pod));
        delete.extend(finished.cloned());
        let mut alive: Vec<&Arc<Pod>> = pods.iter().filter(|pod| pods::is_active(pod)).collect();
        if !stay {
            return delete.extend(alive.into_iter().cloned());
        }
        let leaving = pods.iter().any(|pod| pods::is_terminating(pod));
        let failed = pods.iter().any(|pod| pods::is_finished(pod));
        if alive.is_empty() && start && !leaving && !failed {
            create.push(node.name_any());
        }
        if alive.len() > 1 && !self.surging(&alive) {
            // The oldest stays.
            alive.sort_by_key(|pod| (pod.metadata.creation_timestamp.as_ref().map(|time| time.0), pod.name_any()));
            delete.extend(alive.into_iter().skip(1).cloned());
        }
    }

    /// An old pod beside its new one.
    fn surging(&self, alive: &[&Arc<Pod>]) -> bool {
        let allowed = self.rolling().is_some_and(|(surge, _)| surge > 0);
        let updated = alive.iter().filter(|pod| self.is_updated(pod)).count();
        allowed && alive.len() == 2 && updated == 1
    }

    fn roll(&self, create: &mut Vec<String>, delete: &mut Vec<Arc<Pod>>) {
        let Some((surge, unavailable)) = self.rolling() else { return };
        let nodes: Vec<_> = self.observed.of_site.iter().filter(|node| self.fits(node).0).collect();
        let away = nodes.iter().filter(|node| !self.on(node).iter().any(|pod| self.is_available(pod))).count() as i32;
        let mut room = unavailable - away;
        let mut surging = nodes.iter().filter(|node| self.on(node).len() > 1).count() as i32;
        for node in nodes {
            let pods = self.on(node);
            let Some(old) = pods.iter().find(|pod| !self.is_updated(pod) && !pods::is_terminating(pod)) else {
                continue;
            };
            let new = pods.iter().find(|pod| self.is_updated(pod) && !pods::is_terminating(pod));
            match new {
                Some(new) if self.is_available(new) || !self.is_available(old) => delete.push(old.clone()),
                Some(_) => {}
                None if surge > surging => {
                    surging += 1;
                    create.push(node.name_any());
                }
                // What isn't available costs nothing to replace.
                None if surge == 0 && !self.is_available(old) => delete.push(old.clone()),
                None if surge == 0 && room > 0 => {
                    room -= 1;
                    delete.push(old.clone());
                }
                None => {}
            }
        }
    }

    pub(super) fn status(&self) -> DaemonSetStatus {
        let mut counted = DaemonSetStatus {
            observed_generation: self.set.metadata.generation,
            collision_count: self.set.status.as_ref().and_then(|status| status.collision_count),
            conditions: self.set.status.as_ref().and_then(|status| status.conditions.clone()),
            ..DaemonSetStatus::default()
        };
        let (mut updated, mut available, mut unavailable) = (0, 0, 0);
        for node in &self.observed.nodes {
            let mut alive: Vec<_> = self.on(node).iter().filter(|pod| !pods::is_terminating(pod)).collect();
            alive.sort_by_key(|pod| !pods::is_ready(pod));
            if !self.fits(node).0 {
                counted.number_misscheduled += i32::from(!alive.is_empty());
                continue;
            }
            counted.desired_number_scheduled += 1;
            counted.current_number_scheduled += i32::from(!alive.is_empty());
            counted.number_ready += i32::from(alive.iter().any(|pod| pods::is_ready(pod)));
            updated += i32::from(alive.iter().any(|pod| self.is_updated(pod)));
            match alive.iter().any(|pod| self.is_available(pod)) {
                true => available += 1,
                false => unavailable += 1,
            }
        }
        let some = |number: i32| Some(number).filter(|number| *number > 0);
        counted.updated_number_scheduled = some(updated);
        counted.number_available = some(available);
        counted.number_unavailable = some(unavailable);
        counted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(name: &str, taints: Value) -> Arc<Node> {
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"taints": taints}})).unwrap())
    }

    fn set() -> DaemonSet {
        serde_json::from_value(json!({"metadata": {"name": "log", "namespace": "ns", "uid": "d"}, "spec": {
            "selector": {"matchLabels": {"app": "log"}},
            "template": {"metadata": {"labels": {"app": "log"}}, "spec": {"containers": []}}}}))
        .unwrap()
    }

    struct Cluster {
        set: DaemonSet,
        observed: Observed,
        made: usize,
    }

    impl Cluster {
        fn new(nodes: Vec<Arc<Node>>) -> Self {
            Self {
                set: set(),
                observed: Observed { of_site: nodes.clone(), nodes, pods: BTreeMap::new(), hash: "one".into() },
                made: 0,
            }
        }

        fn step(&mut self) -> Vec<String> {
            let spec = self.set.spec.clone().unwrap();
            let step = Step { set: &self.set, spec: &spec, observed: &self.observed, now: Timestamp::UNIX_EPOCH };
            let actions = step.actions();
            actions.into_iter().map(|action| self.apply(action)).collect()
        }

        fn apply(&mut self, action: Action) -> String {
            match action {
                Action::Create { object, .. } => {
                    let mut pod: Pod = serde_json::from_value(object).unwrap();
                    let node = pod::node_of(&pod).unwrap().to_owned();
                    self.made += 1;
                    pod.metadata.name = Some(format!("p{}", self.made));
                    self.observed.pods.entry(node.clone()).or_default().push(Arc::new(pod));
                    format!("+{node}")
                }
                Action::Delete { target, .. } => {
                    self.observed.pods.values_mut().for_each(|pods| pods.retain(|pod| pod.name_any() != target.name));
                    format!("-{}", target.name)
                }
                other => panic!("{other:?}"),
            }
        }

        fn make_ready(&mut self) {
            for pod in self.observed.pods.values_mut().flatten() {
                let ready = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
                Arc::make_mut(pod).status = Some(serde_json::from_value(ready).unwrap());
            }
        }

        fn status(&self) -> DaemonSetStatus {
            let spec = self.set.spec.clone().unwrap();
            Step { set: &self.set, spec: &spec, observed: &self.observed, now: Timestamp::UNIX_EPOCH }.status()
        }
    }

    #[test]
    fn every_node_that_fits_gets_one_even_when_not_ready() {
        let master = json!([{"key": "master", "effect": "NoSchedule"}]);
        let unready = json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}]);
        let mut cluster = Cluster::new(vec![node("a", json!([])), node("b", master), node("c", unready)]);
        assert_eq!(cluster.step(), ["+a", "+c"]);
        assert_eq!(cluster.step(), Vec::<String>::new());
        cluster.make_ready();
        let status = cluster.status();
        assert_eq!((status.desired_number_scheduled, status.number_ready, status.number_available), (2, 2, Some(2)));
        cluster.observed.of_site[0] = node("a", json!([{"key": "out", "effect": "NoExecute"}]));
        assert_eq!(cluster.step(), ["-p1"], "a taint drives it away");
    }

    #[test]
    fn each_site_makes_pods_for_its_own_nodes_and_the_status_counts_all() {
        let mut cluster = Cluster::new(vec![node("here", json!([])), node("there", json!([]))]);
        cluster.observed.of_site.retain(|node| node.name_any() == "here");
        assert_eq!(cluster.step(), ["+here"]);
        cluster.make_ready();
        assert_eq!((cluster.status().desired_number_scheduled, cluster.status().number_ready), (2, 1));
    }

    #[test]
    fn updates_replace_one_at_a_time_or_surge() {
        let mut cluster = Cluster::new(vec![node("a", json!([])), node("b", json!([]))]);
        cluster.step();
        cluster.make_ready();
        cluster.observed.hash = "two".into();
        assert_eq!(cluster.step(), ["-p1"]);
        assert_eq!(cluster.step(), ["+a"]);
        assert_eq!(cluster.step(), Vec::<String>::new(), "the new one isn't available yet");
        cluster.make_ready();
        assert_eq!(cluster.step(), ["-p2"]);
        cluster.step();
        cluster.make_ready();
        assert_eq!(cluster.status().updated_number_scheduled, Some(2));

        let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
        cluster.set.spec.as_mut().unwrap().update_strategy = serde_json::from_value(strategy).unwrap();
        cluster.observed.hash = "three".into();
        assert_eq!(cluster.step(), ["+a"]);
        assert_eq!(cluster.step(), Vec::<String>::new());
        cluster.make_ready();
        assert_eq!(cluster.step(), ["-p3"], "the old one goes when the new one is available");
    }
}
