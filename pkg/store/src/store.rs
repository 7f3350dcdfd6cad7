//! The store as a [`Backend`]: reads of now from memory, reads of the past from SQLite, writes through the writer.
use crate::batch::{Batch, PreparedTxn};
use crate::changes::{self, Changes};
use crate::checkpoint::Checkpoint;
use crate::follow::{Follower, Handle, Request};
use crate::hub::Hub;
use crate::lease::Leases;
use crate::log::{Log, MAX_OPS};
use crate::reader::{Reader, entry};
use crate::replicator::{Replicated, Replicator};
use crate::state::State;
use crate::sweep::Sweep;
use crate::watch::Watcher;
use crate::writer::{Command, Reply, Shared, Writer, now_ms};
use crate::{
    Backend, Begin, ConflictRecord, Documents, Entry, Error, Lease, LeaseId, Op, Page, Pruned, Range, Replica, Result,
    Revision, Row, SnapshotPage, Txn, TxnResult, Watch, WatchFrom, Whole,
};
use api::summary::Summarize;
use async_trait::async_trait;
use bytes::Bytes;
use crdt::{Actor, HybridClock, Vector};
use parking_lot::{Mutex, RwLock};
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Writes that wait for the writer at most; more are refused as busy.
const QUEUE: usize = 4096;
/// etcd's limit of a request, 1.5 MiB, is too small for the largest objects that kube-apiserver takes.
const VALUE_LIMIT_BYTES: usize = 3 << 20;
/// The log's file in a store's directory.
pub const DATABASE: &str = "store.db";
/// What is known for and of peers, beside it.
const CHANGES: &str = "changes.db";
/// Requests that wait for the follower at most; more wait outside.
const REQUESTS: usize = 64;
/// History kept when nothing else is said: long enough to resume a watch.
pub const KEEP: Duration = Duration::from_secs(5 * 60);

/// How to open a store.
pub struct Options {
    /// A directory of its own; made when it is missing.
    pub dir: PathBuf,
    /// This server's number in revisions.
    pub server: u16,
    pub summarize: Arc<dyn Summarize>,
    /// History younger than this is never compacted by the store itself.
    pub keep: Duration,
}

/// One server's store. Closing it, or dropping it, ends the writer.
pub struct Store {
    shared: Arc<Shared>,
    reader: Arc<Reader>,
    commands: SyncSender<Command>,
    writer: Mutex<Option<JoinHandle<()>>>,
    follower: Mutex<Option<JoinHandle<()>>>,
    /// Ends when the writer has.
    checkpointer: Mutex<Option<JoinHandle<()>>>,
    requests: SyncSender<Request>,
    /// What peers will be told, on a connection for reading.
    changes: Arc<Mutex<Changes>>,
    replicated: Arc<Replicated>,
    summarize: Arc<dyn Summarize>,
    server: u16,
    path: PathBuf,
    _lock: File,
}

impl Store {
    /// Opens or creates the store and starts its writer.
    pub fn open(options: Options) -> Result<Arc<Self>> {
        let lock = lock(&options.dir)?;
        let path = options.dir.join(DATABASE);
        let (requests, requested) = sync_channel(REQUESTS);
        let wake = requests.clone();
        let parts = Parts::open(
            &options,
            Actor(rand::random()),
            Box::new(move || drop(wake.try_send(Request::Wake))),
            Box::new(now_ms),
        )?;
        let Parts { mut writer, replicator, shared } = parts;
        let (checkpoint, checkpointer) = Checkpoint::spawn(&path)?;
        writer.log.checkpoint_beside(checkpoint)?;
        let replicated = replicator.replicated.clone();
        let (commands, received) = sync_channel(QUEUE);
        let follower = Follower { replicator };
        let follower = spawn("store-follower", &path, move || follower.run(&requested))?;
        let thread = spawn("store-writer", &path, move || writer.run(&received))?;
        let reader = Arc::new(Reader::new(Log::open(&path)?, options.summarize.clone()));
        Ok(Arc::new(Self {
            shared,
            reader,
            commands,
            writer: Mutex::new(Some(thread)),
            follower: Mutex::new(Some(follower)),
            checkpointer: Mutex::new(Some(checkpointer)),
            requests,
            changes: Arc::new(Mutex::new(Changes::open(&options.dir.join(CHANGES))?)),
            replicated,
            summarize: options.summarize,
            server: options.server,
            path,
            _lock: lock,
        }))
    }

    /// Finishes what was accepted, ends all watches and waits for the writer.
    pub async fn close(&self) -> Result<()> {
        let closed = self.ask(Command::Close).await;
        let _ = self.request(Request::Close).await;
        let threads = [&self.writer, &self.follower, &self.checkpointer].map(|thread| thread.lock().take());
        for thread in threads.into_iter().flatten() {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            if !tokio::task::spawn_blocking(move || thread.join()).await.is_ok_and(|joined| joined.is_ok()) {
                tracing::error!(name, "a thread of the store had panicked");
            }
        }
        closed
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.try_send(command(reply)).map_err(|error| match error {
            TrySendError::Full(_) => Error::Busy { limit: QUEUE },
            TrySendError::Disconnected(_) => Error::Closed,
        })?;
        answer.await.unwrap_or(Err(Error::Closed))
    }

    /// Asks the follower, waiting for room in its queue.
    async fn request<T: Send + 'static>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let (requests, request) = (self.requests.clone(), request(reply));
        let sent = tokio::task::spawn_blocking(move || requests.send(request)).await;
        match sent {
            Ok(Ok(())) => answer.await.unwrap_or(Err(Error::Closed)),
            _ => Err(Error::Closed),
        }
    }

    fn handle(&self) -> Handle {
        Handle(self.commands.clone())
    }

    /// Whether a revision can be read: it is this server's, not in the future, not compacted.
    fn check(&self, requested: Revision) -> Result<()> {
        let (current, compacted) = (self.current_revision(), self.compacted_revision());
        if requested > current {
            return Err(Error::Future { requested, current });
        }
        if requested.server() != self.server {
            return Err(Error::Foreign { requested, server: requested.server() });
        }
        match requested < compacted {
            true => Err(Error::Compacted { requested, compacted }),
            false => Ok(()),
        }
    }
}

/// Refuses values that are too large, wherever in a transaction they are.
fn check_sizes(txn: &Txn) -> Result<()> {
    for op in txn.then.iter().chain(&txn.otherwise) {
        match op {
            Op::Put { key, value, .. } | Op::Amend { key, value: Some(value), .. }
                if value.len() > VALUE_LIMIT_BYTES =>
            {
                let key = String::from_utf8_lossy(key).into_owned();
                return Err(Error::TooLarge { key, size_bytes: value.len(), limit_bytes: VALUE_LIMIT_BYTES });
            }
            Op::Txn(txn) => check_sizes(txn)?,
            _ => {}
        }
    }
    Ok(())
}

/// A thread of the store at `path`.
pub fn spawn(name: &str, path: &Path, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(run);
    thread.map_err(|source| Error::Io { path: path.display().to_string(), source })
}

pub fn lock(dir: &Path) -> Result<File> {
    let at = |source| Error::Io { path: dir.display().to_string(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at)?;
    let file = File::create(dir.join("lock")).map_err(at)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| Error::InUse { path: dir.display().to_string() })?;
    Ok(file)
}

pub fn private(path: &Path) -> Result<()> {
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, mode).map_err(|source| Error::Io { path: path.display().to_string(), source })
}

/// What was derived was durable before: a log that ends earlier has lost its end.
fn not_behind(path: &Path, newest: u64, derived: u64) -> Result<()> {
    match derived > newest + MAX_OPS as u64 - 1 {
        true => Err(Error::Corrupt {
            path: path.display().to_string(),
            what: format!("it ends at revision {newest}, and was written up to {derived} at least"),
        }),
        false => Ok(()),
    }
}

fn load(log: &Log, summarize: &dyn Summarize, server: u16) -> Result<(Arc<Shared>, Leases)> {
    let mut leases = Leases::restore(log.leases()?, Instant::now());
    let mut state = State::default();
    log.current(|record| {
        let Some(entry) = entry(&record, summarize) else { return };
        if let Some(lease) = entry.lease {
            leases.attach(lease, entry.key.clone());
        }
        state.entries.insert(entry.key.clone(), entry);
    })?;
    let compacted = Revision::from_u64(log.meta("compacted")?.unwrap_or(0));
    let last = log.last_position()?;
    let newest = log.at_position(last)?.map_or(Revision::ZERO, |record| record.revision);
    state.revision = newest.max(compacted).max(Revision::first(server));
    let hub = Arc::new(Hub::new(state.revision));
    let swept = tokio::sync::watch::Sender::new(log.meta("swept")?.unwrap_or(0));
    Ok((Arc::new(Shared { state: RwLock::new(state), compacted: RwLock::new(compacted), swept, hub }), leases))
}

#[async_trait]
impl Backend for Store {
    fn current_revision(&self) -> Revision {
        self.shared.state.read().revision
    }

    fn is_own(&self, revision: Revision) -> bool {
        revision.server() == self.server
    }

    fn compacted_revision(&self) -> Revision {
        *self.shared.compacted.read()
    }

    async fn get(&self, key: &[u8], at: Option<Revision>) -> Result<Option<Arc<Entry>>> {
        let newest = self.shared.state.read().get(key);
        let Some(at) = at else { return Ok(newest) };
        self.check(at)?;
        let found = self.reader.get(Bytes::copy_from_slice(key), at, newest).await?;
        self.check(at)?;
        Ok(found)
    }

    async fn list(&self, range: &Range, at: Option<Revision>, limit: usize) -> Result<Page> {
        let (at, newest) = {
            let state = self.shared.state.read();
            match at {
                Some(at) if at < state.revision => (at, state.page(range, 0).entries),
                Some(requested) if requested > state.revision => {
                    return Err(Error::Future { requested, current: state.revision });
                }
                _ => return Ok(state.page(range, limit)),
            }
        };
        self.check(at)?;
        let page = self.reader.list(range.clone(), at, limit, newest).await?;
        // Compaction may have passed by while the page was read.
        self.check(at)?;
        Ok(page)
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult> {
        check_sizes(&txn)?;
        let prepared = PreparedTxn::new(txn, &*self.summarize);
        if prepared.reads_only() {
            // What is visible is durable: nobody needs to queue for reading it.
            let state = self.shared.state.read();
            let clock = HybridClock::after(state.revision.clock());
            return Batch::new(&state, clock, self.server).run(prepared, now_ms(), |_| false);
        }
        self.ask(|reply| Command::Txn(prepared, reply)).await
    }

    async fn watch(&self, range: Range, from: WatchFrom) -> Result<Box<dyn Watch>> {
        let after = match from {
            WatchFrom::Now => self.current_revision(),
            WatchFrom::After(after) => {
                self.check(after)?;
                after
            }
            WatchFrom::At(first) => {
                let from_the_beginning = first.clock() == 0 && self.compacted_revision().is_zero();
                if !from_the_beginning {
                    self.check(first)?;
                }
                Revision::from_u64(first.get().saturating_sub(1))
            }
        };
        let inclusive = matches!(from, WatchFrom::At(_));
        Ok(Box::new(Watcher::new(self.shared.clone(), self.reader.clone(), range, after, inclusive)?))
    }

    async fn lease_grant(&self, id: Option<LeaseId>, ttl: Duration) -> Result<Lease> {
        self.ask(|reply| Command::LeaseGrant(id, ttl, reply)).await
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<Revision> {
        self.ask(|reply| Command::LeaseRevoke(id, reply)).await
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Lease> {
        self.ask(|reply| Command::LeaseKeepAlive(id, reply)).await
    }

    async fn lease(&self, id: LeaseId) -> Result<Lease> {
        self.ask(|reply| Command::Lease(id, reply)).await
    }

    async fn leases(&self) -> Result<Vec<LeaseId>> {
        self.ask(Command::Leases).await
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        self.ask(|reply| Command::Compact(revision, reply)).await
    }

    async fn compacted(&self, revision: Revision) -> Result<()> {
        let mut swept = self.shared.swept.subscribe();
        let done = swept.wait_for(|swept| *swept >= revision.get()).await;
        done.map(drop).map_err(|_| Error::Closed)
    }

    async fn size_bytes(&self) -> Result<u64> {
        let at = |source| Error::Io { path: self.path.display().to_string(), source };
        Ok(std::fs::metadata(&self.path).map_err(at)?.len())
    }
}

impl Store {
    /// Whether an object of this uid, which is not there, was deleted, on whichever server: by the record that is kept of
    /// that, or because there never was another server. True only when it was.
    ///
    /// # Errors
    /// The record can't be read.
    pub async fn has_ended(&self, uid: &str) -> Result<bool> {
        let uid = uid.to_owned();
        self.read_changes(move |changes| changes.has_ended(&uid)).await
    }

    async fn read_changes<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Changes) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let changes = self.changes.clone();
        let done = tokio::task::spawn_blocking(move || read(&changes.lock())).await;
        done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }
}

/// Documents of one moment, read off the runtime's threads.
struct Reading {
    documents: Arc<Mutex<changes::Documents>>,
    seen: Vector,
}

#[async_trait]
impl Documents for Reading {
    fn seen(&self) -> &Vector {
        &self.seen
    }

    async fn page(&self, after: Option<Bytes>, limit_bytes: usize) -> Result<SnapshotPage> {
        let documents = self.documents.clone();
        let read = move || documents.lock().page(after.as_deref(), limit_bytes);
        tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }
}

#[async_trait]
impl Replica for Store {
    fn actor(&self) -> Actor {
        *self.replicated.actor.read()
    }

    fn vector(&self) -> Vector {
        self.replicated.vector.read().clone()
    }

    fn is_whole(&self) -> bool {
        self.replicated.is_whole(now_ms())
    }

    async fn enable(&self) -> Result<()> {
        let handle = self.handle();
        self.request(|reply| Request::Enable(handle, reply)).await
    }

    fn epoch(&self) -> tokio::sync::watch::Receiver<u64> {
        self.replicated.epoch.subscribe()
    }

    fn owed(&self) -> Vector {
        self.replicated.owed.read().late(now_ms())
    }

    fn pruned(&self) -> Pruned {
        self.replicated.pruned.read().clone()
    }

    async fn is_empty(&self) -> Result<bool> {
        self.read_changes(Changes::is_empty).await
    }

    fn newest(&self) -> tokio::sync::watch::Receiver<u64> {
        self.replicated.newest.subscribe()
    }

    async fn begin(&self, have: Vector) -> Result<Begin> {
        let replicated = self.replicated.clone();
        self.read_changes(move |changes| replicated.begin(changes, &have)).await
    }

    async fn changes(&self, after: u64, have: Vector, limit_bytes: usize) -> Result<Option<(Vec<Row>, u64)>> {
        if let Some(found) = self.replicated.recent(after, &have, limit_bytes) {
            return Ok(found);
        }
        let replicated = self.replicated.clone();
        self.read_changes(move |changes| replicated.kept(changes, after, &have, limit_bytes)).await
    }

    async fn receive(&self, epoch: u64, rows: Vec<Row>) -> Result<()> {
        let handle = self.handle();
        self.request(|reply| Request::Receive(epoch, rows, handle, reply)).await
    }

    async fn documents(&self) -> Result<Box<dyn Documents>> {
        self.replicated.is_one()?;
        let documents = self.read_changes(Changes::documents).await?;
        let seen = documents.seen().clone();
        Ok(Box::new(Reading { documents: Arc::new(Mutex::new(documents)), seen }))
    }

    async fn join(&self, epoch: u64, page: SnapshotPage, seen: Vector) -> Result<()> {
        let handle = self.handle();
        self.request(|reply| Request::Join(epoch, page, seen, handle, reply)).await
    }

    async fn complete(&self, epoch: u64, seen: Vector, whole: Option<Whole>) -> Result<()> {
        let handle = self.handle();
        self.request(|reply| Request::Complete(epoch, seen, whole, handle, reply)).await
    }

    async fn stage(&self, page: SnapshotPage, seen: Vector) -> Result<()> {
        self.request(|reply| Request::Stage(page, seen, reply)).await
    }

    async fn adopt(&self, epoch: u64, seen: Vector, whole: Whole) -> Result<()> {
        let handle = self.handle();
        self.request(|reply| Request::Adopt(epoch, seen, whole, handle, reply)).await
    }

    async fn tick(&self) -> Result<()> {
        let handle = self.handle();
        self.request(|reply| Request::Tick(handle, reply)).await
    }

    async fn stable(&self, time: u64) -> Result<bool> {
        self.request(|reply| Request::Forget(time, reply)).await
    }

    async fn conflicts(&self, after: u64, limit: usize) -> Result<Vec<ConflictRecord>> {
        self.read_changes(move |changes| changes.conflicts(after, limit)).await
    }

    fn derived(&self) -> Revision {
        derived(&self.replicated)
    }
}

/// The revision up to which everything is derived.
pub fn derived(replicated: &Replicated) -> Revision {
    Revision::from_u64(replicated.derived.load(Ordering::Acquire).saturating_sub(MAX_OPS as u64 - 1))
}

/// The two owners of a store's files, and what they share, before they have threads.
pub struct Parts {
    pub writer: Writer,
    pub replicator: Replicator,
    pub shared: Arc<Shared>,
}

impl Parts {
    /// `fresh` names the incarnation if the store is new.
    pub fn open(
        options: &Options,
        fresh: Actor,
        wake: Box<dyn Fn() + Send>,
        now_ms: Box<dyn Fn() -> u64 + Send>,
    ) -> Result<Self> {
        let path = options.dir.join(DATABASE);
        let log = Log::open_checked(&path)?;
        private(&path)?;
        let changes_path = options.dir.join(CHANGES);
        let changes = Changes::open(&changes_path)?;
        private(&changes_path)?;
        let (shared, leases) = load(&log, &*options.summarize, options.server)?;
        let known = changes.known()?;
        // The newest rows may be deletions that compaction has removed, and what was promised to peers holds.
        let newest = Revision::from_u64(log.last_position()?.max(shared.state.read().revision.get()));
        let clock = HybridClock::after(newest.clock().max(known.vector.latest()));
        let derived = Arc::new(AtomicU64::new(changes.derived()?));
        not_behind(&path, newest.get(), derived.load(Ordering::Acquire))?;
        let adoption = changes.adoption()?;
        let replicated = Arc::new(Replicated {
            actor: RwLock::new(changes.actor(fresh)?),
            vector: RwLock::new(known.vector),
            floor: RwLock::new(known.floor),
            tail: RwLock::default(),
            derived: derived.clone(),
            newest: tokio::sync::watch::Sender::new(changes.newest()?),
            owed: RwLock::new(changes.owed()?),
            pruned: RwLock::new(changes.pruned()?),
            epoch: tokio::sync::watch::Sender::default(),
            adopting: AtomicBool::new(adoption.is_some()),
        });
        let replicator = Replicator {
            log: Log::open(&path)?,
            enabled: changes.is_enabled()?,
            change_bytes: changes.change_bytes()?,
            changes,
            shared: shared.clone(),
            replicated,
            summarize: options.summarize.clone(),
            pruning: None,
            pruned_to: 0,
            adoption,
            noted: None,
        };
        let writer = Writer {
            sweep: Sweep::new(log.meta("swept")?.unwrap_or(0)),
            compact_to: *shared.compacted.read(),
            vacuuming: false,
            log,
            shared: shared.clone(),
            clock,
            server: options.server,
            leases,
            keep: options.keep,
            next_compaction: Instant::now(),
            derived,
            wake,
            now_ms,
        };
        Ok(Self { writer, replicator, shared })
    }
}
