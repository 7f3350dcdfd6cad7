//! A request handed on to an extension API server, which believes our certificate when we say who asks
//! (`k8s.io/kube-aggregator/pkg/apiserver/handler_proxy.go`).
use super::remote::Remote;
use crate::body::{self, Body, RequestBody};
use crate::connect::relay::{Destination, Scheme, relay};
use crate::front::{Answer, Front};
use crate::request::{User, percent_encode};
use api::Status;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use rand::seq::IndexedRandom;
use std::sync::Arc;

const USER: HeaderName = HeaderName::from_static("x-remote-user");
const UID: HeaderName = HeaderName::from_static("x-remote-uid");
const GROUP: HeaderName = HeaderName::from_static("x-remote-group");
const EXTRA: &str = "x-remote-extra-";

/// Sends the request on as it came, but for who asks.
///
/// # Errors
/// 503 when nobody answers.
pub(crate) async fn forward(
    front: &Arc<Front>,
    remote: &Remote,
    user: &User,
    mut request: Request<RequestBody>,
) -> Answer {
    let chosen = remote.addresses.choose(&mut rand::rng()).cloned();
    let (Some(to), Some(tls), true) = (chosen, remote.tls.clone(), remote.available.status) else {
        return Ok(unavailable());
    };
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    *request.uri_mut() = path.parse().map_err(Status::internal)?;
    let headers = request.headers_mut();
    speak_for(headers, user);
    headers.insert(header::HOST, HeaderValue::try_from(remote.reference.host()).map_err(Status::internal)?);
    relay(front, Destination { to, scheme: Scheme::Tls(tls.config, tls.name) }, request).await
}

fn unavailable() -> Response<Body> {
    body::content(StatusCode::SERVICE_UNAVAILABLE, "text/plain; charset=utf-8", "service unavailable\n")
}

/// The headers that name the user; what the client may have put there is taken away.
pub fn speak_for(headers: &mut HeaderMap, user: &User) {
    let theirs: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("x-remote-")).cloned().collect();
    for name in theirs {
        headers.remove(name);
    }
    headers.remove(header::AUTHORIZATION);
    let mut add = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.append(name, value);
        }
    };
    add(USER, &user.name);
    if !user.uid.is_empty() {
        add(UID, &user.uid);
    }
    for group in &user.groups {
        add(GROUP, group);
    }
    for (key, values) in &user.extra {
        let Ok(name) = HeaderName::try_from(format!("{EXTRA}{}", percent_encode(key))) else { continue };
        values.iter().for_each(|value| add(name.clone(), value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_can_claim_to_be_another() {
        let mut headers = HeaderMap::new();
        headers.insert(GROUP, HeaderValue::from_static("system:masters"));
        headers.insert("x-remote-extra-scopes", HeaderValue::from_static("all"));
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer secret"));
        let mut user = User::new("bob", &["a", "b"]);
        user.extra.insert("example.com/key".into(), vec!["1".into(), "2".into()]);
        speak_for(&mut headers, &user);
        let all = |name: &str| headers.get_all(name).iter().map(|v| v.to_str().unwrap().to_owned()).collect::<Vec<_>>();
        assert_eq!(all("x-remote-user"), ["bob"]);
        assert_eq!(all("x-remote-group"), ["a", "b", "system:authenticated"]);
        assert_eq!(all("x-remote-extra-example.com%2fkey"), ["1", "2"]);
        assert!(!headers.contains_key(header::AUTHORIZATION) && !headers.contains_key("x-remote-extra-scopes"));
    }
}
