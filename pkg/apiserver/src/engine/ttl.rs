//! Leases under which Events are stored, so that they go by themselves (`--event-ttl`, one hour).
use super::{Call, Result, errors};
use parking_lot::Mutex;
use std::time::Duration;
use store::LeaseId;
use tokio::time::Instant;

/// How long an Event lives after its last write.
const EVENT_TTL: Duration = Duration::from_secs(3_600);
/// Events of this long share a lease, which lasts that much longer (etcd's client does the same).
const SHARE: Duration = Duration::from_secs(60);

/// The lease that new Events get.
#[derive(Default)]
pub struct Ttl {
    current: Mutex<Option<(LeaseId, Instant)>>,
}

impl Ttl {
    /// The lease of what the call writes; none for what stays.
    pub async fn lease(&self, call: &Call<'_>) -> Result<Option<LeaseId>> {
        if call.resource.kind != "Event" || call.resource.custom.is_some() {
            return Ok(None);
        }
        let current = *self.current.lock();
        if let Some((id, granted)) = current
            && granted.elapsed() < SHARE
        {
            return Ok(Some(id));
        }
        let lease = call.backend().lease_grant(None, EVENT_TTL + SHARE).await.map_err(errors::from_store)?;
        *self.current.lock() = Some((lease.id, Instant::now()));
        Ok(Some(lease.id))
    }
}
