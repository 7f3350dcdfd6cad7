//! `pods/NAME/log`: the agent's answer, streamed as it comes; in WebSocket messages where the client asks so.
use super::agent::{hand_on, refusal};
use super::{upgrade, websocket};
use crate::body::{self, Body, RequestBody};
use crate::front::{Answer, Front};
use crate::request::{RequestInfo, percent_encode};
use api::Status;
use api::validate::{FieldError, Reason};
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::sync::Arc;

/// Parameters that the agent understands.
const PARAMETERS: [&str; 8] =
    ["follow", "previous", "timestamps", "sinceSeconds", "sinceTime", "tailLines", "limitBytes", "stream"];

pub async fn serve(front: &Arc<Front>, info: &RequestInfo, mut request: Request<RequestBody>) -> Answer {
    validate(info)?;
    let target = front.container(&info.namespace, &info.name, info.param("container").unwrap_or_default()).await?;
    let Some(agent) = target.agent else {
        return Ok(body::content(StatusCode::OK, "text/plain", ""));
    };
    let path = format!("/containerLogs/{}/{}/{}", target.namespace, target.pod, target.container);
    let query: Vec<String> = PARAMETERS
        .iter()
        .filter_map(|name| Some((*name, info.param(name).filter(|value| !value.is_empty())?)))
        .map(|(name, value)| format!("{name}={}", percent_encode(value)))
        .collect();
    let uri = format!("{path}?{}", query.join("&"));
    let ask: Request<Body> = Request::get(uri).body(body::full("")).map_err(Status::internal)?;
    let response = front.agents.send(&agent, ask).await?;
    if !response.status().is_success() {
        return Err(refusal(response, "pods/log", &info.name).await);
    }
    if upgrade::wanted(request.headers()).as_deref() == Some("websocket") {
        return in_messages(front, &mut request, response.into_body());
    }
    let mut answer = http::Response::new(hand_on(response.into_body()));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(answer)
}

/// `ValidatePodLogOptions`, as far as it goes beyond parsing.
fn validate(info: &RequestInfo) -> Result<(), Status> {
    let mut errors = Vec::new();
    let mut wrong = |field: &str, value: &str, detail: &str| {
        let value = value.parse::<i64>().map_or_else(|_| value.into(), serde_json::Value::from);
        errors.push(FieldError {
            field: field.into(),
            reason: Reason::Invalid,
            value: Some(value),
            detail: detail.into(),
        });
    };
    for (name, least, detail) in [
        ("tailLines", 0, "must be greater than or equal to 0"),
        ("limitBytes", 1, "must be greater than or equal to 1"),
        ("sinceSeconds", 1, "must be greater than or equal to 1"),
    ] {
        let Some(value) = info.param(name).filter(|value| !value.is_empty()) else { continue };
        match value.parse::<i64>() {
            Ok(number) if number >= least => {}
            _ => wrong(name, value, detail),
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    let kind = api::GroupKind { group: String::new(), kind: "PodLogOptions".into() };
    Err(Status::invalid(&kind, &info.name, &errors))
}

/// Log bytes as WebSocket messages (`binary.k8s.io`, `base64.binary.k8s.io`).
fn in_messages(front: &Arc<Front>, request: &mut Request<RequestBody>, mut log: Incoming) -> Answer {
    let accepted = websocket::accept(request, &websocket::READER_PROTOCOLS)?;
    let (base64, client) = (accepted.protocol.starts_with("base64."), accepted.client);
    let stopping = front.shutdown.clone();
    front.tasks.spawn(async move {
        let carry = async {
            let Some(socket) = upgrade::ready(client).await else { return };
            let mut socket = websocket::server(socket).await;
            while let Some(Ok(frame)) = log.frame().await {
                let Ok(data) = frame.into_data() else { continue };
                if websocket::send(&mut socket, websocket::encode_plain(data, base64)).await.is_err() {
                    return;
                }
            }
            websocket::close(&mut socket).await;
        };
        stopping.run_until_cancelled(carry).await;
    });
    Ok(accepted.response)
}
