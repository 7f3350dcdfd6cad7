//! Clients of etcd's API that call at random and write down what they see.
use crate::history::{Answer, Call, Clock, Kv, Lease, Outcome, Request, Write};
use crate::shared::Shared;
use eyot_etcd::proto::etcdserverpb as pb;
use pb::compare::{CompareTarget, TargetUnion};
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::request_op::Request as Operation;
use pb::response_op::Response as Done;
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::time::Duration;
use tonic::Status;
use tonic::transport::Channel;

pub const PREFIX: &str = "/k/";
/// Few keys, so that clients meet.
const KEYS: usize = 8;
/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// The shortest life that etcd grants.
const TTL_S: i64 = 2;

pub struct Client {
    pub id: usize,
    pub random: StdRng,
    pub clock: Clock,
    pub channel: Channel,
    pub shared: std::sync::Arc<Shared>,
    written: usize,
    /// Revision of each key as it was last seen here.
    known: BTreeMap<String, i64>,
    lease: i64,
}

impl Client {
    pub fn new(id: usize, random: StdRng, clock: Clock, channel: Channel, shared: std::sync::Arc<Shared>) -> Self {
        Self { id, random, clock, channel, shared, written: 0, known: BTreeMap::new(), lease: 0 }
    }

    /// Calls until the time is over.
    pub async fn run(mut self, until: Duration) {
        while self.clock.now() < until {
            match self.random.random_range(0..100) {
                0..3 => self.live().await,
                3 if self.id == 0 => self.compact().await,
                _ => {
                    let request = self.request();
                    self.call(request).await;
                }
            }
            let pause = Duration::from_micros(self.random.random_range(0..4000));
            tokio::time::sleep(pause).await;
        }
    }

    fn key(&mut self) -> String {
        format!("{PREFIX}{}", self.random.random_range(0..KEYS))
    }

    fn put(&mut self, key: String) -> Write {
        self.written += 1;
        let lease = if self.random.random_bool(0.1) { self.lease } else { 0 };
        Write::Put { key, value: format!("{}:{}", self.id, self.written), lease }
    }

    /// What kube-apiserver asks, and what it doesn't.
    fn request(&mut self) -> Request {
        let key = self.key();
        let guard = vec![(key.clone(), self.known.get(&key).copied().unwrap_or(0))];
        match self.random.random_range(0..100) {
            0..15 => Request::List { prefix: key, limit: 0, at: None },
            15..25 => Request::List { prefix: PREFIX.into(), limit: self.random.random_range(0..4), at: None },
            25..35 => Request::List { prefix: PREFIX.into(), limit: 0, at: self.known.values().min().copied() },
            35..50 => Request::Txn { guard: vec![], then: vec![self.put(key)], otherwise: None },
            50..55 => Request::Txn { guard: vec![], then: vec![Write::Delete { key }], otherwise: None },
            55..65 => {
                let guard = vec![(key.clone(), 0)];
                Request::Txn { guard, then: vec![self.put(key)], otherwise: None }
            }
            65..80 => Request::Txn { guard, then: vec![self.put(key.clone())], otherwise: Some(key) },
            80..88 => Request::Txn { guard, then: vec![Write::Delete { key: key.clone() }], otherwise: Some(key) },
            _ => {
                let other = self.key();
                let mut then = vec![self.put(key.clone())];
                if other != key {
                    then.push(if self.random.random_bool(0.5) {
                        self.put(other)
                    } else {
                        Write::Delete { key: other }
                    });
                }
                Request::Txn { guard: vec![], then, otherwise: None }
            }
        }
    }

    async fn call(&mut self, request: Request) {
        let called_us = self.clock.now_us();
        let answered = tokio::time::timeout(PATIENCE, send(&self.channel, &request)).await;
        let returned_us = self.clock.now_us();
        let outcome = match answered {
            Ok(Ok(answer)) => Outcome::Done(answer),
            Ok(Err(status)) if status.message().contains("has been compacted") => Outcome::Compacted,
            Ok(Err(status)) if refusal(&status) => return,
            _ => Outcome::Unknown,
        };
        let unknown = matches!(outcome, Outcome::Unknown);
        if let Outcome::Done(answer) = &outcome {
            self.learn(&request, answer);
        }
        self.shared.add(Call { client: self.id, called_us, returned_us, request, outcome });
        if unknown {
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    fn learn(&mut self, request: &Request, answer: &Answer) {
        self.known.extend(answer.kvs.iter().map(|kv| (kv.key.clone(), kv.modified)));
        if let Request::Txn { then, .. } = request
            && answer.succeeded
        {
            for write in then {
                match write {
                    Write::Put { key, .. } => self.known.insert(key.clone(), answer.revision),
                    Write::Delete { key } => self.known.remove(key),
                };
            }
        }
    }

    /// Lets a lease live on, ends it, or begins one.
    async fn live(&mut self) {
        let mut leases = LeaseClient::new(self.channel.clone());
        let called_us = self.clock.now_us();
        if self.lease == 0 {
            let grant = leases.lease_grant(pb::LeaseGrantRequest { ttl: TTL_S, id: 0 });
            if let Ok(Ok(granted)) = tokio::time::timeout(PATIENCE, grant).await {
                self.lease = granted.into_inner().id;
                let lease = Lease { id: self.lease, ttl_s: TTL_S, alive_us: vec![called_us], revoked_us: None };
                self.shared.grant(lease);
            }
        } else if self.random.random_bool(0.3) {
            self.shared.lease(self.lease, |lease| lease.revoked_us = Some(called_us));
            let revoke = leases.lease_revoke(pb::LeaseRevokeRequest { id: self.lease });
            // Whether it came to that, the watch tells.
            drop(tokio::time::timeout(PATIENCE, revoke).await);
            self.lease = 0;
        } else {
            let ask = pb::LeaseKeepAliveRequest { id: self.lease };
            let alive =
                async { leases.lease_keep_alive(futures::stream::iter([ask])).await?.into_inner().message().await };
            match tokio::time::timeout(PATIENCE, alive).await {
                Ok(Ok(Some(alive))) if alive.ttl > 0 => {
                    self.shared.lease(self.lease, |lease| lease.alive_us.push(called_us));
                }
                Ok(Ok(_)) => self.lease = 0,
                _ => {}
            }
        }
    }

    /// Compacts what the observer has seen already: else nobody could say what was there.
    async fn compact(&mut self) {
        let Some(revision) = self.shared.compactable(&mut self.random) else { return };
        let request = pb::CompactionRequest { revision, physical: self.random.random_bool(0.5) };
        drop(tokio::time::timeout(PATIENCE, KvClient::new(self.channel.clone()).compact(request)).await);
    }
}

/// What surely was not done: a lease that is gone.
fn refusal(status: &Status) -> bool {
    status.message().contains("requested lease not found")
}

pub async fn send(channel: &Channel, request: &Request) -> Result<Answer, Status> {
    let mut kv = KvClient::new(channel.clone());
    match request {
        Request::List { prefix, limit, at } => {
            let request = range(prefix, *limit, at.unwrap_or(0));
            let done = kv.range(request).await?.into_inner();
            Ok(listed(revision(done.header.as_ref()), true, &done))
        }
        Request::Txn { guard, then, .. } if guard.is_empty() && then.len() == 1 => one(&mut kv, &then[0]).await,
        Request::Txn { guard, then, otherwise } => {
            let failure = otherwise.iter().map(|key| op(Operation::RequestRange(range(key, 0, 0)))).collect();
            let request = pb::TxnRequest {
                compare: guard.iter().map(|(key, revision)| compare(key, *revision)).collect(),
                success: then.iter().map(operation).collect(),
                failure,
            };
            Ok(transacted(&kv.txn(request).await?.into_inner()))
        }
    }
}

async fn one(kv: &mut KvClient<Channel>, write: &Write) -> Result<Answer, Status> {
    let (header, previous) = match operation(write).request {
        Some(Operation::RequestPut(put)) => {
            let done = kv.put(put).await?.into_inner();
            (done.header, done.prev_kv)
        }
        Some(Operation::RequestDeleteRange(delete)) => {
            let done = kv.delete_range(delete).await?.into_inner();
            (done.header, done.prev_kvs.into_iter().next())
        }
        _ => unreachable!("a write is one of these"),
    };
    let previous = vec![previous.as_ref().map(Kv::from)];
    Ok(Answer { revision: revision(header.as_ref()), succeeded: true, previous, ..Answer::default() })
}

fn transacted(done: &pb::TxnResponse) -> Answer {
    let at = revision(done.header.as_ref());
    let mut answer = Answer { revision: at, succeeded: done.succeeded, ..Answer::default() };
    for response in done.responses.iter().filter_map(|response| response.response.as_ref()) {
        match response {
            Done::ResponsePut(put) => answer.previous.push(put.prev_kv.as_ref().map(Kv::from)),
            Done::ResponseDeleteRange(gone) => answer.previous.push(gone.prev_kvs.first().map(Kv::from)),
            Done::ResponseRange(found) => answer = listed(at, done.succeeded, found),
            Done::ResponseTxn(_) => {}
        }
    }
    answer
}

fn listed(revision: i64, succeeded: bool, found: &pb::RangeResponse) -> Answer {
    let kvs = found.kvs.iter().map(Kv::from).collect();
    Answer { revision, succeeded, kvs, count: found.count, previous: Vec::new() }
}

fn revision(header: Option<&pb::ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}

pub fn range(prefix: &str, limit: i64, revision: i64) -> pb::RangeRequest {
    pb::RangeRequest { key: prefix.to_owned().into(), range_end: end_of(prefix), limit, revision, ..Default::default() }
}

/// The end of the keys that begin so.
pub fn end_of(prefix: &str) -> bytes::Bytes {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().expect("a prefix is not empty") += 1;
    end.into()
}

fn op(operation: Operation) -> pb::RequestOp {
    pb::RequestOp { request: Some(operation) }
}

fn operation(write: &Write) -> pb::RequestOp {
    op(match write.clone() {
        Write::Put { key, value, lease } => Operation::RequestPut(pb::PutRequest {
            key: key.into(),
            value: value.into(),
            lease,
            prev_kv: true,
            ..Default::default()
        }),
        Write::Delete { key } => Operation::RequestDeleteRange(pb::DeleteRangeRequest {
            key: key.into(),
            prev_kv: true,
            ..Default::default()
        }),
    })
}

fn compare(key: &str, revision: i64) -> pb::Compare {
    pb::Compare {
        target: CompareTarget::Mod.into(),
        key: key.to_owned().into(),
        target_union: Some(TargetUnion::ModRevision(revision)),
        ..Default::default()
    }
}
