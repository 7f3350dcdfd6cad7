//! One shared reflector a kind a process: a cache that follows the API, and change notices for whoever reconciles.
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
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Informers {
    pub fn new(client: kube::Client, tasks: TaskTracker, shutdown: CancellationToken) -> Self {
        Self { client, by_kind: Arc::default(), tasks, shutdown }
    }

    /// The shared reflector of a kind.
    pub fn reflector<K: Cached>(&self) -> Reflector<K> {
        self.reflector_with(watcher::Config::default())
    }

    /// The same with a selector, for a process that needs only a part (an agent: its own pods). The first
    /// caller's selector counts.
    pub fn reflector_with<K: Cached>(&self, config: watcher::Config) -> Reflector<K> {
        let mut by_kind = self.by_kind.lock();
        let any = by_kind.entry(TypeId::of::<K>()).or_insert_with(|| {
            let reflector = Reflector::<K>::new();
            let run = reflector.clone().follow(Api::all(self.client.clone()), config);
            let shutdown = self.shutdown.clone();
            self.tasks.spawn(async move { shutdown.run_until_cancelled(run).await });
            Arc::new(reflector)
        });
        any.downcast_ref::<Reflector<K>>().expect("the map's key is the reflector's type").clone()
    }
}

/// A cache of one kind that follows the API.
pub struct Reflector<K> {
    objects: Arc<RwLock<BTreeMap<Key, Arc<K>>>>,
    notices: broadcast::Sender<Event<K>>,
    synced: Arc<watch::Sender<bool>>,
}

impl<K> Clone for Reflector<K> {
    fn clone(&self) -> Self {
        Self { objects: self.objects.clone(), notices: self.notices.clone(), synced: self.synced.clone() }
    }
}

impl<K: Cached> Reflector<K> {
    fn new() -> Self {
        Self {
            objects: Arc::default(),
            notices: broadcast::Sender::new(NOTICES),
            synced: Arc::new(watch::Sender::new(false)),
        }
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.objects.read().get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// All objects, in order of namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.objects.read().values().cloned().collect()
    }

    pub fn list_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let from = (namespace.to_owned(), String::new());
        let objects = self.objects.read();
        objects.range(from..).take_while(|((ns, _), _)| ns == namespace).map(|(_, object)| object.clone()).collect()
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
                Ok(watcher::Event::Init) => listing = Some(BTreeMap::new()),
                Ok(watcher::Event::InitApply(object)) => {
                    let (key, object) = slim(object);
                    listing.get_or_insert_default().insert(key, object);
                }
                Ok(watcher::Event::InitDone) => self.replace(listing.take().unwrap_or_default()),
                Ok(watcher::Event::Apply(object)) => self.apply(object),
                Ok(watcher::Event::Delete(object)) => self.delete(object),
                Err(error) => tracing::debug!(kind = %K::kind(&()), %error, "watch failed; trying again"),
            }
        }
    }

    fn replace(&self, new: BTreeMap<Key, Arc<K>>) {
        let old = std::mem::replace(&mut *self.objects.write(), new.clone());
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
        self.synced.send_replace(true);
    }

    fn apply(&self, object: K) {
        let (key, new) = slim(object);
        let old = self.objects.write().insert(key, new.clone());
        self.notify(Event::Applied { old, new });
    }

    fn delete(&self, object: K) {
        let (key, last) = slim(object);
        self.objects.write().remove(&key);
        self.notify(Event::Deleted(last));
    }

    fn notify(&self, event: Event<K>) {
        // Nobody subscribed is no error.
        let _ = self.notices.send(event);
    }
}

/// Drops what no component reads and what weighs most.
fn slim<K: Resource>(mut object: K) -> (Key, Arc<K>) {
    object.meta_mut().managed_fields = None;
    if let Some(annotations) = &mut object.meta_mut().annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
    ((object.namespace().unwrap_or_default(), object.name_any()), Arc::new(object))
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
