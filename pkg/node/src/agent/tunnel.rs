//! Links that this node opens to servers, by which they reach it: it may stand where nobody can dial it.
//!
//! A link is an upgraded request on the API's port. On it the server speaks HTTP/2 as the client, this node answers:
//! each `CONNECT` is a connection to this node's own port, with TLS inside from the server that asked to here, or to one of
//! its pods ([`Doors`]).
use super::connect::{self, Settings};
use super::doors::Doors;
use super::servers::Servers;
use crate::nodes::message::TUNNEL;
use crate::nodes::tunnels::PROTOCOL;
use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// Servers that have a link of this node: the nearest. Others reach it by way of these.
const LINKS: usize = 8;
/// Connections at once over one link.
const STREAMS: u32 = 256;
/// Before a lost link is dialled again: at first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
/// Silence after which the server is asked whether it is there, and how long it has to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Which servers are near is looked at this often.
const LOOK: Duration = Duration::from_secs(60);
/// Who is asked for on this node is there within this time.
const REACH: Duration = Duration::from_secs(3);
/// The server has this long to agree.
const AGREE: Duration = Duration::from_secs(10);

pub struct Service {
    pub servers: Arc<Servers>,
    pub tls: Settings,
    pub doors: Arc<Doors>,
}

impl Service {
    /// Keeps links to the nearest servers until shutdown.
    pub async fn run(self, tracker: TaskTracker, shutdown: CancellationToken) {
        let mut links: BTreeMap<String, DropGuard> = BTreeMap::new();
        loop {
            let wanted = wanted(&self.servers);
            links.retain(|address, _| wanted.contains(address));
            for address in wanted {
                let guard = |token: CancellationToken| {
                    let link = Link { address: address.clone(), tls: self.tls.clone(), doors: self.doors.clone() };
                    let (stop, tracker) = (token.clone(), tracker.clone());
                    let streams = tracker.clone();
                    tracker.spawn(async move { stop.run_until_cancelled(link.keep(streams)).await });
                    token.drop_guard()
                };
                links.entry(address.clone()).or_insert_with(|| guard(shutdown.child_token()));
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.servers.changed() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }
}

/// The servers to link with: the nearest, and the given address where none of them is known to be behind it.
fn wanted(servers: &Servers) -> Vec<String> {
    let (named, given): (Vec<_>, Vec<_>) = servers.all().into_iter().partition(|server| server.name.is_some());
    named.into_iter().take(LINKS - 1).chain(given).map(|server| server.address).collect()
}

struct Link {
    address: String,
    tls: Settings,
    doors: Arc<Doors>,
}

impl Link {
    async fn keep(self, tracker: TaskTracker) {
        let mut pause = RETRY.0;
        loop {
            match self.once(&tracker).await {
                Ok(()) => pause = RETRY.0,
                Err(error) => {
                    tracing::debug!(server = self.address, error = format!("{error:#}"), "no link to a server");
                    pause = (pause * 2).min(RETRY.1);
                }
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Returns when a link that stood has ended.
    async fn once(&self, tracker: &TaskTracker) -> anyhow::Result<()> {
        let stream = self.dial().await?;
        tracing::info!(server = self.address, "linked: the server reaches this node over the link");
        let (doors, tracker) = (self.doors.clone(), tracker.clone());
        let service = hyper::service::service_fn(move |request| {
            let answer = answer(request, doors.clone(), tracker.clone());
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).max_concurrent_streams(STREAMS);
        builder.keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE);
        if let Err(error) = builder.serve_connection(stream, service).await {
            tracing::debug!(server = self.address, %error, "a link ended");
        }
        Ok(())
    }

    async fn dial(&self) -> anyhow::Result<hyper::upgrade::Upgraded> {
        let (stream, _) = connect::open(&self.address, self.tls.load_full(), b"http/1.1").await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends with its request or the upgraded stream.
        tokio::spawn(connection.with_upgrades());
        let request = Request::get(TUNNEL)
            .header("host", &self.address)
            .header("user-agent", "eyot")
            .header("connection", "Upgrade")
            .header("upgrade", PROTOCOL)
            .body(Empty::<Bytes>::new())?;
        let response = tokio::time::timeout(AGREE, sender.send_request(request)).await.context("no answer")??;
        let status = response.status();
        ensure!(status == StatusCode::SWITCHING_PROTOCOLS, "it answered {status}");
        Ok(hyper::upgrade::on(response).await?)
    }
}

/// Joins a server's stream with what the node lets it reach.
async fn answer(request: Request<Incoming>, doors: Arc<Doors>, tracker: TaskTracker) -> Response<Empty<Bytes>> {
    let refuse = |status| {
        let mut response = Response::new(Empty::new());
        *response.status_mut() = status;
        response
    };
    let wanted = request.uri().authority().and_then(|authority| authority.as_str().parse::<SocketAddr>().ok());
    let place = wanted.filter(|_| request.method() == Method::CONNECT).and_then(|wanted| doors.find(wanted));
    let Some(place) = place else { return refuse(StatusCode::FORBIDDEN) };
    let Ok(Ok(mut local)) = tokio::time::timeout(REACH, TcpStream::connect(place)).await else {
        return refuse(StatusCode::BAD_GATEWAY);
    };
    let _ = local.set_nodelay(true);
    tracker.spawn(async move {
        let Ok(stream) = hyper::upgrade::on(request).await else { return };
        let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(stream), &mut local).await;
    });
    Response::new(Empty::new())
}
