//! ConfigMaps and Secrets in volumes are watched, one by one as the Node authorizer allows, so that a change is in its
//! pods within a moment.
use super::{Key, Known, Objects, Referred};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// Objects watched at once; those beyond are looked at from time to time.
const WATCHED: usize = 1024;

/// A pod that wants to hear of changes.
#[derive(Clone, Default)]
pub struct Listener {
    changed: Arc<AtomicBool>,
    wake: Arc<Notify>,
}

impl Listener {
    pub fn new(wake: Arc<Notify>) -> Self {
        Self { changed: Arc::default(), wake }
    }

    /// Whether anything has changed since this was asked last.
    pub fn take(&self) -> bool {
        self.changed.swap(false, Ordering::AcqRel)
    }

    /// Something has changed.
    pub fn tell(&self) {
        self.changed.store(true, Ordering::Release);
        self.wake.notify_one();
    }
}

/// Who follows what.
#[derive(Default)]
pub struct Followed {
    watches: HashMap<Key, Watched>,
}

struct Watched {
    listeners: HashMap<String, Listener>,
    _task: DropGuard,
}

/// What a pod's volumes show, by kind and name.
fn references(pod: &Pod) -> BTreeSet<Key> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let mut found = BTreeSet::new();
    let mut add = |kind: &str, name: &str| {
        found.insert((kind.to_owned(), namespace.clone(), name.to_owned()));
    };
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        if let Some(source) = &volume.config_map {
            add("ConfigMap", &source.name);
        }
        if let Some(name) = volume.secret.as_ref().and_then(|source| source.secret_name.as_deref()) {
            add("Secret", name);
        }
        for part in volume.projected.iter().flat_map(|source| source.sources.iter().flatten()) {
            if let Some(source) = &part.config_map {
                add("ConfigMap", &source.name);
            }
            if let Some(source) = &part.secret {
                add("Secret", &source.name);
            }
        }
    }
    found
}

impl Objects {
    /// From now on `listener` hears of changes of what the pod's volumes show. Call it again after the pod changed.
    pub fn follow(self: &Arc<Self>, uid: &str, pod: &Pod, listener: &Listener, tracker: &TaskTracker) {
        let wanted = references(pod);
        let mut followed = self.followed.lock();
        for key in &wanted {
            if let Some(watched) = followed.watches.get_mut(key) {
                watched.listeners.insert(uid.to_owned(), listener.clone());
            } else if followed.watches.len() < WATCHED {
                let token = CancellationToken::new();
                let (objects, key, cancelled) = (self.clone(), key.clone(), token.clone());
                let work = objects.watch(key.clone());
                tracker.spawn(async move { cancelled.run_until_cancelled(work).await });
                let listeners = HashMap::from([(uid.to_owned(), listener.clone())]);
                followed.watches.insert(key, Watched { listeners, _task: token.drop_guard() });
            }
        }
    }

    /// The pod is no more.
    pub fn unfollow(&self, uid: &str) {
        let mut followed = self.followed.lock();
        let mut ended = Vec::new();
        followed.watches.retain(|key, watched| {
            watched.listeners.remove(uid);
            let stays = !watched.listeners.is_empty();
            if !stays {
                ended.push(key.clone());
            }
            stays
        });
        drop(followed);
        let mut known = self.known.lock();
        ended.iter().for_each(|key| drop(known.remove(key)));
    }

    /// Ends all watches: the agent stops.
    pub fn unfollow_all(&self) {
        self.followed.lock().watches.clear();
    }

    async fn watch(self: Arc<Self>, key: Key) {
        match key.0.as_str() {
            "Secret" => self.watch_kind::<Secret>(key).await,
            _ => self.watch_kind::<ConfigMap>(key).await,
        }
    }

    async fn watch_kind<K: Referred + Send + Sync + 'static>(self: Arc<Self>, key: Key) {
        let api: Api<K> = Api::namespaced(self.client.clone(), &key.1);
        let only = watcher::Config::default().fields(&format!("metadata.name={}", key.2));
        let mut events = std::pin::pin!(watcher(api, only).default_backoff());
        let mut listed: Option<Value> = None;
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init) => listed = None,
                Ok(watcher::Event::InitApply(object)) => listed = serde_json::to_value(object).ok(),
                Ok(watcher::Event::InitDone) => self.learn(&key, listed.take()),
                Ok(watcher::Event::Apply(object)) => self.learn(&key, serde_json::to_value(object).ok()),
                Ok(watcher::Event::Delete(_)) => self.learn(&key, None),
                // Until the watch is back, readers ask the server.
                Err(_) => drop(self.known.lock().remove(&key)),
            }
        }
    }

    /// What the watch says; those who follow are told when it is news.
    fn learn(&self, key: &Key, object: Option<Value>) {
        let news = Known { at: Instant::now(), object, live: true };
        let before = self.known.lock().insert(key.clone(), news.clone());
        if before.is_some_and(|before| before.object == news.object) {
            return;
        }
        if let Some(watched) = self.followed.lock().watches.get(key) {
            watched.listeners.values().for_each(Listener::tell);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn volumes_name_what_is_followed() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {
            "containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "env"}}]}],
            "volumes": [{"name": "a", "configMap": {"name": "c1"}}, {"name": "b", "secret": {"secretName": "s1"}},
                {"name": "p", "projected": {"sources": [{"configMap": {"name": "c2"}}, {"secret": {"name": "s2"}}]}}]}}))
        .unwrap();
        let names: Vec<_> = references(&pod).into_iter().map(|(kind, _, name)| format!("{kind}/{name}")).collect();
        assert_eq!(names, ["ConfigMap/c1", "ConfigMap/c2", "Secret/s1", "Secret/s2"]);
    }
}
