//! The Auth service: there are no users and roles; who may connect is decided by certificates.
use crate::context::Context;
use crate::pb;
use tonic::{Request, Response, Status};

/// What every other call of the service is told.
pub const REFUSAL: &str = "eyot: there are no users and roles here: client certificates decide who may connect";

#[derive(Clone)]
pub struct Auth(pub Context);

#[tonic::async_trait]
impl pb::auth_server::Auth for Auth {
    async fn auth_status(&self, _: Request<pb::AuthStatusRequest>) -> Result<Response<pb::AuthStatusResponse>, Status> {
        let header = self.0.header_now();
        Ok(Response::new(pb::AuthStatusResponse { header, enabled: false, auth_revision: 1 }))
    }
}
