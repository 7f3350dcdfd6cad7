//! NamespaceLifecycle: nothing is created in a namespace that is not there or on its way out, and some
//! namespaces stay for ever.
use super::Operation;
use crate::engine::{Call, Result, from_store};
use api::Status;
use serde_json::Value;

/// Whether the call's namespace takes new objects.
///
/// # Errors
/// 404 without one, 403 while it terminates.
pub(crate) async fn namespace_is_there(call: &Call<'_>) -> Result<()> {
    let namespace = call.namespace();
    if !call.resource.namespaced {
        return Ok(());
    }
    let key = format!("/registry/namespaces/{namespace}");
    match call.backend().get(key.as_bytes(), None).await.map_err(from_store)? {
        None => Err(Status::not_found("", "namespaces", namespace).into()),
        Some(entry) if entry.summary.deleting => Err(terminating(call, namespace).into()),
        Some(_) => Ok(()),
    }
}

fn terminating(call: &Call<'_>, namespace: &str) -> Status {
    let gvr = &call.resource.gvr;
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let mut status = Status::forbidden(&gvr.group, &gvr.resource, &call.info().name, &why);
    let cause = format!("namespace {namespace} is being terminated");
    status.add_cause("NamespaceTerminating", &cause, "metadata.namespace");
    status
}

/// The namespaces that a cluster can't do without.
const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

/// # Errors
/// 403 for a delete of one of them.
pub(crate) fn protect(call: &Call<'_>, operation: Operation, old: Option<&Value>) -> Result<()> {
    let name = old.and_then(|o| o["metadata"]["name"].as_str()).unwrap_or_default();
    let namespace = call.resource.kind == "Namespace" && call.resource.gvr.group.is_empty();
    if operation == Operation::Delete && namespace && IMMORTAL.contains(&name) {
        return Err(Status::forbidden("", "namespaces", name, "this namespace may not be deleted").into());
    }
    Ok(())
}
