//! What other servers knock at where no API is served: the root certificate, joining and links, on the API's port.
//!
//! Place in the flow: `another server -> TLS -> [door] -> extension`.
use super::Extension;
use crate::server::Known;
use crate::{pki, tls};
use api::Status;
use apiserver::authn;
use apiserver::body::{self, Body};
use apiserver::{EXTENSION, Extension as _, User, limits};
use http::{HeaderMap, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections at once; servers keep one link each.
const CONNECTIONS: usize = 2048;
/// The pause after an accept that failed.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The listener and what it serves.
pub struct Door {
    listener: tokio::net::TcpListener,
    acceptor: TlsAcceptor,
    knock: Arc<Knock>,
}

struct Knock {
    extension: Arc<Extension>,
    root_pem: String,
    /// SHA-256 of the join token's password.
    token: [u8; 32],
}

impl Door {
    /// Needs a running tokio runtime.
    ///
    /// # Errors
    /// The listener or the certificate can't be used.
    pub(crate) fn new(
        listener: TcpListener,
        serving: &pki::Pair,
        known: &Known,
        extension: Arc<Extension>,
    ) -> anyhow::Result<Self> {
        listener.set_nonblocking(true)?;
        let token = Sha256::digest(known.token.password.as_bytes()).into();
        Ok(Self {
            listener: tokio::net::TcpListener::from_std(listener)?,
            acceptor: TlsAcceptor::from(Arc::new(tls::server(known.trust.clone(), serving)?)),
            knock: Arc::new(Knock { extension, root_pem: known.authority.root_pem().to_owned(), token }),
        })
    }

    /// Serves until shutdown; then connections end.
    pub async fn run(self, shutdown: CancellationToken) {
        let tasks = TaskTracker::new();
        shutdown.run_until_cancelled(self.accept(&tasks, &shutdown)).await;
        tasks.close();
        tasks.wait().await;
    }

    async fn accept(&self, tasks: &TaskTracker, shutdown: &CancellationToken) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    let (acceptor, knock, shutdown) = (self.acceptor.clone(), self.knock.clone(), shutdown.clone());
                    tasks.spawn(async move {
                        if let Some(Err(error)) = shutdown.run_until_cancelled(serve(acceptor, knock, stream)).await {
                            tracing::debug!(%peer, %error, "a server's connection ended");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a server's connection");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }
}

async fn serve(acceptor: TlsAcceptor, knock: Arc<Knock>, stream: TcpStream) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(limits::HANDSHAKE, acceptor.accept(stream)).await??;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).cloned();
    let certificate = certificate.map(|certificate| Arc::new(certificate.into_owned()));
    let service = service_fn(move |request| {
        let (knock, certificate) = (knock.clone(), certificate.clone());
        async move { Ok::<_, Infallible>(knock.answer(request, certificate.as_deref()).await) }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(limits::HEADERS).max_buf_size(64 << 10);
    Ok(server.serve_connection(TokioIo::new(stream), service).with_upgrades().await?)
}

impl Knock {
    async fn answer(&self, request: Request<Incoming>, certificate: Option<&CertificateDer<'_>>) -> Response<Body> {
        let answer = match request.uri().path() {
            "/cacerts" => Ok(body::content(StatusCode::OK, "text/plain", self.root_pem.clone())),
            path if path.starts_with(EXTENSION) => match self.user(request.headers(), certificate) {
                Ok(user) => self.extension.serve(&user, request.map(body::request)).await,
                Err(status) => Err(status),
            },
            _ => Err(Status::no_such_path()),
        };
        answer.unwrap_or_else(|status| body::status(&status))
    }

    fn user(&self, headers: &HeaderMap, certificate: Option<&CertificateDer<'_>>) -> Result<User, Status> {
        if let Some(certificate) = certificate {
            return authn::certificate_user(certificate).map_err(|_| Status::unauthorized());
        }
        let Some(shown) = headers.get(header::AUTHORIZATION) else { return Ok(User::anonymous()) };
        let token = shown.to_str().ok().and_then(|text| text.strip_prefix("Bearer "));
        match token.map(|token| <[u8; 32]>::from(Sha256::digest(token.as_bytes()))) {
            Some(digest) if digest == self.token => Ok(crate::api::join_user()),
            _ => Err(Status::unauthorized()),
        }
    }
}
