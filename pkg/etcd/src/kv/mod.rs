//! The KV service, one file a verb.
mod compact;
mod delete;
mod overlap;
mod put;
mod range;
mod stream;
mod txn;

use crate::context::Context;
use crate::error::{Error, Result};
use crate::pb;
use futures::stream::BoxStream;
use prost::Message;
use tonic::{Request, Response, Status};

#[derive(Clone)]
pub struct Kv(pub Context);

#[tonic::async_trait]
impl pb::kv_server::Kv for Kv {
    type RangeStreamStream = BoxStream<'static, std::result::Result<pb::RangeStreamResponse, Status>>;

    async fn range(&self, request: Request<pb::RangeRequest>) -> Answer<pb::RangeResponse> {
        Ok(Response::new(range::run(&self.0, request.get_ref()).await?))
    }

    async fn range_stream(&self, request: Request<pb::RangeRequest>) -> Answer<Self::RangeStreamStream> {
        Ok(Response::new(stream::run(&self.0, request.into_inner()).await?))
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Answer<pb::PutResponse> {
        check_size(&self.0, request.get_ref())?;
        Ok(Response::new(put::run(&self.0, request.into_inner()).await?))
    }

    async fn delete_range(&self, request: Request<pb::DeleteRangeRequest>) -> Answer<pb::DeleteRangeResponse> {
        Ok(Response::new(delete::run(&self.0, request.get_ref()).await?))
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Answer<pb::TxnResponse> {
        check_size(&self.0, request.get_ref())?;
        Ok(Response::new(txn::run(&self.0, request.get_ref()).await?))
    }

    async fn compact(&self, request: Request<pb::CompactionRequest>) -> Answer<pb::CompactionResponse> {
        Ok(Response::new(compact::run(&self.0, request.get_ref()).await?))
    }
}

type Answer<T> = std::result::Result<Response<T>, Status>;

fn check_size(context: &Context, request: &impl Message) -> Result<()> {
    match request.encoded_len() > context.limits.request_bytes {
        true => Err(Error::RequestTooLarge),
        false => Ok(()),
    }
}
