//! Follows CustomResourceDefinitions: publishes what they define, tells them so in their status, and clears
//! away the objects of those that are deleted. Publishing comes before the condition `Established`, so who
//! waits for that finds the resource served.
use super::Engine;
use super::delete::{self, DeleteOptions, Rules, Step};
use super::write::guarded;
use crate::registry::custom::names::Taken;
use crate::registry::custom::{self, names};
use crate::registry::{Served, strategy};
use api::apply::Writer;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use store::{Entry, Op, Range, Revision, WatchFrom};
use tokio_util::sync::CancellationToken;

const DEFINITIONS: &str = "/registry/apiextensions.k8s.io/customresourcedefinitions/";
/// How long to wait before following again after an error, and before looking again at objects whose
/// finalizers hold up their definition.
const RETRY: Duration = Duration::from_secs(1);

/// Runs until shutdown.
pub async fn run(engine: &Engine, shutdown: CancellationToken) {
    let mut follower = Follower { builtin: engine.registry.served(), published: Vec::new(), engine };
    while !shutdown.is_cancelled() {
        match shutdown.run_until_cancelled(follower.follow()).await {
            None | Some(Err(store::Error::Closed)) => return,
            Some(result) => tracing::debug!(?result, "following custom resource definitions again"),
        }
        shutdown.run_until_cancelled(tokio::time::sleep(RETRY)).await;
    }
}

/// Who wrote the status, as upstream's controllers of definitions say it.
fn own_status(old: &Value, new: &mut Value, now: &str) {
    const VERSION: &str = "apiextensions.k8s.io/v1";
    let kind = api::GroupVersionKind::new("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let schemas = api::schema::Schemas::builtin();
    if let Some(definition) = schemas.for_kind(&kind) {
        let writer = Writer { manager: "kube-apiserver", api_version: VERSION, subresource: "status", now };
        api::apply::update(Some(old), new, &writer, &definition.ty, schemas);
    }
}

struct Follower<'a> {
    engine: &'a Engine,
    builtin: Arc<Served>,
    /// uid and generation of what is published, to publish only what changed.
    published: Vec<(String, i64)>,
}

impl Follower<'_> {
    async fn follow(&mut self) -> store::Result<()> {
        let range = Range::prefix(DEFINITIONS.as_bytes());
        let mut watch = self.engine.backend.watch(range, WatchFrom::Now).await?;
        let mut waits = self.reconcile().await?;
        loop {
            tokio::select! {
                item = watch.next() => match item {
                    Some(item) => drop(item?),
                    None => return Ok(()),
                },
                () = tokio::time::sleep(RETRY), if waits => {}
            }
            waits = self.reconcile().await?;
        }
    }

    /// Brings everything in line with the stored definitions. Returns whether it has to look again.
    async fn reconcile(&mut self) -> store::Result<bool> {
        let page = self.engine.backend.list(&Range::prefix(DEFINITIONS.as_bytes()), None, 0).await?;
        let read = |entry: &Arc<Entry>| match serde_json::from_slice::<Value>(&entry.value) {
            Ok(definition) => Some((entry.clone(), definition)),
            Err(error) => {
                tracing::warn!(key = %String::from_utf8_lossy(&entry.key), %error, "a stored definition can't be read");
                None
            }
        };
        let stored: Vec<(Arc<Entry>, Value)> = page.entries.iter().filter_map(read).collect();
        let now = (self.engine.clock)().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let mut taken = Taken::of(stored.iter().map(|(_, definition)| definition));
        let mut judged = Vec::new();
        for (entry, definition) in stored {
            let mut new = definition.clone();
            let serves = names::accept(&mut new, &mut taken, &now);
            judged.push((entry, definition, new, serves));
        }
        self.publish(judged.iter().filter(|(.., serves)| *serves).map(|(entry, _, new, _)| (new, entry.mod_revision)));
        let mut waits = false;
        for (entry, old, new, _) in &judged {
            if old["metadata"]["deletionTimestamp"].is_string() {
                waits |= !self.clean_up(entry, old).await?;
            } else if old != new {
                let mut new = new.clone();
                own_status(old, &mut new, &now);
                self.put(entry, &new).await?;
            }
        }
        Ok(waits)
    }

    fn publish<'v>(&mut self, definitions: impl Iterator<Item = (&'v Value, Revision)>) {
        let definitions: Vec<(&Value, Revision)> = definitions.collect();
        let identity = |(d, _): &(&Value, Revision)| {
            (
                d["metadata"]["uid"].as_str().unwrap_or_default().to_owned(),
                d["metadata"]["generation"].as_i64().unwrap_or(0),
            )
        };
        let wanted: Vec<(String, i64)> = definitions.iter().map(identity).collect();
        if wanted == self.published {
            return;
        }
        let mut served = Served::clone(&self.builtin);
        for resource in definitions.into_iter().flat_map(|(d, revision)| custom::resources(d, revision)) {
            served.entry(resource.gvr.clone()).or_insert_with(|| Arc::new(resource));
        }
        self.engine.registry.publish(served);
        self.published = wanted;
    }

    /// A write that lost a race is made good by the change that won: it wakes the follower.
    async fn put(&self, entry: &Entry, new: &Value) -> store::Result<bool> {
        let value = serde_json::to_vec(new).expect("a tree is JSON").into();
        let put = Op::Put { key: entry.key.clone(), value, lease: None };
        Ok(self.engine.backend.txn(guarded(entry, put)).await?.succeeded)
    }

    /// Deletes the objects of a deleted definition; without any left, lets the definition go. Returns whether
    /// that is done.
    async fn clean_up(&self, entry: &Entry, definition: &Value) -> store::Result<bool> {
        let held =
            definition["metadata"]["finalizers"].as_array().is_some_and(|f| f.iter().any(|f| f == names::CLEANUP));
        if !held {
            return Ok(true);
        }
        let spec = &definition["spec"];
        let (group, plural) = (&spec["group"], &spec["names"]["plural"]);
        let prefix =
            format!("/registry/{}/{}/", group.as_str().unwrap_or_default(), plural.as_str().unwrap_or_default());
        let objects = self.engine.backend.list(&Range::prefix(prefix.into_bytes()), None, 0).await?;
        let mut left = 0;
        for object in &objects.entries {
            left += usize::from(!self.remove(object).await?);
        }
        if left > 0 {
            return Ok(false);
        }
        let mut new = definition.clone();
        let finalizers = strategy::child(&mut new, "metadata").entry("finalizers").or_insert_with(|| json!([]));
        if let Some(list) = finalizers.as_array_mut() {
            list.retain(|f| f != names::CLEANUP);
            if list.is_empty() {
                let delete = Op::Delete { key: entry.key.clone() };
                return Ok(self.engine.backend.txn(guarded(entry, delete)).await?.succeeded);
            }
        }
        self.put(entry, &new).await
    }

    /// Deletes one object; false: its finalizers hold it, or somebody changed it just now.
    async fn remove(&self, entry: &Entry) -> store::Result<bool> {
        const RULES: Rules =
            Rules { graceful: false, orphans: false, collectable: true, namespace: false, definition: false };
        let Ok(live) = serde_json::from_slice::<Value>(&entry.value) else { return Ok(false) };
        match delete::plan(&live, &DeleteOptions::default(), RULES, (self.engine.clock)()) {
            Step::Pending => Ok(false),
            Step::Mark(new) if *new == live => Ok(false),
            Step::Mark(new) => self.put(entry, &new).await.map(|_| false),
            Step::Remove => {
                let delete = Op::Delete { key: entry.key.clone() };
                Ok(self.engine.backend.txn(guarded(entry, delete)).await?.succeeded)
            }
        }
    }
}
