//! Addresses and node ports of Services: one pool a server, filled from the store's content and kept in step
//! with it by a watch, so that writers past this server are seen too.

pub(crate) mod book;
pub mod pools;
pub(crate) mod repair;
pub mod service;

use api::slice::Share;
use api::validate::FieldError;
use parking_lot::Mutex;
use pools::{Claims, Pools};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use store::{Backend, Entry, Range, Revision, WatchFrom, WatchItem};
use tokio_util::sync::CancellationToken;

const SERVICES: &str = "/registry/services/specs/";
/// How long to wait before following the store again after an error.
const RETRY: std::time::Duration = std::time::Duration::from_secs(1);

/// The pools, and who fills them.
pub struct Allocator {
    pools: Mutex<Pools>,
    /// Held while the pools are filled for the first time.
    seeded: tokio::sync::OnceCell<Revision>,
    next: AtomicU64,
}

/// What a write under way holds; given back when dropped, unless kept.
pub struct Reservation {
    allocator: Arc<Allocator>,
    /// The name under which it is held until the write is done.
    token: String,
    owner: String,
    claims: Option<Claims>,
}

impl Reservation {
    /// The write is done: the Service holds it now.
    pub fn keep(mut self) {
        if let Some(claims) = self.claims.take() {
            let mut pools = self.allocator.pools.lock();
            pools.release(&self.token);
            pools.hold(&self.owner, claims);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.allocator.pools.lock().release(&self.token);
    }
}

impl Allocator {
    pub fn new(pools: Pools) -> Arc<Self> {
        Arc::new(Self { pools: Mutex::new(pools), seeded: tokio::sync::OnceCell::new(), next: AtomicU64::new(0) })
    }

    /// Fills in the addresses and ports of a Service that is about to be stored, and holds them. What is to be avoided is
    /// another server's, though no Service shows it yet.
    ///
    /// # Errors
    /// The fields that ask for what can't be had.
    pub fn reserve(
        self: &Arc<Self>,
        new: &mut Value,
        old: Option<&Value>,
        avoid: &Claims,
    ) -> Result<Reservation, Vec<FieldError>> {
        let owner = owner(new);
        let token = format!("write {}", self.next.fetch_add(1, Ordering::Relaxed));
        let mut pools = self.pools.lock();
        pools.hold(&token, avoid.clone());
        let claims = service::allocate(new, old, &owner, &pools, &mut rand::random);
        pools.release(&token);
        let claims = claims?;
        pools.hold(&token, claims.clone());
        drop(pools);
        Ok(Reservation { allocator: self.clone(), token, owner, claims: Some(claims) })
    }

    /// From now on new numbers come from this share.
    pub fn limit(&self, share: &Share) {
        self.pools.lock().limit(share);
    }

    /// The Service is gone.
    pub fn release(&self, service: &Value) {
        self.pools.lock().release(&owner(service));
    }

    /// Reads all Services once; later calls return at once.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn seed(&self, backend: &dyn Backend) -> store::Result<Revision> {
        let fill = || async {
            let page = backend.list(&Range::prefix(SERVICES.as_bytes()), None, 0).await?;
            let mut pools = self.pools.lock();
            page.entries.iter().for_each(|entry| observe(&mut pools, &entry.key, Some(entry)));
            Ok(page.revision)
        };
        self.seeded.get_or_try_init(fill).await.copied()
    }

    /// Follows the store until shutdown.
    pub async fn run(&self, backend: Arc<dyn Backend>, clock: fn() -> jiff::Timestamp, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            let now = clock().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let follow = self.follow(&*backend, now);
            match shutdown.run_until_cancelled(follow).await {
                None | Some(Err(store::Error::Closed)) => return,
                Some(result) => tracing::debug!(?result, "following services again"),
            }
            shutdown.run_until_cancelled(tokio::time::sleep(RETRY)).await;
        }
    }

    async fn follow(&self, backend: &dyn Backend, now: String) -> store::Result<()> {
        let range = Range::prefix(SERVICES.as_bytes());
        self.seed(backend).await?;
        // What happened since the seed is made good by looking again once the watch stands.
        let mut watch = backend.watch(range.clone(), WatchFrom::Now).await?;
        let page = backend.list(&range, None, 0).await?;
        book::make_good(backend, &page.entries, &now).await?;
        {
            let mut pools = self.pools.lock();
            page.entries.iter().for_each(|entry| observe(&mut pools, &entry.key, Some(entry)));
        }
        while let Some(item) = watch.next().await {
            if let WatchItem::Changes(changes) = item? {
                let mut pools = self.pools.lock();
                changes.iter().for_each(|c| observe(&mut pools, &c.key, c.entry.as_ref()));
            }
        }
        Ok(())
    }
}

/// `namespace/name`.
fn owner(service: &Value) -> String {
    let meta = &service["metadata"];
    format!("{}/{}", meta["namespace"].as_str().unwrap_or_default(), meta["name"].as_str().unwrap_or_default())
}

fn observe(pools: &mut Pools, key: &[u8], entry: Option<&Arc<Entry>>) {
    let Some(owner) = std::str::from_utf8(key).ok().and_then(|k| k.strip_prefix(SERVICES)) else { return };
    match entry.map(|e| serde_json::from_slice::<Value>(&e.value)) {
        Some(Ok(service)) => pools.hold(owner, service::claims(&service)),
        Some(Err(error)) => tracing::warn!(owner, %error, "a stored Service can't be read"),
        None => pools.release(owner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn allocator() -> Arc<Allocator> {
        Allocator::new(Pools::new(pools::Cidr::parse("10.0.0.0/29").unwrap(), 30_000..=30_010))
    }

    fn service(name: &str, ip: &str) -> Value {
        json!({"metadata": {"namespace": "n", "name": name}, "spec": {"type": "ClusterIP", "clusterIP": ip, "selector": {"a": "b"}}})
    }

    #[test]
    fn a_write_that_failed_gives_back_what_it_held() {
        let allocator = allocator();
        let held = allocator.reserve(&mut service("a", "10.0.0.2"), None, &Claims::default()).unwrap();
        assert!(allocator.reserve(&mut service("b", "10.0.0.2"), None, &Claims::default()).is_err());
        drop(held);
        allocator.reserve(&mut service("b", "10.0.0.2"), None, &Claims::default()).unwrap().keep();
        assert!(allocator.reserve(&mut service("a", "10.0.0.2"), None, &Claims::default()).is_err());
        allocator.release(&service("b", ""));
        assert!(allocator.reserve(&mut service("a", "10.0.0.2"), None, &Claims::default()).is_ok());
    }
}
