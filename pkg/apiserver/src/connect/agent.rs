//! Requests to agents on their HTTPS port, one connection each: they are few and long.
use crate::body::Body;
use crate::endpoints::{Endpoint, dial};
use api::Status;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_util::task::TaskTracker;

/// Until TCP and TLS stand.
const DIAL: Duration = Duration::from_secs(10);
/// What is read of an error's text.
const ERROR_BYTES: usize = 50_000;

/// A connection to a node, however it leads there.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Ways to nodes that may lead elsewhere than straight to their addresses.
#[async_trait::async_trait]
pub trait Tunnels: Send + Sync {
    /// A connection to what listens on a node: its agent, at `address` as its Node object has it, or one of its pods.
    ///
    /// # Errors
    /// There is no way.
    async fn dial(&self, node: &str, address: SocketAddr) -> io::Result<Box<dyn Stream>>;
}

/// An agent, and where its node says that it listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentAddress {
    pub node: String,
    pub address: SocketAddr,
}

/// How agents are reached.
pub struct Agents {
    connector: TlsConnector,
    tunnels: Option<Arc<dyn Tunnels>>,
    tasks: TaskTracker,
}

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("dial tcp {address}: {source}")]
    Dial { address: SocketAddr, source: std::io::Error },
    #[error("dial tcp {address}: i/o timeout")]
    Timeout { address: SocketAddr },
    #[error("{address}: {source}")]
    Http { address: SocketAddr, source: hyper::Error },
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Self::failure(500, "InternalError", error.to_string())
    }
}

impl Agents {
    /// `tls` verifies agents and shows them our client certificate. Without `tunnels` they are dialled at their address.
    pub fn new(tls: &ClientConfig, tunnels: Option<Arc<dyn Tunnels>>, tasks: TaskTracker) -> Self {
        let mut tls = tls.clone();
        // Upgrades need HTTP/1.1.
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self { connector: TlsConnector::from(Arc::new(tls)), tunnels, tasks }
    }

    /// Sends a request whose URI is path and query.
    ///
    /// # Errors
    /// No connection, or no HTTP.
    pub async fn send(&self, agent: &AgentAddress, request: Request<Body>) -> Result<Response<Incoming>, Error> {
        let address = agent.address;
        let to = Endpoint { node: Some(agent.node.clone()), address };
        let dial = async {
            let stream = dial(self.tunnels.as_ref(), &to).await?;
            self.connector.connect(ServerName::IpAddress(address.ip().into()), stream).await
        };
        self.exchange(address, in_time(address, dial).await?, request).await
    }

    /// The same with other settings of TLS, expecting another name.
    ///
    /// # Errors
    /// No connection, or no HTTP.
    pub(crate) async fn send_tls(
        &self,
        to: Endpoint,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, Error> {
        let (connector, address) = (TlsConnector::from(config), to.address);
        let dial = async { connector.connect(name, dial(self.tunnels.as_ref(), &to).await?).await };
        self.exchange(address, in_time(address, dial).await?, request).await
    }

    /// The same in the clear, for pods.
    ///
    /// # Errors
    /// No connection, or no HTTP.
    pub(crate) async fn send_plain(&self, to: Endpoint, request: Request<Body>) -> Result<Response<Incoming>, Error> {
        let stream = in_time(to.address, dial(self.tunnels.as_ref(), &to)).await?;
        self.exchange(to.address, stream, request).await
    }

    async fn exchange<S>(
        &self,
        address: SocketAddr,
        stream: S,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, Error>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let http = |source| Error::Http { address, source };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
        // Ends when the response's body is read or dropped, or the upgraded stream is.
        self.tasks.spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%address, %error, "connection to an agent ended");
            }
        });
        if !request.headers().contains_key(header::HOST) {
            let host = header::HeaderValue::try_from(address.to_string()).expect("an address is a valid header");
            request.headers_mut().insert(header::HOST, host);
        }
        sender.send_request(request).await.map_err(http)
    }
}

async fn in_time<T>(address: SocketAddr, dial: impl Future<Output = io::Result<T>>) -> Result<T, Error> {
    match tokio::time::timeout(DIAL, dial).await {
        Ok(done) => done.map_err(|source| Error::Dial { address, source }),
        Err(_) => Err(Error::Timeout { address }),
    }
}

/// Headers of one hop, which are never handed on (RFC 9110, section 7.6.1).
const HOP: [header::HeaderName; 6] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Takes away what concerns one hop alone.
pub fn strip_hop_headers(headers: &mut HeaderMap) {
    for name in HOP {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
}

/// The Status of an answer that is no success, as `GenericHttpResponseChecker` makes it.
pub async fn refusal(response: Response<Incoming>, resource: &str, name: &str) -> Status {
    let code = response.status();
    let text = error_text(response).await;
    match code {
        StatusCode::INTERNAL_SERVER_ERROR => Status::internal(text),
        StatusCode::BAD_REQUEST => Status::bad_request(text),
        StatusCode::NOT_FOUND => {
            let mut status = Status::not_found("", resource, name);
            status.message = format!("the server could not find the requested resource ( {resource} {name})");
            status
        }
        code => Status::failure(
            code.as_u16(),
            code.canonical_reason().unwrap_or("Unknown"),
            format!("the server rejected our request: {text} ( {resource} {name})"),
        ),
    }
}

/// The beginning of an error's body, without the line end.
pub async fn error_text(response: Response<Incoming>) -> String {
    let mut body = response.into_body();
    let mut text = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(data) = frame.into_data() {
            text.extend_from_slice(&data);
        }
        if text.len() >= ERROR_BYTES {
            text.truncate(ERROR_BYTES);
            break;
        }
    }
    String::from_utf8_lossy(&text).trim_end().to_owned()
}

/// The body of an answer that is handed on.
pub fn hand_on(body: Incoming) -> Body {
    body.map_err(std::io::Error::other).boxed_unsync()
}
