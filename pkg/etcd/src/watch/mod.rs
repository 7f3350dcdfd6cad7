//! The Watch service: many watches on one stream.
//!
//! Place in the flow: `store's Watch -> follow (a task a watch) -> stream (an actor a stream) -> client`. The actor
//! alone writes to the client, so that what it says of progress holds for all watches of the stream.
mod events;
mod follow;
mod request;
mod round;
mod stream;

use crate::context::Context;
use crate::pb;
use futures::stream::{self as streams, BoxStream, StreamExt};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

/// Responses that wait for the client of one stream.
const OUTGOING: usize = 16;

#[derive(Clone)]
pub struct Watch(pub Context);

#[tonic::async_trait]
impl pb::watch_server::Watch for Watch {
    type WatchStream = BoxStream<'static, Result<pb::WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (out, mut responses) = mpsc::channel(OUTGOING);
        let stream = stream::Stream::new(self.0.clone(), out);
        self.0.tasks.spawn(stream.run(request.into_inner()));
        Ok(Response::new(streams::poll_fn(move |cx| responses.poll_recv(cx)).boxed()))
    }
}
