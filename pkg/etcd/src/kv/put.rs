//! Put: writing one key.
use crate::context::{Context, key_value};
use crate::error::{Error, Result};
use crate::pb::{PutRequest, PutResponse};
use bytes::Bytes;
use store::{LeaseId, Op, OpResult, Txn};

pub async fn run(context: &Context, request: PutRequest) -> Result<PutResponse> {
    check(&request)?;
    let done = context.backend.txn(Txn { then: vec![op(&request)], ..Txn::default() }).await?;
    let answer = done.results.first().map(|result| answer(&request, result)).unwrap_or_default();
    Ok(PutResponse { header: context.header(done.revision), ..answer })
}

pub fn check(request: &PutRequest) -> Result<()> {
    if request.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(Error::ValueProvided);
    }
    match request.ignore_lease && request.lease != 0 {
        true => Err(Error::LeaseProvided),
        false => Ok(()),
    }
}

pub fn op(request: &PutRequest) -> Op {
    // The request's are slices of the buffer that it came in, which is larger and would live as long as they.
    let (key, value) = (Bytes::copy_from_slice(&request.key), Bytes::copy_from_slice(&request.value));
    let lease = Some(LeaseId(request.lease)).filter(|lease| lease.0 != 0);
    if !request.ignore_value && !request.ignore_lease {
        return Op::Put { key, value, lease };
    }
    let (value, lease) = ((!request.ignore_value).then_some(value), (!request.ignore_lease).then_some(lease));
    Op::Amend { key, value, lease }
}

/// The answer, without a header.
pub fn answer(request: &PutRequest, result: &OpResult) -> PutResponse {
    let previous = match result {
        OpResult::Put { previous: Some(previous), .. } if request.prev_kv => Some(key_value(previous)),
        _ => None,
    };
    PutResponse { header: None, prev_kv: previous }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_must_not_be_given() {
        let put = |value: &'static str, lease| PutRequest {
            key: "a".into(),
            value: value.into(),
            lease,
            ignore_value: true,
            ignore_lease: true,
            ..Default::default()
        };
        assert!(matches!(check(&put("x", 0)), Err(Error::ValueProvided)));
        assert!(matches!(check(&put("", 3)), Err(Error::LeaseProvided)));
        assert!(check(&put("", 0)).is_ok());
        assert!(matches!(op(&put("", 0)), Op::Amend { value: None, lease: None, .. }));
    }

    #[test]
    fn no_lease_is_zero_on_the_wire() {
        let put = |lease| PutRequest { key: "a".into(), lease, ..Default::default() };
        assert!(matches!(op(&put(0)), Op::Put { lease: None, .. }));
        assert!(matches!(op(&put(7)), Op::Put { lease: Some(LeaseId(7)), .. }));
        let no_value = PutRequest { ignore_value: true, ..put(0) };
        assert!(matches!(op(&no_value), Op::Amend { value: None, lease: Some(None), .. }));
    }
}
