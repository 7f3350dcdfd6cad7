//! What every verb needs: the store, who we are, what a request may ask; and the words that all verbs share.
use crate::options::{Identity, Limits};
use crate::{mvccpb, pb};
use bytes::Bytes;
use std::sync::Arc;
use store::{Backend, Entry, Range, Revision};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The raft term that is shown: there is no raft, and a term never changes.
pub const TERM: u64 = 1;

/// Shared by all services of one endpoint; cheap to clone.
#[derive(Clone)]
pub struct Context {
    pub backend: Arc<dyn Backend>,
    pub identity: Arc<Identity>,
    pub limits: Limits,
    /// Tasks of streams; they end when `stopping` does.
    pub tasks: TaskTracker,
    pub stopping: CancellationToken,
}

impl Context {
    pub fn header(&self, revision: Revision) -> Option<pb::ResponseHeader> {
        Some(pb::ResponseHeader {
            cluster_id: self.identity.cluster_id,
            member_id: self.identity.member_id,
            revision: number(revision),
            raft_term: TERM,
        })
    }

    /// The header of an answer that is of now.
    pub fn header_now(&self) -> Option<pb::ResponseHeader> {
        self.header(self.backend.current_revision())
    }
}

/// A revision as etcd's clients take it; ours fit, they have 63 bits.
pub fn number(revision: Revision) -> i64 {
    revision.get() as i64
}

/// The keys that `key` and `range_end` mean (`RangeRequest` in rpc.proto): one, an interval, or, when the end is a
/// zero byte, all from `key` on.
pub fn range(key: &Bytes, range_end: &Bytes) -> Range {
    match &range_end[..] {
        [] => Range::key(key.clone()),
        [0] => Range { start: key.clone(), end: Bytes::new() },
        _ => Range { start: key.clone(), end: range_end.clone() },
    }
}

/// An entry in etcd's form; bytes are shared, not copied.
pub fn key_value(entry: &Entry) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: entry.key.clone(),
        create_revision: number(entry.create_revision),
        mod_revision: number(entry.mod_revision),
        version: entry.version as i64,
        value: entry.value.clone(),
        lease: entry.lease.map_or(0, |lease| lease.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_ranges_mean_what_etcd_says() {
        let keys = |start: &'static [u8], end: &'static [u8]| range(&start.into(), &end.into());
        assert_eq!(keys(b"a", b""), Range::key("a"));
        assert_eq!(keys(b"a", b"b"), Range::prefix("a"));
        assert_eq!(keys(b"a", b"\0"), Range { start: "a".into(), end: Bytes::new() });
        assert!(keys(b"\0", b"\0").contains(b"\xff\xff") && !keys(b"b", b"a").contains(b"a"));
    }
}
