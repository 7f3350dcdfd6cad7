//! Connections through the API: logs, exec, attach, port-forward, HTTP proxied to pods, services and nodes, and
//! what these use (`metrics`).
//!
//! Place in the flow: `front -> [connect] -> agent:10250 -> container runtime`, or straight to a pod's address. How an
//! agent's port is reached, over a link that it opened or straight, is the composition's to say (`Tunnels`).
//! Agents speak SPDY/3.1 alone; WebSocket clients are translated (`exec`) or unwrapped (`tunnel`).

mod agent;
mod exec;
mod locate;
mod log;
mod metrics;
mod proxy;
pub(crate) mod relay;
mod rewrite;
mod tunnel;
pub(crate) mod unverified;
pub mod upgrade;
mod websocket;

pub use agent::{AgentAddress, Agents, Stream, Tunnels};
pub(crate) use metrics::{GROUP as METRICS_GROUP, VERSION as METRICS_VERSION};
pub use unverified::client as unverified_client;

use crate::authz::Attributes;
use crate::body::RequestBody;
use crate::front::{Answer, Front, method_not_allowed};
use crate::request::{RequestInfo, User, Verb};
use api::Status;
use http::Request;
use std::sync::Arc;

/// Whether this module serves the resource.
pub fn serves(info: &RequestInfo) -> bool {
    let core = info.group.is_empty() && info.version == "v1";
    metrics::serves(info)
        || core
            && matches!(
                (&*info.resource, &*info.subresource),
                ("pods", "log" | "exec" | "attach" | "portforward" | "proxy") | ("services" | "nodes", "proxy")
            )
}

/// Serves one connection; the request is authorized already.
///
/// # Errors
/// The Status to answer.
pub async fn serve(front: &Arc<Front>, info: RequestInfo, user: &User, request: Request<RequestBody>) -> Answer {
    if metrics::serves(&info) {
        return metrics::serve(front, &info).await;
    }
    if info.name.is_empty() {
        return Err(Status::no_such_path());
    }
    match &*info.subresource {
        "log" => log::serve(front, &info, request).await,
        "proxy" => {
            admit(front, &info, user).await?;
            proxy::serve(front, &info, request).await
        }
        subresource => {
            if !matches!(info.verb, Verb::Get | Verb::Create) {
                return Err(method_not_allowed());
            }
            may_create(front, &info, user)?;
            admit(front, &info, user).await?;
            match subresource {
                "portforward" => tunnel::port_forward(front, &info, request).await,
                _ => exec::serve(front, &info, request).await,
            }
        }
    }
}

/// An upgrade's answer has no room for warnings.
async fn admit(front: &Front, info: &RequestInfo, user: &User) -> Result<(), Status> {
    front.engine.admit_connection(info, user).await.map(drop)
}

/// A WebSocket begins with a GET, which would let readers enter containers: they need `create` as well
/// (upstream's AuthorizePodWebsocketUpgradeCreatePermission).
fn may_create(front: &Front, info: &RequestInfo, user: &User) -> Result<(), Status> {
    if info.verb == Verb::Create {
        return Ok(());
    }
    let create = RequestInfo { verb: Verb::Create, ..info.clone() };
    front.authorizer.check(user, &Attributes::from(&create))
}
