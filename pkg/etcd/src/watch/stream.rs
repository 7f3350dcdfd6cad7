//! One client's stream: an actor that starts and ends its watches and tells what they find.
use super::events::{events, fragments};
use super::follow::{Follow, News};
use super::request::Order;
use super::round::Round;
use crate::context::Context;
use crate::error::Error;
use crate::pb::{WatchCreateRequest, WatchRequest, WatchResponse, watch_request::RequestUnion};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use store::{Change, Revision, WatchFrom};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

/// What the watches of a stream have found and the actor has not told yet, in batches.
const NEWS: usize = 64;
/// Watches of one stream at most.
const WATCHES: usize = 16_384;
/// How long a round of asking may keep later changes back; a watch that still reads the log is not waited for.
const ROUND: Duration = Duration::from_millis(200);
/// The id of an answer that is for all watches of the stream, or for none.
const NO_WATCH: i64 = -1;
/// Bytes of a response beyond which a client that asked for it gets fragments: as etcd, what a request may have.
const FRAGMENT_OVERHEAD_BYTES: usize = 512 << 10;

const DUPLICATE_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";
const EMPTY_RANGE: &str = "mvcc: watcher range is empty";
const TOO_MANY: &str = "eyot: too many watches on one stream";

/// The client is gone.
struct Gone;

type Told = Result<(), Gone>;

struct Running {
    id: i64,
    order: Order,
    asked: Arc<Notify>,
    cancel: CancellationToken,
}

pub struct Stream {
    context: Context,
    out: mpsc::Sender<Result<WatchResponse, Status>>,
    /// By serial number, which is never used again, unlike ids.
    watches: HashMap<u64, Running>,
    serials: HashMap<i64, u64>,
    next_serial: u64,
    next_id: i64,
    round: Option<(Round, Instant)>,
    /// The client asked again while a round was on.
    round_wanted: bool,
    news: mpsc::Sender<(u64, News)>,
    found: Option<mpsc::Receiver<(u64, News)>>,
    /// Ends all watches when the actor does.
    ended: CancellationToken,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.ended.cancel();
    }
}

impl Stream {
    pub fn new(context: Context, out: mpsc::Sender<Result<WatchResponse, Status>>) -> Self {
        let (news, found) = mpsc::channel(NEWS);
        let ended = context.stopping.child_token();
        Self {
            context,
            out,
            watches: HashMap::new(),
            serials: HashMap::new(),
            next_serial: 0,
            next_id: 0,
            round: None,
            round_wanted: false,
            news,
            found: Some(found),
            ended,
        }
    }

    /// Works until the client or the server ends.
    pub async fn run(mut self, mut requests: Streaming<WatchRequest>) {
        let Some(mut found) = self.found.take() else { return };
        let out = self.out.clone();
        loop {
            let deadline = self.round.as_ref().map(|(_, deadline)| *deadline);
            let told = tokio::select! {
                request = requests.message() => match request {
                    Ok(Some(request)) => self.request(request).await,
                    Ok(None) | Err(_) => return,
                },
                Some((serial, news)) = found.recv() => self.found(serial, news).await,
                () = sleep_until(deadline), if deadline.is_some() => self.end_round().await,
                () = self.ended.cancelled() => {
                    let _ = self.out.try_send(Err(Error::from(store::Error::Closed).into()));
                    return;
                }
                () = out.closed() => return,
            };
            if told.is_err() {
                return;
            }
        }
    }

    async fn tell(&self, response: WatchResponse) -> Told {
        self.out.send(Ok(response)).await.map_err(|_| Gone)
    }

    async fn request(&mut self, request: WatchRequest) -> Told {
        match request.request_union {
            Some(RequestUnion::CreateRequest(request)) => self.create(request).await,
            Some(RequestUnion::CancelRequest(request)) => self.cancel(request.watch_id).await,
            Some(RequestUnion::ProgressRequest(_)) => self.ask().await,
            None => Ok(()),
        }
    }

    async fn create(&mut self, request: WatchCreateRequest) -> Told {
        let current = self.context.backend.current_revision();
        let header = self.context.header(current);
        let refused = |reason: &str| WatchResponse {
            header,
            watch_id: NO_WATCH,
            created: true,
            canceled: true,
            cancel_reason: reason.into(),
            ..WatchResponse::default()
        };
        let Some(order) = Order::new(&request, current) else { return self.tell(refused(EMPTY_RANGE)).await };
        if self.watches.len() >= WATCHES {
            return self.tell(refused(TOO_MANY)).await;
        }
        let Some(id) = self.id(request.watch_id) else { return self.tell(refused(DUPLICATE_ID)).await };
        // A watch of now begins at what the header says, so that the client may count on it.
        let from = if order.from == WatchFrom::Now { WatchFrom::After(current) } else { order.from };
        let started = self.context.backend.watch(order.range.clone(), from).await;
        self.tell(WatchResponse { header, watch_id: id, created: true, ..WatchResponse::default() }).await?;
        match started {
            Ok(watch) => {
                self.start(id, order, from, watch);
                Ok(())
            }
            Err(store::Error::Compacted { .. } | store::Error::Foreign { .. }) => self.tell(self.compacted(id)).await,
            Err(error) => self.tell(self.canceled(id, &Error::from(error).to_string())).await,
        }
    }

    /// The id that was asked for, or the next free one; none: it is taken.
    fn id(&mut self, wanted: i64) -> Option<i64> {
        if wanted != 0 {
            return (!self.serials.contains_key(&wanted)).then_some(wanted);
        }
        while self.serials.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        Some(self.next_id - 1)
    }

    fn start(&mut self, id: i64, order: Order, from: WatchFrom, watch: Box<dyn store::Watch>) {
        let serial = self.next_serial;
        self.next_serial += 1;
        let (asked, cancel) = (Arc::new(Notify::new()), self.ended.child_token());
        let seen = match from {
            WatchFrom::After(after) => after,
            WatchFrom::At(first) => Revision::from_u64(first.get().saturating_sub(1)),
            WatchFrom::Now => self.context.backend.current_revision(),
        };
        let follow = Follow {
            serial,
            backend: self.context.backend.clone(),
            range: order.range.clone(),
            seen,
            news: self.news.clone(),
            asked: asked.clone(),
            cancel: cancel.clone(),
        };
        self.context.tasks.spawn(follow.run(watch));
        self.serials.insert(id, serial);
        self.watches.insert(serial, Running { id, order, asked, cancel });
    }

    async fn cancel(&mut self, id: i64) -> Told {
        let Some(serial) = self.serials.get(&id).copied() else { return Ok(()) };
        self.remove(serial);
        self.tell(self.canceled(id, "")).await?;
        self.complete_round().await
    }

    fn remove(&mut self, serial: u64) {
        if let Some(running) = self.watches.remove(&serial) {
            running.cancel.cancel();
            self.serials.remove(&running.id);
        }
        if let Some((round, _)) = &mut self.round {
            round.gone(serial);
        }
    }

    fn canceled(&self, id: i64, reason: &str) -> WatchResponse {
        let header = self.context.header_now();
        WatchResponse { header, watch_id: id, canceled: true, cancel_reason: reason.into(), ..WatchResponse::default() }
    }

    /// Clients take a compact_revision for the reason, and never for zero.
    fn compacted(&self, id: i64) -> WatchResponse {
        let compact_revision = crate::context::number(self.context.backend.compacted_revision()).max(1);
        WatchResponse { compact_revision, ..self.canceled(id, &Error::Compacted.to_string()) }
    }

    async fn found(&mut self, serial: u64, news: News) -> Told {
        let Some(running) = self.watches.get(&serial) else { return Ok(()) };
        match news {
            News::Changes(changes) => {
                let changes = match &mut self.round {
                    Some((round, _)) => round.hold(serial, changes),
                    None => changes,
                };
                self.tell_changes(serial, changes).await?;
                match self.round.as_ref().is_some_and(|(round, _)| round.is_overfull()) {
                    true => self.end_round().await,
                    false => Ok(()),
                }
            }
            News::Progress(revision) => {
                let (notify, id) = (running.order.progress_notify, running.id);
                if let Some((round, _)) = &mut self.round {
                    round.answered(serial, revision);
                    return self.complete_round().await;
                }
                if !notify {
                    return Ok(());
                }
                let header = self.context.header(revision);
                self.tell(WatchResponse { header, watch_id: id, ..WatchResponse::default() }).await
            }
            News::Compacted => {
                let response = self.compacted(running.id);
                self.remove(serial);
                self.tell(response).await?;
                self.complete_round().await
            }
            News::Failed(error) => {
                let response = self.canceled(running.id, &Error::from(error).to_string());
                self.remove(serial);
                self.tell(response).await?;
                self.complete_round().await
            }
        }
    }

    async fn tell_changes(&self, serial: u64, changes: Vec<Arc<Change>>) -> Told {
        let (Some(running), Some(last)) = (self.watches.get(&serial), changes.last()) else { return Ok(()) };
        let events = events(changes.iter().map(AsRef::as_ref), &running.order);
        if events.is_empty() {
            return Ok(());
        }
        let header = self.context.header(last.revision);
        let whole = WatchResponse { header, watch_id: running.id, events, ..WatchResponse::default() };
        if !running.order.fragment {
            return self.tell(whole).await;
        }
        for piece in fragments(whole, self.context.limits.request_bytes + FRAGMENT_OVERHEAD_BYTES) {
            self.tell(piece).await?;
        }
        Ok(())
    }

    /// Begins a round: all watches are asked how far they are.
    async fn ask(&mut self) -> Told {
        if self.round.is_some() {
            self.round_wanted = true;
            return Ok(());
        }
        // Whatever was told is at or below this: changes are visible before they are delivered.
        let round = Round::new(self.context.backend.current_revision(), self.watches.keys().copied());
        self.watches.values().for_each(|running| running.asked.notify_one());
        self.round = Some((round, Instant::now() + ROUND));
        self.complete_round().await
    }

    async fn complete_round(&mut self) -> Told {
        let target = self.round.as_ref().filter(|(round, _)| round.is_complete()).map(|(round, _)| round.target);
        let Some(target) = target else { return Ok(()) };
        let header = self.context.header(target);
        self.tell(WatchResponse { header, watch_id: NO_WATCH, ..WatchResponse::default() }).await?;
        self.end_round().await
    }

    /// Ends a round, complete or given up, and tells what it kept back.
    async fn end_round(&mut self) -> Told {
        let Some((round, _)) = self.round.take() else { return Ok(()) };
        for (serial, changes) in round.into_held() {
            self.tell_changes(serial, changes).await?;
        }
        match std::mem::take(&mut self.round_wanted) {
            true => Box::pin(self.ask()).await,
            false => Ok(()),
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
