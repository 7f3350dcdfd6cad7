//! Admission: what the cluster as a whole says to a write, after who may do it and before it is stored.
//! Plugins run in upstream's order; each is pure over the object and the few others that it looks up.

use crate::engine::{Call, Result};
use api::Status;
use serde_json::Value;

/// What a request does to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
}

/// NamespaceLifecycle: nothing is created in a namespace that is not there or on its way out.
pub(crate) async fn namespace_is_there(call: &Call<'_>, _operation: Operation) -> Result<()> {
    let namespace = call.namespace();
    if !call.resource.namespaced {
        return Ok(());
    }
    let key = format!("/registry/namespaces/{namespace}");
    let found = call.backend().get(key.as_bytes(), None).await.map_err(crate::engine::from_store)?;
    let gvr = &call.resource.gvr;
    match found {
        None => Err(Status::not_found("", "namespaces", namespace).into()),
        Some(entry) if entry.summary.deleting => {
            let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
            let mut status = Status::forbidden(&gvr.group, &gvr.resource, &call.info().name, &why);
            status.add_cause(
                "NamespaceTerminating",
                &format!("namespace {namespace} is being terminated"),
                "metadata.namespace",
            );
            Err(status.into())
        }
        Some(_) => Ok(()),
    }
}

/// Changes `new` as the plugins want it.
pub(crate) async fn mutate(call: &Call<'_>, operation: Operation, new: &mut Value, old: Option<&Value>) -> Result<()> {
    let _ = (call, operation, new, old);
    Ok(())
}

/// Refuses what the plugins don't want.
pub(crate) async fn validate(
    call: &Call<'_>,
    operation: Operation,
    new: Option<&Value>,
    old: Option<&Value>,
) -> Result<()> {
    let _ = (call, new);
    protect_namespaces(call, operation, old)
}

/// The namespaces that a cluster can't do without.
const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

fn protect_namespaces(call: &Call<'_>, operation: Operation, old: Option<&Value>) -> Result<()> {
    let name = old.and_then(|o| o["metadata"]["name"].as_str()).unwrap_or_default();
    let namespace = call.resource.kind == "Namespace" && call.resource.gvr.group.is_empty();
    if operation == Operation::Delete && namespace && IMMORTAL.contains(&name) {
        return Err(Status::forbidden("", "namespaces", name, "this namespace may not be deleted").into());
    }
    Ok(())
}
