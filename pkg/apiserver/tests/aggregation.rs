//! An extension API server behind an APIService: registered, asked, told who asks, and gone again.
#[allow(dead_code, reason = "this test needs no kubeconfig")]
mod server;

use bytes::Bytes;
use eyot_apiserver::User;
use eyot_apiserver::request::MASTERS;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use serde_json::{Value, json};
use server::Server;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

/// How long until the aggregation layer must have seen a change.
const PATIENCE: Duration = Duration::from_secs(20);
const NAME: &str = "/apis/apiregistration.k8s.io/v1/apiservices/v1.ext.example";

async fn call(server: &Server, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
    let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
    let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    let request = request.header("x-remote-user", "mallory").body(Full::new(body)).unwrap();
    let user = User::new("alice", &[MASTERS]);
    let response = server.handle.service(user).oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    (parts.status, serde_json::from_slice(&bytes).unwrap_or_default())
}

async fn get(server: &Server, path: &str) -> (StatusCode, Value) {
    call(server, Method::GET, path, Value::Null).await
}

/// Waits until the APIService's condition has this reason.
async fn until(server: &Server, reason: &str) {
    let wait = async {
        while get(server, NAME).await.1["status"]["conditions"][0]["reason"] != reason {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never {reason}"));
}

/// Serves `ext.example/v1` to whom the CA vouches for, and says what it was asked.
async fn extension(server: &Server) -> u16 {
    let identity = server.client("extension", "servers", false);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(server.ca_pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build().unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let serve = hyper::server::conn::http1::Builder::new();
                let _ = serve.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
            });
        }
    });
    port
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = match request.uri().path() {
        "/apis/ext.example/v1" => json!({"kind": "APIResourceList", "groupVersion": "ext.example/v1", "resources": [
            {"name": "things", "singularName": "thing", "namespaced": true, "kind": "Thing", "verbs": ["get"]}]}),
        "/openapi/v3" => {
            json!({"paths": {"apis/ext.example/v1": {"serverRelativeURL": "/openapi/v3/apis/ext.example/v1?hash=1"}}})
        }
        path => {
            let users: Vec<_> =
                request.headers().get_all("x-remote-user").iter().map(|u| u.to_str().unwrap()).collect();
            json!({"path": path, "query": request.uri().query(), "users": users})
        }
    };
    Ok(Response::new(Full::new(body.to_string().into())))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_server_comes_and_goes() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let running = {
        let (code, mine) = get(&server, "/apis/apiregistration.k8s.io/v1/apiservices/v1.apps").await;
        (code, mine["status"]["conditions"][0]["reason"].clone())
    };
    // Local ones are made in the background.
    if running.0 == StatusCode::OK {
        assert_eq!(running.1, "Local");
    }
    let bundle = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &server.ca_pem);
    let service = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": "v1.ext.example"},
        "spec": {"group": "ext.example", "version": "v1", "groupPriorityMinimum": 2000, "versionPriority": 10,
            "caBundle": bundle, "service": {"namespace": "default", "name": "ext", "port": 443}}});
    let (code, created) = call(&server, Method::POST, "/apis/apiregistration.k8s.io/v1/apiservices", service).await;
    assert_eq!(code, StatusCode::CREATED, "{created}");
    until(&server, "ServiceNotFound").await;
    let (code, _) = get(&server, "/apis/ext.example/v1/namespaces/default/things/a").await;
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);

    let port = extension(&server).await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "ext", "namespace": "default"},
        "spec": {"ports": [{"port": 443}]}});
    server.put("/registry/services/specs/default/ext", &service).await;
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "ext-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "ext"}},
        "ports": [{"name": "", "port": port}], "endpoints": [{"addresses": ["127.0.0.1"]}]});
    server.put("/registry/endpointslices/default/ext-1", &slice).await;
    until(&server, "Passed").await;

    let (code, thing) = get(&server, "/apis/ext.example/v1/namespaces/default/things/a%20b?x=1").await;
    assert_eq!(code, StatusCode::OK);
    let path = "/apis/ext.example/v1/namespaces/default/things/a%20b";
    assert_eq!(thing, json!({"path": path, "query": "x=1", "users": ["alice"]}));
    let (_, groups) = get(&server, "/apis").await;
    let names: Vec<_> = groups["groups"].as_array().unwrap().iter().map(|group| &group["name"]).collect();
    assert!(names.contains(&&json!("ext.example")), "{names:?}");
    let (_, resources) = get(&server, "/apis/ext.example/v1").await;
    assert_eq!(resources["resources"][0]["name"], "things");
    let (_, index) = get(&server, "/openapi/v3").await;
    assert!(index["paths"]["apis/ext.example/v1"].is_object());

    let (code, _) = call(&server, Method::DELETE, NAME, Value::Null).await;
    assert_eq!(code, StatusCode::OK);
    let gone = async {
        while get(&server, "/apis/ext.example").await.0 != StatusCode::NOT_FOUND {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
    let (code, mine) = get(&server, "/apis/apiregistration.k8s.io/v1/apiservices/v1.apps").await;
    assert_eq!((code, &mine["status"]["conditions"][0]["status"]), (StatusCode::OK, &json!("True")));
    server.stop().await;
}
