//! `pods/NAME/portforward`: SPDY passes through as bytes; kubectl's WebSocket carries the same bytes in messages,
//! which are unwrapped (`k8s.io/apiserver/pkg/util/proxy/streamtunnel.go`).
use super::exec::{dial_spdy, pass_through};
use super::websocket::Socket;
use super::{upgrade, websocket};
use crate::body::RequestBody;
use crate::front::{Answer, Front};
use crate::request::{RequestInfo, percent_encode};
use api::Status;
use bytes::BytesMut;
use futures::StreamExt;
use futures::stream::{SplitSink, SplitStream};
use http::{HeaderMap, Request, header};
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

const AGENT_PROTOCOL: &str = "portforward.k8s.io";
/// The longest message to the client.
const READ_BYTES: usize = 32 * 1024;

pub async fn port_forward(front: &Arc<Front>, info: &RequestInfo, mut request: Request<RequestBody>) -> Answer {
    let pod = front.stored("pods", "pods", &info.namespace, &info.name).await?;
    let agent = front
        .agent_of_pod(&pod)
        .await?
        .ok_or_else(|| Status::bad_request(format!("pod {} does not have a host assigned", info.name)))?;
    let mut uri = format!("/portForward/{}/{}", info.namespace, info.name);
    let ports: Vec<&str> = info.query.iter().filter(|(key, _)| key == "ports").map(|(_, value)| &**value).collect();
    if !ports.is_empty() {
        uri = format!("{uri}?port={}", percent_encode(&ports.join(",")));
    }
    match upgrade::wanted(request.headers()).as_deref() {
        Some("websocket") if wants_tunnel(request.headers()) => {
            let accepted = websocket::accept(&mut request, &[websocket::TUNNEL_PROTOCOL])?;
            let mut response = dial_spdy(front, agent, &uri, AGENT_PROTOCOL).await?;
            let (client, server) = (accepted.client, hyper::upgrade::on(&mut response));
            let stopping = front.shutdown.clone();
            front.tasks.spawn(async move {
                let carry = async {
                    let (Some(client), Some(server)) = tokio::join!(upgrade::ready(client), upgrade::ready(server))
                    else {
                        return;
                    };
                    unwrap(websocket::server(client).await, server).await;
                };
                stopping.run_until_cancelled(carry).await;
            });
            Ok(accepted.response)
        }
        Some(_) => pass_through(front, agent, uri, request, &info.name).await,
        None => Err(Status::bad_request("Upgrade request required")),
    }
}

fn wants_tunnel(headers: &HeaderMap) -> bool {
    let protocols = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    protocols.flat_map(|value| value.split(',')).any(|protocol| protocol.trim() == websocket::TUNNEL_PROTOCOL)
}

/// Bytes both ways until either end is done.
async fn unwrap(socket: Socket, agent: TokioIo<hyper::upgrade::Upgraded>) {
    let (mut to_client, from_client) = socket.split();
    let (from_agent, to_agent) = tokio::io::split(agent);
    tokio::select! {
        () = downward(from_agent, &mut to_client) => {}
        () = upward(from_client, to_agent) => {}
    }
    websocket::close(&mut to_client).await;
}

async fn downward(mut from: impl AsyncRead + Unpin, to_client: &mut SplitSink<Socket, Message>) {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(READ_BYTES);
        match from.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if websocket::send(to_client, Message::Binary(buffer.split().freeze())).await.is_err() {
            return;
        }
    }
}

async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

async fn upward(mut from_client: SplitStream<Socket>, mut to: impl AsyncWrite + Unpin) {
    while let Some(Ok(message)) = from_client.next().await {
        match message {
            Message::Binary(bytes) if write(&mut to, &bytes).await.is_err() => return,
            Message::Close(_) => return,
            _ => {}
        }
    }
}
