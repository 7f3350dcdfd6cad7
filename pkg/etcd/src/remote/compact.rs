//! Forgetting old history, in turn with the kube-apiservers that share the etcd: a key tells who compacted last
//! (`k8s.io/apiserver/pkg/storage/etcd3/compact.go`).
use super::Shared;
use crate::pb::{self, compare::TargetUnion, request_op::Request, response_op::Response};
use bytes::Bytes;
use std::time::Duration;

/// How much history is kept, as upstream's default.
const EVERY: Duration = Duration::from_secs(5 * 60);
const KEY: Bytes = Bytes::from_static(b"compact_rev_key");

/// What is known of the last round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Round {
    /// How often the key was written.
    version: i64,
    /// etcd's revision then: what is older is forgotten in the next round.
    revision: i64,
}

pub async fn run(shared: &Shared) {
    let mut round = Round::default();
    while shared.shutdown.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
        match step(shared, round).await {
            Ok(next) => round = next,
            Err(status) => tracing::warn!(why = status.message(), "compacting etcd"),
        }
    }
}

/// One round: whoever writes the key first compacts.
async fn step(shared: &Shared, round: Round) -> Result<Round, tonic::Status> {
    let response = shared.txn(claim(round)).await?;
    let (mine, next) = outcome(round, &response);
    if mine && round.revision > 0 {
        match shared.compact(round.revision, false).await {
            Err(status) if !status.message().contains("has been compacted") => return Err(status),
            _ => tracing::debug!(revision = round.revision, "etcd's history is compacted"),
        }
    }
    Ok(next)
}

fn claim(round: Round) -> pb::TxnRequest {
    let compare = pb::Compare {
        result: pb::compare::CompareResult::Equal.into(),
        target: pb::compare::CompareTarget::Version.into(),
        key: KEY,
        range_end: Bytes::new(),
        target_union: Some(TargetUnion::Version(round.version)),
    };
    let put = pb::PutRequest { key: KEY, value: round.revision.to_string().into(), ..pb::PutRequest::default() };
    let get = pb::RangeRequest { key: KEY, ..pb::RangeRequest::default() };
    let op = |request| vec![pb::RequestOp { request: Some(request) }];
    pb::TxnRequest {
        compare: vec![compare],
        success: op(Request::RequestPut(put)),
        failure: op(Request::RequestRange(get)),
    }
}

/// Whether the round is ours, and what the next one starts from.
fn outcome(round: Round, response: &pb::TxnResponse) -> (bool, Round) {
    let revision = response.header.as_ref().map_or(0, |header| header.revision);
    if response.succeeded {
        return (true, Round { version: round.version + 1, revision });
    }
    let found = response.responses.first().and_then(|response| response.response.as_ref());
    let version = match found {
        Some(Response::ResponseRange(range)) => range.kvs.first().map_or(0, |kv| kv.version),
        _ => 0,
    };
    (false, Round { version, revision })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_second_waits_for_its_turn() {
        let header = Some(pb::ResponseHeader { revision: 70, ..pb::ResponseHeader::default() });
        let won = pb::TxnResponse { header, succeeded: true, responses: Vec::new() };
        let round = Round { version: 3, revision: 40 };
        assert_eq!(outcome(round, &won), (true, Round { version: 4, revision: 70 }));
        let kv = crate::mvccpb::KeyValue { version: 9, ..Default::default() };
        let found = Response::ResponseRange(pb::RangeResponse { kvs: vec![kv], ..Default::default() });
        let lost =
            pb::TxnResponse { header, succeeded: false, responses: vec![pb::ResponseOp { response: Some(found) }] };
        assert_eq!(outcome(round, &lost), (false, Round { version: 9, revision: 70 }));
        let Some(Request::RequestPut(put)) = &claim(round).success[0].request else { panic!("a put") };
        assert_eq!(put.value, "40", "upstream reads there what is compacted");
    }
}
