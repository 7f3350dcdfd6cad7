//! What servers do for nodes that are not part of one: admitting them, telling them of the servers, and reaching them by
//! the links that they open.
//!
//! Place in the flow: `agent ─► apiserver ─► [nodes]`, beside what servers ask one another (`peers`).

mod admission;
pub mod message;
pub mod tunnels;

use crate::agent::servers::Server;
use crate::pki::Authority;
use crate::server::{Known, Tasks};
use crate::site::Site;
use crate::{peers, pki, tls};
use ::api::Status;
use ::api::home::Ownership;
use apiserver::User;
use apiserver::body::{self, Body, RequestBody};
use http::{Method, Request, Response, StatusCode};
use std::sync::{Arc, OnceLock};
use sync::Member;
use tokio::sync::watch;
use tunnels::Tunnels;

/// The node that a user is the agent of.
fn node_of(user: &User) -> Option<&str> {
    user.name.strip_prefix("system:node:").filter(|_| user.in_group("system:nodes"))
}

/// Serves nodes and, beside them, what servers ask one another.
pub struct Extension {
    authority: Arc<Authority>,
    cluster: crate::config::Cluster,
    own: Server,
    site: String,
    /// This server's own node's name is nobody else's; none: it has no node.
    own_node: Option<String>,
    members: Option<watch::Receiver<Vec<Member>>>,
    ownership: watch::Receiver<Ownership>,
    pub tunnels: Arc<Tunnels>,
    peers: Option<Arc<dyn apiserver::Extension>>,
    /// There once the API is.
    client: OnceLock<kube::Client>,
    /// One node is admitted at a time, so that no name is given twice.
    admitting: tokio::sync::Mutex<()>,
}

impl Extension {
    /// `peers` are there where this server has a store of its own.
    pub(crate) fn new(known: &Known, site: &Site, peers: Option<&peers::Peers>, tasks: &Tasks) -> anyhow::Result<Self> {
        let config = &known.config;
        let members = peers.map(|peers| peers.members.clone());
        let subject = pki::Subject::user(&format!("{}{}", peers::USER, site.name), &[peers::GROUP]);
        let ask = match peers {
            Some(_) => {
                let pair = known.authority.leaf("client-server", &subject)?;
                Some(Arc::new(tls::client_of_members(known.trust.clone(), &pair)?))
            }
            None => None,
        };
        let own_node = (!config.disable_agent && !config.datastore_only).then(|| known.node_name.clone());
        let tunnels = Tunnels::new(tunnels::Options {
            own: own_node.clone().map(|name| (name, config.node.agent_port)),
            name: site.name.clone(),
            members: members.clone(),
            tls: ask,
            tracker: tasks.tracker.clone(),
            shutdown: tasks.shutdown.clone(),
        });
        Ok(Self {
            authority: known.authority.clone(),
            cluster: config.cluster(),
            own: Server {
                name: Some(site.name.clone()),
                site: Some(site.site.clone()),
                address: format!("{}:{}", known.address, config.https_listen_port),
            },
            site: site.site.clone(),
            own_node,
            members,
            ownership: known.sites.ownership.clone(),
            tunnels: Arc::new(tunnels),
            peers: peers.map(peers::Peers::extension),
            client: OnceLock::new(),
            admitting: tokio::sync::Mutex::default(),
        })
    }

    /// From now on there is an API to write through.
    pub fn serve_through(&self, client: kube::Client) {
        let _ = self.client.set(client);
    }

    fn client(&self) -> Result<&kube::Client, Status> {
        self.client.get().ok_or_else(|| Status::unavailable("this server is still starting"))
    }

    /// All servers that nodes can be told of, this one first.
    fn servers(&self) -> Vec<Server> {
        let members = self.members.as_ref().map(|members| members.borrow().clone()).unwrap_or_default();
        let others = members.into_iter().filter(|member| Some(&member.name) != self.own.name.as_ref());
        let others = others.filter_map(|member| {
            Some(Server { name: Some(member.name), site: Some(member.site), address: member.address? })
        });
        std::iter::once(self.own.clone()).chain(others).collect()
    }

    fn list(&self, user: &User) -> Result<Response<Body>, Status> {
        if node_of(user).is_none() {
            return Err(forbidden(user, "read the list of servers as a node does"));
        }
        let sites = message::Sites::of(&self.ownership.borrow());
        answer(&message::Servers { servers: self.servers(), sites })
    }
}

#[async_trait::async_trait]
impl apiserver::Extension for Extension {
    async fn serve(&self, user: &User, request: Request<RequestBody>) -> Result<Response<Body>, Status> {
        let path = request.uri().path().to_owned();
        match (request.method(), path.as_str()) {
            (&Method::POST, message::JOIN) => self.admit(user, request).await,
            (&Method::GET, message::SERVERS) => self.list(user),
            (&Method::GET, message::TUNNEL) => match node_of(user) {
                Some(node) => self.tunnels.accept(node, request),
                None => Err(forbidden(user, "open a node's tunnel")),
            },
            (&Method::GET, path) if path.starts_with(message::DIAL) => match user.in_group(peers::GROUP) {
                true => self.tunnels.dial_for_peer(path, request).await,
                false => Err(forbidden(user, "connect to nodes")),
            },
            _ => match &self.peers {
                Some(peers) => peers.serve(user, request).await,
                None => Err(Status::no_such_path()),
            },
        }
    }
}

fn answer(content: &impl serde::Serialize) -> Result<Response<Body>, Status> {
    let text = serde_json::to_string(content).map_err(Status::internal)?;
    Ok(body::json(StatusCode::OK, text))
}

fn forbidden(user: &User, what: &str) -> Status {
    Status::failure(403, "Forbidden", format!("user {:?} may not {what}", user.name))
}
