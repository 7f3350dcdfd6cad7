//! Status: what this server is and how large its store.
use crate::context::{Context, TERM};
use crate::error::Result;
use crate::pb;

/// The version of etcd whose API this is. kube-apiserver trusts progress notifications, and so reads from its
/// cache, from 3.5.13 on.
pub const VERSION: &str = "3.6.8";
/// The version of its storage, which snapshots are in.
pub const STORAGE_VERSION: &str = "3.6.0";

pub async fn run(context: &Context) -> Result<pb::StatusResponse> {
    let size_bytes = context.backend.size_bytes().await? as i64;
    let revision = context.backend.current_revision();
    Ok(pb::StatusResponse {
        header: context.header(revision),
        version: VERSION.into(),
        db_size: size_bytes,
        db_size_in_use: size_bytes,
        leader: context.identity.member_id,
        raft_index: revision.get(),
        raft_applied_index: revision.get(),
        raft_term: TERM,
        storage_version: STORAGE_VERSION.into(),
        downgrade_info: Some(pb::DowngradeInfo::default()),
        ..Default::default()
    })
}

/// What `GET /version` answers.
pub fn version_json() -> String {
    format!(r#"{{"etcdserver":"{VERSION}","etcdcluster":"{STORAGE_VERSION}","storage":"{STORAGE_VERSION}"}}"#)
}
