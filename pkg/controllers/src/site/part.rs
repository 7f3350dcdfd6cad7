//! An object that is handed over takes its parts along: the site that holds a ReplicaSet or a Job hands it to the home of the
//! Deployment or CronJob that manages it. Pods stay where they run.
use crate::action::{self, Action};
use crate::error::Error;
use crate::execute::Run;
use crate::owned;
use crate::runner::{Reconciler, Watches, key_of};
use api::home::{HOME, Ownership};
use client::Reflector;
use client::informers::{Cached, Key};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use kube::Resource;
use serde_json::json;

/// A kind that is a part of another's objects.
pub(crate) trait Part: Cached {
    type Whole: Cached;
    /// Who acts.
    const NAME: &'static str;
}

impl Part for ReplicaSet {
    type Whole = Deployment;
    const NAME: &'static str = "deployment-controller";
}

impl Part for Job {
    type Whole = CronJob;
    const NAME: &'static str = "cronjob-controller";
}

pub(crate) struct Parts<P: Part> {
    pub(crate) parts: Reflector<P>,
    pub(crate) wholes: Reflector<P::Whole>,
}

/// Hands the part over where its owner has another home.
fn plan<P: Part>(part: &P, whole: &P::Whole, view: &Ownership) -> Option<Action> {
    let (part_claim, whole_claim) = (client::home::claim(part), client::home::claim(whole));
    let (has, wants) = (view.home_of(&part_claim), view.home_of(&whole_claim));
    let metadata = json!({"uid": part.meta().uid, "annotations": {(HOME): wants}});
    (view.marked && has != wants && view.is_home(&part_claim))
        .then(|| action::patch(part, json!({"metadata": metadata})))
}

impl<P: Part> Reconciler for Parts<P> {
    const NAME: &'static str = P::NAME;
    const WORKERS: usize = 1;

    fn watch(&self, watches: &mut Watches) {
        watches.own::<P>();
        let parts = self.parts.clone();
        watches.on::<P::Whole>(move |change| {
            let moved =
                change.old.is_none_or(|old| client::home::claim(old).home != client::home::claim(change.new).home);
            let uid = change.new.meta().uid.as_deref().filter(|_| moved).unwrap_or_default();
            parts.controlled_by(uid).iter().map(|part| key_of(&**part)).collect()
        });
    }

    async fn reconcile(&self, (namespace, name): Key, run: &mut Run) -> Result<(), Error> {
        let Some(part) = self.parts.get(&namespace, &name) else { return Ok(()) };
        let owner = owned::owner_key(&*part, &P::Whole::kind(&()));
        let whole = owner.and_then(|(namespace, name)| self.wholes.get(&namespace, &name));
        let Some(whole) = whole.filter(|whole| owned::is_controlled_by(&*part, &**whole)) else { return Ok(()) };
        let action = plan(&*part, &*whole, &run.view());
        run.all(action.into_iter().collect()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::home::Link;

    #[test]
    fn the_holder_hands_a_part_to_its_owners_home() {
        let metadata = |home: &str| json!({"metadata": {"name": "web", "annotations": {(HOME): home}}});
        let set: ReplicaSet = serde_json::from_value(metadata("north")).unwrap();
        let at = |home: &str| -> Deployment { serde_json::from_value(metadata(home)).unwrap() };
        let view = |site: &str, other: &str| Ownership::of(site, "north").with(other, Link::Up);
        assert!(plan(&set, &at("south"), &view("north", "south")).is_some());
        assert_eq!(plan(&set, &at("north"), &view("north", "south")), None);
        assert_eq!(plan(&set, &at("south"), &view("south", "north")), None, "who doesn't hold it can't");
        assert_eq!(plan(&set, &at("south"), &Ownership::default()), None);
    }
}
