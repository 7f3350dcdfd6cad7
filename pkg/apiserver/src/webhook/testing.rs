//! A webhook server for tests: TLS, and answers of the test's own.
use base64::Engine;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rcgen::{CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// A path's `response` to a review's `request`, without the uid.
pub type Respond = fn(&str, &Value) -> Value;

/// A webhook server whose answer depends on the path.
pub struct Server {
    pub port: u16,
    pub ca_bundle: String,
    /// The requests that came, in order.
    pub seen: Arc<Mutex<Vec<Value>>>,
    running: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Server {
    pub async fn start(respond: Respond) -> Self {
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["hook.ns.svc".to_owned(), "localhost".to_owned()]).unwrap();
        let pem = params.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap().pem();
        let chain = vec![CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let tls = tls.with_no_client_auth().with_single_cert(chain, key).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = seen.clone();
        let running = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(acceptor.clone(), stream, record.clone(), respond));
            }
        });
        let ca_bundle = base64::engine::general_purpose::STANDARD.encode(ca_pem);
        Self { port, ca_bundle, seen, running }
    }
}

async fn serve(
    acceptor: tokio_rustls::TlsAcceptor,
    stream: tokio::net::TcpStream,
    seen: Arc<Mutex<Vec<Value>>>,
    respond: Respond,
) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let answer = |request: http::Request<hyper::body::Incoming>| {
        let seen = seen.clone();
        async move {
            let path = request.uri().path().to_owned();
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let review: Value = serde_json::from_slice(&body).unwrap();
            seen.lock().push(review["request"].clone());
            if path == "/slow" {
                tokio::time::sleep(Duration::from_secs(30)).await;
            }
            let mut response = respond(&path, &review["request"]);
            response["uid"] = review["request"]["uid"].clone();
            let answer = json!({"apiVersion": review["apiVersion"], "kind": review["kind"], "response": response});
            Ok::<_, hyper::Error>(http::Response::new(Full::<bytes::Bytes>::from(answer.to_string())))
        }
    };
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)).await;
}
