//! The one writer of the authorizer's state: follows roles, bindings and pods in the store.
use super::index::{Kind, Objects};
use super::{Authorizer, Index, aggregate};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use store::{Backend, Change, Range, WatchFrom, WatchItem};
use tokio_util::sync::CancellationToken;

/// The pause before a broken watch is taken up again.
const RETRY: Duration = Duration::from_secs(1);

const RBAC: [(&str, Kind); 4] = [
    ("/registry/roles/", Kind::Role),
    ("/registry/clusterroles/", Kind::Role),
    ("/registry/rolebindings/", Kind::Binding),
    ("/registry/clusterrolebindings/", Kind::Binding),
];
const PODS: &str = "/registry/pods/";

/// Loads everything once, so that requests are judged rightly from the first.
///
/// # Errors
/// The store's own.
pub async fn load(authorizer: &Authorizer, backend: &dyn Backend) -> store::Result<Follower> {
    let revision = backend.current_revision();
    let mut objects = Objects::new();
    for (prefix, _) in RBAC {
        for entry in backend.list(&Range::prefix(prefix), Some(revision), 0).await?.entries {
            set(&mut objects, &entry.key, Some(&entry.value));
        }
    }
    authorizer.graph().clear();
    for entry in backend.list(&Range::prefix(PODS), Some(revision), 0).await?.entries {
        set_pod(authorizer, &entry.key, Some(&entry.value));
    }
    authorizer.publish(Index::new(&objects));
    Ok(Follower { objects, revision })
}

/// What the writer remembers between changes.
pub struct Follower {
    objects: Objects,
    revision: store::Revision,
}

/// Follows the store until shutdown; when a watch breaks (a slow reader is told "compacted"), loads anew.
pub async fn follow(
    authorizer: Arc<Authorizer>,
    backend: Arc<dyn Backend>,
    start: Follower,
    shutdown: CancellationToken,
) {
    let run = async {
        let mut state = Some(start);
        loop {
            let follower = match state.take() {
                Some(follower) => Ok(follower),
                None => load(&authorizer, &*backend).await,
            };
            let error = match follower {
                Ok(follower) => watch(&authorizer, &*backend, follower).await,
                Err(error) => error,
            };
            tracing::debug!(%error, "following roles and bindings: beginning again");
            tokio::time::sleep(RETRY).await;
        }
    };
    shutdown.run_until_cancelled(run).await;
}

/// Applies changes until the watch ends, and says why it did.
async fn watch(authorizer: &Authorizer, backend: &dyn Backend, mut follower: Follower) -> store::Error {
    // One watch over the whole key space between the first and last prefix would see every object; these few
    // are merged instead.
    let (sender, mut changes) = tokio::sync::mpsc::channel::<store::Result<Vec<Arc<Change>>>>(16);
    let mut pumps = tokio::task::JoinSet::new();
    for prefix in RBAC.iter().map(|(prefix, _)| *prefix).chain([PODS]) {
        let watch = match backend.watch(Range::prefix(prefix), WatchFrom::After(follower.revision)).await {
            Ok(watch) => watch,
            Err(error) => return error,
        };
        pumps.spawn(pump(watch, sender.clone()));
    }
    drop(sender);
    while let Some(batch) = changes.recv().await {
        match batch {
            Ok(batch) => {
                if apply(authorizer, &mut follower.objects, &batch)
                    && let Err(error) = aggregate::execute(backend, aggregate::plan(&follower.objects)).await
                {
                    return error;
                }
            }
            Err(error) => return error,
        }
    }
    store::Error::Closed
}

async fn pump(mut watch: Box<dyn store::Watch>, to: tokio::sync::mpsc::Sender<store::Result<Vec<Arc<Change>>>>) {
    while let Some(item) = watch.next().await {
        let sent = match item {
            Ok(WatchItem::Changes(changes)) => to.send(Ok(changes)).await,
            Ok(WatchItem::Progress(_)) => Ok(()),
            Err(error) => to.send(Err(error)).await,
        };
        if sent.is_err() {
            return;
        }
    }
    let _ = to.send(Err(store::Error::Closed)).await;
}

/// Returns whether roles or bindings changed.
fn apply(authorizer: &Authorizer, objects: &mut Objects, changes: &[Arc<Change>]) -> bool {
    let mut rbac = false;
    for change in changes {
        let value = change.entry.as_ref().map(|entry| &entry.value[..]);
        if change.key.starts_with(PODS.as_bytes()) {
            if !still_bound(change) {
                set_pod(authorizer, &change.key, value);
            }
        } else {
            rbac |= set(objects, &change.key, value);
        }
    }
    if rbac {
        authorizer.publish(Index::new(objects));
    }
    rbac
}

/// Most changes of a pod are of its status: what a bound pod refers to can't change any more.
fn still_bound(change: &Change) -> bool {
    fn node(entry: &Option<Arc<store::Entry>>) -> Option<&str> {
        entry.as_ref()?.summary.fields.get("spec.nodeName").map(|node| &**node).filter(|node| !node.is_empty())
    }
    node(&change.entry).is_some() && node(&change.entry) == node(&change.previous)
}

fn set(objects: &mut Objects, key: &[u8], value: Option<&[u8]>) -> bool {
    let Some((kind, namespace, name)) = read_key(key) else { return false };
    let key = (kind, namespace.to_owned(), name.to_owned());
    match value.map(serde_json::from_slice::<Value>) {
        Some(Ok(mut object)) => {
            // Labels and rules are all that counts here.
            object["metadata"] = json!({"labels": object["metadata"]["labels"].take()});
            objects.insert(key, object);
        }
        Some(Err(error)) => {
            tracing::error!(namespace, name, %error, "a stored role or binding can't be read; it grants nothing");
            objects.remove(&key);
        }
        None => {
            objects.remove(&key);
        }
    }
    true
}

fn set_pod(authorizer: &Authorizer, key: &[u8], value: Option<&[u8]>) {
    let Some((namespace, name)) =
        std::str::from_utf8(key).ok().and_then(|key| key.strip_prefix(PODS)).and_then(|rest| rest.split_once('/'))
    else {
        return;
    };
    let pod = value.and_then(|value| serde_json::from_slice::<Value>(value).ok());
    authorizer.graph().set_pod(namespace, name, pod.as_ref());
}

/// Kind, namespace and name of an RBAC object's key.
fn read_key(key: &[u8]) -> Option<(Kind, &str, &str)> {
    let key = std::str::from_utf8(key).ok()?;
    let (kind, rest) = RBAC.iter().find_map(|(prefix, kind)| Some((*kind, key.strip_prefix(prefix)?)))?;
    // Names of cluster roles hold colons but never a slash.
    Some(match rest.split_once('/') {
        Some((namespace, name)) => (kind, namespace, name),
        None => (kind, "", rest),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_their_objects() {
        let read = |key: &'static str| read_key(key.as_bytes());
        assert_eq!(read("/registry/clusterroles/system:node"), Some((Kind::Role, "", "system:node")));
        assert_eq!(read("/registry/rolebindings/a/b"), Some((Kind::Binding, "a", "b")));
        assert_eq!(read("/registry/pods/a/b"), None);
    }
}
