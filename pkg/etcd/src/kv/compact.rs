//! Compact: forgetting the past.
use crate::context::Context;
use crate::error::{Error, Result};
use crate::pb::{CompactionRequest, CompactionResponse};
use store::Revision;

pub async fn run(context: &Context, request: &CompactionRequest) -> Result<CompactionResponse> {
    let Ok(revision) = u64::try_from(request.revision) else { return Err(Error::Compacted) };
    context.backend.compact(Revision::from_u64(revision)).await?;
    if request.physical {
        context.backend.compacted(Revision::from_u64(revision)).await?;
    }
    Ok(CompactionResponse { header: context.header_now() })
}
