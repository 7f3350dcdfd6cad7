//! Txn: compares, then one of two lists of operations, nested to any shape, atomically.
use super::{delete, overlap, put, range};
use crate::context::{self, Context};
use crate::error::{Error, Result};
use crate::pb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::pb::{
    Compare, RangeRequest, RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse, request_op::Request,
    response_op::Response,
};
use store::{Field, Op, OpResult, Page, Relation, Revision, Txn};

pub async fn run(context: &Context, request: &TxnRequest) -> Result<TxnResponse> {
    check(request, context.limits.txn_ops)?;
    overlap::check(request)?;
    check_past(context, request)?;
    let done = context.backend.txn(plan(request)).await?;
    let mut past = Vec::new();
    for read in reads_of_the_past(chosen(request, done.succeeded), &done.results) {
        past.push(context.backend.list(&range::range(read), range::at(read), range::limit(read)).await?);
    }
    let inner = ResponseHeader { revision: context::number(done.revision), ..Default::default() };
    let ops = chosen(request, done.succeeded);
    let responses = answers(ops, done.results, &inner, &mut past.into_iter());
    Ok(TxnResponse { header: context.header(done.revision), succeeded: done.succeeded, responses })
}

fn chosen(request: &TxnRequest, succeeded: bool) -> &[RequestOp] {
    if succeeded { &request.success } else { &request.failure }
}

/// Whether every part is well-formed; `ops` bounds compares and operations, those of nested transactions included.
fn check(request: &TxnRequest, ops: usize) -> Result<()> {
    let most = request.compare.len().max(request.success.len()).max(request.failure.len());
    let left = ops.checked_sub(most).ok_or(Error::TooManyOps)?;
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(Error::EmptyKey);
    }
    request.success.iter().chain(&request.failure).try_for_each(|op| match &op.request {
        Some(Request::RequestRange(request)) => range::check(request),
        Some(Request::RequestPut(request)) => put::check(request),
        Some(Request::RequestDeleteRange(request)) => delete::check(request),
        Some(Request::RequestTxn(request)) => check(request, left),
        // What etcd says of an operation that is nothing.
        None => Err(Error::KeyNotFound),
    })
}

/// Reads of a past revision do not depend on what the transaction writes: they are made after it. That they can
/// be made must be known before.
fn check_past(context: &Context, request: &TxnRequest) -> Result<()> {
    let (current, compacted) = (context.backend.current_revision(), context.backend.compacted_revision());
    request.success.iter().chain(&request.failure).try_for_each(|op| match &op.request {
        Some(Request::RequestTxn(nested)) => check_past(context, nested),
        Some(Request::RequestRange(read)) => match range::at(read) {
            Some(at) if at > current => Err(Error::FutureRevision),
            Some(at) if at < compacted || at.server() != current.server() => Err(Error::Compacted),
            _ => Ok(()),
        },
        _ => Ok(()),
    })
}

/// The transaction in the store's terms.
fn plan(request: &TxnRequest) -> Txn {
    let ops = |ops: &[RequestOp]| ops.iter().filter_map(|op| op.request.as_ref()).map(op).collect();
    Txn {
        compare: request.compare.iter().map(compare).collect(),
        then: ops(&request.success),
        otherwise: ops(&request.failure),
    }
}

fn op(request: &Request) -> Op {
    match request {
        // Its answer is read later; this keeps its place.
        Request::RequestRange(request) if range::at(request).is_some() => Op::Get { key: request.key.clone() },
        Request::RequestRange(request) => Op::List { range: range::range(request), limit: range::limit(request) },
        Request::RequestPut(request) => put::op(request),
        Request::RequestDeleteRange(request) => delete::op(request),
        Request::RequestTxn(request) => Op::Txn(plan(request)),
    }
}

fn compare(request: &Compare) -> store::Compare {
    let is = match request.result() {
        CompareResult::Equal => Relation::Equal,
        CompareResult::Greater => Relation::Greater,
        CompareResult::Less => Relation::Less,
        CompareResult::NotEqual => Relation::NotEqual,
    };
    let field = field(request);
    match (&field, is) {
        // The compare that nearly all clients make has the shortest way.
        (Field::ModRevision(revision @ 0..), Relation::Equal) if request.range_end.is_empty() => {
            store::Compare::ModRevision { key: request.key.clone(), revision: Revision::from_u64(*revision as u64) }
        }
        _ => store::Compare::Each { range: context::range(&request.key, &request.range_end), field, is },
    }
}

/// What is compared; a number or value that was not given is zero or empty.
fn field(request: &Compare) -> Field {
    use TargetUnion::{CreateRevision, Lease, ModRevision, Value, Version};
    match (request.target(), &request.target_union) {
        (CompareTarget::Version, Some(Version(n))) => Field::Version(*n),
        (CompareTarget::Version, _) => Field::Version(0),
        (CompareTarget::Create, Some(CreateRevision(n))) => Field::CreateRevision(*n),
        (CompareTarget::Create, _) => Field::CreateRevision(0),
        (CompareTarget::Mod, Some(ModRevision(n))) => Field::ModRevision(*n),
        (CompareTarget::Mod, _) => Field::ModRevision(0),
        (CompareTarget::Lease, Some(Lease(n))) => Field::Lease(*n),
        (CompareTarget::Lease, _) => Field::Lease(0),
        (CompareTarget::Value, Some(Value(value))) => Field::Value(value.clone()),
        (CompareTarget::Value, _) => Field::Value(Default::default()),
    }
}

/// The reads of past revisions among what was done, in order.
fn reads_of_the_past<'a>(ops: &'a [RequestOp], results: &[OpResult]) -> Vec<&'a RangeRequest> {
    let each = |(op, result): (&'a RequestOp, &OpResult)| match (&op.request, result) {
        (Some(Request::RequestRange(read)), _) if range::at(read).is_some() => vec![read],
        (Some(Request::RequestTxn(nested)), OpResult::Txn { succeeded, results }) => {
            reads_of_the_past(chosen(nested, *succeeded), results)
        }
        _ => Vec::new(),
    };
    ops.iter().zip(results).flat_map(each).collect()
}

fn answers(
    ops: &[RequestOp],
    results: Vec<OpResult>,
    header: &ResponseHeader,
    // `dyn`: with a type parameter each depth of nesting would be a function of its own.
    past: &mut dyn Iterator<Item = Page>,
) -> Vec<ResponseOp> {
    let pairs = ops.iter().filter_map(|op| op.request.as_ref()).zip(results);
    pairs.map(|(request, result)| ResponseOp { response: Some(answer(request, result, header, past)) }).collect()
}

fn answer(
    request: &Request,
    result: OpResult,
    inner: &ResponseHeader,
    past: &mut dyn Iterator<Item = Page>,
) -> Response {
    let header = Some(*inner);
    match (request, result) {
        (Request::RequestRange(request), OpResult::List(page)) => {
            Response::ResponseRange(crate::pb::RangeResponse { header, ..range::answer(request, page) })
        }
        (Request::RequestRange(request), _) => {
            let page = past.next().expect("each read of the past was made");
            Response::ResponseRange(crate::pb::RangeResponse { header, ..range::answer(request, page) })
        }
        (Request::RequestPut(request), result) => {
            Response::ResponsePut(crate::pb::PutResponse { header, ..put::answer(request, &result) })
        }
        (Request::RequestDeleteRange(request), result) => {
            let answer = delete::answer(request, &result);
            Response::ResponseDeleteRange(crate::pb::DeleteRangeResponse { header, ..answer })
        }
        (Request::RequestTxn(request), result) => {
            let (succeeded, results) = match result {
                OpResult::Txn { succeeded, results } => (succeeded, results),
                _ => (false, Vec::new()),
            };
            let responses = answers(chosen(request, succeeded), results, inner, past);
            Response::ResponseTxn(TxnResponse { header, succeeded, responses })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(op: Request) -> RequestOp {
        RequestOp { request: Some(op) }
    }

    fn read(revision: i64) -> RequestOp {
        wire(Request::RequestRange(RangeRequest { key: "a".into(), revision, ..Default::default() }))
    }

    #[test]
    fn compares_of_kube_apiserver_take_the_short_way() {
        let guard = Compare {
            target: CompareTarget::Mod.into(),
            key: "a".into(),
            target_union: Some(TargetUnion::ModRevision(6)),
            ..Default::default()
        };
        let short = store::Compare::ModRevision { key: "a".into(), revision: Revision::from_u64(6) };
        assert_eq!(compare(&guard), short);
        let negative = Compare { target_union: Some(TargetUnion::ModRevision(-1)), ..guard };
        assert!(matches!(compare(&negative), store::Compare::Each { field: Field::ModRevision(-1), .. }));
    }

    #[test]
    fn a_target_without_its_number_is_compared_to_zero() {
        let odd = Compare { target: CompareTarget::Lease.into(), ..Default::default() };
        assert_eq!(field(&odd), Field::Lease(0));
    }

    #[test]
    fn operations_of_all_levels_count() {
        let nested = |ops: Vec<RequestOp>| wire(Request::RequestTxn(TxnRequest { success: ops, ..Default::default() }));
        let outer = |ops| TxnRequest { success: ops, ..Default::default() };
        assert!(check(&outer(vec![read(0), nested(vec![read(0)])]), 3).is_ok());
        assert!(matches!(check(&outer(vec![read(0), nested(vec![read(0), read(0)])]), 3), Err(Error::TooManyOps)));
        assert!(matches!(check(&outer(vec![wire_nothing()]), 3), Err(Error::KeyNotFound)));
    }

    fn wire_nothing() -> RequestOp {
        RequestOp { request: None }
    }

    #[test]
    fn reads_of_the_past_are_found_in_the_branch_that_was_taken() {
        let nested =
            Request::RequestTxn(TxnRequest { success: vec![read(4)], failure: vec![read(6)], compare: vec![] });
        let ops = [read(0), read(2), wire(nested)];
        let got = |entry| OpResult::Get { entry };
        let results = [got(None), got(None), OpResult::Txn { succeeded: false, results: vec![got(None)] }];
        let revisions: Vec<_> = reads_of_the_past(&ops, &results).iter().map(|read| read.revision).collect();
        assert_eq!(revisions, [2, 6]);
    }
}
