//! Failures in etcd's own codes and texts (`api/v3rpc/rpctypes`): clients know an error by its text.
use tonic::{Code, Status};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("etcdserver: key is not provided")]
    EmptyKey,
    #[error("etcdserver: key not found")]
    KeyNotFound,
    #[error("etcdserver: value is provided")]
    ValueProvided,
    #[error("etcdserver: lease is provided")]
    LeaseProvided,
    #[error("etcdserver: too many operations in txn request")]
    TooManyOps,
    #[error("etcdserver: duplicate key given in txn request")]
    DuplicateKey,
    #[error("etcdserver: invalid sort option")]
    InvalidSortOption,
    #[error("etcdserver: request is too large")]
    RequestTooLarge,
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted,
    #[error("etcdserver: mvcc: required revision is a future revision")]
    FutureRevision,
    #[error("etcdserver: too large lease TTL")]
    LeaseTtlTooLarge,
    /// What etcd can and this store has no use for.
    #[error("eyot: {0}")]
    Unsupported(&'static str),
    #[error(transparent)]
    Store(store::Error),
}

pub type Result<T> = std::result::Result<T, Error>;

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::Compacted { .. } => Self::Compacted,
            store::Error::Future { .. } => Self::FutureRevision,
            // It names no point in this server's history: the client must read anew, as after a compaction.
            store::Error::Foreign { .. } => Self::Compacted,
            store::Error::TooLarge { .. } => Self::RequestTooLarge,
            store::Error::DuplicateKey { .. } => Self::DuplicateKey,
            store::Error::TooManyOps { .. } => Self::TooManyOps,
            store::Error::KeyNotFound { .. } => Self::KeyNotFound,
            other => Self::Store(other),
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::EmptyKey
            | Error::KeyNotFound
            | Error::ValueProvided
            | Error::LeaseProvided
            | Error::TooManyOps
            | Error::DuplicateKey
            | Error::InvalidSortOption
            | Error::RequestTooLarge => Code::InvalidArgument,
            Error::Compacted | Error::FutureRevision | Error::LeaseTtlTooLarge => Code::OutOfRange,
            Error::Unsupported(_) => Code::Unimplemented,
            Error::Store(source) => return of_store(source),
        };
        Self::new(code, error.to_string())
    }
}

fn of_store(error: &store::Error) -> Status {
    let (code, text) = match error {
        store::Error::LeaseNotFound(_) => (Code::NotFound, "etcdserver: requested lease not found"),
        store::Error::LeaseExists(_) => (Code::FailedPrecondition, "etcdserver: lease already exists"),
        store::Error::NoSpace { .. } => (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
        store::Error::Corrupt { .. } => (Code::DataLoss, "etcdserver: corrupt cluster"),
        store::Error::Busy { .. } => (Code::ResourceExhausted, "etcdserver: too many requests"),
        store::Error::Closed => (Code::Unavailable, "etcdserver: server stopped"),
        other => return Status::unknown(other.to_string()),
    };
    if code == Code::DataLoss {
        tracing::error!(%error, "a request met damage");
    }
    Status::new(code, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::{LeaseId, Revision};

    #[test]
    fn the_store_s_failures_have_etcd_s_codes_and_texts() {
        let said = |error: store::Error| {
            let status = Status::from(Error::from(error));
            (status.code(), status.message().to_owned())
        };
        let at = Revision::ZERO;
        let compacted = (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted".to_owned());
        assert_eq!(said(store::Error::Compacted { requested: at, compacted: at }), compacted);
        assert_eq!(said(store::Error::Foreign { requested: at, server: 2 }), compacted);
        assert_eq!(
            said(store::Error::LeaseNotFound(LeaseId(1))),
            (Code::NotFound, "etcdserver: requested lease not found".into())
        );
        assert_eq!(said(store::Error::Closed), (Code::Unavailable, "etcdserver: server stopped".into()));
    }
}
