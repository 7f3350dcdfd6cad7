//! Handing one request on to another HTTP server and its answer back, with what either side upgrades to.
//!
//! Place in the flow: `connect::proxy | aggregation -> [relay] -> the other server`.
use super::agent::AgentAddress;
use super::agent::{hand_on, strip_hop_headers};
use super::upgrade;
use crate::body::{self, Body, RequestBody};
use crate::endpoints::Endpoint;
use crate::front::Front;
use api::Status;
use http::{Request, Response, StatusCode, header};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::sync::Arc;

/// How the other side is spoken to.
pub(crate) enum Scheme {
    Plain,
    /// The agent of this node, over TLS with the agents' trust and our client certificate.
    Agent(String),
    /// Over TLS with these settings, expecting this name.
    Tls(Arc<ClientConfig>, ServerName<'static>),
}

/// Where a request goes.
pub(crate) struct Destination {
    pub to: Endpoint,
    pub scheme: Scheme,
}

/// Sends the request, whose URI is already that of the destination. An upgrade is joined in the background.
///
/// # Errors
/// 503 when nobody answers.
pub(crate) async fn relay(
    front: &Arc<Front>,
    to: Destination,
    mut request: Request<RequestBody>,
) -> Result<Response<Body>, Status> {
    let client = upgrade::wanted(request.headers()).is_some().then(|| upgrade::client(&mut request));
    if client.is_none() {
        strip_hop_headers(request.headers_mut());
    }
    *request.version_mut() = http::Version::HTTP_11;
    let sent = send(front, to, request).await;
    let mut response = sent.map_err(|error| Status::unavailable(format!("error trying to reach service: {error}")))?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(client) = client
    {
        let mut answer = Response::new(body::full(""));
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *answer.headers_mut() = response.headers().clone();
        upgrade::join(front, client, hyper::upgrade::on(&mut response));
        return Ok(answer);
    }
    let (mut parts, body) = response.into_parts();
    strip_hop_headers(&mut parts.headers);
    parts.version = http::Version::HTTP_11;
    Ok(Response::from_parts(parts, hand_on(body)))
}

async fn send(
    front: &Front,
    to: Destination,
    mut request: Request<RequestBody>,
) -> Result<Response<hyper::body::Incoming>, super::agent::Error> {
    request.headers_mut().remove(header::EXPECT);
    match to.scheme {
        Scheme::Plain => front.agents.send_plain(to.to, request).await,
        Scheme::Agent(node) => front.agents.send(&AgentAddress { node, address: to.to.address }, request).await,
        Scheme::Tls(config, name) => front.agents.send_tls(to.to, config, name, request).await,
    }
}
