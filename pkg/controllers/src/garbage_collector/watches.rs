//! Metadata-only watches of every served kind, kept up as kinds come and go.
use super::graph::{Kind, Node, Uid};
use super::{NAME, Shared, Watched, key_of};
use crate::served::{self, Served};
use futures::StreamExt;
use kube::api::{Api, DynamicObject};
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt, watcher};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How often new kinds (CRDs) are looked for; upstream's figure.
const DISCOVER: Duration = Duration::from_secs(30);
/// Until the first discovery succeeds.
const DISCOVER_FIRST: Duration = Duration::from_secs(1);
/// Kinds that own nothing and are owned by nothing worth following; upstream ignores them too.
const IGNORED: &[(&str, &str)] = &[("", "Event"), ("events.k8s.io", "Event")];

pub(super) async fn run(shared: Shared, shutdown: CancellationToken) {
    let mut watches: HashMap<(String, String), CancellationToken> = HashMap::new();
    let mut tasks = JoinSet::new();
    loop {
        let pause = match served::deletable(&shared.client).await {
            Ok(served) => {
                follow(&shared, served, &mut watches, &mut tasks, &shutdown);
                DISCOVER
            }
            Err(error) => {
                tracing::debug!(controller = NAME, message = error.message(), %error, "discovery failed");
                DISCOVER_FIRST
            }
        };
        if shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}

fn follow(
    shared: &Shared,
    served: Vec<Served>,
    watches: &mut HashMap<(String, String), CancellationToken>,
    tasks: &mut JoinSet<()>,
    shutdown: &CancellationToken,
) {
    let ignored =
        |s: &Served| IGNORED.iter().any(|(group, kind)| s.resource.group == *group && s.resource.kind == *kind);
    let served: Vec<Served> = served.into_iter().filter(|s| s.watched && !ignored(s)).collect();
    let wanted: HashSet<_> = served.iter().map(|s| key_of(&s.resource)).collect();
    watches.retain(|key, stop| {
        let keep = wanted.contains(key);
        if !keep {
            stop.cancel();
            shared.kinds.lock().remove(key);
        }
        keep
    });
    for kind in served {
        watches.entry(key_of(&kind.resource)).or_insert_with_key(|key| {
            let stop = shutdown.child_token();
            let watched = Watched { kind: Arc::new(kind.resource.clone()), namespaced: kind.namespaced };
            shared.kinds.lock().insert(key.clone(), watched.clone());
            let (shared, stopped) = (shared.clone(), stop.clone());
            tasks.spawn(async move {
                stopped.run_until_cancelled(follow_kind(shared, watched.kind)).await;
            });
            stop
        });
    }
    while tasks.try_join_next().is_some() {}
}

async fn follow_kind(shared: Shared, kind: Kind) {
    let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(shared.client.clone(), kind.as_ref());
    let events = watcher(api, watcher::Config::default()).backoff(watcher::DefaultBackoff::default());
    let mut events = std::pin::pin!(events);
    let mut listed: HashSet<Uid> = HashSet::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(object)) => {
                listed.extend(object.metadata.uid.clone());
                put(&shared, &kind, &object);
            }
            Ok(watcher::Event::InitDone) => {
                let listed = std::mem::take(&mut listed);
                let known = shared.graph.lock().of_kind(&kind);
                known.into_iter().filter(|uid| !listed.contains(uid)).for_each(|uid| remove(&shared, &uid));
            }
            Ok(watcher::Event::Apply(object)) => put(&shared, &kind, &object),
            Ok(watcher::Event::Delete(object)) => {
                if let Some(uid) = &object.metadata.uid {
                    shared.graph.lock().bury(uid);
                    remove(&shared, uid);
                }
            }
            Err(error) => tracing::debug!(controller = NAME, kind = kind.kind, %error, "watch failed; trying again"),
        }
    }
}

fn put(shared: &Shared, kind: &Kind, object: &PartialObjectMeta<DynamicObject>) {
    if let Some((uid, node)) = Node::of(kind, object) {
        let look_at = shared.graph.lock().put(&uid, node);
        shared.look_at(look_at);
    }
}

fn remove(shared: &Shared, uid: &Uid) {
    let look_at = shared.graph.lock().remove(uid);
    shared.look_at(look_at);
}
