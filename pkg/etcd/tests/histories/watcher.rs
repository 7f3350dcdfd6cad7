//! Clients that watch, are cut off, and resume, and write down what they are told.
use crate::history::{Clock, Event, Session, Told};
use crate::load::{PREFIX, end_of};
use crate::shared::Shared;
use eyot_etcd::proto::etcdserverpb as pb;
use pb::watch_client::WatchClient;
use pb::watch_request::RequestUnion;
use rand::Rng;
use rand::rngs::StdRng;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::Streaming;
use tonic::transport::Channel;

/// Between two attempts to reach a server that is down.
const RETRY: Duration = Duration::from_millis(30);
/// A watch asks how far it is at least this often.
const ASK_EVERY: Duration = Duration::from_millis(100);

pub struct Watcher {
    pub clock: Clock,
    pub channel: Channel,
    pub shared: Arc<Shared>,
}

struct Running {
    requests: mpsc::UnboundedSender<pb::WatchRequest>,
    responses: Streaming<pb::WatchResponse>,
}

impl Watcher {
    /// One watch of everything from the beginning, resumed after each interruption until it has told `Shared::end`.
    pub async fn observe(self) -> Vec<Session> {
        let (mut sessions, mut from) = (Vec::new(), 1);
        loop {
            let mut session = Session { prefix: PREFIX.into(), prev_kv: true, from, told: vec![], compacted: false };
            self.follow(&mut session, usize::MAX).await;
            if let Some(last) = session.told.iter().flat_map(|told| &told.events).last() {
                from = last.revision + 1;
            }
            assert!(!session.compacted, "compacted before it was told");
            sessions.push(session);
            if self.shared.is_over(from - 1) {
                return sessions;
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Watches of one key and of all, from now, from where one ended and from the past, until everything is over.
    pub async fn wander(self, mut random: StdRng) -> Vec<Session> {
        let (mut sessions, mut resume) = (Vec::new(), 0);
        while !self.shared.is_over(resume) {
            let prefix = match random.random_range(0..3) {
                0 => format!("{PREFIX}{}", random.random_range(0..4)),
                _ => PREFIX.into(),
            };
            let from = match random.random_range(0..10) {
                0..2 => 0,
                2..4 => self.shared.earlier(&mut random),
                _ => resume + 1,
            };
            let prev_kv = random.random_bool(0.5);
            let mut session = Session { prefix, prev_kv, from: from.max(0), told: vec![], compacted: false };
            self.follow(&mut session, random.random_range(1..200)).await;
            resume = session.told.iter().map(|told| told.revision).max().unwrap_or(resume).max(resume);
            if session.compacted {
                resume = self.shared.seen();
            }
            sessions.push(session);
            tokio::time::sleep(RETRY).await;
        }
        sessions
    }

    /// Writes down what one watch tells until it ends, was told `responses` times, or everything is over.
    async fn follow(&self, session: &mut Session, responses: usize) {
        let Some(mut running) = self.create(session).await else { return };
        for _ in 0..responses {
            let next = tokio::time::timeout(ASK_EVERY, running.responses.message()).await;
            let response = match next {
                Err(_) => {
                    if self.shared.is_over(session.told.last().map_or(0, |told| told.revision)) {
                        return;
                    }
                    let ask = RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
                    if running.requests.send(pb::WatchRequest { request_union: Some(ask) }).is_err() {
                        return;
                    }
                    continue;
                }
                Ok(Ok(Some(response))) => response,
                Ok(_) => return,
            };
            session.compacted = response.compact_revision != 0;
            if response.canceled {
                return;
            }
            let at_us = self.clock.now_us();
            let revision = response.header.map_or(0, |header| header.revision);
            let events: Vec<_> = response.events.iter().map(Event::from).collect();
            if let Some(last) = events.last().filter(|_| responses == usize::MAX) {
                self.shared.observed(last.revision);
            }
            session.told.push(Told { at_us, revision, events });
        }
    }

    async fn create(&self, session: &mut Session) -> Option<Running> {
        let (requests, mut rest) = mpsc::unbounded_channel();
        let order = pb::WatchCreateRequest {
            key: session.prefix.clone().into(),
            range_end: end_of(&session.prefix),
            start_revision: session.from,
            prev_kv: session.prev_kv,
            progress_notify: true,
            ..Default::default()
        };
        requests.send(pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(order)) }).ok()?;
        let outgoing = futures::stream::poll_fn(move |cx| rest.poll_recv(cx));
        let mut client = WatchClient::new(self.channel.clone());
        let opened = client.watch(outgoing);
        let opened = tokio::time::timeout(Duration::from_secs(2), opened).await.ok()?;
        let mut responses = opened.ok()?.into_inner();
        let created = tokio::time::timeout(Duration::from_secs(2), responses.message()).await.ok()?.ok()??;
        if session.from == 0 {
            session.from = created.header?.revision + 1;
        }
        created.created.then_some(Running { requests, responses })
    }
}
