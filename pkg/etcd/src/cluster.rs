//! The Cluster service: one member, this server. Servers join one another through Eyot, not through etcd's calls.
use crate::context::Context;
use crate::error::Error;
use crate::pb;
use tonic::{Request, Response, Status};

const REFUSAL: Error = Error::Unsupported("members are servers of Eyot: they join and leave as such");

#[derive(Clone)]
pub struct Cluster(pub Context);

impl Cluster {
    fn members(&self) -> Vec<pb::Member> {
        let identity = &self.0.identity;
        vec![pb::Member {
            id: identity.member_id,
            name: identity.name.clone(),
            peer_ur_ls: Vec::new(),
            client_ur_ls: identity.client_urls.clone(),
            is_learner: false,
        }]
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl pb::cluster_server::Cluster for Cluster {
    async fn member_list(&self, _: Request<pb::MemberListRequest>) -> Answer<pb::MemberListResponse> {
        Ok(Response::new(pb::MemberListResponse { header: self.0.header_now(), members: self.members() }))
    }

    async fn member_add(&self, _: Request<pb::MemberAddRequest>) -> Answer<pb::MemberAddResponse> {
        Err(REFUSAL.into())
    }

    async fn member_remove(&self, _: Request<pb::MemberRemoveRequest>) -> Answer<pb::MemberRemoveResponse> {
        Err(REFUSAL.into())
    }

    async fn member_update(&self, _: Request<pb::MemberUpdateRequest>) -> Answer<pb::MemberUpdateResponse> {
        Err(REFUSAL.into())
    }

    async fn member_promote(&self, _: Request<pb::MemberPromoteRequest>) -> Answer<pb::MemberPromoteResponse> {
        Err(REFUSAL.into())
    }
}
