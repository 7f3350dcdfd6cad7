//! One shared reflector a kind a process: a cache that follows the API, and change notices for whoever reconciles.
use crate::projection::{Whole, project};
use futures::StreamExt;
use kube::runtime::watcher;
use kube::{Api, Resource, ResourceExt};
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use std::any::{Any, TypeId};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::Arc;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Notices kept for a subscriber that is slow; past it the subscriber is told to resynchronise.
const NOTICES: usize = 4096;

/// A kind that can be cached: listed and watched over the whole cluster.
pub trait Cached: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static {}
impl<K> Cached for K where K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static {}

/// `(namespace, name)`; the namespace of a cluster-scoped object is empty.
pub type Key = (String, String);

/// What happened to one object. `Resync` says that notices were dropped: look at the whole cache.
#[derive(Debug)]
pub enum Event<K> {
    Applied { old: Option<Arc<K>>, new: Arc<K> },
    Deleted(Arc<K>),
    Resync,
}

impl<K> Clone for Event<K> {
    fn clone(&self) -> Self {
        match self {
            Self::Applied { old, new } => Self::Applied { old: old.clone(), new: new.clone() },
            Self::Deleted(old) => Self::Deleted(old.clone()),
            Self::Resync => Self::Resync,
        }
    }
}

/// The reflectors of a process, by kind; they start when first asked for and stop with `shutdown`.
#[derive(Clone)]
pub struct Informers {
    client: kube::Client,
    by_kind: Arc<Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>>,
    progress: Arc<Mutex<HashMap<String, Progress>>>,
    whole: Whole,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Informers {
    pub fn new(client: kube::Client, tasks: TaskTracker, shutdown: CancellationToken) -> Self {
        Self { client, by_kind: Arc::default(), progress: Arc::default(), whole: Whole::default(), tasks, shutdown }
    }

    /// Which pods are cached whole; it holds for reflectors that start from now on.
    pub fn whole(self, whole: Whole) -> Self {
        Self { whole, ..self }
    }

    /// The shared reflector of a kind.
    pub fn reflector<K: Cached>(&self) -> Reflector<K> {
        self.reflector_with(watcher::Config::default())
    }

    /// How far the reflector of a kind is, by the kind's name; `None` when nobody asked for that reflector.
    pub fn progress(&self, kind: &str) -> Option<Progress> {
        self.progress.lock().get(kind).cloned()
    }

    /// [`Self::reflector`] with a selector, for a process that needs only a part (an agent: its own pods). The first
    /// caller's selector counts.
    pub fn reflector_with<K: Cached>(&self, config: watcher::Config) -> Reflector<K> {
        let mut by_kind = self.by_kind.lock();
        let any = by_kind.entry(TypeId::of::<K>()).or_insert_with(|| {
            let reflector = Reflector::<K>::new(self.whole.clone());
            self.progress.lock().insert(K::kind(&()).into_owned(), reflector.progress.clone());
            let run = reflector.clone().follow(Api::all(self.client.clone()), config);
            let shutdown = self.shutdown.clone();
            self.tasks.spawn(async move { shutdown.run_until_cancelled(run).await });
            Arc::new(reflector)
        });
        any.downcast_ref::<Reflector<K>>().expect("the map's key is the reflector's type").clone()
    }
}

/// How far a reflector has followed the API, to tell whether it has seen a write of ours.
#[derive(Clone, Default)]
pub struct Progress {
    seen: Arc<watch::Sender<Seen>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// The highest resourceVersion seen.
    revision: u64,
    lists_begun: u64,
    /// The number of the last list that was completed.
    lists_done: u64,
}

/// A point that a reflector has to pass before it shows a certain write.
#[derive(Clone, Debug)]
pub struct Mark {
    revision: u64,
    lists_begun: u64,
}

impl Progress {
    /// The point at which a write that was answered with `resource_version` is visible: resourceVersions of one kind
    /// are ordered. `None` for one that is no number, which no server of ours or upstream's sends.
    pub fn mark(&self, resource_version: &str) -> Option<Mark> {
        let revision = resource_version.parse().ok()?;
        Some(Mark { revision, lists_begun: self.seen.borrow().lists_begun })
    }

    pub fn passed(&self, mark: &Mark) -> bool {
        self.seen.borrow().passed(mark)
    }

    /// Waits until the reflector has passed `mark`.
    pub async fn pass(&self, mark: &Mark) {
        let _ = self.seen.subscribe().wait_for(|seen| seen.passed(mark)).await;
    }

    fn see<K: Resource>(&self, object: &K) {
        if let Some(revision) = object.resource_version().and_then(|rv| rv.parse().ok()) {
            self.seen.send_if_modified(|seen| {
                let newer = seen.revision < revision;
                seen.revision = seen.revision.max(revision);
                newer
            });
        }
    }
}

impl Seen {
    /// Either the watch came past the write, or a list that began after it is complete (the object may be gone).
    fn passed(&self, mark: &Mark) -> bool {
        self.revision >= mark.revision || self.lists_done > mark.lists_begun
    }
}

/// A cache of one kind that follows the API.
pub struct Reflector<K> {
    objects: Arc<RwLock<Objects<K>>>,
    notices: broadcast::Sender<Event<K>>,
    synced: Arc<watch::Sender<bool>>,
    progress: Progress,
    whole: Arc<Whole>,
}

impl<K> Clone for Reflector<K> {
    fn clone(&self) -> Self {
        Self {
            objects: self.objects.clone(),
            notices: self.notices.clone(),
            synced: self.synced.clone(),
            progress: self.progress.clone(),
            whole: self.whole.clone(),
        }
    }
}

impl<K: Cached> Reflector<K> {
    fn new(whole: Whole) -> Self {
        Self {
            whole: Arc::new(whole),
            objects: Arc::new(RwLock::new(Objects::new(BTreeMap::new()))),
            notices: broadcast::Sender::new(NOTICES),
            synced: Arc::new(watch::Sender::new(false)),
            progress: Progress::default(),
        }
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.objects.read().by_key.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// All objects, in order of namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.objects.read().by_key.values().cloned().collect()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.objects.read().by_key.is_empty()
    }

    pub fn list_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let from = (namespace.to_owned(), String::new());
        let objects = self.objects.read();
        objects
            .by_key
            .range(from..)
            .take_while(|((ns, _), _)| ns == namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// The objects of a namespace for which `wanted` holds; no namespace means all.
    pub fn select(&self, namespace: &str, wanted: impl Fn(&K) -> bool) -> Vec<Arc<K>> {
        let from = (namespace.to_owned(), String::new());
        let objects = self.objects.read();
        let inside = objects.by_key.range(from..).take_while(|((ns, _), _)| namespace.is_empty() || ns == namespace);
        inside.filter(|(_, object)| wanted(object)).map(|(_, object)| object.clone()).collect()
    }

    /// What the owner with this uid manages, in no order. Costs what it returns, however much else there is.
    pub fn controlled_by(&self, owner_uid: &str) -> Vec<Arc<K>> {
        self.objects.read().by_owner.get(owner_uid).cloned().unwrap_or_default()
    }

    /// What nobody manages in a namespace, in no order.
    pub fn uncontrolled(&self, namespace: &str) -> Vec<Arc<K>> {
        self.objects.read().free.get(namespace).cloned().unwrap_or_default()
    }

    /// How far this cache has followed the API.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Returns when the first list is complete.
    pub async fn synced(&self) {
        // The sender lives as long as `self`, so waiting can't fail.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// Notices of everything that changes from now on. To miss nothing: subscribe, wait for [`Self::synced`],
    /// list, then follow the notices.
    pub fn subscribe(&self) -> Subscription<K> {
        Subscription { notices: self.notices.subscribe() }
    }

    async fn follow(self, api: Api<K>, config: watcher::Config) {
        let backoff = watcher::DefaultBackoff::default();
        let events = kube::runtime::WatchStreamExt::backoff(watcher(api, config), backoff);
        let mut events = std::pin::pin!(events);
        let mut listing: Option<BTreeMap<Key, Arc<K>>> = None;
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init) => {
                    self.progress.seen.send_modify(|seen| seen.lists_begun += 1);
                    listing = Some(BTreeMap::new());
                }
                Ok(watcher::Event::InitApply(object)) => {
                    let (key, object) = self.entry(object);
                    listing.get_or_insert_default().insert(key, object);
                }
                Ok(watcher::Event::InitDone) => self.replace(listing.take().unwrap_or_default()),
                Ok(watcher::Event::Apply(object)) => self.apply(object),
                Ok(watcher::Event::Delete(object)) => self.delete(object),
                Err(error) => tracing::debug!(kind = %K::kind(&()), %error, "watch failed; trying again"),
            }
        }
    }

    fn entry(&self, mut object: K) -> (Key, Arc<K>) {
        project(&mut object, &self.whole);
        (key(&object), Arc::new(object))
    }

    fn replace(&self, new: BTreeMap<Key, Arc<K>>) {
        let newest = new.values().filter_map(|o| o.resource_version()?.parse::<u64>().ok()).max().unwrap_or_default();
        let old = std::mem::replace(&mut *self.objects.write(), Objects::new(new.clone())).by_key;
        for (key, gone) in &old {
            if !new.contains_key(key) {
                self.notify(Event::Deleted(gone.clone()));
            }
        }
        for (key, new) in new {
            let old = old.get(&key).cloned();
            if old.as_ref().and_then(|o| o.resource_version()) != new.resource_version() {
                self.notify(Event::Applied { old, new });
            }
        }
        self.progress.seen.send_modify(|seen| {
            seen.lists_done = seen.lists_begun;
            seen.revision = seen.revision.max(newest);
        });
        self.synced.send_replace(true);
    }

    fn apply(&self, object: K) {
        let (key, new) = self.entry(object);
        let old = self.objects.write().put(key, new.clone());
        self.progress.see(&*new);
        self.notify(Event::Applied { old, new });
    }

    fn delete(&self, object: K) {
        let (key, last) = self.entry(object);
        self.objects.write().remove(&key);
        self.progress.see(&*last);
        self.notify(Event::Deleted(last));
    }

    fn notify(&self, event: Event<K>) {
        // Nobody subscribed is no error.
        let _ = self.notices.send(event);
    }
}

/// The cached objects, also by who manages them: reconcilers ask for that all the time.
struct Objects<K> {
    by_key: BTreeMap<Key, Arc<K>>,
    /// By the managing owner's uid.
    by_owner: HashMap<String, Vec<Arc<K>>>,
    /// Those that nobody manages, by namespace.
    free: HashMap<String, Vec<Arc<K>>>,
}

impl<K: Resource> Objects<K> {
    fn new(by_key: BTreeMap<Key, Arc<K>>) -> Self {
        let mut objects = Self { by_key: BTreeMap::new(), by_owner: HashMap::new(), free: HashMap::new() };
        for object in by_key.values() {
            objects.bucket(object).push(object.clone());
        }
        objects.by_key = by_key;
        objects
    }

    fn put(&mut self, key: Key, new: Arc<K>) -> Option<Arc<K>> {
        let old = self.by_key.insert(key, new.clone());
        if let Some(old) = &old {
            self.unlist(old);
        }
        self.bucket(&new).push(new);
        old
    }

    fn remove(&mut self, key: &Key) {
        if let Some(old) = self.by_key.remove(key) {
            self.unlist(&old);
        }
    }

    fn bucket(&mut self, object: &K) -> &mut Vec<Arc<K>> {
        let (map, key) = self.place(object);
        map.entry(key).or_default()
    }

    fn unlist(&mut self, object: &Arc<K>) {
        let (map, key) = self.place(object);
        let Some(bucket) = map.get_mut(&key) else { return };
        // The latest changes are at the end, and change again soonest.
        if let Some(at) = bucket.iter().rposition(|other| Arc::ptr_eq(other, object)) {
            bucket.swap_remove(at);
        }
        if bucket.is_empty() {
            map.remove(&key);
        }
    }

    fn place(&mut self, object: &K) -> (&mut HashMap<String, Vec<Arc<K>>>, String) {
        let mut owners = object.meta().owner_references.iter().flatten();
        match owners.find(|owner| owner.controller == Some(true)) {
            Some(owner) => (&mut self.by_owner, owner.uid.clone()),
            None => (&mut self.free, object.meta().namespace.clone().unwrap_or_default()),
        }
    }
}

fn key<K: Resource>(object: &K) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// A subscriber's end of a reflector's notices.
pub struct Subscription<K> {
    notices: broadcast::Receiver<Event<K>>,
}

impl<K> Subscription<K> {
    /// The next notice; `None` when the reflector is gone.
    pub async fn next(&mut self) -> Option<Event<K>> {
        match self.notices.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(Event::Resync),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use proptest::prelude::*;
    use serde_json::json;

    fn pod(name: u8, owner: u8) -> (Key, Arc<Pod>) {
        let owners = match owner {
            0 => json!([]),
            owner => {
                json!([{"apiVersion": "v1", "kind": "Set", "name": "s", "uid": owner.to_string(), "controller": true}])
            }
        };
        let metadata = json!({"name": format!("p{name}"), "namespace": "ns", "ownerReferences": owners});
        let pod: Pod = serde_json::from_value(json!({"metadata": metadata})).unwrap();
        (key(&pod), Arc::new(pod))
    }

    proptest! {
        #[test]
        fn the_index_is_what_a_scan_would_find(changes in prop::collection::vec((0u8..6, 0u8..4, any::<bool>()), 0..60), relist in any::<bool>()) {
            let mut objects = Objects::<Pod>::new(BTreeMap::new());
            for (name, owner, delete) in changes {
                let (key, pod) = pod(name, owner);
                if delete { objects.remove(&key) } else { objects.put(key, pod); }
            }
            if relist { objects = Objects::new(objects.by_key); }
            let names = |pods: Vec<Arc<Pod>>| pods.iter().map(|pod| pod.name_any()).collect::<std::collections::BTreeSet<_>>();
            for owner in 0..4u8 {
                let owned_by = |pod: &Pod| pod.owner_references().first().map_or(0, |o| o.uid.parse().unwrap());
                let scan = objects.by_key.values().filter(|pod| owned_by(pod) == owner).cloned().collect::<Vec<_>>();
                let bucket = if owner == 0 { objects.free.get("ns") } else { objects.by_owner.get(&owner.to_string()) };
                prop_assert_eq!(bucket.map_or(0, Vec::len), scan.len());
                prop_assert_eq!(names(bucket.cloned().unwrap_or_default()), names(scan));
            }
        }
    }
}
