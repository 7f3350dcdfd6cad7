//! The store's errors as clients of Kubernetes know them.
use api::Status;
use api::status::{Cause, Details};
use store::Revision;

/// Seconds after which a client that was turned away should come back.
const RETRY_AFTER_SECONDS: u32 = 1;

/// What a client sees of a store error. Texts follow etcd's where clients match on them.
pub fn from_store(error: store::Error) -> Box<Status> {
    use store::Error as E;
    let status = match &error {
        E::Compacted { requested, compacted } => too_old(*requested, *compacted),
        E::Foreign { .. } => Status::expired(error.to_string()),
        E::Future { requested, current } => too_large_version(requested.get(), *current),
        E::TooLarge { size_bytes, limit_bytes, .. } => {
            Status::too_large(format!("etcdserver: request is too large: {size_bytes} bytes, at most {limit_bytes}"))
        }
        E::Busy { .. } => {
            Status::too_many_requests(format!("etcdserver: too many requests: {error}"), RETRY_AFTER_SECONDS)
        }
        E::NoSpace { .. } => Status::internal(format!("etcdserver: mvcc: database space exceeded: {error}")),
        E::Unavailable { .. } => Status::unavailable(error.to_string()),
        E::Closed => Status::unavailable("apiserver is shutting down"),
        _ => {
            tracing::error!(%error, "store");
            Status::internal(&error)
        }
    };
    status.into()
}

/// 410: the revision is not kept any more.
pub fn too_old(requested: Revision, oldest: Revision) -> Status {
    Status::expired(format!("too old resource version: {requested} ({oldest})"))
}

/// 504 by which client-go knows that this server has not seen that revision yet.
pub fn too_large_version(requested: u64, current: Revision) -> Status {
    let cause = Cause {
        reason: "ResourceVersionTooLarge".into(),
        message: "Too large resource version".into(),
        ..Cause::default()
    };
    Status::timeout(format!("Timeout: Too large resource version: {requested}, current: {current}"))
        .with_details(Details { causes: vec![cause], retry_after_seconds: RETRY_AFTER_SECONDS, ..Details::default() })
}
