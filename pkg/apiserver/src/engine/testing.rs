//! A store in memory, quick and simple, and what tests of the engine share.
use super::{Engine, Options, Request, Serve};
use crate::registry::summarize::Summarizer;
use crate::registry::{Registry, Resource};
use crate::{RequestInfo, User, Verb};
use api::GroupVersionResource;
use api::summary::Summarize;
use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use store::*;
use tokio::sync::watch;

/// Everything that ever happened, and what is there now.
pub struct Memory {
    summarize: Summarizer,
    state: Arc<Mutex<State>>,
    /// Changes when the log grows.
    grown: watch::Sender<usize>,
}

#[derive(Default)]
struct State {
    clock: u64,
    compacted: Revision,
    log: Vec<Arc<Change>>,
    now: BTreeMap<Bytes, Arc<Entry>>,
    leases: BTreeMap<LeaseId, Duration>,
}

/// The number of the server that the double plays.
const SERVER: u16 = 3;

impl Memory {
    pub fn new(registry: Arc<Registry>) -> Arc<Self> {
        let state = Arc::new(Mutex::new(State { clock: 1_000, ..State::default() }));
        Arc::new(Self { summarize: Summarizer::new(registry), state, grown: watch::Sender::new(0) })
    }
}

impl State {
    fn current(&self) -> Revision {
        Revision::new(self.clock, SERVER)
    }

    fn at(&self, revision: Option<Revision>) -> Result<BTreeMap<Bytes, Arc<Entry>>> {
        let Some(revision) = revision else { return Ok(self.now.clone()) };
        self.check(revision)?;
        let mut then = BTreeMap::new();
        for change in self.log.iter().take_while(|c| c.revision <= revision) {
            match &change.entry {
                Some(entry) => then.insert(change.key.clone(), entry.clone()),
                None => then.remove(&change.key),
            };
        }
        Ok(then)
    }

    fn check(&self, revision: Revision) -> Result<()> {
        if revision > self.current() {
            return Err(Error::Future { requested: revision, current: self.current() });
        }
        if revision.server() != SERVER {
            return Err(Error::Foreign { requested: revision, server: revision.server() });
        }
        if revision < self.compacted {
            return Err(Error::Compacted { requested: revision, compacted: self.compacted });
        }
        Ok(())
    }

    fn change(&mut self, index: u32, key: Bytes, entry: Option<Arc<Entry>>) -> Option<Arc<Entry>> {
        let previous = match &entry {
            Some(entry) => self.now.insert(key.clone(), entry.clone()),
            None => self.now.remove(&key),
        };
        let revision = self.current();
        self.log.push(Arc::new(Change { revision, index, key, entry, previous: previous.clone() }));
        previous
    }
}

#[async_trait::async_trait]
impl Backend for Memory {
    fn current_revision(&self) -> Revision {
        self.state.lock().current()
    }

    fn is_own(&self, revision: Revision) -> bool {
        revision.server() == SERVER
    }

    fn compacted_revision(&self) -> Revision {
        self.state.lock().compacted
    }

    async fn get(&self, key: &[u8], at: Option<Revision>) -> Result<Option<Arc<Entry>>> {
        Ok(self.state.lock().at(at)?.get(key).cloned())
    }

    async fn list(&self, range: &Range, at: Option<Revision>, limit: usize) -> Result<Page> {
        let state = self.state.lock();
        let all: Vec<_> = state.at(at)?.into_iter().filter(|(k, _)| range.contains(k)).map(|(_, e)| e).collect();
        let count = all.len() as u64;
        let limit = if limit == 0 { all.len() } else { limit };
        let more = all.len() > limit;
        let entries = all.into_iter().take(limit).collect();
        Ok(Page { revision: at.unwrap_or(state.current()), entries, count, more })
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult> {
        let mut state = self.state.lock();
        let succeeded = txn.compare.iter().all(|compare| {
            let Compare::ModRevision { key, revision } = compare else { panic!("the engine compares nothing else") };
            state.now.get(key).map_or(Revision::ZERO, |e| e.mod_revision) == *revision
        });
        let ops = if succeeded { txn.then } else { txn.otherwise };
        if ops.iter().any(|op| !matches!(op, Op::Get { .. })) {
            state.clock += 1;
        }
        let mut results = Vec::new();
        for (index, op) in (0u32..).zip(ops) {
            results.push(match op {
                Op::Get { key } => OpResult::Get { entry: state.now.get(&key).cloned() },
                Op::Delete { key } if state.now.contains_key(&key) => {
                    OpResult::Delete { previous: state.change(index, key, None) }
                }
                Op::Delete { .. } => OpResult::Delete { previous: None },
                Op::Put { key, value, lease } => {
                    let summary = self.summarize.summarize(&key, &value);
                    let before = state.now.get(&key).cloned();
                    let entry = Arc::new(Entry {
                        key: key.clone(),
                        value,
                        create_revision: before.as_ref().map_or(state.current(), |e| e.create_revision),
                        mod_revision: state.current(),
                        index,
                        version: before.as_ref().map_or(1, |e| e.version + 1),
                        lease,
                        summary,
                    });
                    let previous = state.change(index, key, Some(entry.clone()));
                    OpResult::Put { entry, previous }
                }
                _ => panic!("the engine does nothing else"),
            });
        }
        self.grown.send_replace(state.log.len());
        Ok(TxnResult { succeeded, revision: state.current(), results })
    }

    async fn watch(&self, range: Range, from: WatchFrom) -> Result<Box<dyn Watch>> {
        let state = self.state.lock();
        let at = match from {
            WatchFrom::Now => state.log.len(),
            WatchFrom::After(revision) => {
                state.check(revision)?;
                state.log.partition_point(|c| c.revision <= revision)
            }
            WatchFrom::At(_) => panic!("the engine watches what comes after a revision"),
        };
        let grown = self.grown.subscribe();
        Ok(Box::new(Follow { range, at, grown, wants_progress: false, state: self.state.clone() }))
    }

    async fn lease_grant(&self, id: Option<LeaseId>, ttl: Duration) -> Result<Lease> {
        let mut state = self.state.lock();
        let id = id.unwrap_or(LeaseId(state.leases.len() as i64 + 1));
        state.leases.insert(id, ttl);
        Ok(Lease { id, granted_ttl: ttl, remaining: ttl, keys: Vec::new() })
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<Revision> {
        let mut state = self.state.lock();
        state.leases.remove(&id).map(|_| state.current()).ok_or(Error::LeaseNotFound(id))
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Lease> {
        self.lease(id).await
    }

    async fn lease(&self, id: LeaseId) -> Result<Lease> {
        let ttl = *self.state.lock().leases.get(&id).ok_or(Error::LeaseNotFound(id))?;
        Ok(Lease { id, granted_ttl: ttl, remaining: ttl, keys: Vec::new() })
    }

    async fn leases(&self) -> Result<Vec<LeaseId>> {
        Ok(self.state.lock().leases.keys().copied().collect())
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        self.state.lock().compacted = revision;
        Ok(())
    }

    async fn compacted(&self, _: Revision) -> Result<()> {
        Ok(())
    }

    async fn size_bytes(&self) -> Result<u64> {
        Ok(0)
    }
}

/// A watch over the double's log.
struct Follow {
    range: Range,
    at: usize,
    grown: watch::Receiver<usize>,
    wants_progress: bool,
    state: Arc<Mutex<State>>,
}

#[async_trait::async_trait]
impl Watch for Follow {
    async fn next(&mut self) -> Option<Result<WatchItem>> {
        loop {
            let (new, current) = {
                let state = self.state.lock();
                let new: Vec<_> =
                    state.log[self.at..].iter().filter(|c| self.range.contains(&c.key)).cloned().collect();
                self.at = state.log.len();
                (new, state.current())
            };
            if !new.is_empty() {
                return Some(Ok(WatchItem::Changes(new)));
            }
            if std::mem::take(&mut self.wants_progress) {
                return Some(Ok(WatchItem::Progress(current)));
            }
            self.grown.changed().await.ok()?;
        }
    }

    fn request_progress(&mut self) {
        self.wants_progress = true;
    }
}

/// A descriptor of the built-in table.
pub fn resource(group: &str, version: &str, resource: &str) -> Arc<Resource> {
    let registry = Registry::builtin(api::schema::Schemas::builtin());
    registry.get(&GroupVersionResource::new(group, version, resource)).expect("a built-in resource")
}

/// A request's target in the core group.
pub fn info(verb: Verb, resource: &str, namespace: &str, name: &str) -> RequestInfo {
    RequestInfo {
        verb,
        group: String::new(),
        version: "v1".into(),
        namespace: namespace.into(),
        resource: resource.into(),
        subresource: String::new(),
        name: name.into(),
        path: String::new(),
        query: Vec::new(),
    }
}

/// An engine over the double.
pub struct Bench {
    pub engine: Arc<Engine>,
    pub memory: Arc<Memory>,
}

impl Bench {
    pub fn new() -> Self {
        Self::at(crate::Sites::default())
    }

    /// One of several servers.
    pub fn at(sites: crate::Sites) -> Self {
        Self::with(sites, None)
    }

    /// One with ways to nodes.
    pub fn with(sites: crate::Sites, tunnels: Option<Arc<dyn crate::Tunnels>>) -> Self {
        let registry = Arc::new(Registry::builtin(api::schema::Schemas::builtin()));
        let memory = Memory::new(registry.clone());
        let engine = Engine::new(Options {
            backend: memory.clone(),
            registry,
            service_cidr: crate::alloc::pools::Cidr::parse("10.43.0.0/16").unwrap(),
            node_port_range: 30_000..=32_767,
            clock: || "2026-01-02T03:04:05Z".parse().unwrap(),
            sites,
            tunnels,
        });
        Self { engine, memory }
    }

    /// Stores an object as it is, past the engine.
    pub async fn store(&self, key: &str, value: Value) -> Revision {
        let op = Op::Put { key: key.to_owned().into(), value: serde_json::to_vec(&value).unwrap().into(), lease: None };
        self.memory.txn(Txn { then: vec![op], ..Txn::default() }).await.unwrap().revision
    }

    pub async fn send(&self, info: RequestInfo, body: impl Into<Bytes>, headers: HeaderMap) -> Response<crate::Body> {
        let user = User { name: "tester".into(), ..User::default() };
        self.engine.serve(Request { info, user, headers, body: body.into(), escalation: None, forwarded: false }).await
    }

    /// Sends a request and reads its JSON answer.
    pub async fn json(&self, info: RequestInfo, body: Value) -> (u16, Value) {
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        read(self.send(info, body, HeaderMap::new()).await).await
    }
}

/// The whole answer.
pub async fn read(response: Response<crate::Body>) -> (u16, Value) {
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&bytes))))
}

/// The next event of a watch.
pub async fn event(body: &mut crate::Body) -> Value {
    let frame = body.frame().await.expect("an event").unwrap();
    serde_json::from_slice(&frame.into_data().unwrap()).expect("one event a frame")
}
