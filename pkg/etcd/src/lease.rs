//! The Lease service: leases and their clocks are the store's.
use crate::context::Context;
use crate::error::{Error, Result};
use crate::pb;
use futures::StreamExt;
use futures::stream::BoxStream;
use std::time::Duration;
use store::LeaseId;
use tonic::{Request, Response, Status, Streaming};

/// etcd's greatest time to live, in seconds.
const MAX_TTL_SECONDS: i64 = 9_000_000_000;
/// etcd's least with its default election timeout; what is less is raised to it.
const MIN_TTL_SECONDS: i64 = 2;

#[derive(Clone)]
pub struct Lease(pub Context);

type Answer<T> = std::result::Result<Response<T>, Status>;

#[tonic::async_trait]
impl pb::lease_server::Lease for Lease {
    type LeaseKeepAliveStream = BoxStream<'static, std::result::Result<pb::LeaseKeepAliveResponse, Status>>;

    async fn lease_grant(&self, request: Request<pb::LeaseGrantRequest>) -> Answer<pb::LeaseGrantResponse> {
        let pb::LeaseGrantRequest { ttl, id } = *request.get_ref();
        let lease = self.0.backend.lease_grant(chosen_id(id), granted(ttl)?).await.map_err(Error::from)?;
        let ttl = lease.granted_ttl.as_secs() as i64;
        let header = self.0.header_now();
        Ok(Response::new(pb::LeaseGrantResponse { header, id: lease.id.0, ttl, error: String::new() }))
    }

    async fn lease_revoke(&self, request: Request<pb::LeaseRevokeRequest>) -> Answer<pb::LeaseRevokeResponse> {
        let revision = self.0.backend.lease_revoke(LeaseId(request.get_ref().id)).await.map_err(Error::from)?;
        Ok(Response::new(pb::LeaseRevokeResponse { header: self.0.header(revision) }))
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Answer<Self::LeaseKeepAliveStream> {
        let context = self.0.clone();
        let stopping = context.stopping.clone().cancelled_owned();
        let answers = request.into_inner().take_until(stopping).then(move |request| {
            let context = context.clone();
            async move { keep_alive(&context, request?.id).await }
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Answer<pb::LeaseTimeToLiveResponse> {
        let request = request.get_ref();
        let found = self.0.backend.lease(LeaseId(request.id)).await;
        Ok(Response::new(pb::LeaseTimeToLiveResponse { header: self.0.header_now(), ..time_to_live(request, found)? }))
    }

    async fn lease_leases(&self, _: Request<pb::LeaseLeasesRequest>) -> Answer<pb::LeaseLeasesResponse> {
        let ids = self.0.backend.leases().await.map_err(Error::from)?;
        let leases = ids.into_iter().map(|id| pb::LeaseStatus { id: id.0 }).collect();
        Ok(Response::new(pb::LeaseLeasesResponse { header: self.0.header_now(), leases }))
    }
}

fn chosen_id(id: i64) -> Option<LeaseId> {
    Some(LeaseId(id)).filter(|id| id.0 != 0)
}

fn granted(ttl_seconds: i64) -> Result<Duration> {
    match ttl_seconds > MAX_TTL_SECONDS {
        true => Err(Error::LeaseTtlTooLarge),
        false => Ok(Duration::from_secs(ttl_seconds.max(MIN_TTL_SECONDS) as u64)),
    }
}

/// A lease that is gone is told by a time to live of zero, not by an error.
async fn keep_alive(context: &Context, id: i64) -> std::result::Result<pb::LeaseKeepAliveResponse, Status> {
    let ttl = match context.backend.lease_keep_alive(LeaseId(id)).await {
        Ok(lease) => lease.granted_ttl.as_secs() as i64,
        Err(store::Error::LeaseNotFound(_)) => 0,
        Err(error) => return Err(Error::from(error).into()),
    };
    Ok(pb::LeaseKeepAliveResponse { header: context.header_now(), id, ttl })
}

/// The answer, without a header; -1 seconds: there is no such lease.
fn time_to_live(
    request: &pb::LeaseTimeToLiveRequest,
    found: store::Result<store::Lease>,
) -> Result<pb::LeaseTimeToLiveResponse> {
    let gone = pb::LeaseTimeToLiveResponse { id: request.id, ttl: -1, ..Default::default() };
    match found {
        Err(store::Error::LeaseNotFound(_)) => Ok(gone),
        Err(error) => Err(error.into()),
        Ok(lease) => Ok(pb::LeaseTimeToLiveResponse {
            ttl: lease.remaining.as_secs() as i64,
            granted_ttl: lease.granted_ttl.as_secs() as i64,
            keys: if request.keys { lease.keys } else { Vec::new() },
            ..gone
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_to_live_are_bounded_as_etcd_bounds_them() {
        assert_eq!(granted(0).unwrap(), Duration::from_secs(2));
        assert_eq!(granted(60).unwrap(), Duration::from_secs(60));
        assert!(matches!(granted(MAX_TTL_SECONDS + 1), Err(Error::LeaseTtlTooLarge)));
    }

    #[test]
    fn a_lease_that_is_gone_lives_minus_one() {
        let request = pb::LeaseTimeToLiveRequest { id: 7, keys: true };
        let gone = time_to_live(&request, Err(store::Error::LeaseNotFound(LeaseId(7)))).unwrap();
        assert_eq!((gone.id, gone.ttl, gone.granted_ttl), (7, -1, 0));
        let lease = store::Lease {
            id: LeaseId(7),
            granted_ttl: Duration::from_secs(60),
            remaining: Duration::from_millis(1900),
            keys: vec!["a".into()],
        };
        let held = time_to_live(&request, Ok(lease)).unwrap();
        assert_eq!((held.ttl, held.granted_ttl, held.keys.len()), (1, 60, 1));
    }
}
