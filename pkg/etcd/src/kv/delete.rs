//! DeleteRange: deleting keys.
use crate::context::{self, Context, key_value};
use crate::error::{Error, Result};
use crate::pb::{DeleteRangeRequest, DeleteRangeResponse};
use bytes::Bytes;
use store::{Op, OpResult, Range, Revision, Txn};

/// Keys deleted at one revision when there are more than a revision has places for.
const CHUNK: usize = 1000;

pub async fn run(context: &Context, request: &DeleteRangeRequest) -> Result<DeleteRangeResponse> {
    check(request)?;
    let range = range(request);
    let (revision, result) = match delete(context, range.clone()).await {
        Err(store::Error::TooManyOps { .. }) => in_chunks(context, range).await?,
        done => done?,
    };
    Ok(DeleteRangeResponse { header: context.header(revision), ..answer(request, &result) })
}

async fn delete(context: &Context, range: Range) -> store::Result<(Revision, OpResult)> {
    let mut done = context.backend.txn(Txn { then: vec![Op::DeleteRange { range }], ..Txn::default() }).await?;
    let none = OpResult::DeleteRange { previous: Vec::new() };
    Ok((done.revision, done.results.pop().unwrap_or(none)))
}

/// A revision has places for so many keys; a larger range goes in several, in the order of keys.
async fn in_chunks(context: &Context, range: Range) -> store::Result<(Revision, OpResult)> {
    let (mut start, mut all) = (range.start, Vec::new());
    loop {
        let rest = Range { start: start.clone(), end: range.end.clone() };
        let page = context.backend.list(&rest, None, CHUNK).await?;
        let Some(last) = page.entries.last().filter(|_| page.more) else {
            let (revision, result) = delete(context, rest).await?;
            all.extend(deleted(result));
            return Ok((revision, OpResult::DeleteRange { previous: all }));
        };
        let end = Range::key(last.key.clone()).end;
        all.extend(deleted(delete(context, Range { start, end: end.clone() }).await?.1));
        start = end;
    }
}

fn deleted(result: OpResult) -> Vec<std::sync::Arc<store::Entry>> {
    match result {
        OpResult::DeleteRange { previous } => previous,
        _ => Vec::new(),
    }
}

pub fn check(request: &DeleteRangeRequest) -> Result<()> {
    if request.key.is_empty() { Err(Error::EmptyKey) } else { Ok(()) }
}

pub fn range(request: &DeleteRangeRequest) -> Range {
    context::range(&request.key, &request.range_end)
}

pub fn op(request: &DeleteRangeRequest) -> Op {
    Op::DeleteRange { range: range(request) }
}

/// The answer, without a header.
pub fn answer(request: &DeleteRangeRequest, result: &OpResult) -> DeleteRangeResponse {
    let OpResult::DeleteRange { previous } = result else { return DeleteRangeResponse::default() };
    let prev_kvs = previous.iter().filter(|_| request.prev_kv).map(|entry| key_value(entry)).collect();
    DeleteRangeResponse { header: None, deleted: previous.len() as i64, prev_kvs }
}

/// Whether a key lies in what a request deletes.
pub fn covers(request: &DeleteRangeRequest, key: &Bytes) -> bool {
    range(request).contains(key)
}
