//! Questions about the rest of the world, asked of the machine's own resolvers.
use super::cache::{Cache, Key};
use super::message::{MAX_UDP_BYTES, Question};
use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::RecordType;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// How long one resolver may take; clients give up after five seconds.
const TIMEOUT: Duration = Duration::from_millis(1800);

/// Resolvers asked for one question at most.
const ATTEMPTS: usize = 2;

/// Resolvers taken from resolv.conf, as glibc's bound (resolv.conf(5)).
const MAX_UPSTREAMS: usize = 3;

/// How often resolv.conf is looked at.
const REREAD: Duration = Duration::from_secs(5);

/// The same question in flight more often than this goes in a circle.
const MAX_SAME: usize = 64;

/// Where other resolvers are.
#[derive(Debug)]
pub struct Upstreams {
    resolv_conf: PathBuf,
    /// Our own addresses: asking them would ask ourselves.
    own: Vec<IpAddr>,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    servers: Vec<SocketAddr>,
    modified: Option<SystemTime>,
    looked: Option<Instant>,
}

impl Upstreams {
    pub fn new(resolv_conf: &Path, own: Vec<IpAddr>) -> Self {
        let known = Known { servers: Vec::new(), modified: None, looked: None };
        Self { resolv_conf: resolv_conf.to_owned(), own, known: Mutex::new(known) }
    }

    /// Resolvers that don't change.
    #[cfg(test)]
    pub fn fixed(servers: Vec<SocketAddr>) -> Self {
        let far = Instant::now() + Duration::from_secs(3600);
        let known = Known { servers, modified: None, looked: Some(far) };
        Self { resolv_conf: PathBuf::new(), own: Vec::new(), known: Mutex::new(known) }
    }

    /// The resolvers that resolv.conf names now.
    fn servers(&self) -> Vec<SocketAddr> {
        let mut known = self.known.lock();
        if known.looked.is_none_or(|looked| looked.elapsed() > REREAD) {
            known.looked = Some(Instant::now());
            let modified = fs::metadata(&self.resolv_conf).and_then(|metadata| metadata.modified()).ok();
            if modified.is_none() || modified != known.modified {
                let text = fs::read_to_string(&self.resolv_conf).unwrap_or_default();
                known.servers = parse(&text, &self.own);
                known.modified = modified;
            }
        }
        known.servers.clone()
    }
}

/// The `nameserver` lines of resolv.conf(5), without our own addresses.
fn parse(text: &str, own: &[IpAddr]) -> Vec<SocketAddr> {
    let address = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["nameserver", address, ..] => address.parse::<IpAddr>().ok(),
        _ => None,
    };
    let addresses = text.lines().filter_map(address).filter(|address| !own.contains(address));
    addresses.take(MAX_UPSTREAMS).map(|address| SocketAddr::new(address, 53)).collect()
}

/// How the client asked, and so how the question is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// Asks, with a cache before it.
pub struct Forwarder {
    upstreams: Upstreams,
    cache: Mutex<Cache>,
    in_flight: Mutex<HashMap<Key, usize>>,
}

impl Forwarder {
    pub fn new(upstreams: Upstreams) -> Self {
        Self { upstreams, cache: Mutex::default(), in_flight: Mutex::default() }
    }

    /// An answer out of the cache.
    pub fn cached(&self, question: &Question) -> Option<Message> {
        let message = self.cache.lock().get(&key(question, &question.query), Instant::now())?;
        Some(adopt(question, message))
    }

    /// Asks the resolvers in turn; SERVFAIL where none answers.
    pub async fn ask(&self, question: &Question, transport: Transport) -> Message {
        let answer = self.resolve(question, &question.query, transport).await;
        match answer {
            Some(answer) => adopt(question, answer),
            None => question.response(ResponseCode::ServFail),
        }
    }

    /// Asks about the target of an alias.
    pub async fn resolve(&self, question: &Question, query: &Query, transport: Transport) -> Option<Message> {
        let key = key(question, query);
        if let Some(answer) = self.cache.lock().get(&key, Instant::now()) {
            return Some(answer);
        }
        let _guard = InFlight::enter(self, key.clone())?;
        let request = request(question, query);
        for server in self.upstreams.servers().into_iter().take(ATTEMPTS) {
            let answer = match transport {
                Transport::Udp => tokio::time::timeout(TIMEOUT, ask_udp(server, &request)).await,
                Transport::Tcp => tokio::time::timeout(TIMEOUT, ask_tcp(server, &request)).await,
            };
            match answer {
                Ok(Ok(answer)) if answer.metadata.response_code != ResponseCode::ServFail => {
                    self.cache.lock().put(key, &answer, Instant::now());
                    return Some(answer);
                }
                Ok(Ok(_)) => tracing::debug!(%server, name = %query.name(), "resolver failed"),
                Ok(Err(error)) => tracing::debug!(%server, %error, "resolver can't be asked"),
                Err(_) => tracing::debug!(%server, "resolver did not answer"),
            }
        }
        None
    }
}

/// Counts the same question in flight; a circle of resolvers would make it grow without end.
struct InFlight<'a> {
    forwarder: &'a Forwarder,
    key: Key,
}

impl<'a> InFlight<'a> {
    fn enter(forwarder: &'a Forwarder, key: Key) -> Option<Self> {
        let mut in_flight = forwarder.in_flight.lock();
        let count = in_flight.entry(key.clone()).or_default();
        if *count >= MAX_SAME {
            return None;
        }
        *count += 1;
        drop(in_flight);
        Some(Self { forwarder, key })
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let mut in_flight = self.forwarder.in_flight.lock();
        if let Some(count) = in_flight.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                in_flight.remove(&self.key);
            }
        }
    }
}

fn key(question: &Question, query: &Query) -> Key {
    let dnssec = question.message.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
    (query.name().to_lowercase(), query.query_type(), dnssec)
}

/// The question under an identity of ours, which an attacker would have to guess along with the port.
fn request(question: &Question, query: &Query) -> Message {
    let mut request = Message::query();
    request.metadata.recursion_desired = true;
    request.metadata.checking_disabled = question.message.metadata.checking_disabled;
    request.add_query(query.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(MAX_UDP_BYTES);
    edns.set_dnssec_ok(question.message.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok));
    request.set_edns(edns);
    request
}

/// A resolver's answer as ours: the client's identity, question and EDNS.
fn adopt(question: &Question, answer: Message) -> Message {
    let mut response = question.response(answer.metadata.response_code);
    response.metadata.truncation = answer.metadata.truncation;
    response.metadata.authentic_data = answer.metadata.authentic_data;
    response.answers = answer.answers;
    response.authorities = answer.authorities;
    response.additionals = answer.additionals;
    response.additionals.retain(|record| record.record_type() != RecordType::OPT);
    response
}

async fn ask_udp(server: SocketAddr, request: &Message) -> io::Result<Message> {
    let any: SocketAddr = if server.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        "[::]:0".parse().map_err(io::Error::other)?
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(&request.to_vec().map_err(io::Error::other)?).await?;
    let mut buffer = vec![0; usize::from(MAX_UDP_BYTES)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // Anything else is late or forged; the real answer may follow.
        if let Some(answer) = matching(request, &buffer[..length]) {
            return Ok(answer);
        }
    }
}

async fn ask_tcp(server: SocketAddr, request: &Message) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let bytes = request.to_vec().map_err(io::Error::other)?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], &bytes].concat()).await?;
    let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut buffer).await?;
    matching(request, &buffer).ok_or_else(|| io::Error::other("the answer is to another question"))
}

fn matching(request: &Message, packet: &[u8]) -> Option<Message> {
    let answer = Message::from_vec(packet).ok()?;
    let same = answer.metadata.id == request.metadata.id && answer.queries == request.queries;
    same.then_some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_read_and_never_ourselves() {
        let text = "# by dhcp\nsearch lan\nnameserver 10.43.0.10\nnameserver 192.0.2.53 # first\nnameserver fd00::53
nameserver bad\noptions ndots:1\nnameserver 127.0.0.53\nnameserver 192.0.2.54\n";
        let own = [IpAddr::from([10, 43, 0, 10])];
        let servers: Vec<_> = parse(text, &own).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.53:53", "[fd00::53]:53", "127.0.0.53:53"]);
    }
}
