//! Get: a stored object as it is.
use super::{Call, Result, list, output, params, served};
use crate::Body;
use http::{Response, StatusCode};
use std::sync::Arc;
use store::Entry;

pub async fn get(call: &Call<'_>) -> Result<Response<Body>> {
    check_version(call).await?;
    let entry = live(call).await?;
    Ok(output::entry(call, StatusCode::OK, &entry, &[]))
}

/// A get with a resourceVersion is answered from now, which is at least as new.
async fn check_version(call: &Call<'_>) -> Result<()> {
    let Some(text) = call.info().param("resourceVersion") else { return Ok(()) };
    match params::resource_version(text)? {
        Some(wanted) => list::reached(call, wanted).await,
        None => Ok(()),
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
