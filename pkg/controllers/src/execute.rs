//! Carries out what plans ask for: dull on purpose.
use crate::action::{Action, Note, Patch, Target, Told};
use crate::error::Error;
use crate::pods;
use api::home::{Claim, Ownership, Standing};
use client::informers::Progress;
use client::{Informers, Mark, Recorder};
use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, DynamicObject, PatchParams, PostParams, Preconditions};
use kube::{Resource, ResourceExt};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Creates and deletes in flight at once for one key. Creates double up to it, so that a quota that refuses all of
/// them is asked once, not a thousand times.
const IN_FLIGHT: usize = 64;

/// What a controller acts with: its own identity, the shared caches, and its Events.
#[derive(Clone)]
pub struct Executor {
    pub client: kube::Client,
    pub informers: Informers,
    pub recorder: Recorder,
    /// Which sites there are, and whose objects are whose.
    pub ownership: watch::Receiver<Ownership>,
}

/// One reconciliation's writes, remembered so that the next one waits until the caches show them.
pub struct Run {
    executor: Executor,
    writes: Vec<Write>,
    again: Option<Duration>,
    standing: Standing,
}

/// A write that the caches may not show yet.
pub enum Write {
    /// The kind's reflector has to pass this mark.
    Seen(Progress, Mark),
    /// This pod has to be gone or terminating in the cache.
    PodDeleted { namespace: String, name: String, uid: String },
}

impl Run {
    /// `standing` is that of the object that the key names.
    pub fn new(executor: Executor, standing: Standing) -> Self {
        Self { executor, writes: Vec::new(), again: None, standing }
    }

    /// This server's present view of the sites. Not to be held across waiting.
    pub fn view(&self) -> watch::Ref<'_, Ownership> {
        self.executor.ownership.borrow()
    }

    /// Whether this server acts on the key's object: always, but for controllers whose work every site does a part of.
    pub fn acts(&self) -> bool {
        matches!(self.standing, Standing::Home | Standing::Taken)
    }

    /// Whether an object belongs to this site.
    pub fn owns<K: Resource<DynamicType = ()>>(&self, object: &K) -> bool {
        self.view().is_home(&client::home::claim(object))
    }

    /// Without pods that went away with their site: they count as gone until the site is back. How long one is waited for
    /// is said by `whole`, what they are part of, unless they say it themselves.
    pub fn present<K: Resource<DynamicType = ()>>(&mut self, whole: &K, mut pods: Vec<Arc<Pod>>) -> Vec<Arc<Pod>> {
        let waits = {
            let view = self.view();
            if !view.marked {
                return pods;
            }
            let whole = client::home::claim(whole);
            let waits = pods.iter().filter_map(|pod| view.lost_in_s(&part_claim(pod, &whole))).min();
            pods.retain(|pod| is_present(&view, &whole, pod));
            waits
        };
        // No change of the sites tells when a part is waited for no longer: only what it is part of knows.
        if let Some(seconds) = waits {
            self.again(Duration::from_secs(seconds));
        }
        pods
    }

    /// Whether a pod counts as there.
    pub fn is_present<K: Resource<DynamicType = ()>>(&self, whole: &K, pod: &Pod) -> bool {
        let view = self.view();
        !view.marked || is_present(&view, &client::home::claim(whole), pod)
    }

    pub fn client(&self) -> &kube::Client {
        &self.executor.client
    }

    /// What was written, and when to look again.
    pub fn finish(self) -> (Vec<Write>, Option<Duration>) {
        (self.writes, self.again)
    }

    /// Look at the key again after `delay`, or earlier if asked for elsewhere.
    pub fn again(&mut self, delay: Duration) {
        self.again = Some(self.again.map_or(delay, |earlier| earlier.min(delay)));
    }

    /// In order; neighbouring creates, deletes and patches of one kind's objects run together. Stops at the first
    /// failure.
    pub async fn all(&mut self, mut actions: Vec<Action>) -> Result<(), Error> {
        {
            let view = self.view();
            actions.retain(|action| may(&view, self.standing, action));
        }
        let mut actions = actions.into_iter().peekable();
        while let Some(action) = actions.next() {
            let mut group = vec![action];
            while let Some(next) = actions.next_if(|next| together(&group, next)) {
                group.push(next);
            }
            self.group(group).await?;
        }
        Ok(())
    }

    async fn group(&mut self, group: Vec<Action>) -> Result<(), Error> {
        let mut size = if matches!(group[0], Action::Create { .. }) { 1 } else { IN_FLIGHT };
        let mut rest = group.as_slice();
        while !rest.is_empty() {
            let (batch, later) = rest.split_at(size.min(rest.len()));
            let executor = &self.executor;
            let results = join_all(batch.iter().map(|action| executor.one(action))).await;
            let mut failed = None;
            for (result, action) in results.into_iter().zip(batch) {
                match result {
                    Ok(write) => self.writes.extend(write),
                    Err(error) => failed = failed.or(Some(error)),
                }
                if let Action::Again(delay) = action {
                    self.again(*delay);
                }
            }
            if let Some(error) = failed {
                return Err(error);
            }
            (rest, size) = (later, (2 * size).min(IN_FLIGHT));
        }
        Ok(())
    }
}

fn is_present(view: &Ownership, whole: &Claim<'_>, pod: &Pod) -> bool {
    pods::is_finished(pod) || !view.is_lost(&part_claim(pod, whole))
}

/// A pod's claim, as a part of something.
fn part_claim<'a>(pod: &'a Pod, whole: &Claim<'_>) -> Claim<'a> {
    let claim = client::home::claim(pod);
    match pod.annotations().contains_key(api::home::TAKEOVER_SECONDS) {
        true => claim,
        false => Claim { takeover_s: whole.takeover_s, ..claim },
    }
}

/// Who is not at home creates, and takes nothing away: of what another site owns, no pod, node or volume is touched and
/// nothing deleted. What belongs together with an object in our care (a Deployment's ReplicaSets) may be changed.
fn may(view: &Ownership, standing: Standing, action: &Action) -> bool {
    let ours = |target: &Target| {
        let (home, fixed) = (target.home.as_deref(), true);
        view.is_home(&Claim { home, stay: true, takeover_s: u64::MAX, fixed })
    };
    match action {
        _ if standing == Standing::Home => true,
        Action::Create { .. } | Action::Tell(_) | Action::Again(_) => true,
        Action::Delete { target, .. } => ours(target),
        Action::Patch { target, .. } => {
            ours(target) || (standing == Standing::Taken && !Claim::is_fixed(&target.resource.kind))
        }
    }
}

/// Whether the order of these does not matter.
fn together(group: &[Action], next: &Action) -> bool {
    match (&group[0], next) {
        (Action::Create { .. }, Action::Create { .. }) | (Action::Delete { .. }, Action::Delete { .. }) => true,
        (Action::Patch { target: first, subresource: of_first, .. }, Action::Patch { target, subresource, .. }) => {
            // Two patches of one object keep their order.
            let same = |a: &Action| matches!(a, Action::Patch { target: t, .. } if t == target);
            first.resource == target.resource && of_first == subresource && !group.iter().any(same)
        }
        _ => false,
    }
}

impl Executor {
    async fn one(&self, action: &Action) -> Result<Option<Write>, Error> {
        match action {
            Action::Create { target, object, told } => {
                let result = self.create(target, object).await;
                self.told(target, told, result)
            }
            Action::Patch { target, patch, subresource, told } => {
                let result = self.patch(target, patch, *subresource).await;
                self.told(target, told, result)
            }
            Action::Delete { target, grace_s, told } => self.delete(target, *grace_s, told).await,
            Action::Tell(note) => {
                self.tell(note, &note.message);
                Ok(None)
            }
            Action::Again(_) => Ok(None),
        }
    }

    fn api(&self, target: &Target) -> Api<DynamicObject> {
        if target.namespace.is_empty() {
            Api::all_with(self.client.clone(), &target.resource)
        } else {
            Api::namespaced_with(self.client.clone(), &target.namespace, &target.resource)
        }
    }

    async fn create(&self, target: &Target, object: &Value) -> Result<DynamicObject, Error> {
        let failed = |source| Error::Api { verb: "create", what: describe(target), source };
        let object: DynamicObject =
            serde_json::from_value(object.clone()).map_err(|error| failed(kube::Error::SerdeError(error)))?;
        self.api(target).create(&PostParams::default(), &object).await.map_err(failed)
    }

    async fn patch(&self, target: &Target, patch: &Patch, subresource: Option<&str>) -> Result<DynamicObject, Error> {
        let (api, params) = (self.api(target), PatchParams::default());
        let patch = match patch {
            Patch::Merge(patch) => kube::api::Patch::Merge(patch),
            Patch::Strategic(patch) => kube::api::Patch::Strategic(patch),
        };
        let result = match subresource {
            None => api.patch(&target.name, &params, &patch).await,
            Some("status") => api.patch_status(&target.name, &params, &patch).await,
            Some(other) => api.patch_subresource(other, &target.name, &params, &patch).await,
        };
        result.map_err(|source| Error::Api { verb: "patch", what: describe(target), source })
    }

    async fn delete(&self, target: &Target, grace_s: Option<i64>, told: &Told) -> Result<Option<Write>, Error> {
        let params = DeleteParams {
            grace_period_seconds: grace_s.map(|s| s as u32),
            preconditions: Some(Preconditions { uid: target.uid.clone(), resource_version: None }),
            ..DeleteParams::background()
        };
        let result = self.api(target).delete(&target.name, &params).await;
        let result = result.map_err(|source| Error::Api { verb: "delete", what: describe(target), source });
        match result {
            // Gone already, or this life of it: what was wanted.
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(None),
            Err(error) => {
                self.tell_failed(told, &error);
                Err(error)
            }
            Ok(_) => {
                self.tell_done(told, &target.name);
                let (namespace, name) = (target.namespace.clone(), target.name.clone());
                let of_pod = target.resource.kind == "Pod";
                Ok(target.uid.clone().filter(|_| of_pod).map(|uid| Write::PodDeleted { namespace, name, uid }))
            }
        }
    }

    fn told(&self, target: &Target, told: &Told, result: Result<DynamicObject, Error>) -> Result<Option<Write>, Error> {
        match result {
            Ok(object) => {
                self.tell_done(told, &object.name_any());
                Ok(self.write(target, &object))
            }
            Err(error) => {
                if !error.is_namespace_terminating() {
                    self.tell_failed(told, &error);
                }
                Err(error)
            }
        }
    }

    fn write(&self, target: &Target, object: &DynamicObject) -> Option<Write> {
        let progress = self.informers.progress(&target.resource.kind)?;
        let mark = progress.mark(object.meta().resource_version.as_deref()?)?;
        Some(Write::Seen(progress, mark))
    }

    fn tell_done(&self, told: &Told, name: &str) {
        if let Some(note) = &told.done {
            self.tell(note, &note.message.replace("{name}", name));
        }
    }

    fn tell_failed(&self, told: &Told, error: &Error) {
        if let Some(note) = &told.failed {
            self.tell(note, &note.message.replace("{error}", &error.message()));
        }
    }

    fn tell(&self, note: &Note, message: &str) {
        match note.warning {
            true => self.recorder.warning(&note.about, note.reason, message),
            false => self.recorder.normal(&note.about, note.reason, message),
        }
    }
}

impl Write {
    /// Whether the caches show it.
    pub fn visible(&self, informers: &Informers) -> bool {
        match self {
            Self::Seen(progress, mark) => progress.passed(mark),
            Self::PodDeleted { namespace, name, uid } => {
                let pod = informers.reflector::<Pod>().get(namespace, name);
                pod.is_none_or(|pod| pod.uid().as_ref() != Some(uid) || pod.meta().deletion_timestamp.is_some())
            }
        }
    }
}

fn describe(target: &Target) -> String {
    let name = if target.name.is_empty() { "(generated name)" } else { &target.name };
    format!("{} {}/{name}", target.resource.kind, target.namespace)
}

/// For objects of a fixed name: somebody was faster, and the cache will show it.
pub fn unless_exists(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if error.is_already_exists() => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action;
    use api::home::{Link, Taken};
    use k8s_openapi::api::apps::v1::ReplicaSet;
    use serde_json::json;

    fn of<K: serde::de::DeserializeOwned>(site: &str) -> K {
        let metadata = json!({"name": "x", "namespace": "ns", "annotations": {"eyot.dev/home": site}});
        serde_json::from_value(json!({"metadata": metadata, "spec": {"containers": [], "selector": {}}})).unwrap()
    }

    fn allowed(standing: Standing, action: &Action) -> bool {
        let taken = Some(Taken { by: "b".into(), epoch: 1 });
        let view = Ownership::of("b", "a").with("a", Link::Down { for_s: 900, taken });
        may(&view, standing, action)
    }

    #[test]
    fn takeover_creates_and_takes_nothing_away() {
        let (theirs, ours): (Pod, Pod) = (of("a"), of("b"));
        let set: ReplicaSet = of("a");
        let taken = |action: Action| allowed(Standing::Taken, &action);
        assert!(taken(action::create(&theirs, Told::nothing())));
        assert!(taken(action::delete(&ours, Told::nothing())), "a replacement of our own");
        assert!(!taken(action::delete(&theirs, Told::nothing())));
        assert!(!taken(action::patch(&theirs, json!({}))));
        assert!(taken(action::patch(&set, json!({}))));
        assert!(!taken(action::delete(&set, Told::nothing())));
    }

    #[test]
    fn who_does_a_part_of_the_work_touches_its_own_alone() {
        let (theirs, ours): (Pod, Pod) = (of("a"), of("b"));
        let elsewhere = |action: Action| allowed(Standing::Elsewhere, &action);
        assert!(elsewhere(action::patch(&ours, json!({}))));
        assert!(!elsewhere(action::patch(&of::<ReplicaSet>("a"), json!({}))));
        assert!(!elsewhere(action::delete(&theirs, Told::nothing())));
        let home = |action: Action| allowed(Standing::Home, &action);
        assert!(home(action::delete(&theirs, Told::nothing())), "home scales down wherever its pods are");
    }
}
