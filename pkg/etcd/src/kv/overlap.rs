//! Whether a transaction would write a key twice (`checkIntervals` of etcd): two puts of one key, or a put of what
//! is also deleted. Branches that exclude one another may.
use super::delete;
use crate::error::{Error, Result};
use crate::pb::{DeleteRangeRequest, RequestOp, TxnRequest, request_op::Request};
use bytes::Bytes;
use std::collections::BTreeSet;

/// What a list of operations writes, in whichever branches.
#[derive(Default)]
struct Writes<'a> {
    puts: BTreeSet<&'a Bytes>,
    deletes: Vec<&'a DeleteRangeRequest>,
}

pub fn check(txn: &TxnRequest) -> Result<()> {
    writes(&txn.success)?;
    writes(&txn.failure)?;
    Ok(())
}

fn writes(ops: &[RequestOp]) -> Result<Writes<'_>> {
    let mut all = Writes::default();
    let requests = || ops.iter().filter_map(|op| op.request.as_ref());
    all.deletes.extend(requests().filter_map(|request| match request {
        Request::RequestDeleteRange(delete) => Some(delete),
        _ => None,
    }));
    for request in requests() {
        if let Request::RequestTxn(txn) = request {
            let (then, otherwise) = (writes(&txn.success)?, writes(&txn.failure)?);
            let either: BTreeSet<_> = then.puts.union(&otherwise.puts).copied().collect();
            either.into_iter().try_for_each(|key| all.put(key))?;
            all.deletes.extend(then.deletes.into_iter().chain(otherwise.deletes));
        }
    }
    for request in requests() {
        if let Request::RequestPut(put) = request {
            all.put(&put.key)?;
        }
    }
    Ok(all)
}

impl<'a> Writes<'a> {
    fn put(&mut self, key: &'a Bytes) -> Result<()> {
        let deleted = self.deletes.iter().any(|request| delete::covers(request, key));
        match deleted || !self.puts.insert(key) {
            true => Err(Error::DuplicateKey),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::PutRequest;

    fn put(key: &'static str) -> RequestOp {
        let put = PutRequest { key: key.into(), ..Default::default() };
        RequestOp { request: Some(Request::RequestPut(put)) }
    }

    fn delete(key: &'static str, end: &'static str) -> RequestOp {
        let delete = DeleteRangeRequest { key: key.into(), range_end: end.into(), prev_kv: false };
        RequestOp { request: Some(Request::RequestDeleteRange(delete)) }
    }

    fn nested(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
        RequestOp { request: Some(Request::RequestTxn(TxnRequest { compare: vec![], success, failure })) }
    }

    fn allowed(success: Vec<RequestOp>) -> bool {
        check(&TxnRequest { compare: vec![], success, failure: vec![put("a")] }).is_ok()
    }

    #[test]
    fn a_key_is_written_once() {
        assert!(allowed(vec![put("a"), put("b"), delete("c", "d")]));
        assert!(!allowed(vec![put("a"), put("a")]));
        assert!(!allowed(vec![put("b"), delete("a", "c")]));
        assert!(allowed(vec![put("c"), delete("a", "c")]));
        assert!(allowed(vec![delete("a", ""), delete("a", "c")]));
    }

    #[test]
    fn branches_that_exclude_one_another_may_write_the_same() {
        assert!(allowed(vec![nested(vec![put("a")], vec![put("a")])]));
        assert!(!allowed(vec![nested(vec![put("a")], vec![]), put("a")]));
        assert!(!allowed(vec![nested(vec![put("a")], vec![]), nested(vec![put("a")], vec![])]));
        assert!(!allowed(vec![delete("a", ""), nested(vec![], vec![put("a")])]));
        assert!(!allowed(vec![nested(vec![], vec![delete("a", "")]), put("a")]));
    }
}
