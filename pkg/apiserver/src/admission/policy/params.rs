//! The objects that a binding hands its policy as `params` (`CollectParams` of upstream's generic policies).
use super::definition::{Binding, Policy};
use crate::admission::{Attributes, cache};
use crate::engine::{from_store, served};
use crate::registry::Resource;
use api::selector::LabelSelector;
use serde_json::Value;
use std::sync::Arc;
use store::{Entry, Range};

/// Each is evaluated by itself. One none: there are no params to see. Empty: nothing is evaluated.
///
/// # Errors
/// What is wrong with the configuration, in upstream's words.
pub async fn collect(
    attributes: &Attributes<'_>,
    policy: &Policy,
    binding: &Binding,
) -> Result<Vec<Option<Value>>, String> {
    let Some(kind) = policy.params.as_ref().filter(|_| binding.param_ref.is_object()) else { return Ok(vec![None]) };
    let served = attributes.call.engine.registry().served();
    let mut resources = served.values();
    let resource =
        resources.find(|r| r.kind == kind.kind && r.gvr.group_version() == kind.version).ok_or_else(|| {
            format!("failed to find resource referenced by paramKind: '{}, Kind={}'", kind.version, kind.kind)
        })?;
    let reference = &binding.param_ref;
    let text = |field: &str| reference[field].as_str().unwrap_or_default();
    let namespace = namespace(resource, text("namespace"), attributes)?;
    let found = match (text("name"), &reference["selector"]) {
        ("", Value::Null) => return Err("paramRef name or selector are required".into()),
        ("", selector) => {
            let selector = LabelSelector::from_json(selector).map_err(|error| error.to_string())?;
            let range = Range::prefix(resource.range_prefix(namespace).into_bytes());
            let page = attributes.call.backend().list(&range, None, 0).await.map_err(|e| from_store(e).message)?;
            let mut entries = read(attributes, resource, page.entries).await?;
            entries.retain(|entry| selector.matches(&entry.summary));
            entries
        }
        (name, _) => {
            let key = resource.key(namespace, name);
            let entry = attributes.call.backend().get(key.as_bytes(), None).await.map_err(|e| from_store(e).message)?;
            read(attributes, resource, Vec::from_iter(entry)).await?
        }
    };
    if found.is_empty() && reference["parameterNotFoundAction"] == "Deny" {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".into());
    }
    let served = |entry: &Arc<Entry>| cache::object(entry).map(|object| Some(resource.to_served(object)));
    Ok(found.iter().filter_map(served).collect())
}

/// Stored entries in the version that the policy names.
async fn read(
    attributes: &Attributes<'_>,
    resource: &Resource,
    entries: Vec<Arc<Entry>>,
) -> Result<Vec<Arc<Entry>>, String> {
    served::entries(attributes.call.engine.reach(), resource, entries).await.map_err(|status| status.message)
}

fn namespace<'a>(resource: &Resource, given: &'a str, attributes: &'a Attributes<'_>) -> Result<&'a str, String> {
    match (resource.namespaced, given) {
        (false, "") => Ok(""),
        (false, _) => Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".into()),
        (true, "") if attributes.namespace().is_empty() => {
            Err("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".into())
        }
        (true, "") => Ok(attributes.namespace()),
        (true, given) => Ok(given),
    }
}
