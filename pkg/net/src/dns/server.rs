//! The sockets: UDP and TCP on one address, everything bounded.
use super::forward::{Forwarder, Transport, Upstreams};
use super::index::Index;
use super::message::{self, Parsed, Question};
use super::zone::{Answer, Zone};
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::Record;
use parking_lot::RwLock;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Questions that wait for other resolvers at once; more are dropped, and clients ask again.
const MAX_FORWARDED: usize = 512;

/// TCP connections at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 128;

/// How long a TCP client may be silent (RFC 7766 asks for a few seconds at least).
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest question, in bytes: one name and EDNS options.
const MAX_QUESTION_BYTES: usize = 4096;

#[derive(Debug, thiserror::Error)]
#[error("cluster DNS can't listen on {address}")]
pub struct Error {
    pub address: SocketAddr,
    pub source: io::Error,
}

/// Bound sockets and what they answer from.
pub struct Server {
    udp: Arc<UdpSocket>,
    tcp: TcpListener,
    resolver: Arc<Resolver>,
    forwarded: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

/// Answers questions.
struct Resolver {
    zone: Zone,
    index: Arc<RwLock<Index>>,
    forwarder: Forwarder,
}

/// What is known at once.
enum Known {
    Answer(Message),
    /// The alias, to be completed with what its target is.
    Alias {
        alias: Box<Record>,
        query: Box<Query>,
    },
    Unknown,
}

impl Server {
    /// # Errors
    /// When the address can't be bound.
    pub async fn bind(
        address: SocketAddr,
        zone: Zone,
        index: Arc<RwLock<Index>>,
        upstreams: Upstreams,
    ) -> Result<Self, Error> {
        let failed = |source| Error { address, source };
        let udp = UdpSocket::bind(address).await.map_err(failed)?;
        // The same port for both, also where the system chose it.
        let tcp = TcpListener::bind(udp.local_addr().map_err(failed)?).await.map_err(failed)?;
        Ok(Self {
            udp: Arc::new(udp),
            tcp,
            resolver: Arc::new(Resolver { zone, index, forwarder: Forwarder::new(upstreams) }),
            forwarded: Arc::new(Semaphore::new(MAX_FORWARDED)),
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    /// Serves until `shutdown`; what is under way is dropped then: clients ask again.
    pub async fn run(self, shutdown: CancellationToken) {
        let tasks = TaskTracker::new();
        let serve = async { tokio::join!(self.serve_udp(&tasks, &shutdown), self.serve_tcp(&tasks, &shutdown)) };
        tokio::select! {
            () = shutdown.cancelled() => {}
            ((), ()) = serve => {}
        }
        tasks.close();
        tasks.wait().await;
    }

    async fn serve_udp(&self, tasks: &TaskTracker, shutdown: &CancellationToken) {
        let mut buffer = vec![0; MAX_QUESTION_BYTES];
        loop {
            let (length, client) = match self.udp.recv_from(&mut buffer).await {
                Ok(received) => received,
                // An earlier answer found nobody; the socket itself is well.
                Err(error) => {
                    tracing::debug!(%error, "DNS packet not received");
                    tokio::task::yield_now().await;
                    continue;
                }
            };
            let question = match message::parse(&buffer[..length]) {
                Parsed::Ignore => continue,
                Parsed::Reply(reply) => {
                    self.send(&reply, message::udp_bytes(&reply), client).await;
                    continue;
                }
                Parsed::Question(question) => question,
            };
            match self.resolver.at_once(&question) {
                Known::Answer(answer) => self.send(&answer, question.udp_bytes(), client).await,
                unknown => self.forward_udp(question, unknown, client, tasks, shutdown),
            }
        }
    }

    async fn send(&self, answer: &Message, max_bytes: u16, client: SocketAddr) {
        send(&self.udp, answer, max_bytes, client).await;
    }

    fn forward_udp(
        &self,
        question: Box<Question>,
        known: Known,
        client: SocketAddr,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) {
        let Ok(permit) = self.forwarded.clone().try_acquire_owned() else {
            tracing::debug!(%client, "too many questions wait for other resolvers; this one is dropped");
            return;
        };
        let (udp, resolver, shutdown) = (self.udp.clone(), self.resolver.clone(), shutdown.clone());
        tasks.spawn(async move {
            let _permit = permit;
            let answer = async {
                let answer = resolver.complete(&question, known, Transport::Udp).await;
                send(&udp, &answer, question.udp_bytes(), client).await;
            };
            shutdown.run_until_cancelled(answer).await
        });
    }

    async fn serve_tcp(&self, tasks: &TaskTracker, shutdown: &CancellationToken) {
        loop {
            let Ok(permit) = self.connections.clone().acquire_owned().await else { return };
            let stream = match self.tcp.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::debug!(%error, "DNS connection not accepted");
                    // Out of descriptors: others have to end first.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let (resolver, shutdown) = (self.resolver.clone(), shutdown.clone());
            tasks.spawn(async move {
                let _permit = permit;
                if let Some(Err(error)) = shutdown.run_until_cancelled(connection(stream, &resolver)).await {
                    tracing::trace!(%error, "DNS connection ended");
                }
            });
        }
    }
}

async fn send(socket: &UdpSocket, answer: &Message, max_bytes: u16, client: SocketAddr) {
    let Some(bytes) = message::encode(answer, max_bytes) else { return };
    if let Err(error) = socket.send_to(&bytes, client).await {
        tracing::debug!(%client, %error, "DNS answer not sent");
    }
}

/// Answers the questions of one connection in order (RFC 7766).
async fn connection(mut stream: TcpStream, resolver: &Resolver) -> io::Result<()> {
    loop {
        let packet = tokio::time::timeout(IDLE_TIMEOUT, read_packet(&mut stream)).await??;
        let answer = match message::parse(&packet) {
            Parsed::Ignore => return Ok(()),
            Parsed::Reply(reply) => reply,
            Parsed::Question(question) => match resolver.at_once(&question) {
                Known::Answer(answer) => answer,
                unknown => resolver.complete(&question, unknown, Transport::Tcp).await,
            },
        };
        let Some(bytes) = message::encode(&answer, u16::MAX) else { return Ok(()) };
        let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        let packet = [&length.to_be_bytes()[..], &bytes].concat();
        tokio::time::timeout(IDLE_TIMEOUT, stream.write_all(&packet)).await??;
    }
}

async fn read_packet(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > MAX_QUESTION_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "question too long"));
    }
    let mut packet = vec![0; length];
    stream.read_exact(&mut packet).await?;
    Ok(packet)
}

impl Resolver {
    /// What the index or the cache answers.
    fn at_once(&self, question: &Question) -> Known {
        let query = &question.query;
        let answer = self.zone.answer(&self.index.read(), query.name(), query.query_type());
        match answer {
            Answer::NotOurs => self.forwarder.cached(question).map_or(Known::Unknown, Known::Answer),
            Answer::Alias { alias, target } => {
                let mut query = query.clone();
                query.set_name(*target);
                self.alias(question, alias, query)
            }
            answer => question.answer(&self.zone, answer).map_or(Known::Unknown, Known::Answer),
        }
    }

    /// An alias whose target is in the zone too is complete.
    fn alias(&self, question: &Question, alias: Box<Record>, query: Query) -> Known {
        match self.zone.answer(&self.index.read(), query.name(), query.query_type()) {
            Answer::NotOurs => Known::Alias { alias, query: Box::new(query) },
            Answer::Records { answers, .. } => Known::Answer(question.alias(*alias, answers)),
            _ => Known::Answer(question.alias(*alias, Vec::new())),
        }
    }

    /// Asks elsewhere for what is missing.
    async fn complete(&self, question: &Question, known: Known, transport: Transport) -> Message {
        match known {
            Known::Answer(answer) => answer,
            Known::Unknown => self.forwarder.ask(question, transport).await,
            Known::Alias { alias, query } => {
                let answer = self.forwarder.resolve(question, &query, transport).await;
                question.alias(*alias, answer.map(|answer| answer.answers).unwrap_or_default())
            }
        }
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
