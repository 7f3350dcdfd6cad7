//! What servers ask one another on the API's port, and what the binary asks its own server.
use super::register::{self, Register};
use super::{GROUP, LINK, USER, forward, members, sites};
use crate::config::Server;
use crate::join::{self, Admission};
use crate::pki::Authority;
use crate::server::Known;
use crate::site::{Contact, Site};
use api::Status;
use api::slice::{self, Grant, Numbers, Span, Spans};
use api::validate::names;
use apiserver::User;
use apiserver::body::{self, Body, RequestBody};
use apiserver::connect::upgrade;
use http::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::sync::{Arc, OnceLock};
use store::{Backend, Range, Replica, Store};
use sync::Handle;

/// Where conflicts are read.
pub const CONFLICTS: &str = "/v1-eyot/conflicts";
/// Where is told what all that servers share comes to.
pub const DIGEST: &str = "/v1-eyot/digest";
/// Told to whom a number can't be given.
const NO_NUMBERS: &str = "this server has no numbers left to give to others: join through another, or give it some of \
                          another server's (spec.numbers of their Server objects)";
/// Numbers that servers can have.
const NUMBERS: std::ops::RangeInclusive<u16> = 1..=1023;
/// What a server that asks to join says is no longer.
const REQUEST_BYTES: usize = 64 << 10;
/// Conflicts in one answer.
const PAGE: usize = 500;
/// Addresses of one node's pod network.
const NODE_ADDRESSES: u64 = 1 << (32 - crate::components::NODE_CIDR_MASK);
/// May do everything.
const MASTERS: &str = "system:masters";
/// Whom the server's token stands for.
pub const JOIN_USER: &str = "eyot:join";
/// Whom the token of nodes stands for.
pub const NODE_JOIN_USER: &str = "eyot:join-node";

pub struct Extension {
    authority: Arc<Authority>,
    config: Server,
    own: Contact,
    cluster: uuid::Uuid,
    seen: Seen,
    /// There once this server is ready for others.
    ready: OnceLock<Ready>,
    /// One server is admitted at a time, so that no number is given twice.
    admitting: tokio::sync::Mutex<()>,
}

/// What this server has and sees of the others.
pub struct Seen {
    pub handle: Handle,
    pub store: Arc<Store>,
    pub own: members::Own,
    /// All numbers that servers share.
    pub whole: Numbers,
}

/// What is there once the server is ready for others.
struct Ready {
    register: Register,
    /// None where no API is served.
    api: Option<apiserver::Handle>,
}

impl Extension {
    pub(crate) fn new(known: &Known, site: &Site, seen: Seen, cluster: uuid::Uuid) -> Self {
        Self {
            authority: known.authority.clone(),
            config: known.config.clone(),
            own: Contact {
                number: site.number,
                name: site.name.clone(),
                site: site.site.clone(),
                address: format!("{}:{}", known.address, known.config.https_listen_port),
                authority: known.authority.intermediate_pem().to_owned(),
            },
            cluster,
            seen,
            ready: OnceLock::new(),
            admitting: tokio::sync::Mutex::default(),
        }
    }

    /// From now on Server objects can be written, and requests be answered if there is an API.
    pub fn serve_through(&self, register: Register, api: Option<apiserver::Handle>) {
        let _ = self.ready.set(Ready { register, api });
    }

    fn ready(&self) -> Result<&Ready, Status> {
        self.ready.get().ok_or_else(starting)
    }

    /// Answers what another server handed on.
    async fn forwarded(&self, user: &User, request: Request<RequestBody>) -> Result<Response<Body>, Status> {
        match &self.ready()?.api {
            Some(api) => forward::serve(api, user, request).await,
            None => Err(Status::unavailable("this server serves no API")),
        }
    }

    async fn join(&self, user: &User, request: Request<RequestBody>) -> Result<Response<Body>, Status> {
        if user.name != JOIN_USER && !user.in_group(MASTERS) {
            return Err(match user.name == NODE_JOIN_USER {
                true => Status::failure(403, "Forbidden", join::FOR_NODES),
                false => forbidden(user, "join servers"),
            });
        }
        let bytes = body::read(request.into_body(), REQUEST_BYTES).await?;
        let asked: join::Request = serde_json::from_slice(&bytes)
            .map_err(|error| Status::bad_request(format!("the request to join can't be read: {error}")))?;
        check("name", names::dns_subdomain(&asked.name))?;
        check("site", names::dns_label(&asked.site))?;
        let register = &self.ready()?.register;
        let _one_by_one = self.admitting.lock().await;
        let authority = self
            .authority
            .admit(&asked.authority_request, &asked.name)
            .map_err(|error| Status::bad_request(error.to_string()))?;
        let number = self.admit(register, &asked, &authority).await?;
        tracing::info!(name = asked.name, number, site = asked.site, "admitted a server");
        let admission = Admission {
            number,
            cluster_id: self.cluster,
            authority,
            cluster_cidr: self.config.cluster_cidr,
            service_cidr: self.config.service_cidr,
            cluster_domain: self.config.cluster_domain.clone(),
            flannel_backend: self.config.cluster().flannel_backend,
            by: self.own.clone(),
        };
        let json = serde_json::to_value(&admission).map_err(Status::internal)?;
        Ok(body::json(StatusCode::OK, json.to_string()))
    }

    /// Makes the object of a server that joins, with numbers of this server's own; its number.
    async fn admit(&self, register: &Register, asked: &join::Request, authority: &str) -> Result<u16, Status> {
        let known = members::read(&self.seen.store, &self.seen.own).await.map_err(Status::internal)?;
        if known.iter().any(|known| known.member.name == asked.name) {
            return Err(refusal(&asked.name, register::Error::Taken));
        }
        let refused = |error: api::slice::Error| Status::bad_request(error.to_string());
        let used = self.used().await.map_err(Status::internal)?;
        let slice = sites::grant(&known, self.own.number, &self.seen.whole, &used, NODE_ADDRESSES).map_err(refused)?;
        let numbers = own_numbers(&known, self.own.number);
        let admitted = slice::admit(&numbers).ok_or_else(|| Status::bad_request(NO_NUMBERS))?;
        let number = u16::try_from(admitted.number).map_err(Status::internal)?;
        // What is given leaves this server's own first: should it end between the two, nothing is given twice.
        let mut left = json!({"numbers": admitted.left.ranges()});
        let own = known.iter().find(|known| known.member.number == self.own.number);
        if let Some(own) = own.and_then(|own| own.grant.as_ref()) {
            extend(&mut left, &Grant::from(&own.without(&slice.numbers().map_err(refused)?)));
        }
        let unwritten = |error: register::Error| match error.is_missing() {
            true => starting(),
            false => Status::internal(error),
        };
        register.patch(&self.own.name, &json!({"spec": left})).await.map_err(unwritten)?;
        let mut spec = json!({
            "number": number, "site": asked.site, "address": asked.address, "authority": authority,
            "serviceAccountKeys": [asked.service_account_key], "numbers": admitted.block.ranges(),
        });
        extend(&mut spec, &slice);
        let object = json!({
            "apiVersion": "eyot.dev/v1alpha1", "kind": "Server", "metadata": {"name": asked.name}, "spec": spec,
        });
        register.create(&object).await.map_err(|error| refusal(&asked.name, error))?;
        Ok(number)
    }

    async fn used(&self) -> Result<Numbers, String> {
        let (mut ips, mut ports, mut pods) = (Vec::new(), Vec::new(), Vec::new());
        let list = async |prefix: &'static str| {
            let page =
                self.seen.store.list(&Range::prefix(prefix), None, 0).await.map_err(|error| error.to_string())?;
            let read = page.entries.iter().filter_map(|entry| serde_json::from_slice::<Value>(&entry.value).ok());
            Ok::<Vec<Value>, String>(read.collect())
        };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        for service in list("/registry/services/specs/").await? {
            let all = service["spec"]["clusterIPs"].as_array().cloned().unwrap_or_default();
            ips.extend(
                all.iter().filter_map(text).filter(|ip| ip.parse::<std::net::Ipv4Addr>().is_ok()).map(|ip| ip + "/32"),
            );
            let all = service["spec"]["ports"].as_array().cloned().unwrap_or_default();
            ports.extend(all.iter().filter_map(|port| port["nodePort"].as_u64()).map(|port| format!("{port}-{port}")));
        }
        for node in list("/registry/minions/").await? {
            let all = node["spec"]["podCIDRs"].as_array().cloned().unwrap_or_default();
            pods.extend(all.iter().filter_map(text).filter(|cidr| !cidr.contains(':')));
        }
        Grant { service_ips: ips, node_ports: ports, pod_cidrs: pods }.numbers().map_err(|error| error.to_string())
    }

    fn link(&self, user: &User, mut request: Request<RequestBody>) -> Result<Response<Body>, Status> {
        let name = user.name.strip_prefix(USER).filter(|_| user.in_group(GROUP));
        let Some(name) = name.map(str::to_owned) else { return Err(forbidden(user, "link servers")) };
        if upgrade::wanted(request.headers()).as_deref() != Some(crate::dial::PROTOCOL) {
            return Err(Status::bad_request(format!("a link is asked for with Upgrade: {}", crate::dial::PROTOCOL)));
        }
        let (upgraded, handle) = (upgrade::client(&mut request), self.seen.handle.clone());
        tokio::spawn(async move {
            match upgraded.await {
                Ok(stream) => handle.accept(Box::new(TokioIo::new(stream)), Some(name)),
                Err(error) => tracing::debug!(peer = name, %error, "a link was not made"),
            }
        });
        Ok(upgrade::switching(crate::dial::PROTOCOL))
    }

    async fn conflicts(&self, user: &User, query: Option<&str>) -> Result<Response<Body>, Status> {
        if !user.in_group(MASTERS) {
            return Err(forbidden(user, "read conflicts"));
        }
        let after = query.and_then(|query| query.strip_prefix("after=")).map_or(Ok(0), str::parse);
        let after = after.map_err(|_| Status::bad_request("after must be the number of a conflict"))?;
        let found = self.seen.store.conflicts(after, PAGE).await;
        let found = found.map_err(Status::internal)?;
        let items: Vec<Value> = found.iter().map(super::conflicts::show).collect();
        Ok(body::json(StatusCode::OK, json!({"items": items}).to_string()))
    }

    async fn digest(&self, user: &User) -> Result<Response<Body>, Status> {
        if !user.in_group(MASTERS) {
            return Err(forbidden(user, "read the digest of everything"));
        }
        let page = self.seen.store.list(&Range::prefix(""), None, 0).await.map_err(Status::internal)?;
        // As much work as there are objects.
        let digest = tokio::task::spawn_blocking(move || {
            super::digest::of(page.entries.iter().map(|entry| (&entry.key[..], &entry.value[..])))
        });
        let digest = digest.await.map_err(Status::internal)?;
        Ok(body::json(StatusCode::OK, json!({"hash": digest.hash, "keys": digest.keys}).to_string()))
    }
}

#[async_trait::async_trait]
impl apiserver::Extension for Extension {
    async fn serve(&self, user: &User, request: Request<RequestBody>) -> Result<Response<Body>, Status> {
        let path = request.uri().path().to_owned();
        match (request.method(), path.as_str()) {
            (&Method::POST, join::PATH) => self.join(user, request).await,
            (&Method::GET, LINK) => self.link(user, request),
            (_, path) if path.starts_with(forward::PREFIX) => self.forwarded(user, request).await,
            (&Method::GET, CONFLICTS) => self.conflicts(user, request.uri().query()).await,
            (&Method::GET, DIGEST) => self.digest(user).await,
            _ => Err(Status::no_such_path()),
        }
    }
}

fn starting() -> Status {
    Status::unavailable("this server is still starting")
}

/// The numbers that a server can give. The first server begins with all that no other has.
fn own_numbers(known: &[sites::Known], number: u16) -> Spans {
    let own = known.iter().find(|known| known.member.number == number).and_then(|known| known.numbers.clone());
    own.unwrap_or_else(|| {
        let highest = known.iter().map(|known| known.member.number).max().unwrap_or(number);
        let founder = number == crate::server::FIRST_SERVER;
        let rest = Span { first: u64::from(highest) + 1, end: u64::from(*NUMBERS.end()) + 1 };
        Spans::new(if founder { vec![rest] } else { Vec::new() })
    })
}

fn extend(spec: &mut Value, slice: &Grant) {
    if let (Some(spec), Ok(Value::Object(slice))) = (spec.as_object_mut(), serde_json::to_value(slice)) {
        spec.extend(slice);
    }
}

fn check(field: &str, wrong: Vec<String>) -> Result<(), Status> {
    match wrong.first() {
        Some(wrong) => Err(Status::bad_request(format!("the {field} of the server {wrong}"))),
        None => Ok(()),
    }
}

fn refusal(name: &str, error: register::Error) -> Status {
    match error {
        register::Error::Taken => Status::bad_request(format!(
            "a server named {name:?} is a member already: join under another --node-name, or remove it first (kubectl delete server {name})"
        )),
        error => Status::internal(format!("noting the new server: {error}")),
    }
}

fn forbidden(user: &User, what: &str) -> Status {
    Status::failure(403, "Forbidden", format!("user {:?} may not {what}", user.name))
}
