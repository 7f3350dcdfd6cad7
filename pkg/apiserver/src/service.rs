//! The listener and its life: accept, TLS, HTTP, and an orderly end.
use crate::authn::jwt::{self, PublicKey, Signer};
use crate::authn::{Authenticator, ServiceAccounts};
use crate::authz;
use crate::body::{self, Body, BoxError};
use crate::connect::Agents;
use crate::discovery::Discovery;
use crate::front::{Front, Source};
use crate::guard::Guarded;
use crate::options::{Options, TokenKeys};
use crate::request::User;
use crate::{aggregation, bootstrap, limits, tls};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("service account keys: {0}")]
    Keys(#[from] jwt::Error),
    #[error(transparent)]
    Tls(#[from] tls::Error),
    #[error("the listener: {0}")]
    Listener(#[from] std::io::Error),
    #[error("reading what is stored: {0}")]
    Store(#[from] store::Error),
    #[error("objects of birth: {0}")]
    Bootstrap(#[from] bootstrap::Error),
}

/// The API front, ready to run.
pub struct Service {
    listener: tokio::net::TcpListener,
    acceptor: TlsAcceptor,
    certificates: Certificates,
    front: Arc<Front>,
    follower: authz::Follower,
    /// Ends watches and other long-running requests; cancelled before connections are drained.
    stopping: CancellationToken,
}

/// Access to the API for components of this process. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    front: Arc<Front>,
}

impl Service {
    /// Makes what must exist at birth and loads what judging requests needs. Needs a running tokio runtime.
    ///
    /// # Errors
    /// Unusable keys or certificates, or a store that can't be read.
    pub async fn new(options: Options) -> Result<Self, Error> {
        options.listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(options.listener)?;
        let wanted =
            bootstrap::Wanted::new(&options.cluster, options.tls.client_roots_pem.clone(), &options.front_proxy);
        bootstrap::run(&*options.backend, &wanted, jiff::Timestamp::now()).await?;
        let certificates = Certificates { judge: options.tls.clients.clone(), distrust: options.tls.distrust.clone() };
        let acceptor = TlsAcceptor::from(tls::server_config(options.tls)?);
        let service_accounts = service_accounts(options.service_accounts, options.backend.clone())?;
        let authorizer = options.engine.authorizer().clone();
        let follower = authz::load(&authorizer, &*options.backend).await?;
        let stopping = CancellationToken::new();
        let tasks = TaskTracker::new();
        let front = Front {
            authenticator: Authenticator::new(options.tokens, service_accounts),
            authorizer,
            engine: options.engine,
            registry: options.registry,
            backend: options.backend,
            in_flight: Default::default(),
            discovery: Discovery::new(options.cluster.advertise.to_string()),
            openapi: Default::default(),
            metrics: Default::default(),
            agents: Agents::new(&options.kubelet_client, options.tunnels, tasks.clone()),
            remotes: Default::default(),
            proxy_identity: aggregation::Identity::new(&options.front_proxy),
            cluster_id: options.cluster.id,
            root_ca_pem: options.root_ca_pem,
            extension: options.extension,
            tasks,
            shutdown: stopping.clone(),
        };
        Ok(Self { listener, acceptor, certificates, front: Arc::new(front), follower, stopping })
    }

    pub fn handle(&self) -> Handle {
        Handle { front: self.front.clone() }
    }

    /// Serves until `shutdown`, then ends watches, lets other requests finish within [`limits::DRAIN`], and closes.
    pub async fn run(self, shutdown: CancellationToken) {
        let tasks = self.front.tasks.clone();
        let stopping = self.stopping.clone();
        let front = &self.front;
        let follow =
            authz::follow(front.authorizer.clone(), front.backend.clone(), self.follower, stopping.child_token());
        tasks.spawn(follow);
        tasks.spawn(aggregation::run(front.clone(), stopping.child_token()));
        let connections = Connections {
            acceptor: self.acceptor,
            certificates: self.certificates,
            front: self.front.clone(),
            tasks: tasks.clone(),
            stopping: stopping.clone(),
        };
        shutdown.run_until_cancelled(connections.accept(&self.listener)).await;
        drop(self.listener);
        stopping.cancel();
        tasks.close();
        // A little longer than each connection takes at most.
        if tokio::time::timeout(limits::DRAIN + limits::HANDSHAKE, tasks.wait()).await.is_err() {
            tracing::warn!(left = tasks.len(), "requests did not end in time; closing their connections");
        }
    }
}

fn service_accounts(keys: TokenKeys, backend: Arc<dyn store::Backend>) -> Result<ServiceAccounts, jwt::Error> {
    let signer = Signer::from_pem(keys.signing_key_pem.as_bytes())?;
    let verifying: Result<Vec<_>, _> =
        keys.verifying_keys_pem.iter().map(|pem| PublicKey::from_pem(pem.as_bytes())).collect();
    Ok(ServiceAccounts::new(signer, verifying?, keys.issuer, keys.audiences, backend))
}

impl Handle {
    /// Further public keys (PEM) whose service account tokens hold: those of the other servers.
    ///
    /// # Errors
    /// One of them is no key; nothing is changed then.
    pub fn set_verifying_keys(&self, pems: &[String]) -> Result<(), jwt::Error> {
        let keys = pems.iter().map(|pem| PublicKey::from_pem(pem.as_bytes())).collect::<Result<_, _>>()?;
        self.front.authenticator.service_accounts().set_verifying(keys);
        Ok(())
    }

    /// The API as `user`: what a component's client calls. Authorization and admission apply as to everybody.
    pub fn service(&self, mut user: User) -> InProcess {
        if !user.in_group(crate::request::AUTHENTICATED) {
            user.groups.push(crate::request::AUTHENTICATED.into());
        }
        let program = HeaderValue::from_static(program(&user.name));
        InProcess { front: self.front.clone(), user, program }
    }
}

/// A tower service over the API with its caller bound.
#[derive(Clone)]
pub struct InProcess {
    front: Arc<Front>,
    user: User,
    program: HeaderValue,
}

/// The program that does upstream what this caller does here: it owns the fields that are written.
fn program(user: &str) -> &'static str {
    match user.strip_prefix("system:") {
        Some("kube-scheduler") => "kube-scheduler",
        Some(rest) if rest.starts_with("node:") => "kubelet",
        Some(rest) if rest.starts_with("serviceaccount:kube-system:") => "kube-controller-manager",
        _ => "eyot",
    }
}

impl<B> tower::Service<Request<B>> for InProcess
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (front, user) = (self.front.clone(), self.user.clone());
        let mut request = request.map(body::request);
        request.headers_mut().entry(header::USER_AGENT).or_insert_with(|| self.program.clone());
        Box::pin(async move { Ok(front.handle(request, Source::Process(user)).await) })
    }
}

/// What each connection gets a share of.
#[derive(Clone)]
struct Connections {
    acceptor: TlsAcceptor,
    certificates: Certificates,
    front: Arc<Front>,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

/// The pause after an accept that failed (most likely no file descriptors were left).
const ACCEPT_RETRY: std::time::Duration = std::time::Duration::from_millis(100);

impl Connections {
    async fn accept(&self, listener: &tokio::net::TcpListener) {
        let places = Arc::new(Semaphore::new(limits::CONNECTIONS));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let connection = self.clone();
                    self.tasks.spawn(async move {
                        if let Err(error) = connection.serve(stream).await {
                            tracing::debug!(%peer, %error, "connection ended");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    async fn serve(self, stream: TcpStream) -> Result<(), BoxError> {
        stream.set_nodelay(true)?;
        let accept = self.acceptor.accept(stream).into_fallible();
        let stream = match tokio::time::timeout(limits::HANDSHAKE, accept).await? {
            Ok(stream) => stream,
            Err((error, refused)) => {
                let _ = tokio::time::timeout(limits::LINGER, let_read(refused)).await;
                return Err(error.into());
            }
        };
        let chain: Vec<_> = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
        let chain: Arc<[CertificateDer<'static>]> = chain.into_iter().map(CertificateDer::into_owned).collect();
        // One that resumed an earlier session showed its certificate then.
        self.certificates.judge(&chain)?;
        let caller = Caller { front: self.front, chain: chain.clone() };
        let service = service_fn(move |request| caller.clone().call(request));
        let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(limits::HEADERS)
            .max_buf_size(limits::HEADER_BYTES);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits::STREAMS_A_CONNECTION)
            .max_header_list_size(limits::HEADER_BYTES as u32)
            .keep_alive_interval(limits::KEEP_ALIVE)
            .keep_alive_timeout(limits::KEEP_ALIVE)
            .adaptive_window(true);
        // What it becomes by an upgrade is judged on.
        let stream = Guarded::new(stream, self.certificates.clone().distrusted(chain.clone()));
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => ended,
            error = self.certificates.distrusted(chain) => Err(error.into()),
            () = self.stopping.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::time::timeout(limits::DRAIN, connection).await?
            }
        }
    }
}

/// Waits until a client that was refused has ended the connection. It may have sent its request already: closing with
/// that unread resets the connection, and the client sees a broken pipe in the place of the alert that tells why.
async fn let_read(mut refused: TcpStream) {
    let _ = refused.shutdown().await;
    let _ = tokio::io::copy(&mut refused, &mut tokio::io::sink()).await;
}

/// Judges what clients show, as long as they are connected.
#[derive(Clone)]
struct Certificates {
    judge: Arc<dyn ClientCertVerifier>,
    distrust: watch::Receiver<u64>,
}

impl Certificates {
    fn judge(&self, chain: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        let Some((leaf, between)) = chain.split_first() else { return Ok(()) };
        self.judge.verify_client_cert(leaf, between, UnixTime::now()).map(drop)
    }

    /// Waits until a chain that held does so no longer.
    async fn distrusted(mut self, chain: Arc<[CertificateDer<'static>]>) -> rustls::Error {
        while !chain.is_empty() && self.distrust.changed().await.is_ok() {
            if let Err(error) = self.judge(&chain) {
                return error;
            }
        }
        std::future::pending().await
    }
}

/// A connection's client.
#[derive(Clone)]
struct Caller {
    front: Arc<Front>,
    /// What it showed, its own certificate first.
    chain: Arc<[CertificateDer<'static>]>,
}

impl Caller {
    fn call(self, request: Request<Incoming>) -> BoxFuture<'static, Result<Response<Body>, Infallible>> {
        let request = request.map(body::request);
        Box::pin(async move {
            let source = Source::Network { certificate: self.chain.first() };
            Ok(self.front.handle(request, source).await)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_in_the_process_own_fields_under_upstreams_names() {
        assert_eq!(program("system:serviceaccount:kube-system:deployment-controller"), "kube-controller-manager");
        assert_eq!(program("system:node:rock"), "kubelet");
        assert_eq!(program("system:kube-scheduler"), "kube-scheduler");
        assert_eq!(program("eyot:net"), "eyot");
    }
}
