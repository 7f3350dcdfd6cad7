//! gRPC's own health checks.
use crate::proto::health::health_check_response::ServingStatus;
use crate::proto::health::{HealthCheckRequest, HealthCheckResponse, health_server};
use futures::stream::{self, BoxStream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

/// Serving until it stops: what the store can't do at the moment is said by each call.
#[derive(Clone)]
pub struct Health {
    pub stopping: CancellationToken,
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

impl Health {
    fn status(&self) -> ServingStatus {
        if self.stopping.is_cancelled() { ServingStatus::NotServing } else { ServingStatus::Serving }
    }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(answer(self.status())))
    }

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let now = stream::iter([Ok(answer(self.status()))]);
        let stopping = self.stopping.clone().cancelled_owned();
        let end = stream::once(async move {
            stopping.await;
            Ok(answer(ServingStatus::NotServing))
        });
        Ok(Response::new(now.chain(end).boxed()))
    }
}
