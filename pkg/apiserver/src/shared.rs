//! A store to which API servers of upstream write, too: what they leave there in protobuf, or in another version than is
//! stored here, is read as what would be stored here. Everything above sees JSON alone.
//!
//! Place in the flow: `engine, admission, authz, ... -> Shared -> Backend`.
use api::stored::{self, Stored};
use api::summary::Summarize;
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use store::{
    Backend, Change, Entry, Error, Lease, LeaseId, OpResult, Page, Range, Result, Revision, Txn, TxnResult, Watch,
    WatchFrom, WatchItem,
};

/// Bytes of JSON that are kept, so that what is read often is decoded once. When they are full, they begin anew.
const KEPT_BYTES: usize = 32 << 20;

/// See the module.
pub struct Shared {
    inner: Arc<dyn Backend>,
    reader: Arc<Reader>,
}

impl Shared {
    pub fn new(inner: Arc<dyn Backend>, summarize: Arc<dyn Summarize>) -> Arc<Self> {
        Arc::new(Self { inner, reader: Arc::new(Reader { summarize, kept: Mutex::default() }) })
    }
}

/// Reads entries.
struct Reader {
    summarize: Arc<dyn Summarize>,
    kept: Mutex<Kept>,
}

/// What was decoded, the newest of each key.
#[derive(Default)]
struct Kept {
    entries: HashMap<Bytes, Arc<Entry>>,
    bytes: usize,
}

impl Kept {
    fn find(&self, entry: &Entry) -> Option<Arc<Entry>> {
        let same = |kept: &&Arc<Entry>| kept.mod_revision == entry.mod_revision && kept.index == entry.index;
        self.entries.get(&entry.key).filter(same).cloned()
    }

    fn keep(&mut self, entry: &Arc<Entry>) {
        if self.entries.get(&entry.key).is_some_and(|kept| kept.mod_revision > entry.mod_revision) {
            return;
        }
        if self.bytes + entry.value.len() > KEPT_BYTES {
            *self = Self::default();
        }
        self.bytes += entry.value.len();
        if let Some(before) = self.entries.insert(entry.key.clone(), entry.clone()) {
            self.bytes -= before.value.len();
        }
    }
}

impl Reader {
    fn entry(&self, entry: Arc<Entry>) -> Result<Arc<Entry>> {
        if !stored::is_foreign(&entry.value) {
            return Ok(entry);
        }
        if let Some(kept) = self.kept.lock().find(&entry) {
            return Ok(kept);
        }
        let unreadable = |what| Error::Unreadable { key: String::from_utf8_lossy(&entry.key).into_owned(), what };
        let value: Bytes = match stored::read(&entry.value) {
            Ok(Stored::Plain) => return Ok(entry),
            Ok(Stored::Read(object)) => object.to_string().into(),
            Ok(Stored::Encrypted) => return Err(unreadable("it is encrypted".into())),
            Err(error) => return Err(unreadable(error.to_string())),
        };
        let summary = self.summarize.summarize(&entry.key, &value);
        let read = Arc::new(entry.with_value(value, summary));
        self.kept.lock().keep(&read);
        Ok(read)
    }

    fn maybe(&self, entry: Option<Arc<Entry>>) -> Result<Option<Arc<Entry>>> {
        entry.map(|entry| self.entry(entry)).transpose()
    }

    fn all(&self, entries: Vec<Arc<Entry>>) -> Result<Vec<Arc<Entry>>> {
        entries.into_iter().map(|entry| self.entry(entry)).collect()
    }

    fn page(&self, page: Page) -> Result<Page> {
        Ok(Page { entries: self.all(page.entries)?, ..page })
    }

    fn result(&self, result: OpResult) -> Result<OpResult> {
        Ok(match result {
            OpResult::Put { entry, previous } => {
                OpResult::Put { entry: self.entry(entry)?, previous: self.maybe(previous)? }
            }
            OpResult::Delete { previous } => OpResult::Delete { previous: self.maybe(previous)? },
            OpResult::DeleteRange { previous } => OpResult::DeleteRange { previous: self.all(previous)? },
            OpResult::Get { entry } => OpResult::Get { entry: self.maybe(entry)? },
            OpResult::List(page) => OpResult::List(self.page(page)?),
            OpResult::Txn { succeeded, results } => OpResult::Txn { succeeded, results: self.results(results)? },
        })
    }

    fn results(&self, results: Vec<OpResult>) -> Result<Vec<OpResult>> {
        results.into_iter().map(|result| self.result(result)).collect()
    }

    fn change(&self, change: Arc<Change>) -> Result<Arc<Change>> {
        let foreign = |entry: &Option<Arc<Entry>>| entry.as_ref().is_some_and(|e| stored::is_foreign(&e.value));
        if !foreign(&change.entry) && !foreign(&change.previous) {
            return Ok(change);
        }
        let (entry, previous) = (self.maybe(change.entry.clone())?, self.maybe(change.previous.clone())?);
        Ok(Arc::new(Change { entry, previous, ..Change::clone(&change) }))
    }

    fn item(&self, item: WatchItem) -> Result<WatchItem> {
        let WatchItem::Changes(changes) = item else { return Ok(item) };
        let read: Result<_> = changes.into_iter().map(|change| self.change(change)).collect();
        Ok(WatchItem::Changes(read?))
    }
}

struct Watcher {
    inner: Box<dyn Watch>,
    reader: Arc<Reader>,
}

#[async_trait]
impl Watch for Watcher {
    async fn next(&mut self) -> Option<Result<WatchItem>> {
        let item = self.inner.next().await?;
        Some(item.and_then(|item| self.reader.item(item)))
    }

    fn request_progress(&mut self) {
        self.inner.request_progress();
    }
}

#[async_trait]
impl Backend for Shared {
    fn current_revision(&self) -> Revision {
        self.inner.current_revision()
    }

    async fn latest(&self) -> Result<Revision> {
        self.inner.latest().await
    }

    fn is_own(&self, revision: Revision) -> bool {
        self.inner.is_own(revision)
    }

    fn compacted_revision(&self) -> Revision {
        self.inner.compacted_revision()
    }

    async fn get(&self, key: &[u8], at: Option<Revision>) -> Result<Option<Arc<Entry>>> {
        self.reader.maybe(self.inner.get(key, at).await?)
    }

    async fn list(&self, range: &Range, at: Option<Revision>, limit: usize) -> Result<Page> {
        self.reader.page(self.inner.list(range, at, limit).await?)
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult> {
        let done = self.inner.txn(txn).await?;
        Ok(TxnResult { results: self.reader.results(done.results)?, ..done })
    }

    async fn watch(&self, range: Range, from: WatchFrom) -> Result<Box<dyn Watch>> {
        let inner = self.inner.watch(range, from).await?;
        Ok(Box::new(Watcher { inner, reader: self.reader.clone() }))
    }

    async fn lease_grant(&self, id: Option<LeaseId>, ttl: Duration) -> Result<Lease> {
        self.inner.lease_grant(id, ttl).await
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<Revision> {
        self.inner.lease_revoke(id).await
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Lease> {
        self.inner.lease_keep_alive(id).await
    }

    async fn lease(&self, id: LeaseId) -> Result<Lease> {
        self.inner.lease(id).await
    }

    async fn leases(&self) -> Result<Vec<LeaseId>> {
        self.inner.leases().await
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        self.inner.compact(revision).await
    }

    async fn compacted(&self, revision: Revision) -> Result<()> {
        self.inner.compacted(revision).await
    }

    async fn size_bytes(&self) -> Result<u64> {
        self.inner.size_bytes().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::Memory;
    use crate::registry::Registry;
    use crate::registry::summarize::Summarizer;
    use store::Op;

    /// A ConfigMap `a` with one label, as kube-apiserver stores it.
    fn config_map(label: &str) -> Vec<u8> {
        let field = |number: u8, content: &[u8]| [&[number << 3 | 2, content.len() as u8], content].concat();
        let meta = [field(1, b"v1"), field(2, b"ConfigMap")].concat();
        let labels = [field(1, b"l"), field(2, label.as_bytes())].concat();
        let object = field(1, &[field(1, b"a"), field(3, b"n"), field(11, &labels)].concat());
        [api::protobuf::MAGIC, &field(1, &meta), &field(2, &object)].concat()
    }

    fn store() -> (Arc<Memory>, Arc<Shared>) {
        let registry = Arc::new(Registry::builtin(api::schema::Schemas::builtin()));
        let memory = Memory::new(registry.clone());
        (memory.clone(), Shared::new(memory, Arc::new(Summarizer::new(registry))))
    }

    async fn put(store: &dyn Backend, value: Vec<u8>) -> Revision {
        let put = Op::Put { key: "/registry/configmaps/n/a".into(), value: value.into(), lease: None };
        store.txn(Txn { then: vec![put], ..Txn::default() }).await.unwrap().revision
    }

    fn label(entry: Option<&Arc<Entry>>) -> String {
        let entry = entry.unwrap();
        assert!(entry.value.starts_with(b"{") && entry.summary.splice_at.is_some());
        entry.summary.labels[0].1.to_string()
    }

    #[tokio::test]
    async fn protobuf_is_json_wherever_it_comes_out() {
        let (memory, shared) = store();
        let range = Range::prefix("/registry/configmaps/");
        let first = put(&*memory, config_map("1")).await;
        let mut watch = shared.watch(range.clone(), WatchFrom::After(first)).await.unwrap();
        put(&*memory, config_map("2")).await;
        let key = b"/registry/configmaps/n/a";
        assert_eq!(label(shared.get(key, None).await.unwrap().as_ref()), "2");
        assert_eq!(label(shared.get(key, Some(first)).await.unwrap().as_ref()), "1");
        assert_eq!(label(shared.list(&range, None, 0).await.unwrap().entries.first()), "2");
        let Some(Ok(WatchItem::Changes(changes))) = watch.next().await else { panic!("a change") };
        assert_eq!((label(changes[0].entry.as_ref()), label(changes[0].previous.as_ref())), ("2".into(), "1".into()));
        let get = Txn { then: vec![Op::Get { key: Bytes::from_static(key) }], ..Txn::default() };
        let done = shared.txn(get).await.unwrap();
        let [OpResult::Get { entry }] = &done.results[..] else { panic!("one get") };
        assert_eq!(label(entry.as_ref()), "2");
    }

    #[tokio::test]
    async fn what_can_t_be_read_is_an_error_that_names_it() {
        let (memory, shared) = store();
        put(&*memory, b"k8s:enc:aescbc:v1:k:x".to_vec()).await;
        let error = shared.get(b"/registry/configmaps/n/a", None).await.unwrap_err().to_string();
        assert_eq!(error, "the value of /registry/configmaps/n/a can't be read: it is encrypted");
        assert!(shared.list(&Range::prefix("/registry/"), None, 0).await.is_err());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut kept = Kept::default();
        let entry = |n: u32| {
            Arc::new(Entry {
                key: n.to_string().into(),
                value: vec![0; KEPT_BYTES / 4].into(),
                create_revision: Revision::first(1),
                mod_revision: Revision::first(1),
                index: 0,
                version: 1,
                lease: None,
                summary: api::summary::Summary::default(),
            })
        };
        for n in 0..50 {
            kept.keep(&entry(n));
            kept.keep(&entry(n));
            assert!(kept.find(&entry(n)).is_some() && kept.bytes <= KEPT_BYTES && kept.entries.len() <= 4);
        }
    }
}
