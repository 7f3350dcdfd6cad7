//! The scheduler without its shell: events in, decisions out.
mod handover;

use crate::cluster::Cluster;
use crate::framework::{Diagnosis, Events, Framework, Outcome, Rotation};
use crate::pod::PodInfo;
use crate::queue::Queue;
use crate::storage::{Step, Storage};
use api::home::Ownership;
pub use handover::Handover;
use handover::Lent;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// What is to be done about one pod.
#[derive(Clone, Debug)]
pub enum Decision {
    /// Do the steps for its volumes, then bind it; answer with [`Core::bound`] or [`Core::bind_failed`].
    Bind { pod: Arc<PodInfo>, node: Arc<str>, steps: Vec<Step> },
    /// Nothing fits: say so. The pod waits until something changes.
    Unschedulable { pod: Arc<PodInfo>, message: String, nomination: Nomination },
    /// Nothing fits yet: end the victims to make room; answer with [`Core::evicted`].
    Preempt { pod: Arc<PodInfo>, message: String, preemption: Preemption },
    /// Another site is to find a node for it; answer with [`Core::handed_over`].
    HandOver { pod: Arc<PodInfo>, handover: Handover },
}

/// What becomes of `status.nominatedNodeName`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nomination {
    Keep,
    Clear,
    Set(Arc<str>),
}

/// Room that is made for a pod.
#[derive(Clone, Debug)]
pub struct Preemption {
    pub node: Arc<str>,
    /// Pods to end.
    pub victims: Vec<Arc<PodInfo>>,
    /// Pods that waited for the same node and lose their nomination.
    pub outranked: Vec<Arc<PodInfo>>,
}

pub struct Core {
    /// Pods that name another scheduler are only counted.
    name: String,
    framework: Framework,
    cluster: Cluster,
    queue: Queue,
    rotation: Rotation,
    /// What has happened since waiting pods were last looked at.
    happened: Events,
    ownership: Ownership,
    /// Since when pods have fitted nowhere here, by uid: those that another site may take. Bounded by the pods that wait.
    homeless: HashMap<Arc<str>, u64>,
    /// When one of them may go elsewhere.
    due: BTreeSet<(u64, Arc<str>)>,
    lent: Lent,
}

impl Core {
    pub fn new(name: impl Into<String>, framework: Framework, seed: u64) -> Self {
        Self {
            name: name.into(),
            framework,
            cluster: Cluster::default(),
            queue: Queue::default(),
            rotation: Rotation::new(seed),
            happened: Events::NONE,
            ownership: Ownership::default(),
            homeless: HashMap::new(),
            due: BTreeSet::new(),
            lent: Lent::default(),
        }
    }

    /// What is known of other sites has changed: [`Self::resync`] has to follow.
    pub fn sites_changed(&mut self, ownership: Ownership) {
        self.ownership = ownership;
        self.lent.look_again();
        self.look_home();
        self.happened = self.happened | Events::NODE_ADDED;
    }

    /// Whether the pod is this site's to place: never in the course of a takeover, which makes pods of its own.
    fn is_ours(&self, pod: &PodInfo) -> bool {
        self.ownership.is_home(&client::home::claim(&*pod.object))
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Pods that wait, in any way.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// A pod appeared or changed.
    pub fn pod_changed(&mut self, object: Arc<Pod>, now_ms: u64) {
        let pod = Arc::new(PodInfo::new(object));
        if pod.is_terminal() {
            return self.pod_gone(&pod.uid);
        }
        if let Some(node) = pod.node_name() {
            self.lent.settled(&pod.uid);
            self.queue.remove(&pod.uid);
            self.cluster.nominated_mut().remove(&pod.uid);
            return self.pod_placed(pod.clone(), node);
        }
        self.lent.follow(&pod, &self.ownership);
        if pod.is_deleting() || pod.scheduler_name() != self.name || !self.is_ours(&pod) {
            return self.left(&pod.uid);
        }
        // What is assumed waits for the answer to its binding.
        if !self.cluster.is_placed(&pod.uid) {
            self.follow_nomination(&pod);
            self.queue.upsert(pod, now_ms);
        }
    }

    /// A nomination that was decided here is kept until the API has shown it and then shows it no more.
    fn follow_nomination(&mut self, pod: &Arc<PodInfo>) {
        let before = self.queue.get(&pod.uid).and_then(|before| before.nominated_node().map(Arc::<str>::from));
        match pod.nominated_node() {
            Some(node) => self.cluster.nominated_mut().set(pod.clone(), node.into()),
            None if before.is_some() && before.as_ref() == self.cluster.nominated().node_of(&pod.uid) => {
                self.cluster.nominated_mut().remove(&pod.uid);
            }
            None => {}
        }
    }

    /// A pod is gone from the API.
    pub fn pod_gone(&mut self, uid: &str) {
        self.lent.settled(uid);
        self.left(uid);
    }

    /// A pod is none that waits for a node here.
    fn left(&mut self, uid: &str) {
        self.queue.remove(uid);
        self.settled(uid);
        self.cluster.nominated_mut().remove(uid);
        if self.cluster.remove_pod(uid).is_some() {
            self.happened = self.happened | Events::POD_REMOVED;
        }
    }

    fn pod_placed(&mut self, pod: Arc<PodInfo>, node: &str) {
        let before = self.cluster.node(node).and_then(|node| node.pods.get(&pod.uid)).cloned();
        self.happened = self.happened
            | match before {
                None => Events::POD_ADDED,
                Some(before) if before.labels() != pod.labels() => Events::POD_LABELS,
                // A resize may have freed something.
                Some(before) if before.request != pod.request => Events::POD_REMOVED,
                Some(_) => Events::NONE,
            };
        self.cluster.set_pod(pod.clone(), node);
    }

    pub fn node_changed(&mut self, object: Arc<Node>) {
        let before = self.cluster.node(&object.name_any()).and_then(|node| node.object.clone());
        self.happened = self.happened | node_events(before.as_deref(), &object);
        self.cluster.set_node(object);
    }

    pub fn node_gone(&mut self, name: &str) {
        self.cluster.remove_node(name);
    }

    pub fn namespace_changed(&mut self, name: &str, labels: BTreeMap<String, String>) {
        if self.cluster.namespace_labels(name) != Some(&labels) {
            self.cluster.set_namespace(name, labels);
            // Selectors of namespaces decide which pods are meant, as the pods' own labels do.
            self.happened = self.happened | Events::POD_LABELS;
        }
    }

    pub fn namespace_gone(&mut self, name: &str) {
        self.cluster.remove_namespace(name);
    }

    /// Brings everything in line with full lists, where single events were missed.
    pub fn resync(&mut self, pods: Vec<Arc<Pod>>, nodes: Vec<Arc<Node>>, now_ms: u64) {
        let live: HashSet<&str> = pods.iter().filter_map(|pod| pod.metadata.uid.as_deref()).collect();
        let names: HashSet<String> = nodes.iter().map(|node| node.name_any()).collect();
        let placed = self.cluster.slots().iter().flat_map(|node| node.pods.keys());
        let gone: Vec<Arc<str>> = placed
            .chain(self.queue.uids())
            .chain(self.lent.uids())
            .filter(|uid| !live.contains(&***uid))
            .cloned()
            .collect();
        for uid in gone {
            self.pod_gone(&uid);
        }
        let gone: Vec<Arc<str>> =
            self.cluster.nodes().filter(|node| !names.contains(&*node.name)).map(|node| node.name.clone()).collect();
        for name in gone {
            self.node_gone(&name);
        }
        for node in nodes {
            self.node_changed(node);
        }
        for pod in pods {
            self.pod_changed(pod, now_ms);
        }
    }

    /// Decides on the next pod, if one is due.
    pub fn next(&mut self, now_ms: u64) -> Option<Decision> {
        self.settle(now_ms);
        if let Some((pod, handover)) = self.lent.unheard(&self.ownership, now_ms) {
            return Some(Decision::HandOver { pod, handover });
        }
        let pod = self.queue.pop(now_ms)?;
        if let Some(handover) = self.asked_for(&pod) {
            return Some(self.hand_over(pod, handover, now_ms));
        }
        Some(match self.framework.schedule(&pod, &self.cluster, &mut self.rotation) {
            Ok(node) => {
                self.cluster.nominated_mut().remove(&pod.uid);
                let steps = self.volumes(&pod, &node);
                self.cluster.storage_mut().assume(&steps, &node);
                self.cluster.assume(pod.clone(), node.clone());
                Decision::Bind { pod, node, steps }
            }
            Err(diagnosis) => self.nothing_fits(pod, &diagnosis, now_ms),
        })
    }

    /// What the filter has found to be possible.
    fn volumes(&self, pod: &PodInfo, node: &str) -> Vec<Step> {
        let (storage, node) = (self.cluster.storage(), self.cluster.node(node));
        let wanted = storage.wanted(&pod.object).ok().filter(|wanted| !wanted.is_empty());
        let steps = wanted.zip(node).and_then(|(wanted, node)| storage.steps(&wanted, &node.name, node.labels()).ok());
        steps.unwrap_or_default()
    }

    /// Claims, volumes and classes; call [`Self::storage_changed`] with a change.
    pub fn storage_mut(&mut self) -> &mut Storage {
        self.cluster.storage_mut()
    }

    pub fn storage_changed(&mut self) {
        self.happened = self.happened | Events::STORAGE;
    }

    fn nothing_fits(&mut self, pod: Arc<PodInfo>, diagnosis: &Diagnosis, now_ms: u64) -> Decision {
        let outcome = self.framework.post_filter.run(&self.framework, &pod, &mut self.cluster, diagnosis);
        if !matches!(outcome, Outcome::Preempt { .. })
            && let Some(handover) = self.leaves(&pod, diagnosis, now_ms)
        {
            self.cluster.nominated_mut().remove(&pod.uid);
            return self.hand_over(pod, handover, now_ms);
        }
        self.queue.reject(&pod.uid, diagnosis.plugins, now_ms);
        let nominated = self.cluster.nominated().node_of(&pod.uid).is_some();
        match outcome {
            Outcome::Wait { message } => {
                Decision::Unschedulable { message: diagnosis.message(&message), pod, nomination: Nomination::Keep }
            }
            Outcome::Hopeless { message } => {
                self.cluster.nominated_mut().remove(&pod.uid);
                let nomination = if nominated { Nomination::Clear } else { Nomination::Keep };
                Decision::Unschedulable { message: diagnosis.message(&message), pod, nomination }
            }
            Outcome::Preempt { node, victims, outranked } => {
                victims.iter().for_each(|victim| self.cluster.evict(&victim.uid));
                self.cluster.nominated_mut().set(pod.clone(), node.clone());
                for other in &outranked {
                    self.cluster.nominated_mut().remove(&other.uid);
                    self.queue.fail(&other.uid, now_ms);
                }
                let preemption = Preemption { node, victims, outranked };
                Decision::Preempt { message: diagnosis.message(""), pod, preemption }
            }
        }
    }

    /// Whether and where a pod that fits nowhere here goes now; if it may later, it will be looked at again then.
    fn leaves(&mut self, pod: &Arc<PodInfo>, diagnosis: &Diagnosis, now_ms: u64) -> Option<Handover> {
        if !self.ownership.marked || self.ownership.reachable().next().is_none() {
            return None;
        }
        let since = *self.homeless.entry(pod.uid.clone()).or_insert(now_ms);
        let due_ms = since + if self.has_hope(pod) { handover::wait_ms(pod) } else { 0 };
        if now_ms < due_ms {
            self.due.insert((due_ms, pod.uid.clone()));
            return None;
        }
        self.elsewhere(pod, &diagnosis.message(""))
    }

    /// The pod is placed, handed over or gone.
    fn settled(&mut self, uid: &str) {
        self.homeless.remove(uid);
    }

    fn hand_over(&mut self, pod: Arc<PodInfo>, handover: Handover, now_ms: u64) -> Decision {
        self.lent.lend(&pod, &handover, now_ms);
        Decision::HandOver { pod, handover }
    }

    /// Whether the API took a handover. The pod's own event shows whose it is now; it is tried again where not.
    pub fn handed_over(&mut self, uid: &Arc<str>, handover: &Handover, done: bool, now_ms: u64) {
        self.lent.answered(uid, handover, done);
        self.settled(uid);
        if !done {
            self.queue.fail(uid, now_ms);
        }
    }

    /// The victims whose end the API refused. If there are any, the pod that needs the room is tried again; else it
    /// waits until they are gone.
    pub fn evicted(&mut self, pod: &Arc<str>, refused: &[Arc<str>], now_ms: u64) {
        refused.iter().for_each(|victim| self.cluster.spare(victim));
        if !refused.is_empty() {
            self.queue.fail(pod, now_ms);
        }
    }

    /// A PodDisruptionBudget appeared or changed.
    pub fn budget_changed(&mut self, budget: &PodDisruptionBudget) {
        self.cluster.budgets_mut().set(budget);
    }

    pub fn budget_gone(&mut self, budget: &PodDisruptionBudget) {
        self.cluster.budgets_mut().remove(budget);
    }

    /// All budgets, where single events were missed.
    pub fn resync_budgets(&mut self, budgets: Vec<Arc<PodDisruptionBudget>>) {
        self.cluster.budgets_mut().clear();
        budgets.iter().for_each(|budget| self.budget_changed(budget));
    }

    /// When there may be something to decide without any event.
    pub fn next_tick_ms(&self) -> Option<u64> {
        self.queue.next_tick_ms().into_iter().chain(self.due.first().map(|(due_ms, _)| *due_ms)).min()
    }

    /// The API took the binding. The pod's own event confirms where it is.
    pub fn bound(&mut self, uid: &str) {
        self.queue.remove(uid);
        self.settled(uid);
    }

    /// The API refused the binding: tried again after a while, unless the pod is `gone` or placed otherwise.
    pub fn bind_failed(&mut self, uid: &Arc<str>, steps: &[Step], gone: bool, now_ms: u64) {
        self.cluster.storage_mut().undo(steps);
        self.cluster.forget(uid);
        self.happened = self.happened | Events::POD_REMOVED;
        if gone {
            self.queue.remove(uid);
        } else {
            self.queue.fail(uid, now_ms);
        }
    }

    /// Lets what has happened wake the pods that wait for it; once for many events.
    fn settle(&mut self, now_ms: u64) {
        self.queue.tick(now_ms);
        while self.due.first().is_some_and(|(due_ms, _)| *due_ms <= now_ms) {
            if let Some((_, uid)) = self.due.pop_first().filter(|(_, uid)| self.homeless.contains_key(uid)) {
                self.queue.fail(&uid, now_ms);
            }
        }
        if !self.happened.is_empty() {
            let happened = std::mem::take(&mut self.happened);
            self.queue.wake(self.framework.woken_by(happened), now_ms);
        }
    }
}

fn node_events(before: Option<&Node>, now: &Node) -> Events {
    let Some(before) = before else { return Events::NODE_ADDED };
    let allocatable = |node: &Node| node.status.as_ref().and_then(|status| status.allocatable.clone());
    let taints = |node: &Node| node.spec.as_ref().map(|spec| (spec.taints.clone(), spec.unschedulable));
    let changes = [
        (allocatable(before) != allocatable(now), Events::NODE_ALLOCATABLE),
        (before.labels() != now.labels(), Events::NODE_LABELS),
        (taints(before) != taints(now), Events::NODE_TAINTS),
    ];
    changes.into_iter().filter(|(changed, _)| *changed).fold(Events::NONE, |all, (_, event)| all | event)
}

#[cfg(test)]
mod tests;
