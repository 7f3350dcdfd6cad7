//! ReplicaSets, and ReplicationControllers through the same code.
pub(crate) mod plan;

use crate::action::{self, Target};
use crate::error::Error;
use crate::execute::Run;
use crate::owned;
use crate::pods;
use crate::runner::{Change, Reconciler, Watches};
use client::Reflector;
use client::informers::{Cached, Key};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{Api, ResourceExt};
use plan::{Desired, Observed};
use std::sync::Arc;

/// What keeps a number of pods: seen as a ReplicaSet.
pub(crate) trait Set: Cached + serde::Serialize {
    const NAME: &'static str;
    fn as_set(&self) -> ReplicaSet;
}

impl Set for ReplicaSet {
    const NAME: &'static str = "replicaset-controller";

    fn as_set(&self) -> ReplicaSet {
        self.clone()
    }
}

impl Set for ReplicationController {
    const NAME: &'static str = "replication-controller";

    fn as_set(&self) -> ReplicaSet {
        let spec = self.spec.clone().unwrap_or_default();
        let selector = LabelSelector { match_labels: spec.selector, match_expressions: None };
        let spec = ReplicaSetSpec {
            replicas: spec.replicas,
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: spec.template,
        };
        // Both statuses have the same fields under the same names.
        let status = self.status.as_ref().and_then(|status| serde_json::to_value(status).ok());
        let status: Option<ReplicaSetStatus> = status.and_then(|status| serde_json::from_value(status).ok());
        ReplicaSet { metadata: self.metadata.clone(), spec: Some(spec), status }
    }
}

pub(crate) struct Replicas<S> {
    sets: Reflector<S>,
    pods: Reflector<Pod>,
}

impl<S: Set> Replicas<S> {
    pub(crate) fn new(sets: Reflector<S>, pods: Reflector<Pod>) -> Self {
        Self { sets, pods }
    }

    /// Active pods of all sets of the same owner.
    fn related(&self, set: &S) -> Vec<Arc<Pod>> {
        let Some(owner) = owned::controller_of(set) else { return Vec::new() };
        let siblings = self.sets.controlled_by(&owner.uid);
        siblings.iter().flat_map(|sibling| self.pods.controlled_by(&sibling.uid().unwrap_or_default())).collect()
    }

    fn observe(&self, run: &Run, set: &S, mine: Vec<Arc<Pod>>, terminating: usize) -> Observed {
        let related = self.related(set);
        let related = if related.is_empty() { mine.clone() } else { related };
        let view = run.view();
        let home = |pod: &Pod| view.home_of(&client::home::claim(pod)).to_owned();
        let elsewhere = |pod: &&Arc<Pod>| view.marked && home(pod) != view.home_of(&client::home::claim(set));
        let foreign = mine.iter().filter(elsewhere).filter_map(|pod| pod.uid()).collect();
        Observed { active: mine, terminating, related, foreign }
    }
}

/// The keys of the owners that a pod's change concerns: who managed it, who manages it, or who may adopt it.
pub(crate) fn owners_of_pod<O: Cached>(
    change: &Change<'_, Pod>,
    owners: &Reflector<O>,
    selects: impl Fn(&O, &Pod) -> bool,
) -> Vec<Key> {
    let kind = O::kind(&());
    let before = change.old.and_then(|old| owned::owner_key(old, &kind));
    if owned::controller_of(change.new).is_some() {
        let now = owned::owner_key(change.new, &kind);
        return before.into_iter().chain(now).collect();
    }
    let namespace = change.new.namespace().unwrap_or_default();
    let adopting = owners.select(&namespace, |owner| selects(owner, change.new));
    before.into_iter().chain(adopting.iter().map(|owner| crate::runner::key_of(&**owner))).collect()
}

impl<S: Set> Reconciler for Replicas<S> {
    const NAME: &'static str = S::NAME;

    fn watch(&self, watches: &mut Watches) {
        watches.own::<S>();
        let sets = self.sets.clone();
        watches.on::<Pod>(move |change| {
            owners_of_pod(change, &sets, |set, pod| {
                let set = set.as_set();
                let selector = set.spec.as_ref().map(|spec| owned::selector(&set, &spec.selector));
                selector.and_then(Result::ok).is_some_and(|s| !s.is_everything() && s.matches(pod.labels()))
            })
        });
    }

    async fn reconcile(&self, (namespace, name): Key, run: &mut Run) -> Result<(), Error> {
        let Some(set) = self.sets.get(&namespace, &name) else { return Ok(()) };
        let now = Timestamp::now();
        let desired = Desired { set: set.as_set(), about: client::reference(&*set), owner: owned::reference_to(&*set) };
        let Some(spec) = &desired.set.spec else { return Ok(()) };
        let selector = owned::selector(&*set, &spec.selector)?;
        let candidates = run.present(&*set, owned::candidates(&self.pods, &*set));
        let terminating = candidates.iter().filter(|pod| {
            pods::is_terminating(pod) && !pods::is_finished(pod) && owned::is_controlled_by(&***pod, &*set)
        });
        let terminating = terminating.count();
        let active = candidates.into_iter().filter(|pod| pods::is_active(pod)).collect();
        let claimed = owned::claim(&*set, &selector, active);
        if claimed.adopts() {
            still_alive(run, &*set).await?;
        }
        run.all(claimed.actions).await?;

        let observed = self.observe(run, &set, claimed.mine, terminating);
        let scaled = run.all(plan::scale(&desired, &observed, now)).await;
        let failure = scaled.as_ref().err().filter(|error| !error.is_namespace_terminating()).map(Error::message);
        let status = plan::status(&desired, &observed, failure.as_deref(), now);
        let old = desired.set.status.clone().unwrap_or_default();
        run.all(action::status(&*set, &old, &status).into_iter().collect()).await?;
        if let Some(delay) = plan::look_again(&desired, &observed, now) {
            run.again(delay);
        }
        match scaled {
            Err(error) if error.is_namespace_terminating() => Ok(()),
            other => other,
        }
    }
}

/// Before anything is adopted, the API itself is asked whether the owner is still the same and not being deleted.
pub(crate) async fn still_alive<O: Cached>(run: &Run, owner: &O) -> Result<(), Error> {
    let target = Target::of(owner);
    let api: Api<kube::api::DynamicObject> =
        Api::namespaced_with(run.client().clone(), &target.namespace, &target.resource);
    let what = format!("{} {}/{}", target.resource.kind, target.namespace, target.name);
    let live = api.get_metadata(&target.name).await;
    let live = live.map_err(|source| Error::Api { verb: "get", what: what.clone(), source })?;
    if live.metadata.uid != target.uid || live.metadata.deletion_timestamp.is_some() {
        return Err(Error::Refused(format!("{what} is gone or being deleted; nothing is adopted")));
    }
    Ok(())
}
