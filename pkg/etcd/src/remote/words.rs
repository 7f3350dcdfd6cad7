//! The store's terms in etcd's words, and back. Pure.
use crate::context::number;
use crate::mvccpb::{KeyValue, event::EventType};
use crate::pb::{self, compare::CompareResult, compare::CompareTarget, compare::TargetUnion};
use crate::pb::{request_op::Request, response_op::Response};
use api::summary::Summarize;
use bytes::Bytes;
use std::sync::Arc;
use store::{
    Change, Compare, Entry, Error, Field, LeaseId, Op, OpResult, Page, Range, Relation, Result, Revision, Txn,
    TxnResult,
};

/// What etcd takes in one request, unless it was told otherwise.
const REQUEST_LIMIT_BYTES: usize = 3 << 19;
const TXN_LIMIT: usize = 128;

pub fn revision(number: i64) -> Revision {
    Revision::from_u64(number.max(0).unsigned_abs())
}

pub fn entry(kv: KeyValue, index: u32, summarize: &dyn Summarize) -> Entry {
    let summary = summarize.summarize(&kv.key, &kv.value);
    Entry {
        create_revision: revision(kv.create_revision),
        mod_revision: revision(kv.mod_revision),
        index,
        version: kv.version.unsigned_abs(),
        lease: lease(kv.lease),
        summary,
        key: kv.key,
        value: kv.value,
    }
}

fn lease(id: i64) -> Option<LeaseId> {
    (id != 0).then_some(LeaseId(id))
}

/// First key and end, as etcd writes them: no key is a zero byte, no end as well.
fn bounds(range: &Range) -> (Bytes, Bytes) {
    let zero = Bytes::from_static(b"\0");
    let start = if range.start.is_empty() { zero.clone() } else { range.start.clone() };
    (start, if range.end.is_empty() { zero } else { range.end.clone() })
}

pub fn range(range: &Range, limit: usize, at: Revision) -> pb::RangeRequest {
    let (key, range_end) = bounds(range);
    pb::RangeRequest { key, range_end, limit: limit as i64, revision: number(at), ..pb::RangeRequest::default() }
}

pub fn txn(txn: &Txn) -> pb::TxnRequest {
    let ops = |ops: &[Op]| ops.iter().map(|op| pb::RequestOp { request: Some(request(op)) }).collect();
    pb::TxnRequest {
        compare: txn.compare.iter().map(compare).collect(),
        success: ops(&txn.then),
        failure: ops(&txn.otherwise),
    }
}

/// Whether nothing is written either way.
pub fn only_reads(txn: &pb::TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).all(|op| match &op.request {
        Some(Request::RequestRange(_)) | None => true,
        Some(Request::RequestTxn(inner)) => only_reads(inner),
        Some(Request::RequestPut(_) | Request::RequestDeleteRange(_)) => false,
    })
}

fn compare(compare: &Compare) -> pb::Compare {
    let (range, field, is) = match compare {
        Compare::ModRevision { key, revision } => {
            return pb::Compare {
                result: CompareResult::Equal.into(),
                target: CompareTarget::Mod.into(),
                key: key.clone(),
                range_end: Bytes::new(),
                target_union: Some(TargetUnion::ModRevision(number(*revision))),
            };
        }
        Compare::Each { range, field, is } => (range, field, is),
    };
    let (target, union) = match field {
        Field::Version(n) => (CompareTarget::Version, TargetUnion::Version(*n)),
        Field::CreateRevision(n) => (CompareTarget::Create, TargetUnion::CreateRevision(*n)),
        Field::ModRevision(n) => (CompareTarget::Mod, TargetUnion::ModRevision(*n)),
        Field::Lease(n) => (CompareTarget::Lease, TargetUnion::Lease(*n)),
        Field::Value(value) => (CompareTarget::Value, TargetUnion::Value(value.clone())),
    };
    let result = match is {
        Relation::Equal => CompareResult::Equal,
        Relation::NotEqual => CompareResult::NotEqual,
        Relation::Greater => CompareResult::Greater,
        Relation::Less => CompareResult::Less,
    };
    // One key alone must be said as such: a range without keys passes or fails in another way.
    let (key, range_end) = match *range == Range::key(range.start.clone()) {
        true => (range.start.clone(), Bytes::new()),
        false => bounds(range),
    };
    pb::Compare { result: result.into(), target: target.into(), key, range_end, target_union: Some(union) }
}

fn request(op: &Op) -> Request {
    match op {
        Op::Put { key, value, lease } => Request::RequestPut(pb::PutRequest {
            key: key.clone(),
            value: value.clone(),
            lease: lease.map_or(0, |lease| lease.0),
            prev_kv: true,
            ..pb::PutRequest::default()
        }),
        Op::Amend { key, value, lease } => Request::RequestPut(pb::PutRequest {
            key: key.clone(),
            value: value.clone().unwrap_or_default(),
            lease: lease.flatten().map_or(0, |lease| lease.0),
            prev_kv: true,
            ignore_value: value.is_none(),
            ignore_lease: lease.is_none(),
        }),
        Op::Delete { key } => Request::RequestDeleteRange(pb::DeleteRangeRequest {
            key: key.clone(),
            range_end: Bytes::new(),
            prev_kv: true,
        }),
        Op::DeleteRange { range } => {
            let (key, range_end) = bounds(range);
            Request::RequestDeleteRange(pb::DeleteRangeRequest { key, range_end, prev_kv: true })
        }
        Op::Get { key } => Request::RequestRange(pb::RangeRequest { key: key.clone(), ..pb::RangeRequest::default() }),
        Op::List { range: keys, limit } => Request::RequestRange(range(keys, *limit, Revision::ZERO)),
        Op::Txn(inner) => Request::RequestTxn(txn(inner)),
    }
}

/// What a transaction did.
///
/// # Errors
/// An answer that does not fit the question.
pub fn txn_result(txn: &Txn, response: pb::TxnResponse, summarize: &dyn Summarize) -> Result<TxnResult> {
    let at = revision(response.header.unwrap_or_default().revision);
    let mut reading = Reading { at, index: 0, summarize };
    let succeeded = response.succeeded;
    let results = reading.results(txn, succeeded, response.responses)?;
    Ok(TxnResult { succeeded, revision: at, results })
}

struct Reading<'a> {
    at: Revision,
    /// Writes so far: their positions within the revision.
    index: u32,
    summarize: &'a dyn Summarize,
}

impl Reading<'_> {
    fn results(&mut self, txn: &Txn, succeeded: bool, responses: Vec<pb::ResponseOp>) -> Result<Vec<OpResult>> {
        let ops = if succeeded { &txn.then } else { &txn.otherwise };
        if ops.len() != responses.len() {
            return Err(odd());
        }
        ops.iter().zip(responses).map(|(op, response)| self.result(op, response.response.ok_or_else(odd)?)).collect()
    }

    fn result(&mut self, op: &Op, response: Response) -> Result<OpResult> {
        Ok(match (op, response) {
            (Op::Put { key, value, lease }, Response::ResponsePut(put)) => {
                self.written(put, key, |_| (value.clone(), lease.map_or(0, |lease| lease.0)))
            }
            (Op::Amend { key, value, lease }, Response::ResponsePut(put)) => self.written(put, key, |before| {
                let value = value.clone().unwrap_or_else(|| before.value.clone());
                (value, lease.map_or(before.lease, |lease| lease.map_or(0, |lease| lease.0)))
            }),
            (Op::Delete { .. }, Response::ResponseDeleteRange(done)) => {
                OpResult::Delete { previous: self.deleted(done).pop() }
            }
            (Op::DeleteRange { .. }, Response::ResponseDeleteRange(done)) => {
                OpResult::DeleteRange { previous: self.deleted(done) }
            }
            (Op::Get { .. }, Response::ResponseRange(mut found)) => {
                OpResult::Get { entry: found.kvs.pop().map(|kv| self.entry(kv)) }
            }
            (Op::List { .. }, Response::ResponseRange(found)) => OpResult::List(Page {
                revision: self.at,
                count: found.count.unsigned_abs(),
                more: found.more,
                entries: found.kvs.into_iter().map(|kv| self.entry(kv)).collect(),
            }),
            (Op::Txn(inner), Response::ResponseTxn(done)) => OpResult::Txn {
                succeeded: done.succeeded,
                results: self.results(inner, done.succeeded, done.responses)?,
            },
            _ => return Err(odd()),
        })
    }

    /// etcd tells what was there before; what is there now follows.
    fn written(&mut self, put: pb::PutResponse, key: &Bytes, now: impl FnOnce(&KeyValue) -> (Bytes, i64)) -> OpResult {
        let before = put.prev_kv.clone().unwrap_or_default();
        let (value, lease) = now(&before);
        let at = number(self.at);
        let create_revision = if put.prev_kv.is_some() { before.create_revision } else { at };
        let kv =
            KeyValue { key: key.clone(), create_revision, mod_revision: at, version: before.version + 1, value, lease };
        let entry = Arc::new(entry(kv, self.index, self.summarize));
        self.index += 1;
        OpResult::Put { entry, previous: put.prev_kv.map(|kv| self.entry(kv)) }
    }

    fn deleted(&mut self, done: pb::DeleteRangeResponse) -> Vec<Arc<Entry>> {
        self.index += done.prev_kvs.len() as u32;
        done.prev_kvs.into_iter().map(|kv| self.entry(kv)).collect()
    }

    fn entry(&self, kv: KeyValue) -> Arc<Entry> {
        Arc::new(entry(kv, 0, self.summarize))
    }
}

fn odd() -> Error {
    Error::Failed { what: "etcd answered something else than was asked".into() }
}

/// The changes of a watch's answer; none: etcd no longer has what was before one of them.
pub fn changes(events: Vec<crate::mvccpb::Event>, summarize: &dyn Summarize) -> Option<Vec<Arc<Change>>> {
    let mut changes: Vec<Arc<Change>> = Vec::with_capacity(events.len());
    for event in events {
        let deleted = event.r#type() == EventType::Delete;
        let (kv, before) = (event.kv.unwrap_or_default(), event.prev_kv);
        if before.is_none() && (deleted || kv.create_revision != kv.mod_revision) {
            return None;
        }
        let at = revision(kv.mod_revision);
        let index = changes.last().filter(|last| last.revision == at).map_or(0, |last| last.index + 1);
        let key = kv.key.clone();
        let previous = before.map(|kv| Arc::new(entry(kv, 0, summarize)));
        let now = (!deleted).then(|| Arc::new(entry(kv, index, summarize)));
        changes.push(Arc::new(Change { revision: at, index, key, entry: now, previous }));
    }
    Some(changes)
}

/// Why etcd did not do it.
pub enum Failure {
    Compacted,
    Future,
    Other(Error),
}

/// etcd's errors are known by their texts (`api/v3rpc/rpctypes`).
pub fn failure(status: &tonic::Status) -> Failure {
    let what = status.message();
    let says = |text: &str| what.contains(text);
    Failure::Other(match () {
        () if says("required revision has been compacted") => return Failure::Compacted,
        () if says("required revision is a future revision") => return Failure::Future,
        () if says("key not found") => Error::KeyNotFound { key: String::new() },
        () if says("duplicate key given in txn") => Error::DuplicateKey { key: String::new() },
        () if says("too many operations in txn") => Error::TooManyOps { ops: 0, limit: TXN_LIMIT },
        // Far too large ones are refused below etcd, by its gRPC or ours.
        () if says("request is too large") || says("message larger than max") || says("message length too large") => {
            Error::TooLarge { key: String::new(), size_bytes: 0, limit_bytes: REQUEST_LIMIT_BYTES }
        }
        () if says("database space exceeded") => Error::NoSpace { path: "etcd".into() },
        () if super::members::is_away(status) => Error::Unavailable { what: what.to_owned() },
        () => Error::Failed { what: format!("etcd: {what}") },
    })
}

/// The same, said of what was to be written.
pub fn with_key(error: Error, txn: &Txn) -> Error {
    let puts = || txn.then.iter().chain(&txn.otherwise);
    let name = |key: &Bytes| String::from_utf8_lossy(key).into_owned();
    match error {
        Error::TooLarge { limit_bytes, .. } => {
            let value = |op: &Op| match op {
                Op::Put { key, value, .. } => Some((value.len(), name(key))),
                _ => None,
            };
            let (size_bytes, key) = puts().filter_map(value).max().unwrap_or_default();
            Error::TooLarge { key, size_bytes, limit_bytes }
        }
        Error::TooManyOps { limit, .. } => Error::TooManyOps { ops: txn.then.len().max(txn.otherwise.len()), limit },
        Error::Failed { .. } if lease_is_gone(&error) => {
            let of = |op: &Op| match op {
                Op::Put { lease, .. } => *lease,
                _ => None,
            };
            puts().find_map(of).map_or(error, Error::LeaseNotFound)
        }
        other => other,
    }
}

fn lease_is_gone(error: &Error) -> bool {
    error.to_string().contains("requested lease not found")
}

/// Why a lease could not be had.
pub fn lease_failure(status: &tonic::Status, id: Option<LeaseId>) -> Error {
    let id = id.unwrap_or(LeaseId(0));
    match status.message() {
        text if text.contains("requested lease not found") => Error::LeaseNotFound(id),
        text if text.contains("lease already exists") => Error::LeaseExists(id),
        _ => match failure(status) {
            Failure::Other(error) => error,
            Failure::Compacted | Failure::Future => Error::Failed { what: status.message().to_owned() },
        },
    }
}
