//! An existing etcd as the store: [`store::Backend`] over etcd's own API. Revisions, leases and history are etcd's; nothing is
//! kept here.
//!
//! Place in the flow: `apiserver -> Backend -> Remote -> gRPC -> etcd`. What is asked and what is answered is put into
//! words by pure functions (`words`); which member is asked, and again, by `members`.
mod compact;
mod connect;
mod members;
mod watch;
mod words;

use crate::pb;
use api::summary::Summarize;
use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
pub use connect::{Address, BadAddress};
use members::{Members, Repeat};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use store::{Backend, Entry, Error, Lease, LeaseId, Page, Range, Result, Revision, Txn, TxnResult, Watch, WatchFrom};
use tokio_util::sync::CancellationToken;

/// Entries asked for at once: a list comes in pages of one revision.
const PAGE: usize = 500;

/// What reaching an etcd takes.
pub struct Options {
    /// Its members; one is asked at a time, and the next when that fails.
    pub members: Vec<Address>,
    /// For members with `https://`.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    pub summarize: Arc<dyn Summarize>,
    /// Ends all watches.
    pub shutdown: CancellationToken,
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Remote {
    shared: Arc<Shared>,
}

struct Shared {
    members: Members,
    summarize: Arc<dyn Summarize>,
    shutdown: CancellationToken,
    /// The newest revision that an answer has shown.
    seen: AtomicI64,
    /// The newest compaction that an answer has shown.
    compacted: AtomicI64,
}

impl Remote {
    /// Connects, and learns the current revision.
    ///
    /// # Errors
    /// No member answers in time.
    pub async fn connect(options: Options) -> Result<Self> {
        let Options { members, tls, summarize, shutdown } = options;
        let members = Members::new(members, tls);
        let (seen, compacted) = (AtomicI64::new(0), AtomicI64::new(0));
        let remote = Self { shared: Arc::new(Shared { members, summarize, shutdown, seen, compacted }) };
        remote.latest().await?;
        Ok(remote)
    }

    /// Compacts history as kube-apiserver does, together with any that share the etcd, until shutdown.
    pub async fn run(self) {
        compact::run(&self.shared).await;
    }
}

impl Shared {
    /// Notes what the header of an answer says.
    fn note(&self, header: Option<&pb::ResponseHeader>) -> Revision {
        let revision = header.map_or(0, |header| header.revision);
        self.seen.fetch_max(revision, Ordering::AcqRel);
        words::revision(revision)
    }

    fn current(&self) -> Revision {
        words::revision(self.seen.load(Ordering::Acquire))
    }

    fn oldest(&self) -> Revision {
        words::revision(self.compacted.load(Ordering::Acquire))
    }

    fn compacted(&self, requested: Revision, compacted: i64) -> Error {
        self.compacted.fetch_max(compacted, Ordering::AcqRel);
        Error::Compacted { requested, compacted: self.oldest() }
    }

    /// An answer's error, about a revision where that plays a part.
    fn failed(&self, status: &tonic::Status, requested: Revision) -> Error {
        match words::failure(status) {
            words::Failure::Compacted => self.compacted(requested, 0),
            words::Failure::Future => Error::Future { requested, current: self.current() },
            words::Failure::Other(error) => error,
        }
    }

    async fn range(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse> {
        let at = words::revision(request.revision);
        let asked = self.members.ask(Repeat::Always, |channel| {
            let request = request.clone();
            async move { members::kv(channel).range(request).await.map(tonic::Response::into_inner) }
        });
        let response = asked.await.map_err(|status| self.failed(&status, at))?;
        self.note(response.header.as_ref());
        Ok(response)
    }

    async fn txn(&self, request: pb::TxnRequest) -> std::result::Result<pb::TxnResponse, tonic::Status> {
        let repeat = if words::only_reads(&request) { Repeat::Always } else { Repeat::Unsent };
        let asked = self.members.ask(repeat, |channel| {
            let request = request.clone();
            async move { members::kv(channel).txn(request).await.map(tonic::Response::into_inner) }
        });
        let response = asked.await?;
        self.note(response.header.as_ref());
        Ok(response)
    }

    async fn compact(&self, revision: i64, physical: bool) -> std::result::Result<(), tonic::Status> {
        let request = pb::CompactionRequest { revision, physical };
        let asked =
            self.members.ask(Repeat::Always, move |channel| async move { members::kv(channel).compact(request).await });
        asked.await?;
        self.compacted.fetch_max(revision, Ordering::AcqRel);
        Ok(())
    }

    fn entry(&self, kv: crate::mvccpb::KeyValue) -> Arc<Entry> {
        Arc::new(words::entry(kv, 0, &*self.summarize))
    }
}

/// The first key after `key`.
fn after(key: &[u8]) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.freeze()
}

#[async_trait]
impl Backend for Remote {
    fn current_revision(&self) -> Revision {
        self.shared.current()
    }

    fn compacted_revision(&self) -> Revision {
        self.shared.oldest()
    }

    async fn latest(&self) -> Result<Revision> {
        // Any key does: an answer's header tells the revision.
        let request =
            pb::RangeRequest { key: Bytes::from_static(b"\0"), count_only: true, ..pb::RangeRequest::default() };
        Ok(self.shared.note(self.shared.range(request).await?.header.as_ref()))
    }

    async fn get(&self, key: &[u8], at: Option<Revision>) -> Result<Option<Arc<Entry>>> {
        let revision = at.map_or(0, crate::context::number);
        let request = pb::RangeRequest { key: Bytes::copy_from_slice(key), revision, ..pb::RangeRequest::default() };
        let mut response = self.shared.range(request).await?;
        Ok(response.kvs.pop().map(|kv| self.shared.entry(kv)))
    }

    async fn list(&self, range: &Range, at: Option<Revision>, limit: usize) -> Result<Page> {
        let mut page = Page { revision: at.unwrap_or_default(), entries: Vec::new(), count: 0, more: false };
        let mut rest = range.clone();
        loop {
            let left = if limit == 0 { PAGE } else { (limit - page.entries.len()).min(PAGE) };
            let request = words::range(&rest, left, page.revision);
            let response = self.shared.range(request).await?;
            if page.entries.is_empty() {
                page.count = response.count.unsigned_abs();
            }
            if page.revision.is_zero() {
                page.revision = words::revision(response.header.unwrap_or_default().revision);
            }
            page.more = response.more;
            page.entries.extend(response.kvs.into_iter().map(|kv| self.shared.entry(kv)));
            match page.entries.last() {
                Some(last) if page.more && (limit == 0 || page.entries.len() < limit) => rest.start = after(&last.key),
                _ => return Ok(page),
            }
        }
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult> {
        let response = self.shared.txn(words::txn(&txn)).await.map_err(|status| match words::failure(&status) {
            words::Failure::Other(error) => words::with_key(error, &txn),
            _ => self.shared.failed(&status, Revision::ZERO),
        })?;
        words::txn_result(&txn, response, &*self.shared.summarize)
    }

    async fn watch(&self, range: Range, from: WatchFrom) -> Result<Box<dyn Watch>> {
        Ok(Box::new(watch::Follower::start(self.shared.clone(), range, from).await?))
    }

    async fn lease_grant(&self, id: Option<LeaseId>, ttl: Duration) -> Result<Lease> {
        // etcd counts whole seconds.
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let request = pb::LeaseGrantRequest { id: id.map_or(0, |id| id.0), ttl: seconds.max(1) as i64 };
        let asked = self
            .shared
            .members
            .ask(Repeat::Unsent, move |channel| async move { members::lease(channel).lease_grant(request).await });
        let granted = asked.await.map_err(|status| words::lease_failure(&status, id))?.into_inner();
        let ttl = Duration::from_secs(granted.ttl.unsigned_abs());
        Ok(Lease { id: LeaseId(granted.id), granted_ttl: ttl, remaining: ttl, keys: Vec::new() })
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<Revision> {
        let request = pb::LeaseRevokeRequest { id: id.0 };
        let asked = self
            .shared
            .members
            .ask(Repeat::Unsent, move |channel| async move { members::lease(channel).lease_revoke(request).await });
        let done = asked.await.map_err(|status| words::lease_failure(&status, Some(id)))?.into_inner();
        Ok(self.shared.note(done.header.as_ref()))
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Lease> {
        let request = pb::LeaseKeepAliveRequest { id: id.0 };
        let asked = self.shared.members.ask(Repeat::Always, move |channel| async move {
            let once = futures::stream::iter([request]);
            members::lease(channel).lease_keep_alive(once).await?.into_inner().message().await
        });
        let kept = asked.await.map_err(|status| words::lease_failure(&status, Some(id)))?;
        match kept {
            Some(kept) if kept.ttl > 0 => self.lease(id).await,
            _ => Err(Error::LeaseNotFound(id)),
        }
    }

    async fn lease(&self, id: LeaseId) -> Result<Lease> {
        let request = pb::LeaseTimeToLiveRequest { id: id.0, keys: true };
        let asked = self.shared.members.ask(Repeat::Always, move |channel| async move {
            members::lease(channel).lease_time_to_live(request).await
        });
        let found = asked.await.map_err(|status| words::lease_failure(&status, Some(id)))?.into_inner();
        if found.ttl < 0 {
            return Err(Error::LeaseNotFound(id));
        }
        let seconds = |n: i64| Duration::from_secs(n.unsigned_abs());
        Ok(Lease { id, granted_ttl: seconds(found.granted_ttl), remaining: seconds(found.ttl), keys: found.keys })
    }

    async fn leases(&self) -> Result<Vec<LeaseId>> {
        let asked = self.shared.members.ask(Repeat::Always, move |channel| async move {
            members::lease(channel).lease_leases(pb::LeaseLeasesRequest {}).await
        });
        let found = asked.await.map_err(|status| words::lease_failure(&status, None))?.into_inner();
        Ok(found.leases.into_iter().map(|lease| LeaseId(lease.id)).collect())
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        let number = crate::context::number(revision);
        self.shared.compact(number, false).await.map_err(|status| self.shared.failed(&status, revision))
    }

    async fn compacted(&self, revision: Revision) -> Result<()> {
        match self.shared.compact(crate::context::number(revision), true).await {
            Err(status) if !matches!(words::failure(&status), words::Failure::Compacted) => {
                Err(self.shared.failed(&status, revision))
            }
            _ => Ok(()),
        }
    }

    async fn size_bytes(&self) -> Result<u64> {
        let asked = self.shared.members.ask(Repeat::Always, move |channel| async move {
            pb::maintenance_client::MaintenanceClient::new(channel).status(pb::StatusRequest {}).await
        });
        let status = asked.await.map_err(|status| self.shared.failed(&status, Revision::ZERO))?.into_inner();
        Ok(status.db_size.unsigned_abs())
    }
}
