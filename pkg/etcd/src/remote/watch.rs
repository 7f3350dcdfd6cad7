//! A watch that goes on where it was when its connection, or the member it was on, is lost.
use super::{Shared, members, words};
use crate::context::number;
use crate::pb::{self, watch_request::RequestUnion};
use async_trait::async_trait;
use futures::stream;
use std::sync::Arc;
use std::time::Duration;
use store::{Error, Range, Result, Revision, Watch, WatchFrom, WatchItem};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::Streaming;
use tonic::metadata::MetadataValue;

/// How long a member may take to begin a watch.
const BEGIN: Duration = Duration::from_secs(10);
/// Before a lost watch is asked for again.
const PAUSE: Duration = Duration::from_millis(200);
/// An idle watch asks how far it is this often.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// Questions that wait to be sent: the first, and one for progress.
const WAITING: usize = 2;
/// With this a member that has no leader says so instead of staying silent (`rpctypes.MetadataRequireLeaderKey`).
const REQUIRE_LEADER: &str = "hasleader";

pub struct Follower {
    shared: Arc<Shared>,
    range: Range,
    /// What was not seen yet; 0: from now on.
    next: i64,
    live: Option<Live>,
    progress_wanted: bool,
    ended: bool,
}

/// An open stream.
struct Live {
    /// The member's, to leave it when it fails.
    turn: usize,
    to: mpsc::Sender<pb::WatchRequest>,
    from: Streaming<pb::WatchResponse>,
    idle_at: Instant,
}

/// What woke the watch.
enum Wake {
    Message(std::result::Result<Option<pb::WatchResponse>, tonic::Status>),
    Idle,
    Closing,
}

impl Follower {
    pub async fn start(shared: Arc<Shared>, range: Range, from: WatchFrom) -> Result<Self> {
        let next = match from {
            WatchFrom::Now => 0,
            WatchFrom::After(after) => {
                check(&shared, after).await?;
                number(after) + 1
            }
            WatchFrom::At(first) => {
                // The first of all is asked for to see whether nothing is compacted yet: the stream will tell.
                if first.get() > 1 {
                    check(&shared, first).await?;
                }
                number(first).max(1)
            }
        };
        let mut follower = Self { shared, range, next, live: None, progress_wanted: false, ended: false };
        while follower.live.is_none() {
            follower.reopen().await?;
        }
        Ok(follower)
    }

    /// Opens the stream from `next` on; a member that does not answer is left, and the caller comes again.
    async fn reopen(&mut self) -> Result<()> {
        let (turn, channel) = self.shared.members.current();
        let opened = tokio::time::timeout(BEGIN, open(channel, &self.range, self.next)).await;
        let failed = match opened {
            Ok(Ok((to, mut from))) => match tokio::time::timeout(BEGIN, from.message()).await {
                Ok(Ok(Some(first))) => {
                    self.live = Some(Live { turn, to, from, idle_at: Instant::now() + PROGRESS_EVERY });
                    return self.take(first).map(drop);
                }
                Ok(Ok(None)) => tonic::Status::unavailable("the watch ended before it began"),
                Ok(Err(status)) => status,
                Err(_) => tonic::Status::unavailable("a watch did not begin in time"),
            },
            Ok(Err(status)) => status,
            Err(_) => tonic::Status::unavailable("a watch did not begin in time"),
        };
        self.shared.members.leave(turn, &failed);
        let closing = self.shared.shutdown.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_none();
        if closing { Err(Error::Closed) } else { Ok(()) }
    }

    /// What an answer means; none: nothing to tell.
    fn take(&mut self, response: pb::WatchResponse) -> Result<Option<WatchItem>> {
        let revision = self.shared.note(response.header.as_ref());
        if response.compact_revision != 0 {
            return Err(self.shared.compacted(words::revision(self.next), response.compact_revision));
        }
        if response.canceled {
            tracing::warn!(why = response.cancel_reason, "etcd ended a watch, which is begun again");
            self.live = None;
            return Ok(None);
        }
        if response.created {
            if self.next == 0 {
                self.next = number(revision) + 1;
            }
            return Ok(None);
        }
        if response.events.is_empty() {
            self.next = self.next.max(number(revision) + 1);
            return Ok(Some(WatchItem::Progress(revision)));
        }
        let changes = words::changes(response.events, &*self.shared.summarize);
        let changes = changes.ok_or_else(|| self.shared.compacted(words::revision(self.next), 0))?;
        if let Some(last) = changes.last() {
            self.next = number(last.revision) + 1;
        }
        Ok(Some(WatchItem::Changes(changes)))
    }

    async fn item(&mut self) -> Result<WatchItem> {
        loop {
            let Some(live) = &mut self.live else {
                self.reopen().await?;
                continue;
            };
            if std::mem::take(&mut self.progress_wanted) {
                let ask = RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
                // One that waits already will do.
                let _ = live.to.try_send(pb::WatchRequest { request_union: Some(ask) });
            }
            let wake = tokio::select! {
                message = live.from.message() => Wake::Message(message),
                () = tokio::time::sleep_until(live.idle_at) => Wake::Idle,
                () = self.shared.shutdown.cancelled() => Wake::Closing,
            };
            match wake {
                Wake::Message(Ok(Some(response))) => {
                    live.idle_at = Instant::now() + PROGRESS_EVERY;
                    if let Some(item) = self.take(response)? {
                        return Ok(item);
                    }
                }
                Wake::Message(lost) => {
                    let why = lost.err().unwrap_or_else(|| tonic::Status::unavailable("the watch ended"));
                    self.shared.members.leave(live.turn, &why);
                    self.live = None;
                }
                Wake::Idle => {
                    live.idle_at = Instant::now() + PROGRESS_EVERY;
                    self.progress_wanted = true;
                }
                Wake::Closing => return Err(Error::Closed),
            }
        }
    }
}

/// Whether history reaches back to a revision, and up to it.
async fn check(shared: &Shared, after: Revision) -> Result<()> {
    if after.is_zero() {
        return Ok(());
    }
    let key = bytes::Bytes::from_static(b"\0");
    let request = pb::RangeRequest { key, count_only: true, revision: number(after), ..pb::RangeRequest::default() };
    shared.range(request).await.map(drop)
}

async fn open(
    channel: tonic::transport::Channel,
    range: &Range,
    start_revision: i64,
) -> std::result::Result<(mpsc::Sender<pb::WatchRequest>, Streaming<pb::WatchResponse>), tonic::Status> {
    let pb::RangeRequest { key, range_end, .. } = words::range(range, 0, Revision::ZERO);
    let create =
        pb::WatchCreateRequest { key, range_end, start_revision, prev_kv: true, ..pb::WatchCreateRequest::default() };
    let (to, mut questions) = mpsc::channel(WAITING);
    let first = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    to.try_send(first).expect("there is room for the first");
    let mut request = tonic::Request::new(stream::poll_fn(move |cx| questions.poll_recv(cx)));
    request.metadata_mut().insert(REQUIRE_LEADER, MetadataValue::from_static("true"));
    let from = members::watch(channel).watch(request).await?.into_inner();
    Ok((to, from))
}

#[async_trait]
impl Watch for Follower {
    async fn next(&mut self) -> Option<Result<WatchItem>> {
        if self.ended {
            return None;
        }
        let item = self.item().await;
        self.ended = item.is_err();
        Some(item)
    }

    fn request_progress(&mut self) {
        self.progress_wanted = true;
    }
}
