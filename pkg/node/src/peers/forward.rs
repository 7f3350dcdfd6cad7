//! Requests that another site's server must answer: handed to it over its API port, as the same user.
use super::GROUP;
use crate::dial;
use api::Status;
use apiserver::body::{self, Body, RequestBody};
use apiserver::engine;
use apiserver::{Forwarded, Handle, HomeProxy, Unreachable, User};
use http::{HeaderValue, Request, Response};
use http_body_util::BodyExt;
use rustls::ClientConfig;
use serde_json::{Value, json};
use std::sync::Arc;
use sync::Member;
use tokio::sync::watch;
use tower::ServiceExt;

/// Below it stand the paths of requests that were handed on.
pub const PREFIX: &str = "/v1-eyot/home";
/// Who asked, as JSON.
const USER: &str = "eyot-user";

/// Hands requests on.
pub struct Forward {
    pub members: watch::Receiver<Vec<Member>>,
    pub tls: Arc<ClientConfig>,
    /// This server's own number.
    pub number: u16,
}

#[async_trait::async_trait]
impl HomeProxy for Forward {
    async fn forward(&self, site: &str, request: engine::Request) -> Result<Response<Body>, Unreachable> {
        let unreachable = |reason: String| Unreachable { site: site.to_owned(), reason };
        let members = self.members.borrow().clone();
        // The lowest number acts for its site.
        let acting = members.iter().filter(|member| member.site == site && member.number != self.number);
        let Some(member) = acting.min_by_key(|member| member.number) else {
            return Err(unreachable("it has no other server".into()));
        };
        let Some(address) = &member.address else {
            return Err(unreachable(format!("{} can't be dialled", member.name)));
        };
        let user = HeaderValue::try_from(told(&request.user)).map_err(|error| unreachable(error.to_string()))?;
        let mut http = request.to_http();
        let uri = format!("{PREFIX}{}", http.uri().path_and_query().map_or("/", |path| path.as_str()));
        *http.uri_mut() = uri.parse().map_err(|error: http::uri::InvalidUri| unreachable(error.to_string()))?;
        http.headers_mut().insert(USER, user);
        let answer = dial::send(address, self.tls.clone(), http).await;
        let answer = answer.map_err(|error| unreachable(format!("{error:#}")))?;
        Ok(answer.map(|body| body.map_err(std::io::Error::other).boxed_unsync()))
    }
}

fn told(user: &User) -> String {
    json!({"name": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra}).to_string()
}

fn read(text: &str) -> Option<User> {
    let value: Value = serde_json::from_str(text).ok()?;
    Some(User {
        name: value["name"].as_str()?.to_owned(),
        uid: value["uid"].as_str()?.to_owned(),
        groups: serde_json::from_value(value["groups"].clone()).ok()?,
        extra: serde_json::from_value(value["extra"].clone()).ok()?,
    })
}

/// Answers a request that another server handed on.
///
/// # Errors
/// The caller is no server, or what it sent is no request.
pub async fn serve(api: &Handle, caller: &User, request: Request<RequestBody>) -> Result<Response<Body>, Status> {
    if !caller.in_group(GROUP) {
        return Err(Status::failure(403, "Forbidden", format!("user {:?} may not hand requests on", caller.name)));
    }
    let bad = || Status::bad_request("a request that was handed on can't be read");
    let (mut parts, body) = request.into_parts();
    let user = parts.headers.remove(USER).and_then(|text| read(text.to_str().ok()?)).ok_or_else(bad)?;
    let path = parts.uri.path_and_query().and_then(|path| path.as_str().strip_prefix(PREFIX)).ok_or_else(bad)?;
    parts.uri = path.parse().map_err(|_| bad())?;
    parts.extensions.insert(Forwarded);
    let request = Request::from_parts(parts, body);
    match api.service(user).oneshot(request).await {
        Ok(response) => Ok(response.map(body::request)),
        Err(never) => match never {},
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_reads_back() {
        let mut user = User::new("jane", &["a", "b"]);
        user.extra.insert("k".into(), vec!["v".into()]);
        assert_eq!(read(&told(&user)), Some(user));
        assert_eq!(read("{}"), None);
    }
}
