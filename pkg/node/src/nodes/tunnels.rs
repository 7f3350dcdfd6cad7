//! Ways to nodes: over a link that the node keeps open to this server, straight to its address, or by way of another
//! server that has one of these.
use super::message::DIAL;
use crate::dial;
use ::api::Status;
use apiserver::body::{Body, RequestBody};
use apiserver::connect::{Stream, upgrade};
use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::Empty;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use ipnet::Ipv4Net;
use parking_lot::Mutex;
use rustls::ClientConfig;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use sync::Member;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What a link is called when its connection is upgraded.
pub const PROTOCOL: &str = "eyot-tunnel";
/// Links of one node to this server: one by each address that it knows, and one that has not noticed its end yet.
const LINKS_A_NODE: usize = 4;
/// Nodes that have links.
const NODES: usize = 10_000;
/// Silence after which a node is asked whether it is there, and how long it has to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// A node has so long to open a connection over its link, before other ways are tried.
const OPEN: Duration = Duration::from_secs(5);
/// A node that does not answer straight away within this time is looked for by way of others as well.
const HEAD_START: Duration = Duration::from_millis(250);
/// Other servers asked at once.
const PEERS: usize = 8;

type Sender = SendRequest<Empty<Bytes>>;

/// What is needed to reach nodes.
pub struct Options {
    /// The node of this server and its port, which other servers may reach by way of it, and its pods.
    pub own: Option<(String, u16)>,
    /// Where addresses of pods lie.
    pub cluster_cidr: Ipv4Net,
    /// This server's name among its members.
    pub name: String,
    /// None: there are no other servers.
    pub members: Option<watch::Receiver<Vec<Member>>>,
    /// What other servers know us by.
    pub tls: Option<Arc<ClientConfig>>,
    pub tracker: TaskTracker,
    pub shutdown: CancellationToken,
}

struct Link {
    number: u64,
    sender: Sender,
}

#[derive(Default)]
struct Links {
    by_node: HashMap<String, Vec<Link>>,
    next: u64,
}

/// All links of nodes to this server.
pub struct Tunnels {
    options: Options,
    links: Arc<Mutex<Links>>,
}

impl Tunnels {
    pub fn new(options: Options) -> Self {
        Self { options, links: Arc::default() }
    }

    /// Takes a link that a node opens.
    ///
    /// # Errors
    /// The request asks for something else, or there are too many.
    pub fn accept(&self, node: &str, mut request: Request<RequestBody>) -> Result<Response<Body>, Status> {
        if upgrade::wanted(request.headers()).as_deref() != Some(PROTOCOL) {
            return Err(Status::bad_request(format!("a tunnel is asked for with Upgrade: {PROTOCOL}")));
        }
        let nodes = { self.links.lock().by_node.len() };
        if nodes >= NODES {
            return Err(Status::unavailable(format!("{NODES} nodes have links to this server already")));
        }
        let (upgraded, links, node) = (upgrade::client(&mut request), self.links.clone(), node.to_owned());
        let shutdown = self.options.shutdown.clone();
        self.options.tracker.spawn(async move {
            let work = async {
                if let Some(stream) = upgrade::ready(upgraded).await {
                    keep(&links, &node, stream.into_inner()).await;
                }
            };
            shutdown.run_until_cancelled(work).await;
        });
        Ok(upgrade::switching(PROTOCOL))
    }

    /// A stream for another server that has no way of its own: `NODE/IP:PORT` in the path. It is never handed on further.
    ///
    /// # Errors
    /// There is none from here.
    pub async fn dial_for_peer(&self, path: &str, mut request: Request<RequestBody>) -> Result<Response<Body>, Status> {
        let bad = || Status::bad_request(format!("a connection is asked for as {DIAL}NODE/IP:PORT"));
        let (node, address) = path.strip_prefix(DIAL).and_then(|rest| rest.split_once('/')).ok_or_else(bad)?;
        let address: SocketAddr = address.parse().map_err(|_| bad())?;
        if upgrade::wanted(request.headers()).as_deref() != Some(dial::PROTOCOL) {
            return Err(Status::bad_request(format!("a connection is asked for with Upgrade: {}", dial::PROTOCOL)));
        }
        let stream = match self.own(node, address) {
            Some(own) => direct(own).await,
            None => self.over_link(node, address).await.unwrap_or_else(|| Err(io::ErrorKind::NotFound.into())),
        };
        let mut stream = stream.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                Status::failure(404, "NotFound", format!("node {node} has no link to this server"))
            }
            _ => Status::unavailable(format!("node {node}: {error}")),
        })?;
        let (upgraded, shutdown) = (upgrade::client(&mut request), self.options.shutdown.clone());
        self.options.tracker.spawn(async move {
            let work = async {
                let Some(mut peer) = upgrade::ready(upgraded).await else { return };
                let _ = tokio::io::copy_bidirectional(&mut peer, &mut stream).await;
            };
            shutdown.run_until_cancelled(work).await;
        });
        Ok(upgrade::switching(dial::PROTOCOL))
    }

    /// Where this server's own node, or a pod on it, is reached; none: it is not meant.
    fn own(&self, node: &str, address: SocketAddr) -> Option<SocketAddr> {
        let (_, port) = self.options.own.as_ref().filter(|(name, _)| name == node)?;
        match address.ip() {
            IpAddr::V4(ip) if self.options.cluster_cidr.contains(&ip) => Some(address),
            _ => (*port == address.port()).then(|| (Ipv4Addr::LOCALHOST, *port).into()),
        }
    }

    /// None: the node has no link to this server.
    async fn over_link(&self, node: &str, address: SocketAddr) -> Option<io::Result<Box<dyn Stream>>> {
        let senders: Vec<Sender> = {
            let links = self.links.lock();
            links.by_node.get(node)?.iter().rev().map(|link| link.sender.clone()).collect()
        };
        let mut last = io::Error::from(io::ErrorKind::NotConnected);
        for sender in senders {
            let opened = tokio::time::timeout(OPEN, open(sender, address)).await;
            match opened.unwrap_or_else(|late| Err(late.into())) {
                Ok(stream) => return Some(Ok(stream)),
                Err(error) => last = error,
            }
        }
        Some(Err(last))
    }

    /// By way of whichever other server has one first.
    async fn over_peers(&self, node: &str, address: SocketAddr) -> io::Result<Box<dyn Stream>> {
        let none = || io::Error::other(format!("no server has a link to node {node}"));
        let (Some(members), Some(tls)) = (&self.options.members, &self.options.tls) else { return Err(none()) };
        let members = members.borrow().clone();
        let others = members.into_iter().filter(|member| member.name != self.options.name && !member.absent);
        let path = format!("{DIAL}{node}/{address}");
        let asks = others.filter_map(|member| member.address).map(|server| {
            let (path, tls) = (&path, tls.clone());
            async move { dial::upgrade(&server, tls, path).await }
        });
        let mut answers = std::pin::pin!(futures::stream::iter(asks).buffer_unordered(PEERS));
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(stream) => return Ok(Box::new(stream)),
                Err(error) => tracing::debug!(node, error = format!("{error:#}"), "no way over another server"),
            }
        }
        Err(none())
    }
}

#[async_trait::async_trait]
impl apiserver::Tunnels for Tunnels {
    async fn dial(&self, node: &str, address: SocketAddr) -> io::Result<Box<dyn Stream>> {
        if self.options.own.as_ref().is_some_and(|(name, _)| name == node) {
            return direct(address).await;
        }
        match self.over_link(node, address).await {
            Some(Ok(stream)) => return Ok(stream),
            // The node has looked.
            Some(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => return Err(error),
            Some(Err(error)) => tracing::debug!(node, %error, "a node's link leads nowhere"),
            None => {}
        }
        let mut straight = std::pin::pin!(direct(address));
        let first = tokio::time::timeout(HEAD_START, straight.as_mut()).await;
        let Ok(Ok(stream)) = first else {
            let others = self.over_peers(node, address);
            return match first {
                Ok(failed) => others.await.or(failed),
                Err(_) => either(straight, others).await,
            };
        };
        Ok(stream)
    }
}

/// The first of two that succeeds; the first one's error where neither does.
async fn either<T>(
    first: impl Future<Output = io::Result<T>>,
    second: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    use futures::future::{Either, select};
    match select(std::pin::pin!(first), std::pin::pin!(second)).await {
        Either::Left((Ok(stream), _)) | Either::Right((Ok(stream), _)) => Ok(stream),
        Either::Left((Err(error), second)) => second.await.or(Err(error)),
        Either::Right((Err(_), first)) => first.await,
    }
}

async fn direct(address: SocketAddr) -> io::Result<Box<dyn Stream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(Box::new(stream))
}

/// A connection to the node's port over its link.
async fn open(mut sender: Sender, address: SocketAddr) -> io::Result<Box<dyn Stream>> {
    let uri = Uri::builder().authority(address.to_string()).build().map_err(io::Error::other)?;
    let request = Request::builder().method(Method::CONNECT).version(Version::HTTP_2).uri(uri).body(Empty::new());
    let response = sender.send_request(request.map_err(io::Error::other)?).await.map_err(io::Error::other)?;
    if response.status() == StatusCode::BAD_GATEWAY {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    if response.status() != StatusCode::OK {
        return Err(io::Error::other(format!("the node answered {}", response.status())));
    }
    let upgraded = hyper::upgrade::on(response).await.map_err(io::Error::other)?;
    Ok(Box::new(TokioIo::new(upgraded)))
}

/// Speaks HTTP/2 as the client over a link until it ends.
async fn keep(links: &Mutex<Links>, node: &str, stream: hyper::upgrade::Upgraded) {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).adaptive_window(true);
    builder.keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE).keep_alive_while_idle(true);
    let (sender, connection) = match builder.handshake(stream).await {
        Ok(made) => made,
        Err(error) => return tracing::debug!(node, %error, "a node's link was not made"),
    };
    let number = enter(&mut links.lock(), node, sender);
    tracing::info!(node, "a node has linked up");
    let ended = connection.await;
    leave(&mut links.lock(), node, number);
    tracing::debug!(node, error = ended.err().map(|error| error.to_string()), "a node's link ended");
}

/// The oldest goes where a node has too many.
fn enter(links: &mut Links, node: &str, sender: Sender) -> u64 {
    links.next += 1;
    let number = links.next;
    let all = links.by_node.entry(node.to_owned()).or_default();
    all.push(Link { number, sender });
    if all.len() > LINKS_A_NODE {
        all.remove(0);
    }
    number
}

fn leave(links: &mut Links, node: &str, number: u64) {
    let Some(all) = links.by_node.get_mut(node) else { return };
    all.retain(|link| link.number != number);
    if all.is_empty() {
        links.by_node.remove(node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_way_of_this_server_its_own_node_and_its_pods_are_reached() {
        let tunnels = Tunnels::new(Options {
            own: Some(("n".into(), 10250)),
            cluster_cidr: "10.42.0.0/16".parse().unwrap(),
            name: "n".into(),
            members: None,
            tls: None,
            tracker: TaskTracker::new(),
            shutdown: CancellationToken::new(),
        });
        let own = |node: &str, address: &str| tunnels.own(node, address.parse().unwrap()).map(|own| own.to_string());
        assert_eq!(own("n", "192.0.2.1:10250").as_deref(), Some("127.0.0.1:10250"));
        assert_eq!(own("n", "10.42.3.4:8443").as_deref(), Some("10.42.3.4:8443"));
        assert_eq!(own("n", "192.0.2.1:22"), None);
        assert_eq!(own("other", "10.42.3.4:8443"), None);
    }

    #[tokio::test]
    async fn of_two_ways_the_one_that_leads_there_is_taken() {
        let fails = || async { Err::<u8, _>(io::Error::other("first")) };
        let works = |n| async move { Ok::<u8, io::Error>(n) };
        assert_eq!(either(fails(), works(2)).await.unwrap(), 2);
        assert_eq!(either(works(1), fails()).await.unwrap(), 1);
        assert_eq!(either(std::future::pending(), works(2)).await.unwrap(), 2);
        assert_eq!(either(fails(), fails()).await.unwrap_err().to_string(), "first");
    }
}
