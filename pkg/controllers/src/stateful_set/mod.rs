//! StatefulSets: pods with names and claims of their own.
mod identity;
mod plan;
mod retention;

use crate::action;
use crate::error::Error;
use crate::execute::{Run, unless_exists};
use crate::replica_set::{owners_of_pod, still_alive};
use crate::runner::{Reconciler, Watches};
use crate::{history, owned, pods};
use client::Reflector;
use client::informers::Key;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use plan::{Observed, Step};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// The label of a revision that holds its hash.
const HASH: &str = "controller.kubernetes.io/hash";

pub(crate) struct StatefulSets {
    pub(crate) sets: Reflector<StatefulSet>,
    pub(crate) pods: Reflector<Pod>,
    pub(crate) claims: Reflector<PersistentVolumeClaim>,
    pub(crate) revisions: Reflector<ControllerRevision>,
}

impl Reconciler for StatefulSets {
    const NAME: &'static str = "statefulset-controller";

    fn watch(&self, watches: &mut Watches) {
        watches.own::<StatefulSet>();
        let sets = self.sets.clone();
        watches.on::<Pod>(move |change| {
            owners_of_pod(change, &sets, |set, pod| {
                let selector = set.spec.as_ref().map(|spec| owned::selector(set, &spec.selector));
                let selects =
                    selector.and_then(Result::ok).is_some_and(|s| !s.is_everything() && s.matches(pod.labels()));
                selects && identity::ordinal(&set.name_any(), &pod.name_any()).is_some()
            })
        });
        watches.on::<PersistentVolumeClaim>(|_| Vec::new());
        watches.on::<ControllerRevision>(|change| owned::owner_key(change.new, "StatefulSet").into_iter().collect());
    }

    async fn reconcile(&self, (namespace, name): Key, run: &mut Run) -> Result<(), Error> {
        let Some(set) = self.sets.get(&namespace, &name) else { return Ok(()) };
        let Some(spec) = &set.spec else { return Ok(()) };
        let selector = owned::selector(&*set, &spec.selector)?;
        let mut candidates = owned::candidates(&self.pods, &*set);
        candidates.retain(|pod| identity::ordinal(&name, &pod.name_any()).is_some());
        let claimed = owned::claim(&*set, &selector, candidates);
        if claimed.adopts() {
            still_alive(run, &*set).await?;
        }
        run.all(claimed.actions).await?;
        let revisions = self.revisions.controlled_by(set.metadata.uid.as_deref().unwrap_or_default());
        let update = history::update(&*set, &spec.template, HASH, &revisions);
        if set.metadata.deletion_timestamp.is_none() {
            unless_exists(run.all(update.actions).await)?;
        }
        let observed = self.observe(&set, claimed.mine, update.name, &revisions);
        let now = Timestamp::now();
        let step = Step::new(&set, spec, &observed, now);
        let acted = unless_exists(run.all(step.actions()).await);
        let old = set.status.clone().unwrap_or_default();
        let status = step.status();
        let mut live: HashSet<String> =
            observed.pods.values().filter_map(|p| p.labels().get(history::REVISION_HASH).cloned()).collect();
        live.extend(status.current_revision.iter().chain(&status.update_revision).cloned());
        run.all(action::status(&*set, &old, &status).into_iter().collect()).await?;
        run.all(history::truncate(&revisions, &live, spec.revision_history_limit.unwrap_or(10))).await?;
        let min_ready_s = spec.min_ready_seconds.unwrap_or_default();
        if let Some(delay) = pods::next_available(observed.pods.values(), min_ready_s, now) {
            run.again(delay);
        }
        match acted {
            Err(error) if error.is_namespace_terminating() => Ok(()),
            other => other,
        }
    }
}

impl StatefulSets {
    fn observe(
        &self,
        set: &StatefulSet,
        mine: Vec<Arc<Pod>>,
        update: String,
        revisions: &[Arc<ControllerRevision>],
    ) -> Observed {
        let (name, namespace) = (set.name_any(), set.namespace().unwrap_or_default());
        let by_ordinal = mine.into_iter().filter_map(|pod| Some((identity::ordinal(&name, &pod.name_any())?, pod)));
        let pods: BTreeMap<i32, Arc<Pod>> = by_ordinal.collect();
        let known = set.status.as_ref().and_then(|status| status.current_revision.clone());
        let known = known.and_then(|known| revisions.iter().find(|revision| revision.name_any() == known));
        let template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
        let current = known.and_then(|revision| Some((revision.name_any(), history::template_of(revision)?)));
        let names = (set.spec.iter())
            .flat_map(|spec| identity::all_claim_names(&name, spec, pods.keys().copied()))
            .collect::<HashSet<String>>();
        let claims = names.into_iter().filter_map(|name| Some((name.clone(), self.claims.get(&namespace, &name)?)));
        let claims = claims.collect();
        Observed { pods, claims, current: current.unwrap_or_else(|| (update.clone(), template)), update }
    }
}
