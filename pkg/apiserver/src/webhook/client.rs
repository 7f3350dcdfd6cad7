//! HTTPS to a webhook, by URL or by Service: a pool of connections a webhook, verified against its CA bundle.
use super::trust::Trust;
use crate::connect::Stream as Connected;
use crate::endpoints::{self, Address, Reach};
use base64::Engine;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// What is read of an answer; an object and its patch fit.
const ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// What an error shows of a body that is no answer.
const SHOWN_BYTES: usize = 1024;
/// How long a connection waits for its next request.
const IDLE: Duration = Duration::from_secs(30);
const IDLE_CONNECTIONS: usize = 4;

/// Where a webhook listens.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    Url(String),
    Service { namespace: String, name: String, port: u16, path: String },
}

impl Place {
    /// Reads a `WebhookClientConfig`.
    ///
    /// # Errors
    /// Neither a URL nor a service.
    pub fn parse(config: &Value) -> Result<Self, String> {
        if let Some(url) = config["url"].as_str() {
            return Ok(Self::Url(url.to_owned()));
        }
        let service = config["service"].as_object().ok_or("webhook configuration must have either service or URL")?;
        let text = |field: &str| service.get(field).and_then(Value::as_str).unwrap_or_default();
        let port = service.get("port").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
        let path = text("path").trim_start_matches('/');
        Ok(Self::Service {
            namespace: text("namespace").to_owned(),
            name: text("name").to_owned(),
            port: port.unwrap_or(443),
            path: format!("/{path}"),
        })
    }

    /// What errors call it, and requests are sent to.
    pub fn url(&self) -> String {
        match self {
            Self::Url(url) => url.clone(),
            Self::Service { namespace, name, port, path } => format!("https://{name}.{namespace}.svc:{port}{path}"),
        }
    }
}

/// Why a call gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("Post \"{url}\": context deadline exceeded")]
    Timeout { url: String },
    #[error("Post \"{url}\": {why}")]
    Failed { url: String, why: String },
    #[error("{0}")]
    Refused(String),
}

/// One webhook's client.
pub struct Client {
    pub place: Place,
    http: legacy::Client<Dial, Full<Bytes>>,
    reach: Arc<OnceLock<Reach>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Client {
    /// `ca_bundle` is PEM in base64; empty: what the system trusts.
    ///
    /// # Errors
    /// A bundle that holds no certificates.
    pub fn new(place: Place, ca_bundle: &str) -> Result<Self, String> {
        let reach = Arc::new(OnceLock::new());
        let tls = TlsConnector::from(Arc::new(tls(ca_bundle)?));
        let dial = Dial { place: place.clone(), tls, reach: reach.clone() };
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build(dial);
        Ok(Self { place, http, reach })
    }

    /// Posts `body` and returns the JSON that comes back. `reach` says where services are, and how one gets there.
    ///
    /// # Errors
    /// No answer within `timeout`, or one that is no success or no JSON.
    pub async fn post(&self, reach: &Reach, body: Bytes, timeout: Duration) -> Result<Value, Error> {
        self.reach.get_or_init(|| reach.clone());
        let base = self.place.url();
        let mark = if base.contains('?') { '&' } else { '?' };
        let url = format!("{base}{mark}timeout={}s", timeout.as_secs());
        let answer = tokio::time::timeout(timeout, self.exchange(&url, body)).await;
        answer.unwrap_or(Err(Error::Timeout { url }))
    }

    async fn exchange(&self, url: &str, body: Bytes) -> Result<Value, Error> {
        let fail = |why: String| Error::Failed { url: url.to_owned(), why };
        let request = Request::post(url)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, */*")
            .header(header::USER_AGENT, "kube-apiserver-admission")
            .body(Full::new(body))
            .map_err(|error| fail(error.to_string()))?;
        let response = self.http.request(request).await.map_err(|error| fail(cause(&error)))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES).collect().await;
        read(status, &body.map_err(|error| fail(error.to_string()))?.to_bytes())
    }
}

/// The JSON of an answer, or in client-go's words what the webhook said instead.
fn read(status: StatusCode, body: &[u8]) -> Result<Value, Error> {
    if status == StatusCode::NOT_FOUND {
        return Err(Error::Refused("the server could not find the requested resource".into()));
    }
    if !status.is_success() {
        let shown = String::from_utf8_lossy(&body[..body.len().min(SHOWN_BYTES)]);
        let why = format!("an error on the server ({:?}) has prevented the request from succeeding", shown.trim());
        return Err(Error::Refused(why));
    }
    serde_json::from_slice(body)
        .map_err(|error| Error::Refused(format!("couldn't get version/kind; json parse error: {error}")))
}

/// The innermost reason, which names what happened; the layers around it only say that something did.
fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    // An IO error hides what it was made of from `source`.
    let inside = innermost.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    let of_tls = inside.and_then(|inside| inside.downcast_ref::<rustls::Error>());
    match of_tls.or(innermost.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)) => {
            "tls: failed to verify certificate: x509: certificate signed by unknown authority".into()
        }
        Some(other) => format!("tls: {other}"),
        None => innermost.to_string(),
    }
}

fn tls(ca_bundle: &str) -> Result<ClientConfig, String> {
    let (mut roots, mut bundle) = (RootCertStore::empty(), Vec::new());
    if ca_bundle.is_empty() {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    } else {
        let pem = base64::engine::general_purpose::STANDARD.decode(ca_bundle).map_err(|e| format!("caBundle: {e}"))?;
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|error| format!("caBundle: {error}"))?;
            roots.add(certificate.clone()).map_err(|error| format!("caBundle: {error}"))?;
            bundle.push(certificate);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    // Where nothing is trusted at all, the handshake says so.
    let config = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let config = config.map_err(|error| error.to_string())?;
    let mut config = if bundle.is_empty() {
        config.with_root_certificates(roots).with_no_client_auth()
    } else {
        let trust = Trust::new(roots, bundle, &provider).map_err(|error| format!("caBundle: {error}"))?;
        config.dangerous().with_custom_certificate_verifier(Arc::new(trust)).with_no_client_auth()
    };
    // A pool of HTTP/1.1 connections notices a peer that went away; one shared HTTP/2 connection would not.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Opens connections; the name in the URI is what the certificate must be for.
#[derive(Clone)]
struct Dial {
    place: Place,
    tls: TlsConnector,
    reach: Arc<OnceLock<Reach>>,
}

impl Dial {
    async fn connect(self, uri: Uri) -> io::Result<Stream> {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let address = match (&self.place, self.reach.get()) {
            (Place::Service { namespace, name, port, .. }, Some(reach)) => {
                endpoints::service(&*reach.backend, namespace, name, *port).await.map_err(io::Error::other)?
            }
            _ => Address::Name(host.clone(), uri.port_u16().unwrap_or(443)),
        };
        let stream = match address {
            Address::Endpoint(to) => {
                endpoints::dial(self.reach.get().and_then(|reach| reach.tunnels.as_ref()), &to).await?
            }
            Address::Name(name, port) => {
                let stream = TcpStream::connect((name.as_str(), port)).await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
        };
        let name = ServerName::try_from(host).map_err(io::Error::other)?;
        Ok(Stream(TokioIo::new(self.tls.connect(name, stream).await?)))
    }
}

impl tower::Service<Uri> for Dial {
    type Response = Stream;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Stream>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

/// A connection as the pool wants it.
struct Stream(TokioIo<TlsStream<Box<dyn Connected>>>);

impl connect::Connection for Stream {
    fn connected(&self) -> connect::Connected {
        connect::Connected::new()
    }
}

impl hyper::rt::Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl hyper::rt::Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn places_are_named_as_upstream_does() {
        let service = json!({"service": {"namespace": "n", "name": "s", "port": 8443, "path": "/x"}});
        assert_eq!(Place::parse(&service).unwrap().url(), "https://s.n.svc:8443/x");
        assert_eq!(Place::parse(&json!({"url": "https://a/b"})).unwrap().url(), "https://a/b");
        assert!(Place::parse(&json!({})).is_err());
    }

    #[test]
    fn what_is_no_answer_is_said() {
        assert!(read(StatusCode::OK, b"{}").is_ok());
        assert!(read(StatusCode::OK, b"<html>").is_err());
        let text = read(StatusCode::INTERNAL_SERVER_ERROR, b"oops\n").unwrap_err().to_string();
        assert_eq!(text, "an error on the server (\"oops\") has prevented the request from succeeding");
    }
}
