//! The API over whichever server is there: HTTP/2 connections that many requests share, to the best server of the book,
//! and to the next one when that is gone. What was under way then fails, and is asked again by whoever asked: watches are
//! answered 410 by another server and list again.
use super::servers::Servers;
use crate::http_proxy;
use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body::Body as HttpBody;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use kube::client::Body;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Until TCP stands; then as long again until TLS does.
const CONNECT: Duration = Duration::from_secs(3);
/// Silence after which a server is asked whether it is there, and how long it has to answer: a server that vanished
/// without a word is left after twice this.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Requests at once on one connection; servers allow a few more.
const REQUESTS: usize = 200;
/// Connections at once, so that a node holds no more than so many times [`REQUESTS`] watches.
const CONNECTIONS: usize = 16;
/// How long lists and watches wait for a server where none answers, instead of being told so: those who ask would only
/// ask again, later and later.
const WAIT: Duration = Duration::from_secs(20);
/// They look this often.
const GLANCE: Duration = Duration::from_millis(250);

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no server answers: {0}")]
    NoServer(String),
    #[error("there are more than {} requests under way", CONNECTIONS * REQUESTS)]
    TooMany,
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

/// The settings of TLS, which a renewal replaces.
pub type Settings = Arc<ArcSwap<ClientConfig>>;

/// A service for `kube::Client`, cheap to clone.
#[derive(Clone)]
pub struct Api {
    shared: Arc<Shared>,
}

struct Shared {
    servers: Arc<Servers>,
    tls: Settings,
    /// What we call ourselves: it names the fields that we own.
    program: HeaderValue,
    connections: Mutex<Vec<Connection>>,
    /// Why no server answered when they were tried last.
    why: parking_lot::Mutex<String>,
    tracker: TaskTracker,
    shutdown: CancellationToken,
}

struct Connection {
    address: String,
    sender: SendRequest<Body>,
    /// Held once by this, and once by each request under way.
    load: Arc<()>,
}

impl Api {
    pub fn new(
        servers: Arc<Servers>,
        tls: Settings,
        program: &'static str,
        tracker: TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        let program = HeaderValue::from_static(program);
        let (connections, why) = (Mutex::default(), parking_lot::Mutex::default());
        Self { shared: Arc::new(Shared { servers, tls, program, connections, why, tracker, shutdown }) }
    }

    /// A client over it.
    pub fn client(&self) -> kube::Client {
        kube::Client::new(self.clone(), "default")
    }

    /// The server that requests go to now.
    pub async fn present(&self) -> Option<String> {
        let connections = self.shared.connections.lock().await;
        connections.iter().rfind(|connection| !connection.sender.is_closed()).map(|found| found.address.clone())
    }

    /// New requests go over new connections; those under way end as they are.
    pub async fn reconnect(&self) {
        self.shared.connections.lock().await.clear();
    }
}

impl tower::Service<Request<Body>> for Api {
    type Response = Response<Held>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let shared = self.shared.clone();
        Box::pin(async move { shared.send(request).await })
    }
}

impl Shared {
    async fn send(&self, mut request: Request<Body>) -> Result<Response<Held>, Error> {
        let (mut sender, load) = self.ready(may_wait(&request)).await?;
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        if let Ok(uri) = Uri::builder().scheme("https").authority("kubernetes").path_and_query(path).build() {
            *request.uri_mut() = uri;
        }
        request.headers_mut().entry(header::USER_AGENT).or_insert_with(|| self.program.clone());
        let answer = sender.send_request(request).await?;
        Ok(answer.map(|body| Held { body, _load: load }))
    }

    async fn ready(&self, wait: bool) -> Result<(SendRequest<Body>, Arc<()>), Error> {
        let begun = Instant::now();
        loop {
            match self.connection().await {
                Err(Error::NoServer(_)) if wait && begun.elapsed() < WAIT => tokio::time::sleep(GLANCE).await,
                other => return other,
            }
        }
    }

    /// A connection with room for a request.
    async fn connection(&self) -> Result<(SendRequest<Body>, Arc<()>), Error> {
        let mut connections = self.connections.lock().await;
        connections.retain(|connection| !connection.sender.is_closed());
        let with_room = connections.iter().find(|connection| Arc::strong_count(&connection.load) <= REQUESTS);
        if let Some(connection) = with_room {
            return Ok((connection.sender.clone(), connection.load.clone()));
        }
        if connections.len() >= CONNECTIONS {
            return Err(Error::TooMany);
        }
        let connection = self.connect().await?;
        let given = (connection.sender.clone(), connection.load.clone());
        connections.push(connection);
        Ok(given)
    }

    /// Connects to the best server that answers.
    async fn connect(&self) -> Result<Connection, Error> {
        let mut why = Vec::new();
        for address in self.servers.order() {
            match self.connect_to(&address).await {
                Ok(connection) => return Ok(connection),
                Err(error) => {
                    self.servers.failed(&address);
                    tracing::debug!(address, error = format!("{error:#}"), "a server does not answer");
                    why.push(format!("{address}: {error:#}"));
                }
            }
        }
        // All of them may be left alone for a moment, since they failed just now.
        let mut last = self.why.lock();
        if !why.is_empty() {
            *last = why.join("; ");
        }
        Err(Error::NoServer(last.clone()))
    }

    async fn connect_to(&self, address: &str) -> anyhow::Result<Connection> {
        let (stream, took) = open(address, self.tls.load_full(), b"h2").await?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).adaptive_window(true);
        builder.keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE).keep_alive_while_idle(true);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        self.servers.answered(address, took);
        self.servers.keep_to(address);
        let (shutdown, name) = (self.shutdown.clone(), address.to_owned());
        self.tracker.spawn(async move {
            if let Some(Err(error)) = shutdown.run_until_cancelled(connection).await {
                tracing::debug!(address = name, %error, "the connection to a server ended");
            }
        });
        Ok(Connection { address: address.to_owned(), sender, load: Arc::default() })
    }
}

/// Lists and watches of reflectors, which nobody waits for.
fn may_wait(request: &Request<Body>) -> bool {
    let query = request.uri().query().unwrap_or_default();
    request.method() == http::Method::GET
        && query.split('&').any(|pair| pair.starts_with("watch=") || pair.starts_with("limit="))
}

/// A TLS connection to a server, and how long TCP took: what the way there costs.
///
/// # Errors
/// It is not there, or is none of the cluster's servers.
pub async fn open(
    address: &str,
    tls: Arc<ClientConfig>,
    protocol: &[u8],
) -> anyhow::Result<(tokio_rustls::client::TlsStream<TcpStream>, Duration)> {
    use anyhow::Context;
    let late = || format!("no answer within {} s", CONNECT.as_secs());
    let begun = Instant::now();
    let stream = tokio::time::timeout(CONNECT, http_proxy::connect(address)).await.with_context(late)??;
    let took = begun.elapsed();
    stream.set_nodelay(true)?;
    let mut tls = (*tls).clone();
    tls.alpn_protocols = vec![protocol.to_vec()];
    // The verifier knows which name it wants.
    let name = ServerName::try_from(crate::tls::API_SERVER)?;
    let connecting = tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, stream);
    Ok((tokio::time::timeout(CONNECT, connecting).await.with_context(late)??, took))
}

/// How long connecting takes.
///
/// # Errors
/// It is not there.
pub async fn distance(address: &str) -> std::io::Result<Duration> {
    let begun = Instant::now();
    tokio::time::timeout(CONNECT, http_proxy::connect(address)).await??;
    Ok(begun.elapsed())
}

/// An answer's body, which counts as a request under way until it ends.
pub struct Held {
    body: Incoming,
    _load: Arc<()>,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_watches_wait_and_nothing_else_does() {
        let wait = |method: &str, uri: &str| {
            may_wait(&Request::builder().method(method).uri(uri).body(Body::empty()).unwrap())
        };
        assert!(
            wait("GET", "/api/v1/pods?watch=true&allowWatchBookmarks=true") && wait("GET", "/api/v1/pods?&limit=500")
        );
        assert!(!wait("GET", "/api/v1/namespaces/a/secrets/b") && !wait("PATCH", "/api/v1/nodes/n?limit=1"));
    }
}
