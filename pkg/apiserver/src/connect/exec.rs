//! `pods/NAME/exec` and `attach`: SPDY clients are passed through, WebSocket clients translated
//! (`k8s.io/apiserver/pkg/util/proxy/streamtranslator.go`).
mod translate;

use super::agent::{AgentAddress, error_text, refusal};
use super::locate::Target;
use super::{upgrade, websocket};
use crate::body::{self, Body, RequestBody};
use crate::front::{Answer, Front};
use crate::request::{RequestInfo, percent_encode};
use api::Status;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use std::sync::Arc;
use translate::Streams;

/// Names the versions of a stream protocol that a SPDY peer speaks, and the chosen one.
const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// What agents are spoken to in.
const AGENT_PROTOCOL: &str = "v4.channel.k8s.io";

pub async fn serve(front: &Arc<Front>, info: &RequestInfo, mut request: Request<RequestBody>) -> Answer {
    let target = front.container(&info.namespace, &info.name, info.param("container").unwrap_or_default()).await?;
    let streams = Streams::read(info)?;
    let uri = agent_uri(info, &target, streams);
    let agent =
        target.agent.ok_or_else(|| Status::bad_request(format!("pod {} does not have a host assigned", info.name)))?;
    match upgrade::wanted(request.headers()).as_deref() {
        Some("websocket") => over_websocket(front, agent, uri, streams, &mut request),
        Some(_) => pass_through(front, agent, uri, request, &info.name).await,
        None => Err(Status::bad_request("Upgrade request required")),
    }
}

/// The kubelet's path and parameters, which differ in name from the API's.
fn agent_uri(info: &RequestInfo, target: &Target, streams: Streams) -> String {
    let mut query = Vec::new();
    for (wanted, name) in
        [(streams.stdin, "input"), (streams.stdout, "output"), (streams.stderr, "error"), (streams.tty, "tty")]
    {
        if wanted {
            query.push(format!("{name}=1"));
        }
    }
    let commands = info.query.iter().filter(|(key, _)| key == "command" && info.subresource == "exec");
    query.extend(commands.map(|(_, value)| format!("command={}", percent_encode(value))));
    let (namespace, pod, container) = (&target.namespace, &target.pod, &target.container);
    format!("/{}/{namespace}/{pod}/{container}?{}", info.subresource, query.join("&"))
}

/// Hands the client's own upgrade to the agent and joins the two connections.
pub async fn pass_through(
    front: &Arc<Front>,
    agent: AgentAddress,
    uri: String,
    mut request: Request<RequestBody>,
    name: &str,
) -> Answer {
    let client = upgrade::client(&mut request);
    let mut ask = Request::new(body::full(""));
    *ask.method_mut() = request.method().clone();
    *ask.uri_mut() = uri.parse().map_err(Status::internal)?;
    *ask.headers_mut() = upgrade_headers(request.headers());
    let mut response = front.agents.send(&agent, ask).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refusal(response, "pods", name).await);
    }
    let mut answer = Response::new(body::full(""));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *answer.headers_mut() = upgrade_headers(response.headers());
    upgrade::join(front, client, hyper::upgrade::on(&mut response));
    Ok(answer)
}

/// Only what concerns the upgrade.
fn upgrade_headers(from: &HeaderMap) -> HeaderMap {
    let wanted = |name: &HeaderName| {
        *name == header::CONNECTION
            || *name == header::UPGRADE
            || *name == PROTOCOL_VERSION
            || name.as_str().starts_with("sec-websocket-")
    };
    from.iter().filter(|(name, _)| wanted(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Asks an agent to switch to SPDY.
///
/// # Errors
/// Its refusal, as a Status.
pub async fn dial_spdy(
    front: &Front,
    agent: AgentAddress,
    uri: &str,
    protocol: &'static str,
) -> Result<Response<Incoming>, Status> {
    let ask: Request<Body> = Request::builder()
        .method(Method::POST)
        .uri(uri)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "SPDY/3.1")
        .header(PROTOCOL_VERSION, HeaderValue::from_static(protocol))
        .body(body::full(""))
        .map_err(Status::internal)?;
    let response = front.agents.send(&agent, ask).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response);
    }
    let text = error_text(response).await;
    Err(serde_json::from_str::<Status>(&text)
        .unwrap_or_else(|_| Status::internal(format!("unable to upgrade connection: {text}"))))
}

/// Accepts the WebSocket at once; from then on errors go through its error channel.
fn over_websocket(
    front: &Arc<Front>,
    agent: AgentAddress,
    uri: String,
    streams: Streams,
    request: &mut Request<RequestBody>,
) -> Answer {
    let accepted = websocket::accept(request, &websocket::CHANNEL_PROTOCOLS)?;
    let (protocol, client) = (accepted.protocol, accepted.client);
    let (stopping, of_task) = (front.shutdown.clone(), front.clone());
    front.tasks.spawn(async move {
        let carry = async {
            let Some(io) = upgrade::ready(client).await else { return };
            let socket = websocket::server(io).await;
            let dial = async {
                let mut response = dial_spdy(&of_task, agent, &uri, AGENT_PROTOCOL).await?;
                let upgraded = upgrade::ready(hyper::upgrade::on(&mut response)).await;
                upgraded.ok_or_else(|| Status::internal("unable to upgrade connection"))
            };
            Box::pin(translate::run(socket, &protocol, streams, dial)).await;
        };
        stopping.run_until_cancelled(carry).await;
    });
    Ok(accepted.response)
}
