//! The way to one member: TCP, TLS where its address says so, HTTP/2.
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

/// From the first packet to the end of the TLS handshake.
const CONNECT: Duration = Duration::from_secs(3);
/// Silence after which a member is asked whether it is there, and how long it has to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(5);

/// Where a member is: `https://HOST:PORT`, or `http://` on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub tls: bool,
    host: String,
    port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAddress {
    #[error("{0:?} is no address of an etcd, such as https://10.0.0.5:2379")]
    Form(String),
    /// Plain text off the machine would show every Secret to the network.
    #[error("{0:?} is not a loopback address: an etcd on another machine is reached over https:// alone")]
    PlainText(String),
}

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let bad = || BadAddress::Form(text.to_owned());
        let uri: http::Uri = text.parse().map_err(|_| bad())?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(bad()),
        };
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(bad());
        }
        let host = uri.host().ok_or_else(bad)?.trim_matches(['[', ']']).to_owned();
        let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if !tls && !loopback {
            return Err(BadAddress::PlainText(text.to_owned()));
        }
        Ok(Self { tls, host, port: uri.port_u16().ok_or_else(bad)? })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{}]:{}", self.host, self.port),
            false => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}

/// There was no connection: what was to be sent on it was not sent.
#[derive(Debug, thiserror::Error)]
#[error("{member}: {source}")]
pub struct NotConnected {
    member: Address,
    source: std::io::Error,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A channel that connects when first used, and again whenever the member was away.
pub fn channel(member: &Address, tls: Option<Arc<rustls::ClientConfig>>) -> Channel {
    let authority = format!("http://{}", member.to_string().split_once("//").map_or("", |(_, rest)| rest));
    let endpoint = Endpoint::from_shared(authority).expect("an address is a URI");
    let endpoint = endpoint
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_ANSWER)
        .keep_alive_while_idle(true);
    let member = member.clone();
    endpoint.connect_with_connector_lazy(tower::service_fn(move |_: http::Uri| connect(member.clone(), tls.clone())))
}

async fn connect(
    member: Address,
    tls: Option<Arc<rustls::ClientConfig>>,
) -> Result<TokioIo<Box<dyn Stream>>, NotConnected> {
    let connected = tokio::time::timeout(CONNECT, open(&member, tls)).await;
    let connected = connected.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
    connected.map(TokioIo::new).map_err(|source| NotConnected { member, source })
}

async fn open(member: &Address, tls: Option<Arc<rustls::ClientConfig>>) -> std::io::Result<Box<dyn Stream>> {
    let stream = TcpStream::connect((member.host.as_str(), member.port)).await?;
    stream.set_nodelay(true)?;
    let Some(tls) = tls.filter(|_| member.tls) else { return Ok(Box::new(stream)) };
    let mut tls = (*tls).clone();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from(member.host.clone()).map_err(std::io::Error::other)?;
    Ok(Box::new(TlsConnector::from(Arc::new(tls)).connect(name, stream).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_whole_and_plain_ones_are_near() {
        let shown = |text: &str| text.parse::<Address>().map(|address| address.to_string());
        for good in ["https://10.0.0.5:2379", "https://etcd.example:2379", "http://127.0.0.1:2379", "http://[::1]:2379"]
        {
            assert_eq!(shown(good).as_deref(), Ok(good));
        }
        assert_eq!(shown("https://a:1/").as_deref(), Ok("https://a:1"));
        for bad in ["", "10.0.0.5:2379", "https://a", "ftp://a:1", "https://a:1/b", "mysql://u@tcp(a:1)/k"] {
            assert!(matches!(shown(bad), Err(BadAddress::Form(_))), "{bad}");
        }
        assert!(matches!(shown("http://10.0.0.5:2379"), Err(BadAddress::PlainText(_))));
    }
}
