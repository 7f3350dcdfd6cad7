//! The kubelet's API on port 10250: what the API server, and who may act like it, asks of a node.
//!
//! `auth` says who asks and whether they may, `routes` what is asked, `logs`, `stream` and the crate's `stats` answer.
mod auth;
mod body;
mod logs;
mod routes;
mod stream;

use crate::context::Context;
use crate::options::Stream;
use auth::Auth;
use client::Reflector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use k8s_openapi::api::core::v1::Pod;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// A client that takes longer to shake hands is let go.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections at once.
const CONNECTIONS: usize = 1024;
/// Before the next connection is taken when one could not be.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// What requests are answered from.
pub struct Server {
    pub context: Arc<Context>,
    pub pods: Reflector<Pod>,
    pub auth: Auth,
}

/// Serves until shutdown.
pub async fn run(context: Arc<Context>, pods: Reflector<Pod>, listener: TcpListener, shutdown: CancellationToken) {
    let acceptor = TlsAcceptor::from(context.options.serving_tls.clone());
    let auth = Auth::new(context.options.client.clone(), context.options.node_name.clone());
    let tracker = context.tracker.clone();
    let server = Arc::new(Server { context, pods, auth });
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "no connection taken");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let (server, acceptor, shutdown) = (server.clone(), acceptor.clone(), shutdown.clone());
        tracker.spawn(async move {
            shutdown.run_until_cancelled(serve(server, acceptor, stream)).await;
            drop(permit);
        });
    }
}

async fn serve(server: Arc<Server>, acceptor: TlsAcceptor, stream: TcpStream) {
    // Small frames of terminals must not wait for each other.
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => return,
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).map(|c| c.as_ref().to_vec());
    let stream: Box<dyn Stream> = match &server.context.options.guard {
        Some(guard) => guard(stream),
        None => Box::new(stream),
    };
    let caller = certificate.as_deref().and_then(auth::of_certificate);
    let service = hyper::service::service_fn(move |request| {
        let (server, caller) = (server.clone(), caller.clone());
        async move { Ok::<_, std::convert::Infallible>(routes::answer(server, caller, request).await) }
    });
    let served = auto::Builder::new(TokioExecutor::new());
    if let Err(error) = served.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
        tracing::debug!(error, "a connection ended badly");
    }
}
