//! One request's way: read it, find out who asks, whether they may, and hand it to who serves it.
//!
//! Place in the flow: `connection | in-process client -> [Front] -> engine | discovery | health | connect`.

mod compress;
pub mod in_flight;
mod paths;

use crate::aggregation::{self, Remotes};
use crate::authn::{Authenticator, impersonate, unwrap_websocket_token};
use crate::authz::escalation::Guard;
use crate::authz::{Attributes, Authorizer};
use crate::body::{self, Body, RequestBody};
use crate::connect;
use crate::engine::{self, Serve};
use crate::limits;
use crate::metrics::{Metrics, Subject};
use crate::options::{EXTENSION, Extension};
use crate::registry::Registry;
use crate::request::{self, RequestInfo, Target, User, Verb};
use crate::reviews;
use crate::sites::Forwarded;
use api::Status;
use arc_swap::ArcSwap;
use http::{Method, Request, Response, header};
use in_flight::InFlight;
use rustls::pki_types::CertificateDer;
use std::sync::Arc;
use std::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Where the cluster's root certificate is read.
const CERTIFICATES: &str = "/cacerts";

/// Everything that serving a request needs; shared by all connections.
pub struct Front {
    pub(crate) authenticator: Authenticator,
    pub(crate) authorizer: Arc<Authorizer>,
    pub(crate) engine: Arc<dyn Serve>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) backend: Arc<dyn store::Backend>,
    pub(crate) in_flight: InFlight,
    pub(crate) discovery: crate::discovery::Discovery,
    pub(crate) openapi: crate::discovery::openapi::OpenApi,
    pub(crate) metrics: Metrics,
    pub(crate) agents: connect::Agents,
    /// Extension API servers, as the aggregation layer last found them.
    pub(crate) remotes: ArcSwap<Remotes>,
    /// What we show extension API servers.
    pub(crate) proxy_identity: aggregation::Identity,
    pub(crate) cluster_id: uuid::Uuid,
    pub(crate) root_ca_pem: String,
    /// Serves what servers ask one another.
    pub(crate) extension: Option<Arc<dyn Extension>>,
    /// Upgraded connections, which outlive the requests that began them.
    pub(crate) tasks: TaskTracker,
    pub(crate) shutdown: CancellationToken,
}

/// How a request came in.
pub enum Source<'a> {
    /// Over TLS, with the client's certificate where it showed one.
    Network { certificate: Option<&'a CertificateDer<'static>> },
    /// From a component of this process, which is who it says.
    Process(User),
}

/// Serves go wrong in one way: with a Status.
pub(crate) type Answer = Result<Response<Body>, Status>;

impl Front {
    /// Serves one request. Never fails: what goes wrong is the answer.
    pub async fn handle(self: &Arc<Self>, mut request: Request<RequestBody>, source: Source<'_>) -> Response<Body> {
        let started = Instant::now();
        let head = request.method() == Method::HEAD;
        let zip = request.method() == Method::GET && compress::accepted(request.headers());
        unwrap_websocket_token(request.headers_mut());
        let target = request::parse(request.method(), request.uri());
        let subject = target.as_ref().ok().map(|target| Subject::new(target, &self.registry));
        let answer = match target {
            Ok(target) => self.admit(target, request, source).await,
            Err(error) => Err(unreadable(&error)),
        };
        let mut response = answer.unwrap_or_else(|status| body::status(&status));
        if let Some(subject) = subject {
            self.metrics.answered(subject, response.status(), started.elapsed());
        }
        if zip {
            response = compress::compress(response).await;
        }
        let headers = response.headers_mut();
        headers.entry(header::CACHE_CONTROL).or_insert(header::HeaderValue::from_static("no-cache, private"));
        if let Ok(id) = header::HeaderValue::try_from(uuid::Uuid::new_v4().to_string()) {
            headers.insert("audit-id", id);
        }
        if head {
            *response.body_mut() = body::full("");
        }
        response
    }

    async fn admit(self: &Arc<Self>, target: Target, mut request: Request<RequestBody>, source: Source<'_>) -> Answer {
        let user = self.user(request.headers(), source).await?;
        let user = impersonate::impersonate(&self.authorizer, user, request.headers_mut())?;
        request.headers_mut().remove(header::AUTHORIZATION);
        match target {
            Target::Resource(info) if info.is_long_running() => {
                let response = self.serve_resource(info, user, request).await?;
                Ok(response.map(|body| body::until(body, self.shutdown.clone())))
            }
            Target::Resource(info) => {
                let _turn = self.in_flight.enter(info.is_mutating()).await?;
                within(self.serve_resource(info, user, request)).await
            }
            Target::NonResource { path, .. } if path.starts_with(EXTENSION) => match &self.extension {
                Some(extension) => within(extension.serve(&user, request)).await,
                None => Ok(paths::not_found()),
            },
            // Who is going to trust this cluster has no credentials of it yet; it knows the certificate by its hash.
            Target::NonResource { path, .. } if path == CERTIFICATES => {
                let (parts, _) = request.into_parts();
                within(self.serve_path(&path, &user, &parts)).await
            }
            Target::NonResource { path, verb } => {
                let attributes = Attributes::NonResource { verb: verb.into(), path: path.as_str().into() };
                self.authorizer.check(&user, &attributes)?;
                if let Some(remote) = self.remotes().at(&path) {
                    return within(Box::pin(aggregation::forward(self, remote, &user, request))).await;
                }
                let (parts, _) = request.into_parts();
                within(self.serve_path(&path, &user, &parts)).await
            }
        }
    }

    /// Who serves which group, at this moment.
    pub(crate) fn remotes(&self) -> Arc<Remotes> {
        self.remotes.load_full()
    }

    pub(crate) fn set_remotes(&self, remotes: Remotes) {
        self.remotes.store(Arc::new(remotes));
    }

    async fn user(&self, headers: &http::HeaderMap, source: Source<'_>) -> Result<User, Status> {
        let certificate = match source {
            Source::Process(user) => return Ok(user),
            Source::Network { certificate } => certificate,
        };
        let now = jiff::Timestamp::now().as_second();
        self.authenticator.authenticate(certificate, headers, now).await.map_err(|error| {
            tracing::debug!(%error, "authentication failed");
            Status::unauthorized()
        })
    }

    async fn serve_resource(self: &Arc<Self>, info: RequestInfo, user: User, request: Request<RequestBody>) -> Answer {
        self.authorizer.check(&user, &Attributes::from(&info))?;
        if let Some(remote) = self.remotes().get(&info.group, &info.version) {
            return Box::pin(aggregation::forward(self, remote, &user, request)).await;
        }
        if !self.discovery.serves(&info.group, &self.registry.served()) && !self.remotes().serves(&info.group) {
            return Ok(paths::not_found());
        }
        check_method(&info)?;
        if connect::serves(&info) {
            return Box::pin(connect::serve(self, info, &user, request)).await;
        }
        let forwarded = request.extensions().get::<Forwarded>().is_some();
        let (mut parts, request_body) = request.into_parts();
        let body = body::read(request_body, limits::BODY_BYTES).await?;
        let body = from_protobuf(&mut parts.headers, body)?;
        if reviews::serves(&info) {
            return reviews::serve(self, &info, &user, &parts.headers, &body).await;
        }
        let escalation = Guard::new(&self.authorizer, &user, &info);
        let request = engine::Request { info, user, headers: parts.headers, body, escalation, forwarded };
        Ok(self.engine.serve(request).await)
    }
}

/// A collection is not replaced or patched, and nothing is created at an object's own path.
fn check_method(info: &RequestInfo) -> Result<(), Status> {
    let wrong = match info.verb {
        Verb::Update | Verb::Patch => info.name.is_empty(),
        Verb::Create => !info.name.is_empty() && info.subresource.is_empty(),
        _ => false,
    };
    if wrong { Err(method_not_allowed()) } else { Ok(()) }
}

/// 405 of a path that is served, with other methods.
pub(crate) fn method_not_allowed() -> Status {
    Status::failure(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
        .with_details(Default::default())
}

/// Bounds what is not long-running.
async fn within(serve: impl Future<Output = Answer>) -> Answer {
    let timeout = || {
        let message = "request did not complete within the allotted timeout";
        Err(Status::timeout(format!("Timeout: {message}")))
    };
    tokio::time::timeout(limits::REQUEST, serve).await.unwrap_or_else(|_| timeout())
}

fn unreadable(error: &request::Error) -> Status {
    match error {
        request::Error::Method(_) => method_not_allowed(),
        other => Status::bad_request(other.to_string()),
    }
}

/// Everything behind the front speaks JSON: a body in Kubernetes' protobuf is read into it here.
fn from_protobuf(headers: &mut http::HeaderMap, body: bytes::Bytes) -> Result<bytes::Bytes, Status> {
    let media_type = headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if body.is_empty() || media_type.split(';').next().map(str::trim) != Some(api::protobuf::MEDIA_TYPE) {
        return Ok(body);
    }
    let object = api::protobuf::to_json(&body).map_err(|error| Status::bad_request(error.to_string()))?;
    headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    Ok(object.to_string().into())
}
