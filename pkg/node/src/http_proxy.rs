//! Connections to the cluster's servers: straight, or through the HTTP proxy that the environment names, as with other programs
//! (`HTTPS_PROXY`, `NO_PROXY`). The proxy sees where they go, and no more: TLS goes through it from end to end.
use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use std::io;
use std::sync::LazyLock;
use tokio::net::TcpStream;
use tower::Service;

static PROXIES: LazyLock<Matcher> = LazyLock::new(Matcher::from_env);

/// A connection to a server, `HOST:PORT`.
///
/// # Errors
/// It is not there, or the proxy is not, or refuses.
pub async fn connect(address: &str) -> io::Result<TcpStream> {
    connect_by(&PROXIES, address).await
}

async fn connect_by(proxies: &Matcher, address: &str) -> io::Result<TcpStream> {
    let target: Uri = format!("https://{address}").parse().map_err(io::Error::other)?;
    let Some(proxy) = proxies.intercept(&target).filter(|_| !is_here(&target)) else {
        return TcpStream::connect(address).await;
    };
    // What else is in it may be a password.
    let name = proxy.uri().host().unwrap_or_default().to_owned();
    if proxy.uri().scheme_str() != Some("http") {
        return Err(io::Error::other(format!(
            "HTTPS_PROXY names the proxy {name:?} by another URL than http://HOST:PORT"
        )));
    }
    let mut tunnel = Tunnel::new(proxy.uri().clone(), HttpConnector::new());
    if let Some(password) = proxy.basic_auth() {
        tunnel = tunnel.with_auth(password.clone());
    }
    let told = |error| io::Error::other(format!("through the proxy {name}: {:#}", anyhow::Error::new(error)));
    Ok(tunnel.call(target).await.map_err(told)?.into_inner())
}

/// As everywhere, this host itself is never reached through a proxy.
fn is_here(target: &Uri) -> bool {
    let host = target.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// A proxy for one connection, that answers with a status and, where it goes on, echoes; what it was asked.
    async fn proxy(status: &'static str) -> (String, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                asked.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes()).await.unwrap();
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
            String::from_utf8(asked).unwrap()
        });
        (address, task)
    }

    #[tokio::test]
    async fn what_is_not_excepted_goes_through_the_proxy() {
        let (address, task) = proxy("200 Connection established").await;
        let proxies = Matcher::builder().https(format!("http://me:secret@{address}")).no("10.9.0.0/16").build();
        let mut stream = connect_by(&proxies, "eyot.invalid:6443").await.unwrap();
        stream.write_all(b"through").await.unwrap();
        let mut back = [0; 7];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"through");
        drop(stream);
        let asked = task.await.unwrap();
        assert!(asked.starts_with("CONNECT eyot.invalid:6443 HTTP/1.1\r\n"), "{asked}");
        assert!(asked.to_lowercase().contains("proxy-authorization: basic bwu6c2vjcmv0"), "{asked}");
        assert!(proxies.intercept(&"https://10.9.8.7:6443".parse().unwrap()).is_none());
        for here in ["https://127.0.0.1:1", "https://localhost:1", "https://[::1]:1"] {
            assert!(is_here(&here.parse().unwrap()), "{here}");
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        connect_by(&proxies, &listener.local_addr().unwrap().to_string()).await.unwrap();
    }

    #[tokio::test]
    async fn a_proxy_that_refuses_is_named_without_its_password() {
        let (address, task) = proxy("403 Forbidden").await;
        let proxies = Matcher::builder().https(format!("http://me:secret@{address}")).build();
        let told = connect_by(&proxies, "eyot.invalid:6443").await.unwrap_err().to_string();
        assert!(told.starts_with("through the proxy 127.0.0.1: ") && !told.contains("secret"), "{told}");
        task.await.unwrap();
        let proxies = Matcher::builder().https("https://me:secret@proxy.invalid:1").build();
        let told = connect_by(&proxies, "eyot.invalid:6443").await.unwrap_err().to_string();
        assert!(told.contains("http://HOST:PORT") && !told.contains("secret"), "{told}");
    }
}
