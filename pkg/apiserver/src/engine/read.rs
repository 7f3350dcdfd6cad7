//! Get: a stored object as it is.
use super::{Call, Result, errors, list, output, params, served};
use crate::Body;
use http::{Response, StatusCode};
use std::sync::Arc;
use std::time::Duration;
use store::{Entry, Revision};
use tokio::time::Instant;

/// How long a get waits for what another server had; upstream's watch cache waits as long for a revision.
const WAIT: Duration = Duration::from_secs(3);
/// It looks this often meanwhile.
const GLANCE: Duration = Duration::from_millis(100);

pub async fn get(call: &Call<'_>) -> Result<Response<Body>> {
    check_version(call).await?;
    let entry = live(call).await?;
    Ok(output::entry(call, StatusCode::OK, &entry, &[]))
}

/// A get with a resourceVersion is answered from now, which is at least as new. Another server's is reached when all that
/// it had is here: what is not found then was deleted, and what was only not heard of yet is no 404.
async fn check_version(call: &Call<'_>) -> Result<()> {
    let Some(text) = call.info().param("resourceVersion") else { return Ok(()) };
    let Some(wanted) = params::resource_version(text)? else { return Ok(()) };
    let revision = Revision::from_u64(wanted);
    let watermarks = call.engine.sites().watermarks.as_ref().filter(|_| !call.backend().is_own(revision));
    let passed = || watermarks.and_then(|watermarks| watermarks.passed(revision));
    let begun = Instant::now();
    loop {
        match passed() {
            None => return list::reached(call, wanted).await,
            Some(true) => return Ok(()),
            Some(false) if begun.elapsed() < WAIT => tokio::time::sleep(GLANCE).await,
            Some(false) => {
                return Err(errors::too_large_version(wanted, call.backend().current_revision()).into());
            }
        }
    }
}

/// The entry that the request names.
///
/// # Errors
/// 404 when there is none.
pub async fn live(call: &Call<'_>) -> Result<Arc<Entry>> {
    let name = &call.info().name;
    let found = served::get(call, &call.key()).await?;
    found.ok_or_else(|| call.not_found(name))
}
