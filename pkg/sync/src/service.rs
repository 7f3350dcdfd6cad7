//! Keeps links to the members that can be reached, moves this server's entry in the vector on, and lets the store forget
//! what everybody has.
use crate::link::{self, HEARTBEAT, Peer, Wire};
use crate::members::Member;
use crate::message::{Hello, PROTOCOL};
use crate::shared::{LinkState, Shared};
use async_trait::async_trait;
use crdt::{Actor, HybridClock, Vector};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use store::Replica;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long after a failed dial the next is tried, at first and at most.
const REDIAL: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(2));
/// How often the store is told what it may forget.
const FORGET_EVERY: Duration = Duration::from_secs(30);

/// Nothing younger is forgotten: longer than a link goes on that is silent.
const FORGET_AFTER: Duration = Duration::from_secs(30);

/// Opens streams to members.
#[async_trait]
pub trait Dialer: Send + Sync {
    /// # Errors
    /// The member can't be reached, or is not who it should be.
    async fn dial(&self, member: &Member) -> std::io::Result<Box<dyn Wire>>;
}

/// What the service is made from.
pub struct Options {
    pub replica: Arc<dyn Replica>,
    pub cluster: [u8; 16],
    /// This server's number and name.
    pub number: u16,
    pub name: String,
    /// The program's version, for people.
    pub version: String,
    /// Who belongs to the cluster; this server among them.
    pub members: watch::Receiver<Vec<Member>>,
    pub dialer: Arc<dyn Dialer>,
}

/// Hands streams that others dialled to the service, and tells how links stand.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    me: Arc<Identity>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

struct Identity {
    cluster: [u8; 16],
    number: u16,
    name: String,
    version: String,
}

impl Handle {
    /// Talks with a server that dialled, until the link ends.
    pub fn accept(&self, wire: Box<dyn Wire>, name: Option<String>) {
        let peer = Peer { name, dialled: false };
        let handle = self.clone();
        self.tasks.spawn(async move { handle.talk(wire, peer).await });
    }

    /// All links there are or were, by number.
    pub fn links(&self) -> Vec<LinkState> {
        self.shared.links()
    }

    /// Wakes when a link is made or lost.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes()
    }

    /// This server's incarnation.
    pub fn actor(&self) -> Actor {
        self.shared.replica.actor()
    }

    /// Wakes when that is another.
    pub fn epoch(&self) -> watch::Receiver<u64> {
        self.shared.replica.epoch()
    }

    /// What this server has of everybody.
    pub fn vector(&self) -> Vector {
        self.shared.replica.vector()
    }

    async fn talk(&self, wire: Box<dyn Wire>, peer: Peer) {
        let replica = &self.shared.replica;
        if let Err(error) = replica.enable().await {
            return tracing::warn!(%error, "no link: what there is can't be derived");
        }
        let epochs = replica.epoch();
        let epoch = *epochs.borrow();
        let empty = match replica.is_empty().await {
            Ok(empty) => empty,
            Err(error) => return tracing::warn!(%error, "no link: what there is can't be read"),
        };
        let (pruned, owed, vector) = (replica.pruned(), replica.owed(), replica.vector());
        let side = self.shared.members.lock().side(self.me.number, &vector, pruned.time);
        let me = Hello {
            protocol: PROTOCOL,
            cluster: self.me.cluster,
            actor: self.shared.replica.actor(),
            number: self.me.number,
            name: self.me.name.clone(),
            version: self.me.version.clone(),
            vector,
            owed,
            pruned,
            empty,
            side,
            links: self.shared.neighbours.borrow().direct(),
        };
        let name = peer.name.clone().unwrap_or_default();
        match link::run(self.shared.clone(), me, (epoch, epochs), wire, peer, self.shutdown.clone()).await {
            Ok(()) => tracing::debug!(peer = name, "a link ended"),
            Err(error) => tracing::info!(peer = name, %error, "a link ended"),
        }
    }
}

/// The service; running it keeps the links.
pub struct Service {
    options: Options,
    handle: Handle,
}

impl Service {
    pub fn new(options: Options, shutdown: CancellationToken) -> Self {
        let shared = Arc::new(Shared::new(options.replica.clone(), options.number));
        let me = Arc::new(Identity {
            cluster: options.cluster,
            number: options.number,
            name: options.name.clone(),
            version: options.version.clone(),
        });
        Self { options, handle: Handle { shared, me, tasks: TaskTracker::new(), shutdown } }
    }

    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs until shutdown, then waits for the links to say farewell.
    pub async fn run(mut self) {
        let shutdown = self.handle.shutdown.clone();
        shutdown.run_until_cancelled(self.keep()).await;
        self.handle.tasks.close();
        self.handle.tasks.wait().await;
    }

    async fn keep(&mut self) {
        let mut dialling: BTreeMap<u16, CancellationToken> = BTreeMap::new();
        let mut tick = tokio::time::interval(HEARTBEAT);
        let mut forget = tokio::time::interval(FORGET_EVERY);
        loop {
            let members = self.options.members.borrow_and_update().clone();
            self.handle.shared.members.lock().set(members);
            self.handle.shared.part_with_strangers();
            self.dial(&mut dialling);
            tokio::select! {
                changed = self.options.members.changed() => if changed.is_err() { return std::future::pending().await },
                _ = tick.tick() => self.tick().await,
                _ = forget.tick() => self.forget().await,
            }
        }
    }

    /// Moves this server's own entry on, so that others know that it has nothing older to tell.
    async fn tick(&self) {
        if self.options.members.borrow().len() < 2 {
            return;
        }
        if let Err(error) = self.options.replica.tick().await {
            tracing::warn!(%error, "telling peers how far this server is");
        }
    }

    async fn forget(&self) {
        self.handle.shared.lows();
        // Of what is younger a peer that has it may not have told: it would get whole documents for nothing.
        let now_ms = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis() as u64);
        let old = HybridClock::at(now_ms.saturating_sub(FORGET_AFTER.as_millis() as u64));
        let stable = self.handle.shared.members.lock().stable().min(old);
        loop {
            match self.options.replica.stable(stable).await {
                Ok(true) => tokio::task::yield_now().await,
                Ok(false) => return,
                Err(error) => return tracing::warn!(%error, "forgetting what every server has"),
            }
        }
    }

    /// Sees to it that exactly the members that are to be dialled are.
    fn dial(&self, dialling: &mut BTreeMap<u16, CancellationToken>) {
        let members = self.handle.shared.members.lock();
        let wanted: BTreeMap<u16, Member> =
            members.to_dial(self.options.number).into_iter().map(|member| (member.number, member.clone())).collect();
        drop(members);
        dialling.retain(|number, token| {
            let stays = wanted.contains_key(number);
            if !stays {
                token.cancel();
            }
            stays
        });
        for (number, member) in wanted {
            dialling.entry(number).or_insert_with(|| self.keep_dialling(member));
        }
    }

    fn keep_dialling(&self, member: Member) -> CancellationToken {
        let token = self.handle.shutdown.child_token();
        let (handle, dialer, stop) = (self.handle.clone(), self.options.dialer.clone(), token.clone());
        self.handle.tasks.spawn(async move { stop.run_until_cancelled(keep_linked(&handle, &*dialer, &member)).await });
        token
    }
}

/// Dials a member whenever there is no link to it.
async fn keep_linked(handle: &Handle, dialer: &dyn Dialer, member: &Member) {
    let mut changes = handle.changes();
    let mut pause = REDIAL.0;
    loop {
        while handle.shared.linked(member.number) {
            pause = REDIAL.0;
            if changes.changed().await.is_err() {
                return;
            }
        }
        match dialer.dial(member).await {
            Ok(wire) => handle.talk(wire, Peer { name: Some(member.name.clone()), dialled: true }).await,
            Err(error) => tracing::debug!(peer = member.name, %error, "dialling"),
        }
        tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.5))).await;
        pause = (pause * 2).min(REDIAL.1);
    }
}
