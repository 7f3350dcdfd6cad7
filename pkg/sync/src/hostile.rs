//! Peers that are slow, deaf, hasty or wrong about the time: memory stays bounded, and links end or wait as they should.
use crate::frame::Codec;
use crate::link::OUT;
use crate::members::Member;
use crate::message::{Hello, Message, PROTOCOL};
use crate::service::{Dialer, Handle, Options, Service};
use crate::session::{ACK_MESSAGES, MESSAGE_BYTES, WINDOW_BYTES, WINDOW_MESSAGES};
use async_trait::async_trait;
use bytes::Bytes;
use crdt::{Actor, Stamp, Vector};
use futures::{SinkExt, StreamExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use store::{Begin, ConflictRecord, Documents, Pruned, Replica, Revision, Row, SnapshotPage, Whole};
use tokio::io::DuplexStream;
use tokio::sync::watch;
use tokio_util::codec::Framed;
use tokio_util::sync::CancellationToken;

/// What a stream holds that nobody reads.
const PIPE_BYTES: usize = 64 << 10;

/// A store that has so many changes to tell, and notes what it is told.
struct Fake {
    rows: u64,
    newest: watch::Sender<u64>,
    epoch: watch::Sender<u64>,
    taken: AtomicUsize,
    /// Whatever comes is stamped far ahead of its clock.
    behind: AtomicBool,
}

impl Fake {
    fn new(rows: u64) -> Arc<Self> {
        let newest = watch::Sender::new(rows);
        Arc::new(Self {
            rows,
            newest,
            epoch: watch::Sender::new(0),
            taken: AtomicUsize::new(0),
            behind: AtomicBool::new(false),
        })
    }

    fn take(&self) -> store::Result<()> {
        if self.behind.load(Ordering::Relaxed) {
            return Err(store::Error::Ahead { actor: actor(2), ahead_ms: 1_000_000 });
        }
        self.taken.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Replica for Fake {
    fn actor(&self) -> Actor {
        actor(1)
    }

    fn vector(&self) -> Vector {
        [Stamp { time: self.rows, actor: actor(1) }].into_iter().collect()
    }

    fn is_whole(&self) -> bool {
        true
    }

    async fn enable(&self) -> store::Result<()> {
        Ok(())
    }

    fn newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    async fn begin(&self, _: Vector) -> store::Result<Begin> {
        Ok(Begin::After(0))
    }

    async fn changes(&self, after: u64, _: Vector, limit_bytes: usize) -> store::Result<Option<(Vec<Row>, u64)>> {
        let last = self.rows.min(after + (limit_bytes / ROW_BYTES) as u64);
        Ok(Some(((after + 1..=last).map(|n| row(1, n)).collect(), last)))
    }

    fn epoch(&self) -> watch::Receiver<u64> {
        self.epoch.subscribe()
    }

    fn owed(&self) -> Vector {
        Vector::default()
    }

    fn pruned(&self) -> Pruned {
        Pruned::default()
    }

    async fn is_empty(&self) -> store::Result<bool> {
        Ok(false)
    }

    async fn stage(&self, _: SnapshotPage, _: Vector) -> store::Result<()> {
        self.take()
    }

    async fn adopt(&self, _: u64, _: Vector, _: Whole) -> store::Result<()> {
        self.take()
    }

    async fn receive(&self, _: u64, _: Vec<Row>) -> store::Result<()> {
        self.take()
    }

    async fn documents(&self) -> store::Result<Box<dyn Documents>> {
        Err(store::Error::Closed)
    }

    async fn join(&self, _: u64, _: SnapshotPage, _: Vector) -> store::Result<()> {
        self.take()
    }

    async fn complete(&self, _: u64, _: Vector, _: Option<Whole>) -> store::Result<()> {
        self.take()
    }

    async fn tick(&self) -> store::Result<()> {
        Ok(())
    }

    async fn stable(&self, _: u64) -> store::Result<bool> {
        Ok(false)
    }

    async fn conflicts(&self, _: u64, _: usize) -> store::Result<Vec<ConflictRecord>> {
        Ok(Vec::new())
    }

    fn derived(&self) -> Revision {
        Revision::ZERO
    }
}

const ROW_BYTES: usize = 4096;

fn actor(n: u8) -> Actor {
    Actor([n; 16])
}

fn row(by: u8, n: u64) -> Row {
    let noise = (0..ROW_BYTES as u64).map(|at| (at.wrapping_mul(n ^ 0x9e37_79b9).wrapping_mul(at) >> 7) as u8);
    Row {
        stamp: Stamp { time: n, actor: actor(by) },
        more: false,
        key: Bytes::from_static(b"k"),
        delta: noise.collect(),
    }
}

struct Nobody;

#[async_trait]
impl Dialer for Nobody {
    async fn dial(&self, _: &Member) -> std::io::Result<Box<dyn crate::Wire>> {
        Err(std::io::ErrorKind::HostUnreachable.into())
    }
}

fn member(number: u16) -> Member {
    let actor = Some(actor(number as u8));
    Member { number, name: number.to_string(), site: "s".into(), address: None, actor, absent: false }
}

/// A server, and a peer's end of a link to it that has said who it is.
async fn linked(replica: &Arc<Fake>) -> (Handle, Framed<DuplexStream, Codec>) {
    let members = watch::Sender::new(vec![member(1), member(2)]);
    let options = Options {
        replica: replica.clone(),
        cluster: [7; 16],
        number: 1,
        name: "1".into(),
        version: "test".into(),
        members: members.subscribe(),
        dialer: Arc::new(Nobody),
    };
    let service = Service::new(options, CancellationToken::new());
    let handle = service.handle();
    tokio::spawn(async move {
        let _members = members;
        service.run().await;
    });
    tokio::time::sleep(Duration::from_millis(10)).await;
    let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
    handle.accept(Box::new(ours), Some("2".into()));
    let mut peer = Framed::new(theirs, Codec::default());
    let hello = Hello {
        protocol: PROTOCOL,
        cluster: [7; 16],
        actor: actor(2),
        number: 2,
        name: "2".into(),
        version: "test".into(),
        vector: Vector::default(),
        owed: Vector::default(),
        pruned: Pruned::default(),
        empty: false,
        side: 2,
        links: Vec::new(),
    };
    peer.send(Message::Hello(hello)).await.unwrap();
    (handle, peer)
}

fn seen() -> Message {
    Message::Seen { vector: Vector::default(), lows: Vec::new(), links: None }
}

/// What comes until the link ends, or until it is enough.
async fn hear(peer: &mut Framed<DuplexStream, Codec>, enough: impl Fn(&Message) -> bool) -> Vec<Message> {
    let mut heard = Vec::new();
    while let Some(Ok(message)) = peer.next().await {
        let last = enough(&message);
        heard.push(message);
        if last {
            break;
        }
    }
    heard
}

fn is_ack(message: &Message) -> bool {
    matches!(message, Message::Ack { .. })
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_talks_and_never_reads_is_cut_off() {
    const LIMIT: usize = 500_000;
    let replica = Fake::new(0);
    let (handle, mut peer) = linked(&replica).await;
    let mut said = 0;
    while said < LIMIT && peer.send(seen()).await.is_ok() {
        said += 1;
    }
    // An answer has more than ten bytes, and is to so many messages: what the stream holds, and what may wait.
    let most = (OUT + PIPE_BYTES / 10) * ACK_MESSAGES as usize;
    assert!(said < LIMIT && replica.taken() < most, "{said} messages sent, {} answered", replica.taken());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(handle.links().iter().all(|link| !link.connected));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_reads_and_never_answers_gets_no_more_than_the_window() {
    let replica = Fake::new(10_000);
    let (_handle, mut peer) = linked(&replica).await;
    // Until the server gives up a peer that says nothing.
    let heard = hear(&mut peer, |_| false).await;
    let rows = heard.iter().map(|message| if let Message::Rows(rows) = message { rows.len() } else { 0 });
    let bytes = rows.sum::<usize>() * ROW_BYTES;
    assert!((WINDOW_BYTES..=WINDOW_BYTES + MESSAGE_BYTES).contains(&bytes), "{bytes} bytes");
    assert!(matches!(heard.last(), Some(Message::Bye { reason }) if reason.contains("nothing")), "{:?}", heard.last());
}

#[tokio::test(start_paused = true)]
async fn what_is_stamped_far_ahead_waits_and_the_link_stays() {
    let replica = Fake::new(1);
    replica.behind.store(true, Ordering::Relaxed);
    let (_handle, mut peer) = linked(&replica).await;
    peer.send(Message::Rows(vec![row(2, 1)])).await.unwrap();
    let heard = hear(&mut peer, |message| matches!(message, Message::Rows(_))).await;
    assert!(!heard.iter().any(is_ack), "what is ours is told all the same: {heard:?}");
    assert_eq!(replica.taken(), 0);
    replica.behind.store(false, Ordering::Relaxed);
    let heard = hear(&mut peer, is_ack).await;
    assert!(matches!(heard.last(), Some(Message::Ack { count: 1, .. })), "{heard:?}");
    assert_eq!(replica.taken(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_its_time_has_a_bound() {
    let replica = Fake::new(0);
    replica.behind.store(true, Ordering::Relaxed);
    let (_handle, mut peer) = linked(&replica).await;
    for n in 1..=WINDOW_MESSAGES as u64 + 1 {
        peer.send(Message::Rows(vec![row(2, n)])).await.unwrap();
    }
    let heard = hear(&mut peer, |_| false).await;
    assert!(
        matches!(heard.last(), Some(Message::Bye { reason }) if reason.contains("on and on")),
        "{:?}",
        heard.last()
    );
}
