//! The generic resource engine: one implementation of every verb, for every kind.
use crate::{Body, RequestInfo, User};
use bytes::Bytes;
use http::{HeaderMap, Response};

/// A request past authentication and authorization, its body read whole (bounded by the front).
#[derive(Clone, Debug)]
pub struct Request {
    pub info: RequestInfo,
    pub user: User,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What the front calls for every resource request that is not a connection.
#[async_trait::async_trait]
pub trait Serve: Send + Sync {
    async fn serve(&self, request: Request) -> Response<Body>;
}
