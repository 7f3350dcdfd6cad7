//! All nodes and the pods on them, real and assumed: the one state that decisions are made on, changed in place
//! by every event, never copied.
use crate::budgets::Budgets;
use crate::node::NodeInfo;
use crate::nominated::Nominated;
use crate::pod::PodInfo;
use crate::storage::Storage;
use api::home::Site;
use k8s_openapi::api::core::v1::Node;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Where a pod is and whether the API has said so.
#[derive(Clone, Debug)]
struct Placed {
    node: Arc<str>,
    assumed: bool,
}

/// Pods of one controller, counted by node and by zone.
#[derive(Clone, Debug, Default)]
pub struct Siblings {
    pub nodes: HashMap<Arc<str>, u32>,
    pub zones: HashMap<Arc<str>, u32>,
}

/// Placed pods by what selectors and their own wishes can tell of them. Matching one of a class is matching all, so
/// that a large ReplicaSet costs no more than a small one.
#[derive(Debug, Default)]
struct Classes {
    /// A pod of the class and how many there are, by number; a number that is free holds none.
    members: Vec<Option<(Arc<PodInfo>, u32)>>,
    free: Vec<usize>,
    numbers: HashMap<Arc<str>, usize>,
}

impl Classes {
    fn add(&mut self, pod: &Arc<PodInfo>) -> usize {
        if let Some(number) = self.numbers.get(&pod.class).copied() {
            if let Some((_, count)) = &mut self.members[number] {
                *count += 1;
            }
            return number;
        }
        let number = self.free.pop().unwrap_or(self.members.len());
        if number == self.members.len() {
            self.members.push(None);
        }
        self.members[number] = Some((pod.clone(), 1));
        self.numbers.insert(pod.class.clone(), number);
        number
    }

    fn remove(&mut self, class: &str) -> Option<usize> {
        let number = self.numbers.get(class).copied()?;
        let (_, count) = self.members[number].as_mut()?;
        *count -= 1;
        if *count == 0 {
            self.members[number] = None;
            self.free.push(number);
            self.numbers.remove(class);
        }
        Some(number)
    }
}

#[derive(Debug, Default)]
pub struct Cluster {
    nodes: Vec<NodeInfo>,
    by_name: HashMap<Arc<str>, usize>,
    placed: HashMap<Arc<str>, Placed>,
    /// Nodes that have an image, by the image's name.
    image_nodes: HashMap<Box<str>, usize>,
    /// Where the pods of each controller are, by its uid.
    siblings: HashMap<Arc<str>, Siblings>,
    /// Labels of namespaces, for selectors that choose by them.
    namespaces: HashMap<Box<str>, BTreeMap<String, String>>,
    classes: Classes,
    nominated: Nominated,
    budgets: Budgets,
    storage: Storage,
    /// Victims of preemption that the API may not show as leaving yet.
    evicted: HashSet<Arc<str>>,
    /// Nodes whose object is known.
    ready: usize,
    only: Option<OnlySite>,
}

/// The one site whose nodes decisions are about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnlySite {
    pub site: Site,
    /// Whether nodes that name no site are among them.
    pub unnamed: bool,
}

impl OnlySite {
    pub fn holds(&self, node: &NodeInfo) -> bool {
        node.home.as_ref().map_or(self.unnamed, |home| *home == self.site)
    }
}

/// A pod that was taken away in thought; [`Cluster::put_back`] undoes it.
#[derive(Debug)]
pub struct Lifted {
    pod: Arc<PodInfo>,
    placed: Placed,
}

impl Cluster {
    /// The site whose nodes alone can be chosen; none where sites don't count.
    pub fn only_site(&self) -> Option<&OnlySite> {
        self.only.as_ref()
    }

    pub fn look_at(&mut self, only: Option<OnlySite>) {
        self.only = only;
    }

    pub fn nominated(&self) -> &Nominated {
        &self.nominated
    }

    pub fn nominated_mut(&mut self) -> &mut Nominated {
        &mut self.nominated
    }

    pub fn budgets(&self) -> &Budgets {
        &self.budgets
    }

    pub fn budgets_mut(&mut self) -> &mut Budgets {
        &mut self.budgets
    }

    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    pub fn storage_mut(&mut self) -> &mut Storage {
        &mut self.storage
    }

    /// Remembers that a pod is being ended, until it is gone or [`Self::spare`]d.
    pub fn evict(&mut self, uid: &Arc<str>) {
        if self.is_placed(uid) {
            self.evicted.insert(uid.clone());
        }
    }

    /// Its end failed.
    pub fn spare(&mut self, uid: &str) {
        self.evicted.remove(uid);
    }

    pub fn is_evicted(&self, uid: &str) -> bool {
        self.evicted.contains(uid)
    }

    /// Takes a pod away for a try.
    pub fn lift(&mut self, uid: &str) -> Option<Lifted> {
        let placed = self.placed.get(uid)?.clone();
        Some(Lifted { pod: self.unplace(uid)?, placed })
    }

    pub fn put_back(&mut self, lifted: Lifted) {
        self.place(lifted.pod, lifted.placed.node, lifted.placed.assumed);
    }

    /// The nodes that exist, with their places in [`Self::slots`].
    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.iter().filter(|node| node.object.is_some())
    }

    /// Nodes that exist.
    pub fn len(&self) -> usize {
        self.ready
    }

    pub fn is_empty(&self) -> bool {
        self.ready == 0
    }

    /// All places, some of which may be empty (a node that is gone but whose pods are not).
    pub fn slots(&self) -> &[NodeInfo] {
        &self.nodes
    }

    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.by_name.get(name).map(|at| &self.nodes[*at])
    }

    /// A node's place in [`Self::slots`].
    pub fn place_of(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    pub fn nodes_with_image(&self, name: &str) -> usize {
        self.image_nodes.get(name).copied().unwrap_or_default()
    }

    /// Where the placed pods of this controller are, if there are any.
    pub fn siblings(&self, controller: &str) -> Option<&Siblings> {
        self.siblings.get(controller)
    }

    pub fn set_namespace(&mut self, name: &str, labels: BTreeMap<String, String>) {
        self.namespaces.insert(name.into(), labels);
    }

    pub fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    pub fn namespace_labels(&self, name: &str) -> Option<&BTreeMap<String, String>> {
        self.namespaces.get(name)
    }

    /// One pod of each class that is placed anywhere, by the number that nodes count it under.
    pub fn classes(&self) -> impl Iterator<Item = (usize, &PodInfo)> {
        let members = self.classes.members.iter().enumerate();
        members.filter_map(|(number, member)| Some((number, &*member.as_ref()?.0)))
    }

    pub fn set_node(&mut self, node: Arc<Node>) {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let at = self.slot(name);
        self.count_images(at, false);
        self.ready += usize::from(self.nodes[at].object.is_none());
        let zone = self.nodes[at].zone.clone();
        self.nodes[at].set_object(node);
        self.move_zone(at, zone);
        self.count_images(at, true);
    }

    pub fn remove_node(&mut self, name: &str) {
        let Some(at) = self.by_name.get(name).copied() else { return };
        self.count_images(at, false);
        let node = &mut self.nodes[at];
        self.ready -= usize::from(node.object.take().is_some());
        node.images.clear();
        self.drop_if_empty(at);
    }

    /// Puts a pod on a node ahead of the API's word.
    pub fn assume(&mut self, pod: Arc<PodInfo>, node: Arc<str>) {
        self.place(pod, node, true);
    }

    /// Takes back an assumption; what the API has confirmed stays.
    pub fn forget(&mut self, uid: &str) {
        if self.placed.get(uid).is_some_and(|placed| placed.assumed) {
            self.remove_pod(uid);
        }
    }

    /// The API's word: the pod is on this node.
    pub fn set_pod(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.unplace(&pod.uid);
        let at = self.slot(node);
        let node = self.nodes[at].name.clone();
        self.place(pod, node, false);
    }

    pub fn remove_pod(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        self.evicted.remove(uid);
        self.unplace(uid)
    }

    fn unplace(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let placed = self.placed.remove(uid)?;
        let at = self.by_name.get(&placed.node).copied()?;
        let pod = self.nodes[at].remove_pod(uid);
        if let Some(class) = pod.as_ref().and_then(|pod| self.classes.remove(&pod.class)) {
            self.nodes[at].count_class(class, false);
        }
        if let Some(controller) = pod.as_ref().and_then(|pod| pod.controller.as_ref()) {
            self.count_sibling(controller, &placed.node, false);
        }
        self.drop_if_empty(at);
        pod
    }

    pub fn is_placed(&self, uid: &str) -> bool {
        self.placed.contains_key(uid)
    }

    fn place(&mut self, pod: Arc<PodInfo>, node: Arc<str>, assumed: bool) {
        if let Some(controller) = &pod.controller {
            self.count_sibling(&controller.clone(), &node, true);
        }
        self.placed.insert(pod.uid.clone(), Placed { node: node.clone(), assumed });
        let at = self.slot(&node);
        let class = self.classes.add(&pod);
        self.nodes[at].count_class(class, true);
        self.nodes[at].add_pod(pod);
    }

    fn count_sibling(&mut self, controller: &Arc<str>, node: &Arc<str>, more: bool) {
        let zone = self.node(node).and_then(|node| node.zone.clone());
        let siblings = self.siblings.entry(controller.clone()).or_default();
        count(&mut siblings.nodes, node, more);
        if let Some(zone) = zone {
            count(&mut siblings.zones, &zone, more);
        }
        if siblings.nodes.is_empty() {
            self.siblings.remove(controller);
        }
    }

    /// A node has moved to another zone, or said for the first time where it is.
    fn move_zone(&mut self, at: usize, before: Option<Arc<str>>) {
        let node = &self.nodes[at];
        if node.zone == before {
            return;
        }
        for controller in node.pods.values().filter_map(|pod| pod.controller.as_ref()) {
            let Some(siblings) = self.siblings.get_mut(controller) else { continue };
            if let Some(before) = &before {
                count(&mut siblings.zones, before, false);
            }
            if let Some(now) = &node.zone {
                count(&mut siblings.zones, now, true);
            }
        }
    }

    fn slot(&mut self, name: &str) -> usize {
        if let Some(at) = self.by_name.get(name) {
            return *at;
        }
        let name: Arc<str> = name.into();
        self.nodes.push(NodeInfo::new(name.clone()));
        self.by_name.insert(name, self.nodes.len() - 1);
        self.nodes.len() - 1
    }

    fn drop_if_empty(&mut self, at: usize) {
        if self.nodes[at].object.is_some() || !self.nodes[at].pods.is_empty() {
            return;
        }
        let gone = self.nodes.swap_remove(at);
        self.by_name.remove(&gone.name);
        if let Some(moved) = self.nodes.get(at) {
            self.by_name.insert(moved.name.clone(), at);
        }
    }

    fn count_images(&mut self, at: usize, more: bool) {
        for name in self.nodes[at].images.keys() {
            let count = self.image_nodes.entry(name.clone()).or_default();
            *count = if more { *count + 1 } else { count.saturating_sub(1) };
            if *count == 0 {
                self.image_nodes.remove(name);
            }
        }
    }
}

fn count(counts: &mut HashMap<Arc<str>, u32>, key: &Arc<str>, more: bool) {
    let entry = counts.entry(key.clone()).or_default();
    *entry = if more { *entry + 1 } else { entry.saturating_sub(1) };
    if *entry == 0 {
        counts.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, pod};
    use serde_json::json;

    #[test]
    fn pods_are_counted_once() {
        let mut cluster = Cluster::default();
        cluster.set_node(node("n1", json!({})));
        let p = pod("p", json!({"cpu": "1"}), json!({}));
        cluster.assume(p.clone(), "n1".into());
        assert_eq!(cluster.node("n1").unwrap().requested.cpu_milli, 1000);
        cluster.set_pod(p.clone(), "n1");
        assert_eq!(cluster.node("n1").unwrap().requested.cpu_milli, 1000);
        // What is confirmed is no assumption any more.
        cluster.forget(&p.uid);
        assert!(cluster.is_placed(&p.uid));
        cluster.remove_pod(&p.uid);
        assert_eq!(cluster.node("n1").unwrap().requested, Default::default());
    }

    #[test]
    fn a_binding_elsewhere_moves_the_pod() {
        let mut cluster = Cluster::default();
        cluster.set_node(node("n1", json!({})));
        cluster.set_node(node("n2", json!({})));
        let p = pod("p", json!({"cpu": "1"}), json!({}));
        cluster.assume(p.clone(), "n1".into());
        cluster.set_pod(p, "n2");
        assert_eq!(cluster.node("n1").unwrap().requested.cpu_milli, 0);
        assert_eq!(cluster.node("n2").unwrap().requested.cpu_milli, 1000);
    }

    #[test]
    fn classes_come_and_go_with_their_pods() {
        let labelled = |name: &str, app: &str| pod(name, json!({}), json!({"metadata": {"labels": {"app": app}}}));
        let mut cluster = Cluster::default();
        for (name, app) in [("a", "web"), ("b", "web"), ("c", "db")] {
            cluster.set_pod(labelled(name, app), "n1");
        }
        assert_eq!((cluster.classes().count(), cluster.node("n1").unwrap().classes.clone()), (2, vec![(0, 2), (1, 1)]));
        // Another version of the same pod is counted once.
        cluster.set_pod(labelled("a", "web"), "n1");
        cluster.set_pod(labelled("b", "cache"), "n1");
        cluster.remove_pod("c");
        let apps: Vec<_> = cluster.classes().map(|(_, pod)| pod.labels()["app"].clone()).collect();
        assert_eq!(apps.len(), 2);
        assert!(apps.contains(&"web".to_owned()) && apps.contains(&"cache".to_owned()));
        cluster.remove_pod("a");
        cluster.remove_pod("b");
        assert_eq!((cluster.classes().count(), cluster.slots().len()), (0, 0));
    }

    #[test]
    fn siblings_follow_their_nodes_zone() {
        let owned = json!({"metadata": {"ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true}]}});
        let zone = |zone: &str| node("n1", json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}}));
        let zones = |cluster: &Cluster| {
            cluster.siblings("r").map(|s| s.zones.iter().map(|(k, v)| (k.to_string(), *v)).collect::<Vec<_>>())
        };
        let mut cluster = Cluster::default();
        cluster.set_pod(pod("p", json!({}), owned), "n1");
        assert_eq!(zones(&cluster), Some(vec![]));
        cluster.set_node(zone("a"));
        assert_eq!(zones(&cluster), Some(vec![("a".into(), 1)]));
        cluster.set_node(zone("b"));
        cluster.remove_node("n1");
        assert_eq!(zones(&cluster), Some(vec![("b".into(), 1)]));
        cluster.remove_pod("p");
        assert_eq!(zones(&cluster), None);
    }

    #[test]
    fn pods_outlive_their_node() {
        let mut cluster = Cluster::default();
        cluster.set_pod(pod("p", json!({"cpu": "1"}), json!({})), "n1");
        assert_eq!(cluster.len(), 0);
        cluster.set_node(node("n1", json!({})));
        cluster.set_node(node("n2", json!({})));
        assert_eq!((cluster.len(), cluster.node("n1").unwrap().requested.cpu_milli), (2, 1000));
        cluster.remove_node("n1");
        assert_eq!((cluster.len(), cluster.slots().len()), (1, 2));
        cluster.remove_pod("p");
        assert_eq!(cluster.slots().len(), 1);
        assert!(cluster.node("n2").is_some());
    }
}
