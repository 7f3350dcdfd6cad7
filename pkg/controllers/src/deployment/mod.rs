//! Deployments: ReplicaSets by template, rolled over within `maxSurge` and `maxUnavailable`.
mod conditions;
mod plan;
mod sets;
#[cfg(test)]
mod tests;

use crate::action::{Action, Note};
use crate::error::Error;
use crate::execute::{Run, unless_exists};
use crate::replica_set::still_alive;
use crate::runner::{Reconciler, Watches, key_of};
use crate::{owned, pods};
use client::Reflector;
use client::informers::Key;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use plan::Observed;
use std::collections::HashSet;

pub(crate) struct Deployments {
    pub(crate) deployments: Reflector<Deployment>,
    pub(crate) sets: Reflector<ReplicaSet>,
    pub(crate) pods: Reflector<Pod>,
}

impl Deployments {
    fn observe(&self, run: &Run, deployment: &Deployment, mine: Vec<std::sync::Arc<ReplicaSet>>) -> Observed {
        let namespace = deployment.namespace().unwrap_or_default();
        let mut with_pods = HashSet::new();
        if !plan::is_rolling(deployment) {
            let runs = |pod: &std::sync::Arc<Pod>| run.is_present(deployment, pod) && !pods::is_finished(pod);
            let uids = mine.iter().filter_map(|set| set.uid());
            with_pods.extend(uids.filter(|uid| self.pods.controlled_by(uid).iter().any(runs)));
        }
        let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
        let name = sets::name(deployment, &sets::hash_of(deployment, collisions));
        let taken = self.sets.get(&namespace, &name);
        // Ours, but of another template, is a collision of hashes too.
        let name_taken = taken.is_some();
        Observed { sets: mine.iter().map(|set| (**set).clone()).collect(), with_pods, name_taken }
    }
}

impl Reconciler for Deployments {
    const NAME: &'static str = "deployment-controller";

    fn watch(&self, watches: &mut Watches) {
        watches.own::<Deployment>();
        let deployments = self.deployments.clone();
        watches.on::<ReplicaSet>(move |change| {
            let before = change.old.and_then(|old| owned::owner_key(old, "Deployment"));
            let now = owned::owner_key(change.new, "Deployment");
            let namespace = change.new.namespace().unwrap_or_default();
            let orphan = owned::controller_of(change.new).is_none();
            let adopting = deployments.select(&namespace, |d| orphan && selects(d, change.new));
            before.into_iter().chain(now).chain(adopting.iter().map(|d| key_of(&**d))).collect()
        });
        // A recreated Deployment waits until its last old pod is gone.
        let (deployments, sets) = (self.deployments.clone(), self.sets.clone());
        watches.on::<Pod>(move |change| {
            let over = change.deleted || pods::is_finished(change.new);
            let set = owned::owner_key(change.new, "ReplicaSet").filter(|_| over);
            let set = set.and_then(|(namespace, name)| sets.get(&namespace, &name));
            let key = set.and_then(|set| owned::owner_key(&*set, "Deployment"));
            let waits =
                |(namespace, name): &Key| deployments.get(namespace, name).is_some_and(|d| !plan::is_rolling(&d));
            key.into_iter().filter(waits).collect()
        });
    }

    async fn reconcile(&self, (namespace, name): Key, run: &mut Run) -> Result<(), Error> {
        let Some(deployment) = self.deployments.get(&namespace, &name) else { return Ok(()) };
        let Some(spec) = &deployment.spec else { return Ok(()) };
        let selector = owned::selector(&*deployment, &spec.selector)?;
        if selector.is_everything() {
            let message = "This deployment is selecting all pods. A non-empty selector is required.".to_owned();
            let about = client::reference(&*deployment);
            let note = Note { about, warning: true, reason: "SelectingAll", message };
            return run.all(vec![Action::Tell(note)]).await;
        }
        let candidates = owned::candidates(&self.sets, &*deployment);
        let claimed = owned::claim(&*deployment, &selector, candidates);
        if claimed.adopts() {
            still_alive(run, &*deployment).await?;
        }
        run.all(claimed.actions).await?;
        let observed = self.observe(run, &deployment, claimed.mine);
        match run.all(plan::plan(&deployment, &observed, Timestamp::now())).await {
            Err(error) if error.is_namespace_terminating() => Ok(()),
            result => unless_exists(result),
        }
    }
}

fn selects(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let selector = deployment.spec.as_ref().map(|spec| owned::selector(deployment, &spec.selector));
    selector.and_then(Result::ok).is_some_and(|s| !s.is_everything() && s.matches(set.labels()))
}
