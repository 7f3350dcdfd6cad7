//! Streams and requests to other servers, over TLS that trusts the cluster's root alone.
use crate::http_proxy;
use anyhow::Context;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::sync::Arc;
use std::time::Duration;

/// Connecting and shaking hands take no longer, or the other side is not there.
const CONNECT: Duration = Duration::from_secs(10);
/// A first answer takes no longer; else the next try begins.
const REACH: Duration = Duration::from_secs(3);
/// What was sent and is not acknowledged by the other side's system for so long went into a cut: dialling anew is faster than
/// waiting for the next of ever rarer repetitions, once the cut is over.
const UNANSWERED: Duration = Duration::from_secs(4);
/// An answer of another server is no larger.
const ANSWER_BYTES: usize = 1 << 20;
/// What streams between servers are called when a connection is upgraded.
pub const PROTOCOL: &str = "eyot-sync";

/// A connection for one request.
async fn connect(address: &str, tls: Arc<ClientConfig>) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_owned()).with_context(|| format!("{host:?} is no host"))?;
    let connecting = async {
        let reaching = tokio::time::timeout(REACH, http_proxy::connect(address)).await;
        let stream = reaching.with_context(|| format!("no connection within {} s", REACH.as_secs()))??;
        stream.set_nodelay(true)?;
        rustix::net::sockopt::set_tcp_user_timeout(&stream, UNANSWERED.as_millis() as u32)?;
        Ok::<_, anyhow::Error>(tokio_rustls::TlsConnector::from(tls).connect(name, stream).await?)
    };
    let stream = tokio::time::timeout(CONNECT, connecting).await;
    let stream = stream.with_context(|| format!("no answer within {} s", CONNECT.as_secs()))??;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with its request or its upgraded stream.
    tokio::spawn(connection.with_upgrades());
    Ok(sender)
}

fn request(method: &str, address: &str, path: &str) -> hyper::http::request::Builder {
    Request::builder().method(method).uri(path).header("host", address).header("user-agent", "eyot")
}

async fn body<B>(response: Response<B>) -> anyhow::Result<(StatusCode, String)>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let status = response.status();
    let whole = Limited::new(response.into_body(), ANSWER_BYTES).collect().await;
    let whole = whole.map_err(|error| anyhow::anyhow!("reading the answer: {error}"))?;
    Ok((status, String::from_utf8_lossy(&whole.to_bytes()).into_owned()))
}

/// One request and its answer; `token` goes as a bearer token.
///
/// # Errors
/// No connection, or no answer.
pub async fn ask(
    address: &str,
    tls: Arc<ClientConfig>,
    (method, path): (&str, &str),
    token: Option<&str>,
    content: String,
) -> anyhow::Result<(StatusCode, String)> {
    let mut request = request(method, address, path).header("content-type", "application/json");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    body(send(address, tls, request.body(content.into())?).await?).await
}

/// One request, whose answer's body is yet to come.
///
/// # Errors
/// No connection, or no answer.
pub async fn send(
    address: &str,
    tls: Arc<ClientConfig>,
    request: Request<Bytes>,
) -> anyhow::Result<Response<hyper::body::Incoming>> {
    let mut sender = connect(address, tls).await?;
    let mut request = request.map(Full::new);
    request.headers_mut().insert("host", address.parse()?);
    Ok(sender.send_request(request).await?)
}

/// A stream to another server, by way of an upgraded request.
///
/// # Errors
/// No connection, or the server refuses.
pub async fn upgrade(
    address: &str,
    tls: Arc<ClientConfig>,
    path: &str,
) -> anyhow::Result<TokioIo<hyper::upgrade::Upgraded>> {
    let mut sender = connect(address, tls).await?;
    let request = request("GET", address, path).header("connection", "Upgrade").header("upgrade", PROTOCOL);
    let response = sender.send_request(request.body(Full::default())?).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (status, text) = body(response).await?;
        anyhow::bail!("it answered {status}: {}", text.trim());
    }
    Ok(TokioIo::new(hyper::upgrade::on(response).await?))
}
