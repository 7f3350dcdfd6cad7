//! exec, attach and port-forward: the runtime's streaming server does the work; bytes pass through unread, be they
//! SPDY or WebSocket.
use super::Server;
use super::body::{Answer, full, text};
use super::routes::{Query, runtime_error};
use crate::cri::{
    AttachRequest, ContainerState, ExecRequest, ListPodSandboxRequest, PodSandboxFilter, PodSandboxState,
    PortForwardRequest, label, request,
};
use http::{HeaderName, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::net::TcpStream;

type Refusal = Box<Answer>;

fn refuse(status: StatusCode, message: impl Into<String>) -> Refusal {
    Box::new(text(status, message))
}

pub async fn exec(
    server: &Arc<Server>,
    namespace: &str,
    pod: &str,
    container: Option<&&str>,
    query: &Query,
    incoming: Request<Incoming>,
) -> Answer {
    let url = async {
        let id = running(server, namespace, pod, container).await?;
        let ask = ExecRequest {
            container_id: id,
            cmd: query.all("command"),
            tty: query.is_set("tty"),
            stdin: query.is_set("input") || query.is_set("stdin"),
            stdout: query.is_set("output") || query.is_set("stdout"),
            stderr: (query.is_set("error") || query.is_set("stderr")) && !query.is_set("tty"),
        };
        Ok(server.context.cri.runtime().exec(request(ask)).await.map_err(runtime_error)?.into_inner().url)
    };
    finish(server, url.await, incoming).await
}

pub async fn attach(
    server: &Arc<Server>,
    namespace: &str,
    pod: &str,
    container: Option<&&str>,
    query: &Query,
    incoming: Request<Incoming>,
) -> Answer {
    let url = async {
        let name = container.copied();
        let spec = server.pod(namespace, pod)?;
        let id = running(server, namespace, pod, container).await?;
        let definition = name.and_then(|name| crate::worker::find(&spec, name));
        let tty = definition.is_some_and(|c| c.tty == Some(true));
        let ask = AttachRequest {
            container_id: id,
            tty,
            stdin: query.is_set("input") || query.is_set("stdin"),
            stdout: query.is_set("output") || query.is_set("stdout"),
            stderr: (query.is_set("error") || query.is_set("stderr")) && !tty,
        };
        Ok(server.context.cri.runtime().attach(request(ask)).await.map_err(runtime_error)?.into_inner().url)
    };
    finish(server, url.await, incoming).await
}

pub async fn port_forward(
    server: &Arc<Server>,
    namespace: &str,
    pod: &str,
    query: &Query,
    incoming: Request<Incoming>,
) -> Answer {
    let url = async {
        let pod = server.pod(namespace, pod)?;
        let labels = HashMap::from([(label::POD_UID.to_owned(), pod.metadata.uid.clone().unwrap_or_default())]);
        let filter = PodSandboxFilter { label_selector: labels, ..Default::default() };
        let ask = request(ListPodSandboxRequest { filter: Some(filter) });
        let all = server.context.cri.runtime().list_pod_sandbox(ask).await.map_err(runtime_error)?.into_inner().items;
        let sandbox = all.into_iter().find(|sandbox| sandbox.state() == PodSandboxState::SandboxReady);
        let sandbox = sandbox.ok_or_else(|| refuse(StatusCode::NOT_FOUND, "the pod is not running"))?;
        let ports = query.all("port").iter().flat_map(|list| list.split(',')).filter_map(|p| p.parse().ok()).collect();
        let ask = PortForwardRequest { pod_sandbox_id: sandbox.id, port: ports };
        Ok(server.context.cri.runtime().port_forward(request(ask)).await.map_err(runtime_error)?.into_inner().url)
    };
    finish(server, url.await, incoming).await
}

/// The id of a running container; without a name, of the pod's first one.
async fn running(server: &Server, namespace: &str, name: &str, container: Option<&&str>) -> Result<String, Refusal> {
    let pod = server.pod(namespace, name)?;
    let first = || pod.spec.as_ref().and_then(|spec| spec.containers.first()).map(|c| c.name.clone());
    let wanted = container.map(|name| (*name).to_owned()).or_else(first).unwrap_or_default();
    let found = server.containers(&pod).await?.remove(&wanted);
    let found = found.filter(|container| container.state() == ContainerState::ContainerRunning);
    let refusal = || refuse(StatusCode::NOT_FOUND, format!("container not found (\"{wanted}\")"));
    Ok(found.ok_or_else(refusal)?.id)
}

async fn finish(server: &Arc<Server>, url: Result<String, Refusal>, incoming: Request<Incoming>) -> Answer {
    let url = match url {
        Ok(url) => url,
        Err(refusal) => return *refusal,
    };
    match pass(server, &url, incoming).await {
        Ok(answer) => answer,
        Err(message) => text(StatusCode::BAD_GATEWAY, format!("the runtime's streaming server: {message}")),
    }
}

/// Sends the request on and joins both connections once both sides have changed protocols.
async fn pass(server: &Arc<Server>, url: &str, mut incoming: Request<Incoming>) -> Result<Answer, String> {
    let uri: Uri = url.parse().map_err(|error| format!("{url}: {error}"))?;
    let authority = uri.authority().ok_or("its URL has no host")?.to_string();
    let stream = TcpStream::connect(&authority).await.map_err(|error| format!("{authority}: {error}"))?;
    let _ = stream.set_nodelay(true);
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    server.context.tracker.spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "streaming connection ended");
        }
    });
    let mut outgoing = Request::builder()
        .method(incoming.method().clone())
        .uri(uri.path_and_query().map_or("/", |path| path.as_str()));
    for (name, value) in incoming.headers() {
        if passes(name) {
            outgoing = outgoing.header(name, value);
        }
    }
    let outgoing = outgoing.header(header::HOST, authority).body(Empty::<bytes::Bytes>::new());
    let outgoing = outgoing.map_err(|error| error.to_string())?;
    let mut answer = sender.send_request(outgoing).await.map_err(|error| error.to_string())?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (head, body) = answer.into_parts();
        let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
        return Ok(Response::from_parts(head, full(body)));
    }
    let mut switched = Response::new(full(""));
    *switched.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *switched.headers_mut() = answer.headers().clone();
    let (ours, theirs) = (hyper::upgrade::on(&mut incoming), hyper::upgrade::on(&mut answer));
    server.context.tracker.spawn(async move {
        // The connection to the runtime lives as long as its sender.
        let _sender = sender;
        match tokio::try_join!(ours, theirs) {
            Ok((ours, theirs)) => {
                let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(ours), &mut TokioIo::new(theirs)).await;
            }
            Err(error) => tracing::debug!(%error, "no change of protocols"),
        }
    });
    Ok(switched)
}

/// Who asked is our business alone.
fn passes(name: &HeaderName) -> bool {
    *name != header::HOST && *name != header::AUTHORIZATION && *name != header::CONTENT_LENGTH
}
