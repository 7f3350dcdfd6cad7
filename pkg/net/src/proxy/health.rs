//! Answers load balancers that ask, on a Service's `healthCheckNodePort`, whether this node has endpoints of it: as
//! kube-proxy does, with the same words.
use super::model::HealthCheck;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::RwLock;
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// Connections to one port at once; more wait.
const MAX_CONNECTIONS: usize = 32;

/// How long a client may take to ask.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one exchange may take in all.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// A listener for each port that is asked for. Ends with its value.
#[derive(Default)]
pub struct Servers {
    checks: Arc<RwLock<BTreeMap<u16, HealthCheck>>>,
    /// Dropping a handle ends the listener and its connections.
    listening: HashMap<u16, AbortOnDropHandle<()>>,
}

/// A port that can't be listened on.
#[derive(Debug, thiserror::Error)]
#[error("node failed to start health check of Service {namespace}/{service} on port {port}")]
pub struct Error {
    pub namespace: String,
    pub service: String,
    pub port: u16,
    pub source: io::Error,
}

impl Servers {
    /// Answers for exactly these ports from now on; returns what could not be begun. It is tried again next time.
    pub async fn keep(&mut self, checks: &BTreeMap<u16, HealthCheck>) -> Vec<Error> {
        checks.clone_into(&mut self.checks.write());
        self.listening.retain(|port, _| checks.contains_key(port));
        let mut errors = Vec::new();
        for (port, HealthCheck { namespace, service, .. }) in checks {
            if self.listening.contains_key(port) {
                continue;
            }
            match TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).await {
                Ok(listener) => {
                    let task = tokio::spawn(accept(*port, listener, self.checks.clone()));
                    self.listening.insert(*port, AbortOnDropHandle::new(task));
                }
                Err(source) => {
                    let (namespace, service) = (namespace.clone(), service.clone());
                    errors.push(Error { namespace, service, port: *port, source });
                }
            }
        }
        errors
    }
}

async fn accept(port: u16, listener: TcpListener, checks: Arc<RwLock<BTreeMap<u16, HealthCheck>>>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() || connections.len() >= MAX_CONNECTIONS {
            if connections.len() >= MAX_CONNECTIONS {
                connections.join_next().await;
            }
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(tokio::time::timeout(EXCHANGE_TIMEOUT, exchange(stream, port, checks.clone())));
            }
            // Out of descriptors: others have to end first.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn exchange(stream: TcpStream, port: u16, checks: Arc<RwLock<BTreeMap<u16, HealthCheck>>>) {
    let answer = |_: Request<Incoming>| {
        let response = checks.read().get(&port).map_or_else(gone, answer);
        async move { Ok::<_, Infallible>(response) }
    };
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).keep_alive(false);
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service_fn(answer)).await {
        tracing::trace!(%error, port, "health check broke off");
    }
}

/// 200 where there are endpoints, 503 where there are none.
fn answer(check: &HealthCheck) -> Response<Full<Bytes>> {
    let HealthCheck { namespace, service, local_endpoints } = check;
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": {namespace:?},\n\t\t\"name\": {service:?}\n\t}},\n\t\"localEndpoints\": \
         {local_endpoints},\n\t\"serviceProxyHealthy\": true\n}}"
    );
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = if *local_endpoints > 0 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    headers.insert("x-load-balancing-endpoint-weight", header::HeaderValue::from(*local_endpoints));
    response
}

fn gone() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn check(local_endpoints: usize) -> HealthCheck {
        HealthCheck { namespace: "default".into(), service: "web".into(), local_endpoints }
    }

    #[tokio::test]
    async fn says_how_many_are_here() {
        let response = answer(&check(2));
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["x-load-balancing-endpoint-weight"], "2");
        let body = response.into_body().collect().await.expect("body").to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&body).expect("json");
        assert_eq!((&body["service"]["name"], &body["localEndpoints"]), (&"web".into(), &2.into()));
        assert_eq!(answer(&check(0)).status(), StatusCode::SERVICE_UNAVAILABLE);
    }

    async fn ask(port: u16) -> io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }

    #[tokio::test]
    async fn listens_while_it_is_asked_to() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind");
        let port = taken.local_addr().expect("address").port();
        let mut servers = Servers::default();
        let checks = |count| BTreeMap::from([(port, check(count))]);
        assert_eq!(servers.keep(&checks(1)).await.len(), 1, "somebody else has the port");
        drop(taken);
        assert_eq!(servers.keep(&checks(1)).await.len(), 0);
        assert!(ask(port).await.expect("answer").starts_with("HTTP/1.1 200"));
        servers.keep(&checks(0)).await;
        assert!(ask(port).await.expect("answer").starts_with("HTTP/1.1 503"));
        servers.keep(&BTreeMap::new()).await;
        while ask(port).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }
}
