//! The generic resource engine: one implementation of every verb, for every kind.
//!
//! Place in the flow: `front -> Serve::serve -> {read, list, watch} | {create, update, patch, delete} ->
//! store::Backend`. Writes pass `decode -> default -> managed fields -> admission -> strategy -> validate` and
//! end in one compare-and-set; reads hand out stored bytes with the resourceVersion spliced in.

mod connection;
#[cfg(test)]
mod conversion_tests;
mod definitions;
mod delete;
mod errors;
mod home;
mod list;
pub(crate) mod media;
mod output;
mod params;
mod patch;
mod pods;
mod policies;
mod read;
pub(crate) mod served;
#[cfg(test)]
mod sites_tests;
mod splice;
mod subresource;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod ttl;
mod virtuals;
mod watch;
pub(crate) mod write;

use crate::admission::{Admission, Attributes, Operation};
use crate::alloc::Allocator;
use crate::alloc::pools::{Cidr, Pools};
use crate::authz::Authorizer;
use crate::connect::Tunnels;
use crate::endpoints::Reach;
use crate::registry::{Registry, Resource};
use crate::{Body, RequestInfo, Sites, User, Verb};
use api::{GroupVersionResource, Status};
use bytes::Bytes;
pub(crate) use errors::from_store;
use http::{HeaderMap, Response};
use media::Media;
use std::ops::RangeInclusive;
use std::sync::Arc;
use store::Backend;
use tokio_util::sync::CancellationToken;
pub(crate) use write::generate_name;

/// What every step of a request returns; the error is the answer.
pub(crate) type Result<T> = std::result::Result<T, Box<Status>>;

/// A request past authentication and authorization, its body read whole (bounded by the front).
#[derive(Clone, Debug)]
pub struct Request {
    pub info: RequestInfo,
    pub user: User,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// What a write to a role or binding must pass.
    pub escalation: Option<crate::authz::escalation::Guard>,
    /// Whether another server handed it on to this one, which answers it then, whosever the object is.
    pub forwarded: bool,
}

impl Request {
    /// The same request for a server that it is handed on to.
    pub fn to_http(&self) -> http::Request<Bytes> {
        let mut request = http::Request::new(self.body.clone());
        *request.method_mut() = self.info.verb.method();
        *request.uri_mut() = self.info.uri();
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().remove(http::header::CONTENT_LENGTH);
        request
    }
}

/// What the front calls for every resource request that is not a connection.
#[async_trait::async_trait]
pub trait Serve: Send + Sync {
    async fn serve(&self, request: Request) -> Response<Body>;

    /// Asks admission about a connection (exec, attach, port-forward, proxy) that `user` may make. Returns what
    /// there is to warn of.
    async fn admit_connection(&self, info: &RequestInfo, user: &User) -> std::result::Result<Vec<String>, Status>;

    /// Who decides what users may do.
    fn authorizer(&self) -> &Arc<Authorizer>;

    /// What is known of other sites.
    fn sites(&self) -> &Sites;
}

/// What an engine stands on.
pub struct Options {
    pub backend: Arc<dyn Backend>,
    pub registry: Arc<Registry>,
    /// Where Services get their addresses from.
    pub service_cidr: Cidr,
    /// Where Services get their node ports from.
    pub node_port_range: RangeInclusive<u16>,
    /// The wall clock.
    pub clock: fn() -> jiff::Timestamp,
    /// Other sites, where there are any.
    pub sites: Sites,
    /// Ways to what runs on nodes; none: straight to their addresses.
    pub tunnels: Option<Arc<dyn Tunnels>>,
}

/// The engine.
pub struct Engine {
    backend: Arc<dyn Backend>,
    reach: Reach,
    registry: Arc<Registry>,
    clock: fn() -> jiff::Timestamp,
    sites: Sites,
    ttl: ttl::Ttl,
    alloc: Arc<Allocator>,
    pub(crate) admission: Admission,
    /// What expressions of admission ask; the front asks the same one, and keeps it up to date.
    authorizer: Arc<Authorizer>,
    /// Ends all watches, so that connections drain at shutdown.
    ending: CancellationToken,
}

impl Engine {
    pub fn new(options: Options) -> Arc<Self> {
        let pools = Pools::new(options.service_cidr, options.node_port_range);
        Arc::new(Self {
            reach: Reach { backend: options.backend.clone(), tunnels: options.tunnels },
            backend: options.backend,
            registry: options.registry,
            clock: options.clock,
            sites: options.sites,
            ttl: ttl::Ttl::default(),
            alloc: Allocator::new(pools),
            admission: Admission::default(),
            authorizer: Arc::default(),
            ending: CancellationToken::new(),
        })
    }

    /// Follows the store until shutdown: allocated addresses and custom resources. Then ends all watches.
    pub async fn run(&self, shutdown: CancellationToken) {
        let ends_watches = shutdown.clone();
        let watches = async {
            ends_watches.cancelled().await;
            self.ending.cancel();
        };
        let definitions = definitions::run(self, shutdown.clone());
        let policies = policies::run(self, shutdown.clone());
        let repair = crate::alloc::repair::run(self, shutdown.clone());
        let alloc = self.alloc.run(self.backend.clone(), self.clock, shutdown);
        tokio::join!(watches, alloc, definitions, policies, repair);
    }

    /// How webhooks are reached.
    pub(crate) fn reach(&self) -> &Reach {
        &self.reach
    }

    pub(crate) fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    pub(crate) fn authorizer(&self) -> &Arc<Authorizer> {
        &self.authorizer
    }

    pub(crate) fn clock(&self) -> fn() -> jiff::Timestamp {
        self.clock
    }

    pub(crate) fn sites(&self) -> &Sites {
        &self.sites
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Gives back what a deleted object held.
    fn removed(&self, call: &Call<'_>, object: &serde_json::Value) {
        if call.is_service() {
            self.alloc.release(object);
        }
    }

    async fn dispatch(&self, request: &Request) -> Result<Response<Body>> {
        if virtuals::serves(request) {
            return virtuals::serve(self, request).await;
        }
        let call = Call::new(self, request)?;
        match (request.info.verb, call.sub()) {
            (Verb::Get, "") => read::get(&call).await,
            (Verb::List, "") => list::list(&call).await,
            (Verb::Watch, "") => watch::watch(&call).await,
            (Verb::Create, "") => write::create(&call).await,
            (Verb::Update, "") => write::update(&call).await,
            (Verb::Patch, "") => patch::patch(&call).await,
            (Verb::Delete, "") => delete::delete(&call).await,
            (Verb::DeleteCollection, "") => delete::delete_collection(&call).await,
            (Verb::Get, "status" | "approval" | "ephemeralcontainers" | "resize") => read::get(&call).await,
            (Verb::Get | Verb::Update | Verb::Patch, "scale") => subresource::scale(&call).await,
            (Verb::Create, "binding") => subresource::bind(&call).await,
            (Verb::Create, "eviction") => subresource::evict(&call).await,
            (Verb::Update, "status" | "finalize" | "approval" | "ephemeralcontainers" | "resize") => {
                write::update(&call).await
            }
            (Verb::Patch, "status" | "approval" | "ephemeralcontainers" | "resize") => patch::patch(&call).await,
            _ => Err(call.not_allowed()),
        }
    }
}

/// What there is to say of a resource that goes out of use (`APILifecycleDeprecated`, or its definition).
fn deprecated(registry: &Registry, info: &RequestInfo) -> Option<String> {
    if (&*info.group, &*info.version, &*info.resource) == ("", "v1", "endpoints") {
        return Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".into());
    }
    let resource = registry.get(&GroupVersionResource::new(&*info.group, &*info.version, &*info.resource))?;
    resource.custom.as_ref()?.deprecation.clone()
}

#[async_trait::async_trait]
impl Serve for Engine {
    async fn serve(&self, request: Request) -> Response<Body> {
        let answer = match home::elsewhere(self, &request).await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => self.dispatch(&request).await,
            Err(away) => Err(away),
        };
        let response = answer.unwrap_or_else(|status| output::failure(&status));
        match deprecated(&self.registry, &request.info) {
            Some(text) => output::with_warnings(response, &[text]),
            None => response,
        }
    }

    async fn admit_connection(&self, info: &RequestInfo, user: &User) -> std::result::Result<Vec<String>, Status> {
        let (headers, body) = (HeaderMap::new(), Bytes::new());
        let (info, user) = (info.clone(), user.clone());
        let request = Request { info, user, headers, body, escalation: None, forwarded: false };
        let admit = async {
            let call = Call::new(self, &request)?;
            let attributes = Attributes::new(&call, Operation::Connect);
            let mut options = connection::options(&request.info, &attributes.kind);
            self.admission.admit(&attributes, Some(&mut options), None).await?;
            Ok(attributes.take_warnings())
        };
        admit.await.map_err(|status: Box<Status>| *status)
    }

    fn authorizer(&self) -> &Arc<Authorizer> {
        &self.authorizer
    }

    fn sites(&self) -> &Sites {
        &self.sites
    }
}

/// One request with what it is about.
pub(crate) struct Call<'a> {
    pub engine: &'a Engine,
    pub request: &'a Request,
    pub resource: Arc<Resource>,
    pub media: Media,
}

impl<'a> Call<'a> {
    fn new(engine: &'a Engine, request: &'a Request) -> Result<Self> {
        let info = &request.info;
        let gvr = GroupVersionResource::new(&*info.group, &*info.version, &*info.resource);
        let resource = engine.registry.get(&gvr).ok_or_else(Status::no_such_path)?;
        if !info.subresource.is_empty() && resource.subresource(&info.subresource).is_none() {
            return Err(Status::no_such_path().into());
        }
        let media = Media::accept(&request.headers, info.param("pretty"))?;
        let call = Self { engine, request, resource, media };
        // A proxy hands on OPTIONS too, which is no verb that discovery names.
        let allowed = info.verb == Verb::Options || call.verbs().contains(&info.verb.as_str());
        if allowed { Ok(call) } else { Err(call.not_allowed()) }
    }

    fn verbs(&self) -> &[&'static str] {
        match self.resource.subresource(self.sub()) {
            Some(sub) => &sub.verbs,
            None => &self.resource.verbs,
        }
    }

    pub fn info(&self) -> &RequestInfo {
        &self.request.info
    }

    fn sub(&self) -> &str {
        &self.request.info.subresource
    }

    pub fn backend(&self) -> &dyn Backend {
        &*self.engine.backend
    }

    /// Namespace of the object: empty for cluster scope.
    pub fn namespace(&self) -> &str {
        if self.resource.namespaced { &self.request.info.namespace } else { "" }
    }

    fn key(&self) -> String {
        self.resource.key(self.namespace(), &self.request.info.name)
    }

    fn is_service(&self) -> bool {
        self.resource.kind == "Service" && self.resource.gvr.group.is_empty()
    }

    fn not_found(&self, name: &str) -> Box<Status> {
        let gvr = &self.resource.gvr;
        Status::not_found(&gvr.group, &gvr.resource, name).into()
    }

    fn not_allowed(&self) -> Box<Status> {
        let gvr = &self.resource.gvr;
        Status::method_not_allowed(&gvr.group, &gvr.resource, self.request.info.verb.as_str()).into()
    }
}
