//! The Maintenance service: state, checks and upkeep of one server.
mod hash;
mod snapshot;
mod status;

use crate::context::Context;
use crate::error::Error;
use crate::pb;
use futures::stream::BoxStream;
use tonic::{Request, Response, Status};

pub use status::version_json;

const MOVE_LEADER: Error = Error::Unsupported("there is no leader: every server takes every write");
const DOWNGRADE: Error = Error::Unsupported("the version of etcd's API is that of the program");
const ALARM: Error = Error::Unsupported("alarms are raised and cleared by the store itself");

#[derive(Clone)]
pub struct Maintenance(pub Context);

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl pb::maintenance_server::Maintenance for Maintenance {
    type SnapshotStream = BoxStream<'static, Result<pb::SnapshotResponse, Status>>;

    async fn status(&self, _: Request<pb::StatusRequest>) -> Answer<pb::StatusResponse> {
        Ok(Response::new(status::run(&self.0).await?))
    }

    async fn hash_kv(&self, request: Request<pb::HashKvRequest>) -> Answer<pb::HashKvResponse> {
        Ok(Response::new(hash::of_revision(&self.0, request.get_ref()).await?))
    }

    async fn hash(&self, _: Request<pb::HashRequest>) -> Answer<pb::HashResponse> {
        Ok(Response::new(hash::of_now(&self.0).await?))
    }

    /// The store gives free pages back by itself, after each compaction.
    async fn defragment(&self, _: Request<pb::DefragmentRequest>) -> Answer<pb::DefragmentResponse> {
        Ok(Response::new(pb::DefragmentResponse { header: self.0.header_now() }))
    }

    /// A full disk is said by each write that meets it, and ends when there is space: nothing has to be disarmed.
    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Answer<pb::AlarmResponse> {
        use pb::alarm_request::AlarmAction;
        match request.get_ref().action() {
            AlarmAction::Get | AlarmAction::Deactivate => {
                Ok(Response::new(pb::AlarmResponse { header: self.0.header_now(), alarms: Vec::new() }))
            }
            AlarmAction::Activate => Err(ALARM.into()),
        }
    }

    async fn snapshot(&self, _: Request<pb::SnapshotRequest>) -> Answer<Self::SnapshotStream> {
        Ok(Response::new(snapshot::run(&self.0).await?))
    }

    async fn move_leader(&self, _: Request<pb::MoveLeaderRequest>) -> Answer<pb::MoveLeaderResponse> {
        Err(MOVE_LEADER.into())
    }

    async fn downgrade(&self, _: Request<pb::DowngradeRequest>) -> Answer<pb::DowngradeResponse> {
        Err(DOWNGRADE.into())
    }
}
