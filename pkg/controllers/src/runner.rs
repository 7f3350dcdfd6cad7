//! What runs every controller: watches -> keys -> reconcile, with bounded concurrency, retries with growing pauses,
//! and no work on a key before the caches show what was last written for it.
use crate::error::Error;
use crate::execute::{Executor, Run, Write};
use api::home::{Ownership, Standing};
use client::informers::{Cached, Key};
use client::{Event, Informers, Reflector, WorkQueue};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Every key is looked at this often even when nothing seems to happen: a net below the watches.
const RESYNC: Duration = Duration::from_secs(600);
/// How long a reconciliation waits for the caches to show its own writes; upstream's expectations expire so too.
const STALE: Duration = Duration::from_secs(300);
/// How often waiting for the caches is tried again.
const STALE_RETRY: Duration = Duration::from_millis(10);

/// One controller: which changes concern which keys, and what to do about a key.
pub trait Reconciler: Send + Sync + 'static {
    /// Also the ServiceAccount in kube-system that it acts as, and its Events' source.
    const NAME: &'static str;
    /// Keys worked on at once.
    const WORKERS: usize = 5;

    /// Registers what to watch.
    fn watch(&self, watches: &mut Watches);

    /// Makes the cluster more like what it should be. Errors are retried.
    fn reconcile(&self, key: Key, run: &mut Run) -> impl Future<Output = Result<(), Error>> + Send;
}

/// A change of a watched object, as the mapping to keys sees it.
pub struct Change<'a, K> {
    /// As it was before; `None` for a new object and in a resync.
    pub old: Option<&'a K>,
    pub new: &'a K,
    pub deleted: bool,
}

/// The watches of one controller.
pub struct Watches {
    informers: Informers,
    queue: WorkQueue<Key>,
    shutdown: CancellationToken,
    synced: Vec<BoxFuture<'static, ()>>,
    tasks: JoinSet<()>,
    ownership: watch::Receiver<Ownership>,
    primaries: Vec<Primary>,
    everywhere: bool,
}

/// Finds the object that a key names, and says what it is to this server.
type Primary = Box<dyn Fn(&Ownership, &Key) -> Option<Standing> + Send + Sync>;

impl Watches {
    /// For each change of a `K`, the keys that `keys` gives are reconciled.
    pub fn on<K: Cached>(&mut self, keys: impl Fn(&Change<'_, K>) -> Vec<Key> + Send + Sync + 'static) {
        self.on_change(move |change, queue| keys(change).into_iter().for_each(|key| queue.add(key)));
    }

    /// As [`Self::on`], for a mapping that wants delays.
    pub fn on_change<K: Cached>(&mut self, react: impl Fn(&Change<'_, K>, &WorkQueue<Key>) + Send + Sync + 'static) {
        let reflector = self.informers.reflector::<K>();
        let ready = reflector.clone();
        self.synced.push(Box::pin(async move { ready.synced().await }));
        let (queue, shutdown, ownership) = (self.queue.clone(), self.shutdown.clone(), self.ownership.clone());
        self.tasks.spawn(async move {
            shutdown.run_until_cancelled(follow(reflector, queue, ownership, react)).await;
        });
    }

    /// Keys name objects of this kind (or of one that was named before, where there is such an object): their home
    /// reconciles them.
    pub fn primary<K: Cached>(&mut self) {
        let reflector = self.informers.reflector::<K>();
        self.primaries.push(Box::new(move |view, (namespace, name)| {
            let object = reflector.get(namespace, name)?;
            Some(view.standing(&client::home::claim(&*object)))
        }));
    }

    /// Every site does its part of the work on each key.
    pub fn everywhere(&mut self) {
        self.everywhere = true;
    }

    /// Each object of this kind is a key itself.
    pub fn own<K: Cached>(&mut self) {
        self.primary::<K>();
        self.on::<K>(|change| vec![key_of(change.new)]);
    }
}

/// An object's key.
pub fn key_of<K: kube::Resource>(object: &K) -> Key {
    let meta = object.meta();
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

async fn follow<K: Cached>(
    reflector: Reflector<K>,
    queue: WorkQueue<Key>,
    mut ownership: watch::Receiver<Ownership>,
    react: impl Fn(&Change<'_, K>, &WorkQueue<Key>),
) {
    let mut view = ownership.borrow_and_update().clone();
    let mut notices = reflector.subscribe();
    reflector.synced().await;
    let all = || {
        for object in reflector.list() {
            react(&Change { old: None, new: &object, deleted: false }, &queue);
        }
    };
    all();
    let mut resync = tokio::time::interval_at(tokio::time::Instant::now() + RESYNC, RESYNC);
    loop {
        let event = tokio::select! {
            event = notices.next() => event,
            _ = resync.tick() => Some(Event::Resync),
            () = client::home::changed(&mut ownership) => {
                let now = ownership.borrow_and_update().clone();
                for object in reflector.list().iter().filter(|object| stands_otherwise(&***object, &view, &now)) {
                    react(&Change { old: None, new: object, deleted: false }, &queue);
                }
                view = now;
                continue;
            }
        };
        match event {
            Some(Event::Applied { old, new }) => {
                react(&Change { old: old.as_deref(), new: &*new, deleted: false }, &queue);
            }
            Some(Event::Deleted(last)) => react(&Change { old: None, new: &*last, deleted: true }, &queue),
            Some(Event::Resync) => all(),
            None => return,
        }
    }
}

/// Whether a change of the sites concerns this object.
fn stands_otherwise<K: Cached>(object: &K, before: &Ownership, now: &Ownership) -> bool {
    let claim = client::home::claim(object);
    let otherwise =
        before.standing(&claim) != now.standing(&claim) || before.in_contact(&claim) != now.in_contact(&claim);
    otherwise || before.differs_in_rules(now)
}

/// Runs a controller until shutdown; reconciliations under way are finished.
pub async fn run<R: Reconciler>(reconciler: R, executor: Executor, shutdown: CancellationToken) {
    let queue = WorkQueue::new();
    let (informers, tasks) = (executor.informers.clone(), JoinSet::new());
    let mut watches = Watches {
        informers,
        queue: queue.clone(),
        shutdown: shutdown.clone(),
        synced: Vec::new(),
        tasks,
        ownership: executor.ownership.clone(),
        primaries: Vec::new(),
        everywhere: false,
    };
    reconciler.watch(&mut watches);
    if shutdown.run_until_cancelled(futures::future::join_all(watches.synced.drain(..))).await.is_none() {
        return;
    }
    tracing::debug!(controller = R::NAME, "caches are filled; reconciling");
    let (primaries, everywhere) = (std::mem::take(&mut watches.primaries), watches.everywhere);
    let worker = Worker { reconciler, executor, queue, pending: Mutex::default(), primaries, everywhere };
    let worker = Arc::new(worker);
    let mut workers = JoinSet::new();
    for _ in 0..R::WORKERS {
        workers.spawn(worker.clone().run(shutdown.clone()));
    }
    while let Some(ended) = workers.join_next().await {
        if let Err(panic) = ended {
            // One bad object must not stop the others: the key waits for its next change, a new worker goes on.
            tracing::error!(controller = R::NAME, %panic, "a reconciliation panicked");
            workers.spawn(worker.clone().run(shutdown.clone()));
        }
    }
}

/// What the key's object is to this server; none where this server has nothing to do with it.
fn duty(view: &Ownership, primaries: &[Primary], everywhere: bool, key: &Key) -> Option<Standing> {
    if !view.marked {
        return Some(Standing::Home);
    }
    if view.passive {
        return None;
    }
    let found = primaries.iter().find_map(|primary| primary(view, key));
    let acts = found.is_none_or(|found| matches!(found, Standing::Home | Standing::Taken));
    // What follows from an object that is gone, each site does for what it owns.
    (everywhere || acts).then_some(found.unwrap_or(Standing::Elsewhere))
}

struct Worker<R> {
    reconciler: R,
    executor: Executor,
    queue: WorkQueue<Key>,
    /// Writes of a key's last reconciliation that the caches may not show yet. Bounded by the number of keys.
    pending: Mutex<HashMap<Key, Pending>>,
    primaries: Vec<Primary>,
    everywhere: bool,
}

struct Pending {
    writes: Vec<Write>,
    since: Instant,
}

impl<R: Reconciler> Worker<R> {
    async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        while let Some(key) = shutdown.run_until_cancelled(self.queue.next()).await {
            let standing = self.standing(&key);
            if standing.is_none() {
                self.pending.lock().remove(&key);
                self.queue.forget(&key);
            } else if let Some(standing) = standing.filter(|_| self.caches_are_fresh(&key)) {
                self.reconcile(&key, standing).await;
            } else {
                self.queue.add_after(key.clone(), STALE_RETRY);
            }
            self.queue.done(&key);
        }
    }

    fn standing(&self, key: &Key) -> Option<Standing> {
        duty(&self.executor.ownership.borrow(), &self.primaries, self.everywhere, key)
    }

    fn caches_are_fresh(&self, key: &Key) -> bool {
        let mut pending = self.pending.lock();
        let Some(entry) = pending.get_mut(key) else { return true };
        entry.writes.retain(|write| !write.visible(&self.executor.informers));
        if !entry.writes.is_empty() && entry.since.elapsed() < STALE {
            return false;
        }
        pending.remove(key);
        true
    }

    async fn reconcile(&self, key: &Key, standing: Standing) {
        let mut run = Run::new(self.executor.clone(), standing);
        let result = self.reconciler.reconcile(key.clone(), &mut run).await;
        let (writes, again) = run.finish();
        if !writes.is_empty() {
            self.pending.lock().insert(key.clone(), Pending { writes, since: Instant::now() });
        }
        match result {
            Ok(()) => {
                self.queue.forget(key);
                if let Some(delay) = again {
                    self.queue.add_after(key.clone(), delay);
                }
            }
            Err(error) => {
                report(R::NAME, key, &error);
                self.queue.retry(key.clone());
            }
        }
    }
}

fn report(controller: &str, (namespace, name): &Key, error: &Error) {
    if error.is_conflict() || error.is_namespace_terminating() {
        tracing::debug!(controller, namespace, name, message = error.message(), %error, "will try again");
    } else {
        tracing::warn!(controller, namespace, name, message = error.message(), %error, "will try again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::home::{Claim, Link, Taken};

    /// One kind, whose objects are named after their home; `gone` does not exist.
    fn primaries() -> Vec<Primary> {
        vec![Box::new(|view, (_, name)| {
            let claim = Claim { home: Some(name), stay: false, takeover_s: 60, fixed: false };
            (name != "gone").then(|| view.standing(&claim))
        })]
    }

    fn key(name: &str) -> Key {
        (String::new(), name.to_owned())
    }

    #[test]
    fn a_key_is_reconciled_by_its_objects_home_alone() {
        let view = |site: &str, other: &str| Ownership::of(site, "a").with(other, Link::Up);
        let (a, b) = (view("a", "b"), view("b", "a"));
        assert_eq!(duty(&a, &primaries(), false, &key("a")), Some(Standing::Home));
        assert_eq!(duty(&b, &primaries(), false, &key("a")), None);
        assert_eq!(duty(&b, &primaries(), true, &key("a")), Some(Standing::Elsewhere), "it has a part in the work");
        assert_eq!(duty(&b, &primaries(), false, &key("gone")), Some(Standing::Elsewhere));
    }

    #[test]
    fn a_key_is_reconciled_in_a_takeover_and_by_a_server_alone() {
        let taken = Some(Taken { by: "b".into(), epoch: 1 });
        let view = Ownership::of("b", "a").with("a", Link::Down { for_s: 60, taken });
        assert_eq!(duty(&view, &primaries(), false, &key("a")), Some(Standing::Taken));
        assert_eq!(duty(&Ownership::default(), &primaries(), false, &key("a")), Some(Standing::Home));
    }

    #[test]
    fn a_change_of_the_sites_concerns_what_stands_otherwise_after_it() {
        let pod = |site: &str| -> k8s_openapi::api::apps::v1::Deployment {
            let metadata = serde_json::json!({"name": "x", "annotations": {"eyot.dev/home": site}});
            serde_json::from_value(serde_json::json!({"metadata": metadata})).unwrap()
        };
        let before = Ownership::of("b", "a").with("a", Link::Up).with("c", Link::Up);
        let taken = Some(Taken { by: "b".into(), epoch: 1 });
        let after = before.clone().with("a", Link::Down { for_s: 600, taken });
        assert!(stands_otherwise(&pod("a"), &before, &after));
        assert!(!stands_otherwise(&pod("b"), &before, &after) && !stands_otherwise(&pod("c"), &before, &after));
        assert!(stands_otherwise(&pod("b"), &Ownership::default(), &before));
        let cut = before.clone().with("c", Link::Down { for_s: 5, taken: None });
        let later = before.clone().with("c", Link::Down { for_s: 10, taken: None });
        assert!(stands_otherwise(&pod("c"), &cut, &before), "what it is part of may have waited for it less long");
        assert!(!stands_otherwise(&pod("c"), &cut, &later));
    }
}
