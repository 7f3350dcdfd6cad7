//! Admission: what the cluster as a whole says to a write, after who may do it and before it is stored.
//! Plugins run in upstream's order; each is pure over the object and the few others that are looked up for it.

mod lookup;
mod namespaces;
mod node_restriction;
mod nodes;
mod priority;
mod runtime_class;
mod service_account;
mod storage;
mod tolerations;

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

pub(crate) use namespaces::namespace_is_there;

/// Changes `new` as the plugins want it.
pub(crate) async fn mutate(call: &Call<'_>, operation: Operation, new: &mut Value, old: Option<&Value>) -> Result<()> {
    if !call.resource.gvr.group.is_empty() {
        return Ok(());
    }
    match (call.resource.kind.as_str(), operation, call.info().subresource.as_str()) {
        ("Pod", Operation::Create, "") => create_pod(call, new).await,
        ("Pod", Operation::Update, "") => {
            tolerations::tolerate(new);
            priority::keep(new, old.unwrap_or(&Value::Null));
            Ok(())
        }
        ("PersistentVolume", Operation::Create, "") => {
            storage::protect(new, storage::VOLUME);
            Ok(())
        }
        ("PersistentVolumeClaim", Operation::Create, "") => {
            storage::protect(new, storage::CLAIM);
            let class = if storage::lacks_class(new) { lookup::default_storage_class(call).await? } else { None };
            if let Some(class) = class {
                new["spec"]["storageClassName"] = class.into();
            }
            Ok(())
        }
        ("Node", Operation::Create, "") => {
            nodes::taint(new);
            Ok(())
        }
        _ => Ok(()),
    }
}

async fn create_pod(call: &Call<'_>, pod: &mut Value) -> Result<()> {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let forbid = |why: String| -> Box<Status> { Status::forbidden("", "pods", &name, &why).into() };
    if service_account::is_mirror(pod) {
        service_account::check_mirror(pod).map_err(&forbid)?;
    } else {
        let wanted = service_account::wanted(pod);
        let account = lookup::service_account(call, &wanted).await?.ok_or_else(|| {
            let place = format!("{}/{wanted}", call.namespace());
            forbid(format!("error looking up service account {place}: serviceaccount \"{wanted}\" not found"))
        })?;
        let volume = crate::engine::generate_name(service_account::VOLUME_PREFIX);
        service_account::mount(pod, &account, &volume);
        service_account::check_secrets(pod, &account).map_err(&forbid)?;
    }
    tolerations::tolerate(pod);
    let class = pod["spec"]["priorityClassName"].as_str().unwrap_or_default().to_owned();
    let class = lookup::priority_class(call, &class)
        .await?
        .ok_or_else(|| forbid(format!("no PriorityClass with name {class} was found")))?;
    priority::resolve(pod, class.as_ref()).map_err(&forbid)?;
    let class = match runtime_class::wanted(pod) {
        Some(name) => {
            let found = lookup::runtime_class(call, name).await?;
            Some(found.ok_or_else(|| forbid(format!("pod rejected: RuntimeClass \"{name}\" not found")))?)
        }
        None => None,
    };
    runtime_class::resolve(pod, class.as_ref()).map_err(forbid)
}

/// Refuses what the plugins don't want.
pub(crate) async fn validate(
    call: &Call<'_>,
    operation: Operation,
    new: Option<&Value>,
    old: Option<&Value>,
) -> Result<()> {
    namespaces::protect(call, operation, old)?;
    if let (Some(guard), Some(new)) = (&call.request.escalation, new) {
        guard.check(new, old)?;
    }
    let object = new.or(old).unwrap_or(&Value::Null);
    let request = node_restriction::Write {
        operation,
        group: &call.resource.gvr.group,
        resource: &call.resource.gvr.resource,
        subresource: &call.info().subresource,
        namespace: call.namespace(),
        name: object["metadata"]["name"].as_str().unwrap_or_default(),
        new,
        old,
    };
    node_restriction::check(&call.request.user, &request).map_err(|why| {
        let gvr = &call.resource.gvr;
        Status::forbidden(&gvr.group, &gvr.resource, request.name, &why).into()
    })
}
