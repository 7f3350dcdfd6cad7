//! DaemonSets: one pod on every node where it fits.
mod plan;
mod pod;

use crate::action;
use crate::error::Error;
use crate::execute::{Run, unless_exists};
use crate::replica_set::{owners_of_pod, still_alive};
use crate::runner::{Reconciler, Watches, key_of};
use crate::{history, owned, pods};
use client::Reflector;
use client::informers::Key;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use plan::{Observed, Step};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

pub(crate) struct DaemonSets {
    pub(crate) sets: Reflector<DaemonSet>,
    pub(crate) pods: Reflector<Pod>,
    pub(crate) nodes: Reflector<Node>,
    pub(crate) revisions: Reflector<ControllerRevision>,
}

impl Reconciler for DaemonSets {
    const NAME: &'static str = "daemon-set-controller";

    fn watch(&self, watches: &mut Watches) {
        watches.everywhere();
        watches.own::<DaemonSet>();
        let sets = self.sets.clone();
        watches.on::<Pod>(move |change| {
            owners_of_pod(change, &sets, |set, pod| {
                let selector = set.spec.as_ref().map(|spec| owned::selector(set, &spec.selector));
                selector.and_then(Result::ok).is_some_and(|s| !s.is_everything() && s.matches(pod.labels()))
            })
        });
        let sets = self.sets.clone();
        watches.on::<Node>(move |change| {
            let place = |node: &Node| {
                let spec = node.spec.clone().unwrap_or_default();
                (node.metadata.labels.clone(), spec.taints, spec.unschedulable)
            };
            // Heartbeats change nothing.
            let moved = change.deleted || change.old.is_none_or(|old| place(old) != place(change.new));
            if moved { sets.list().iter().map(|set| key_of(&**set)).collect() } else { Vec::new() }
        });
        watches.on::<ControllerRevision>(|change| owned::owner_key(change.new, "DaemonSet").into_iter().collect());
    }

    async fn reconcile(&self, (namespace, name): Key, run: &mut Run) -> Result<(), Error> {
        let Some(set) = self.sets.get(&namespace, &name) else { return Ok(()) };
        let Some(spec) = &set.spec else { return Ok(()) };
        let selector = owned::selector(&*set, &spec.selector)?;
        if selector.is_everything() {
            return Ok(());
        }
        let candidates = owned::candidates(&self.pods, &*set);
        let claimed = owned::claim(&*set, &selector, candidates);
        if claimed.adopts() {
            still_alive(run, &*set).await?;
        }
        run.all(claimed.actions).await?;
        let revisions = self.revisions.controlled_by(set.metadata.uid.as_deref().unwrap_or_default());
        let update = history::update(&*set, &spec.template, history::REVISION_HASH, &revisions);
        // Revisions are made at the set's home; their names follow from the template.
        if set.metadata.deletion_timestamp.is_none() && run.acts() {
            unless_exists(run.all(update.actions).await)?;
        }
        let observed = self.observe(run, claimed.mine, update.hash);
        let now = Timestamp::now();
        let step = Step { set: &set, spec, observed: &observed, now };
        let acted = run.all(step.actions()).await;
        let old = set.status.clone().unwrap_or_default();
        run.all(action::status(&*set, &old, &step.status()).into_iter().collect()).await?;
        let mut live = HashSet::from([update.name]);
        let hashes = observed.pods.values().flatten().filter_map(|pod| pod.labels().get(history::REVISION_HASH));
        live.extend(hashes.map(|hash| format!("{name}-{hash}")));
        run.all(history::truncate(&revisions, &live, spec.revision_history_limit.unwrap_or(10))).await?;
        let min_ready_s = spec.min_ready_seconds.unwrap_or_default();
        if let Some(delay) = pods::next_available(observed.pods.values().flatten(), min_ready_s, now) {
            run.again(delay);
        }
        match acted {
            Err(error) if error.is_namespace_terminating() => Ok(()),
            other => other,
        }
    }
}

impl DaemonSets {
    fn observe(&self, run: &Run, mine: Vec<Arc<Pod>>, hash: String) -> Observed {
        let mut pods: BTreeMap<String, Vec<Arc<Pod>>> = BTreeMap::new();
        for pod in mine {
            if let Some(node) = pod::node_of(&pod) {
                pods.entry(node.to_owned()).or_default().push(pod);
            }
        }
        let nodes = self.nodes.list();
        let of_site = nodes.iter().filter(|node| run.owns(&***node)).cloned().collect();
        Observed { of_site, nodes, pods, hash }
    }
}
