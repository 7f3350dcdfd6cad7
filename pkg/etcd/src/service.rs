//! The listener and its life: accept, TLS, HTTP/2, the way to each service, and an orderly end.
use crate::context::Context;
use crate::options::Options;
use crate::pb::{
    auth_server::AuthServer, cluster_server::ClusterServer, kv_server::KvServer, lease_server::LeaseServer,
    maintenance_server::MaintenanceServer, watch_server::WatchServer,
};
use crate::proto::health::health_server::HealthServer;
use crate::ride::Riding;
use crate::{auth, cluster, health, kv, lease, maintenance, watch};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::body::Body;
use tower::Service as _;

/// Open connections; past it new ones wait in the kernel's queue.
const CONNECTIONS: usize = 10_000;
/// Requests and streams at once on one connection: clients put all their watches and calls on one.
const STREAMS_A_CONNECTION: u32 = 16_384;
/// From accepting a connection to the end of its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// From a connection's first byte to the end of an HTTP/1 request's headers.
const HEADERS: Duration = Duration::from_secs(10);
/// What a client may send before it is told to go on, on one stream and on all of a connection. Fixed: with windows as small
/// as they begin, each twentieth small request would cost a frame that says so.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 2 << 20;
/// Silence after which a client is asked whether it is there, and how long it has to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// How long calls under way may take to end at shutdown.
const DRAIN: Duration = Duration::from_secs(5);
/// The pause after an accept that failed (most likely no file descriptors were left).
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// What a message may have beyond a request's own limit, as in etcd.
const OVERHEAD_BYTES: usize = 512 << 10;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the etcd endpoint's listener: {0}")]
    Listener(#[from] std::io::Error),
    /// Plain text off the machine would show every Secret to the network.
    #[error("{0} is not a loopback address: etcd's API is served there over https:// alone")]
    PlainText(std::net::SocketAddr),
}

/// The endpoint, ready to run.
pub struct Service {
    listener: tokio::net::TcpListener,
    acceptor: Option<TlsAcceptor>,
    context: Context,
}

impl Service {
    /// Needs a running tokio runtime.
    ///
    /// # Errors
    /// A listener that can't be used, or one that would speak plain text to other machines.
    pub fn new(options: Options) -> Result<Self, Error> {
        options.listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(options.listener)?;
        let address = listener.local_addr()?;
        if options.tls.is_none() && !address.ip().is_loopback() {
            return Err(Error::PlainText(address));
        }
        let acceptor = options.tls.map(|tls| {
            let mut tls = (*tls).clone();
            tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            TlsAcceptor::from(Arc::new(tls))
        });
        let context = Context {
            backend: options.backend,
            identity: Arc::new(options.identity),
            limits: options.limits,
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        };
        Ok(Self { listener, acceptor, context })
    }

    /// Serves until `shutdown`, then ends streams, lets calls finish for a few seconds, and closes.
    pub async fn run(self, shutdown: CancellationToken) {
        let (tasks, stopping) = (self.context.tasks.clone(), self.context.stopping.clone());
        let connections = Connections {
            acceptor: self.acceptor,
            routes: Routes::new(&self.context),
            tasks: tasks.clone(),
            stopping: stopping.clone(),
        };
        shutdown.run_until_cancelled(connections.accept(&self.listener)).await;
        drop(self.listener);
        stopping.cancel();
        tasks.close();
        // A little longer than each connection takes at most.
        if tokio::time::timeout(DRAIN + HANDSHAKE, tasks.wait()).await.is_err() {
            tracing::warn!(left = tasks.len(), "calls of etcd's API did not end in time; closing their connections");
        }
    }
}

/// What each connection gets a share of.
#[derive(Clone)]
struct Connections {
    acceptor: Option<TlsAcceptor>,
    routes: Routes,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

impl Connections {
    async fn accept(&self, listener: &tokio::net::TcpListener) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let connection = self.clone();
                    self.tasks.spawn(async move {
                        if let Err(error) = connection.open(stream).await {
                            tracing::debug!(%peer, %error, "connection to etcd's API ended");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection to etcd's API");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    async fn open(self, stream: TcpStream) -> Result<(), BoxError> {
        stream.set_nodelay(true)?;
        match self.acceptor.clone() {
            Some(acceptor) => {
                let stream = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await??;
                self.serve(stream).await
            }
            None => self.serve(stream).await,
        }
    }

    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<(), BoxError> {
        let routes = self.routes;
        let service = service_fn(move |request| routes.clone().route(request));
        let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_A_CONNECTION)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        let connection = builder.serve_connection(TokioIo::new(Riding::new(stream)), service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stopping.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::time::timeout(DRAIN, connection).await?
            }
        }
    }
}

/// All services; cheap to clone.
#[derive(Clone)]
struct Routes {
    kv: KvServer<kv::Kv>,
    watch: WatchServer<watch::Watch>,
    lease: LeaseServer<lease::Lease>,
    cluster: ClusterServer<cluster::Cluster>,
    maintenance: MaintenanceServer<maintenance::Maintenance>,
    auth: AuthServer<auth::Auth>,
    health: HealthServer<health::Health>,
}

impl Routes {
    fn new(context: &Context) -> Self {
        let limit_bytes = context.limits.request_bytes + OVERHEAD_BYTES;
        let health = health::Health { stopping: context.stopping.clone() };
        Self {
            kv: KvServer::new(kv::Kv(context.clone())).max_decoding_message_size(limit_bytes),
            watch: WatchServer::new(watch::Watch(context.clone())),
            lease: LeaseServer::new(lease::Lease(context.clone())),
            cluster: ClusterServer::new(cluster::Cluster(context.clone())),
            maintenance: MaintenanceServer::new(maintenance::Maintenance(context.clone())),
            auth: AuthServer::new(auth::Auth(context.clone())),
            health: HealthServer::new(health),
        }
    }

    async fn route(mut self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let path = request.uri().path().to_owned();
        let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((&path, ""));
        match service {
            "etcdserverpb.KV" => self.kv.call(request).await,
            "etcdserverpb.Watch" => self.watch.call(request).await,
            "etcdserverpb.Lease" => self.lease.call(request).await,
            "etcdserverpb.Cluster" => self.cluster.call(request).await,
            "etcdserverpb.Maintenance" => self.maintenance.call(request).await,
            "etcdserverpb.Auth" if method == "AuthStatus" => self.auth.call(request).await,
            "etcdserverpb.Auth" => Ok(Status::unimplemented(auth::REFUSAL).into_http()),
            "grpc.health.v1.Health" => self.health.call(request).await,
            "/health" => Ok(json(r#"{"health":"true","reason":""}"#.into())),
            "/version" => Ok(json(maintenance::version_json())),
            _ => Ok(Status::unimplemented(format!("unknown service {service}")).into_http()),
        }
    }
}

/// What etcd's client port also answers over plain HTTP.
fn json(text: String) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(bytes::Bytes::from(text))));
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}
