//! PodDisruptionBudgets: how many of the selected pods may be evicted now. The API server's eviction spends what is told
//! here; this controller counts anew.
mod plan;
mod stale;

use crate::action::{self, Action, Target};
use crate::error::Error;
use crate::execute::Run;
use crate::owned;
use crate::runner::{Change, Reconciler, Watches, key_of};
use client::Reflector;
use client::informers::Key;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use kube::core::GroupVersionKind;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) use stale::StaleDisruptions;

pub(crate) struct Disruption {
    pub(crate) budgets: Reflector<PodDisruptionBudget>,
    pub(crate) pods: Reflector<Pod>,
    pub(crate) deployments: Reflector<Deployment>,
    pub(crate) sets: Reflector<ReplicaSet>,
    pub(crate) controllers: Reflector<ReplicationController>,
    pub(crate) stateful: Reflector<StatefulSet>,
}

/// What a budget selects; without a selector, nothing.
fn selects(budget: &PodDisruptionBudget, labels: &BTreeMap<String, String>) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.and_then(|selector| owned::selector(budget, selector).ok()).is_some_and(|s| s.matches(labels))
}

fn budgets_of(budgets: &Reflector<PodDisruptionBudget>, change: &Change<'_, Pod>) -> Vec<Key> {
    let namespace = change.new.namespace().unwrap_or_default();
    let concerned = budgets.select(&namespace, |budget| {
        selects(budget, change.new.labels()) || change.old.is_some_and(|old| selects(budget, old.labels()))
    });
    concerned.iter().map(|budget| key_of(&**budget)).collect()
}

impl Reconciler for Disruption {
    const NAME: &'static str = "disruption-controller";
    const WORKERS: usize = 1;

    fn watch(&self, watches: &mut Watches) {
        watches.own::<PodDisruptionBudget>();
        let budgets = self.budgets.clone();
        watches.on::<Pod>(move |change| budgets_of(&budgets, change));
        watches.on::<Deployment>(|_| Vec::new());
        watches.on::<ReplicaSet>(|_| Vec::new());
        watches.on::<ReplicationController>(|_| Vec::new());
        watches.on::<StatefulSet>(|_| Vec::new());
    }

    async fn reconcile(&self, (namespace, name): Key, run: &mut Run) -> Result<(), Error> {
        let Some(budget) = self.budgets.get(&namespace, &name) else { return Ok(()) };
        let now = Timestamp::now();
        let pods = self.pods.select(&namespace, |pod| selects(&budget, pod.labels()));
        let expected = match plan::needs_scale(&budget) {
            true => self.expected(&namespace, &pods, run).await.map_err(|error| error.message()),
            false => Ok(pods.len() as i32),
        };
        let status = expected.and_then(|expected| plan::status(&budget, &pods, expected, now));
        let (status, look_again) = match status {
            Ok(counted) => (counted.status, counted.look_again),
            Err(why) => (plan::failed(&budget, &why, now), None),
        };
        let old = budget.status.clone().unwrap_or_default();
        if let Some(delay) = look_again {
            run.again(delay);
        }
        let Some(mut write) = action::status(&*budget, &old, &status) else { return Ok(()) };
        if let Action::Patch { patch: action::Patch::Merge(patch), .. } = &mut write {
            // An eviction may have spent something meanwhile: only on the copy that was counted.
            patch["metadata"] = serde_json::json!({"uid": budget.uid(), "resourceVersion": budget.resource_version()});
        }
        let mut actions = vec![write];
        actions.extend(plan::notes(&budget, &pods));
        run.all(actions).await
    }
}

impl Disruption {
    /// How many pods there should be: the sum of what the selected pods' managers ask for.
    async fn expected(&self, namespace: &str, pods: &[Arc<Pod>], run: &Run) -> Result<i32, Error> {
        let mut scales: BTreeMap<String, i32> = BTreeMap::new();
        for owner in pods.iter().filter_map(|pod| owned::controller_of(&**pod)) {
            if scales.contains_key(&owner.uid) {
                continue;
            }
            let (uid, scale) = match self.known_scale(namespace, owner) {
                Some(known) => known,
                None => (owner.uid.clone(), asked_scale(namespace, owner, run).await?),
            };
            scales.insert(uid, scale);
        }
        Ok(scales.values().sum())
    }

    /// From the caches. A ReplicaSet's Deployment counts in its place.
    fn known_scale(&self, namespace: &str, owner: &OwnerReference) -> Option<(String, i32)> {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        let (uid, replicas) = match (group, &*owner.kind) {
            ("apps", "ReplicaSet") => {
                let set = self.sets.get(namespace, &owner.name)?;
                let deployment = owned::owner_key(&*set, "Deployment");
                match deployment.and_then(|(namespace, name)| self.deployments.get(&namespace, &name)) {
                    Some(deployment) => (deployment.uid(), deployment.spec.as_ref()?.replicas),
                    None => (set.uid(), set.spec.as_ref()?.replicas),
                }
            }
            ("apps", "StatefulSet") => {
                let set = self.stateful.get(namespace, &owner.name)?;
                (set.uid(), set.spec.as_ref()?.replicas)
            }
            ("", "ReplicationController") => {
                let set = self.controllers.get(namespace, &owner.name)?;
                (set.uid(), set.spec.as_ref()?.replicas)
            }
            _ => return None,
        };
        Some((uid?, replicas.unwrap_or(1)))
    }
}

/// From the `scale` subresource, which other kinds may serve.
async fn asked_scale(namespace: &str, owner: &OwnerReference, run: &Run) -> Result<i32, Error> {
    let what = format!("scale of {} {namespace}/{}", owner.kind, owner.name);
    let failed = |source| Error::Api { verb: "get", what: what.clone(), source };
    let (group, version) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
    let kind = GroupVersionKind::gvk(group, version, &owner.kind);
    let (resource, _) = kube::discovery::pinned_kind(run.client(), &kind).await.map_err(failed)?;
    let target = Target { resource, namespace: namespace.to_owned(), name: owner.name.clone(), uid: None, home: None };
    let api: kube::Api<kube::api::DynamicObject> =
        kube::Api::namespaced_with(run.client().clone(), namespace, &target.resource);
    let scale = api.get_scale(&owner.name).await.map_err(failed)?;
    Ok(scale.spec.and_then(|spec| spec.replicas).unwrap_or_default())
}
