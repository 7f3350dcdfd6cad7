//! The objects that plugins ask for.
use crate::engine::{Call, Result, from_store};
use api::Status;
use serde_json::Value;
use std::time::Duration;

/// The account that pods have who name none. It is made by a controller shortly after its namespace, so a pod
/// that comes first waits for it a little, as upstream does.
const DEFAULT_ACCOUNT: &str = "default";
const ATTEMPTS: usize = 10;
const PAUSE: Duration = Duration::from_millis(150);

/// A stored object.
pub async fn object(call: &Call<'_>, key: &str) -> Result<Option<Value>> {
    let entry = call.backend().get(key.as_bytes(), None).await.map_err(from_store)?;
    entry.map(|e| serde_json::from_slice(&e.value).map_err(|e| Status::internal(e).into())).transpose()
}

/// A ServiceAccount of the call's namespace.
pub async fn service_account(call: &Call<'_>, name: &str) -> Result<Option<Value>> {
    let key = format!("/registry/serviceaccounts/{}/{name}", call.namespace());
    let attempts = if name == DEFAULT_ACCOUNT { ATTEMPTS } else { 1 };
    for attempt in 0..attempts {
        if attempt > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        if let Some(found) = object(call, &key).await? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The class of that name, or the cluster's default for none. The outer `None`: a name that does not exist;
/// the inner: no class applies.
pub async fn priority_class(call: &Call<'_>, name: &str) -> Result<Option<Option<Value>>> {
    if !name.is_empty() {
        return Ok(object(call, &format!("/registry/priorityclasses/{name}")).await?.map(Some));
    }
    let classes = all(call, "/registry/priorityclasses/").await?;
    let defaults = classes.into_iter().filter(|c| c["globalDefault"] == true);
    Ok(Some(defaults.min_by_key(|c| c["value"].as_i64())))
}

/// The RuntimeClass of that name.
pub async fn runtime_class(call: &Call<'_>, name: &str) -> Result<Option<Value>> {
    object(call, &format!("/registry/runtimeclasses/{name}")).await
}

/// The name of the class for claims that name none, if there is one.
pub async fn default_storage_class(call: &Call<'_>) -> Result<Option<String>> {
    let classes = all(call, "/registry/storageclasses/").await?;
    Ok(super::storage::default_class(classes.into_iter()))
}

/// All objects of a kind; for kinds of few objects.
async fn all(call: &Call<'_>, prefix: &'static str) -> Result<Vec<Value>> {
    let page = call.backend().list(&store::Range::prefix(prefix.as_bytes()), None, 0).await.map_err(from_store)?;
    Ok(page.entries.iter().filter_map(|e| serde_json::from_slice(&e.value).ok()).collect())
}
