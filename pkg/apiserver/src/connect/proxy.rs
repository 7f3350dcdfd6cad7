//! `…/proxy/PATH`: HTTP to a pod, to a pod behind a service, or to a node's agent
//! (`k8s.io/apimachinery/pkg/util/proxy`).
use super::relay::{Destination, Scheme, relay};
use super::{locate, rewrite, unverified};
use crate::body::{self, Body, RequestBody};
use crate::endpoints::{self, Endpoint};
use crate::front::{Answer, Front};
use crate::request::RequestInfo;
use api::Status;
use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, BodyStream, StreamBody};
use rand::seq::IndexedRandom;
use rustls::pki_types::ServerName;
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// A page larger than this keeps its links as they are.
const PAGE_BYTES: usize = 8 << 20;

pub async fn serve(front: &Arc<Front>, info: &RequestInfo, request: Request<RequestBody>) -> Answer {
    let original = request.uri().path().to_owned();
    let rest = rest_of(&original).to_owned();
    if rest.is_empty() && matches!(*request.method(), Method::GET | Method::HEAD) {
        return redirect(&original, request.uri().query());
    }
    let to = destination(front, info).await?;
    let backend = to.to.address.to_string();
    let (mut parts, request_body) = request.into_parts();
    let host = parts.headers.remove(header::HOST);
    forwarded(&mut parts.headers, &original, host.as_ref());
    let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let path = if rest.is_empty() { "/" } else { &rest };
    parts.uri = format!("{path}{query}").parse().map_err(Status::internal)?;
    let response = relay(front, to, Request::from_parts(parts, request_body)).await?;
    let prefix = &original[..original.len() - rest.len()];
    let host = host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default();
    Ok(rewritten(response, |url| rewrite::link(url, prefix, host, &backend)).await)
}

/// Redirects and links within the service stay behind the proxy.
async fn rewritten(response: Response<Body>, link: impl Fn(&str) -> String) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    if parts.status.is_redirection()
        && let Some(Ok(location)) = parts.headers.get(header::LOCATION).map(|value| value.to_str())
        && let Ok(value) = HeaderValue::from_str(&link(location))
    {
        parts.headers.insert(header::LOCATION, value);
    }
    let is = |name, wanted: &str| {
        parts.headers.get(name).and_then(|value| value.to_str().ok()).is_some_and(|value| value.starts_with(wanted))
    };
    let length = body.size_hint().exact();
    // Pages that are compressed or endless are no pages of links.
    if !is(header::CONTENT_TYPE, "text/html")
        || parts.headers.contains_key(header::CONTENT_ENCODING)
        || length.is_some_and(|length| length > PAGE_BYTES as u64)
    {
        return Response::from_parts(parts, body);
    }
    match whole(body).await {
        Ok(html) => {
            let html = rewrite::page(&html, link);
            parts.headers.remove(header::CONTENT_LENGTH);
            Response::from_parts(parts, body::full(html))
        }
        Err(body) => Response::from_parts(parts, body),
    }
}

/// The whole body, or, where it is too long, the body as it came.
async fn whole(mut body: Body) -> Result<Vec<u8>, Body> {
    let mut read = Vec::new();
    while read.len() <= PAGE_BYTES {
        match body.frame().await {
            None => return Ok(read),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    read.extend_from_slice(&data);
                }
            }
            Some(Err(error)) => {
                let broken = futures::stream::iter([Ok(Frame::data(Bytes::from(read))), Err(error)]);
                return Err(StreamBody::new(broken).boxed_unsync());
            }
        }
    }
    let first = futures::stream::once(std::future::ready(Ok(Frame::data(Bytes::from(read)))));
    Err(StreamBody::new(first.chain(BodyStream::new(body))).boxed_unsync())
}

/// What follows `…/proxy` in the path as the client wrote it, with its leading slash.
fn rest_of(path: &str) -> &str {
    // `/api/v1/namespaces/NS/RESOURCE/NAME/proxy…` or `/api/v1/nodes/NAME/proxy…`: the first segment of that
    // name at its place; a pod may be called proxy too.
    let place = if path.trim_start_matches('/').starts_with("api/v1/namespaces/") { 6 } else { 4 };
    let mut seen = 0;
    let start = path.len() - path.trim_start_matches('/').len();
    for (index, _) in path[start..].match_indices('/') {
        seen += 1;
        if seen == place + 1 {
            return &path[start + index..];
        }
    }
    ""
}

/// Relative links of a page need the slash at its end.
fn redirect(path: &str, query: Option<&str>) -> Answer {
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let mut response = Response::new(body::full(""));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    let location = HeaderValue::from_str(&format!("{path}/{query}")).map_err(Status::internal)?;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

fn forwarded(headers: &mut HeaderMap, path: &str, host: Option<&HeaderValue>) {
    let values = [
        ("x-forwarded-uri", HeaderValue::from_str(path).ok()),
        ("x-forwarded-host", host.cloned()),
        ("x-forwarded-proto", Some(HeaderValue::from_static("https"))),
    ];
    for (name, value) in values {
        if let Some(value) = value {
            headers.insert(name, value);
        }
    }
}

async fn destination(front: &Front, info: &RequestInfo) -> Result<Destination, Status> {
    let invalid =
        || Status::bad_request(format!("invalid {} request {:?}", info.resource.trim_end_matches('s'), info.name));
    let (scheme, name, port) = locate::split_name(&info.name).ok_or_else(invalid)?;
    let invalid_port = invalid;
    match &*info.resource {
        "nodes" => {
            let agent = front.agent_of_node(name).await?;
            match port.parse::<u16>() {
                Ok(port) if port != agent.address.port() => {
                    Ok(open(scheme, SocketAddr::new(agent.address.ip(), port).into()))
                }
                Err(_) if !port.is_empty() => Err(invalid_port()),
                _ => Ok(Destination { to: agent.address.into(), scheme: Scheme::Agent(agent.node) }),
            }
        }
        "pods" => {
            let pod = front.stored("pods", "pods", &info.namespace, name).await?;
            let port = match port {
                "" => first_port(&pod).unwrap_or(80),
                port => port.parse().map_err(|_| invalid_port())?,
            };
            let ip = pod["status"]["podIP"].as_str().and_then(|ip| ip.parse::<IpAddr>().ok());
            let ip = ip.filter(|ip| routable(*ip)).ok_or_else(|| Status::bad_request("address not allowed"))?;
            let node = pod["spec"]["nodeName"].as_str().map(str::to_owned);
            Ok(open(scheme, Endpoint { node, address: SocketAddr::new(ip, port) }))
        }
        _ => Ok(open(scheme, service_address(front, &info.namespace, name, port).await?)),
    }
}

/// What anybody may have put there: whoever answers is taken at its word.
fn open(scheme: &str, to: Endpoint) -> Destination {
    let scheme = match scheme {
        "https" => Scheme::Tls(unverified::client(), ServerName::IpAddress(to.address.ip().into())),
        _ => Scheme::Plain,
    };
    Destination { to, scheme }
}

/// Not this machine itself, and no group of machines.
fn routable(ip: IpAddr) -> bool {
    let link_local = matches!(ip, IpAddr::V4(ip) if ip.is_link_local());
    !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || link_local)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn first_port(pod: &Value) -> Option<u16> {
    let mut ports = list(&pod["spec"]["containers"]).iter().flat_map(|container| list(&container["ports"]));
    ports.next()?["containerPort"].as_u64()?.try_into().ok()
}

/// A ready endpoint of the service's port, which is named by name or number, at random.
async fn service_address(front: &Front, namespace: &str, name: &str, port: &str) -> Result<Endpoint, Status> {
    let service = front.stored("services", "services/specs", namespace, name).await?;
    let port_name = match port.parse::<u64>() {
        Ok(number) => {
            let found = list(&service["spec"]["ports"]).iter().find(|port| port["port"] == number);
            let found = found
                .ok_or_else(|| Status::unavailable(format!("no service port {number} found for service {name:?}")))?;
            found["name"].as_str().unwrap_or_default().to_owned()
        }
        Err(_) => port.to_owned(),
    };
    let range = store::Range::prefix(format!("/registry/endpointslices/{namespace}/"));
    let slices = front.backend.list(&range, None, 0).await.map_err(Status::internal)?;
    let mut addresses = Vec::new();
    for entry in slices.entries {
        let slice: Value = serde_json::from_slice(&entry.value).map_err(Status::internal)?;
        if slice["metadata"]["labels"]["kubernetes.io/service-name"] == name {
            addresses.extend(ready_addresses(&slice, &port_name));
        }
    }
    let chosen = addresses.choose(&mut rand::rng()).cloned();
    chosen.ok_or_else(|| Status::unavailable(format!("no endpoints available for service {name:?}")))
}

/// Only pods are proxied to: other addresses may be anything that this machine can reach.
fn ready_addresses(slice: &Value, port_name: &str) -> Vec<Endpoint> {
    let pods = endpoints::ready(slice, port_name, |endpoint| endpoint["targetRef"]["kind"] == "Pod");
    pods.into_iter().filter(|to| routable(to.address.ip())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_rest_of_the_path_is_kept_as_written() {
        assert_eq!(rest_of("/api/v1/namespaces/a/pods/proxy/proxy"), "");
        assert_eq!(rest_of("/api/v1/namespaces/a/pods/proxy/proxy/"), "/");
        assert_eq!(rest_of("/api/v1/namespaces/a/services/b:80/proxy/x%2Fy/z"), "/x%2Fy/z");
        assert_eq!(rest_of("/api/v1/nodes/n/proxy/logs/"), "/logs/");
    }

    #[test]
    fn only_ready_pods_are_endpoints() {
        let pod = json!({"kind": "Pod"});
        let slice = json!({"ports": [{"name": "web", "port": 8080}], "endpoints": [
            {"addresses": ["10.0.0.1"], "targetRef": pod, "nodeName": "n"},
            {"addresses": ["10.0.0.2"], "targetRef": pod, "conditions": {"ready": false}},
            {"addresses": ["127.0.0.1"], "targetRef": pod}, {"addresses": ["10.0.0.3"]}]});
        let found = Endpoint { node: Some("n".into()), address: "10.0.0.1:8080".parse().unwrap() };
        assert_eq!(ready_addresses(&slice, "web"), [found]);
        assert!(ready_addresses(&slice, "other").is_empty());
    }
}
