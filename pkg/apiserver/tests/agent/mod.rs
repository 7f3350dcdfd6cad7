//! An agent that has one container: it says back what it is told, then ends with a code.
use bytes::Bytes;
use eyot_apiserver::spdy::frame::Frame;
use eyot_apiserver::spdy::{Reader, Writer};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What its container's command ended with.
pub const STATUS: &str = r#"{"metadata":{},"status":"Failure","reason":"NonZeroExitCode","message":"command terminated with non-zero exit code: exit status 7","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#;

/// Listens on a port of this machine and serves until the test ends.
pub async fn start(certificate: &str, key: &str) -> u16 {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let stream = acceptor.accept(stream).await.unwrap();
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(serve))
                    .with_upgrades();
                let _ = connection.await;
            });
        }
    });
    port
}

async fn serve(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let answer =
        |code: StatusCode, text: String| Response::builder().status(code).body(Full::new(text.into())).unwrap();
    if path.starts_with("/containerLogs/") {
        let query = request.uri().query().unwrap_or_default();
        return Ok(answer(StatusCode::OK, format!("{path} {query}\n")));
    }
    if path != "/exec/default/p/c" {
        return Ok(answer(StatusCode::INTERNAL_SERVER_ERROR, "container not found".into()));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move { container(TokioIo::new(upgrade.await.unwrap())).await });
    let switching = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header("connection", "Upgrade")
        .header("upgrade", "SPDY/3.1")
        .header("x-stream-protocol-version", "v4.channel.k8s.io");
    Ok(switching.body(Full::default()).unwrap())
}

/// Says stdin back on stdout until it ends.
async fn container(io: TokioIo<Upgraded>) {
    let (read, write) = tokio::io::split(io);
    let mut reader = Reader::new(read);
    let (writer, writing) = Writer::new(write);
    let writing = tokio::spawn(writing);
    let mut streams: HashMap<String, u32> = HashMap::new();
    while let Ok(Some(frame)) = reader.next().await {
        match frame {
            Frame::SynStream { stream, headers, .. } => {
                let kind = headers.into_iter().find(|(name, _)| name == "streamtype").unwrap().1;
                streams.insert(kind, stream);
                writer.send(Frame::SynReply { stream, fin: false, headers: vec![] }).await;
            }
            Frame::Data { stream, fin, data } if Some(&stream) == streams.get("stdin") => {
                writer.send(Frame::Data { stream: streams["stdout"], fin: false, data }).await;
                if fin {
                    break;
                }
            }
            Frame::Ping { id } => writer.offer(Frame::Ping { id }),
            _ => {}
        }
    }
    for (kind, text) in [("stderr", "bye\n"), ("error", STATUS)] {
        let frame = Frame::Data { stream: streams[kind], fin: true, data: Bytes::from_static(text.as_bytes()) };
        writer.send(frame).await;
    }
    writer.send(Frame::Data { stream: streams["stdout"], fin: true, data: Bytes::new() }).await;
    // Until the client has read it all and goes.
    while let Ok(Some(_)) = reader.next().await {}
    drop(writer);
    let _ = writing.await;
}
