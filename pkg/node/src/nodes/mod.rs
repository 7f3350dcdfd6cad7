//! What servers do for nodes that are not part of one: admitting them, telling them of the servers, and reaching them by
//! the links that they open.
//!
//! Place in the flow: `agent ─► apiserver ─► [nodes]`, beside what servers ask one another (`peers`).

mod admission;
pub mod message;
pub mod token;
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
use store::Backend;
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
    all: Option<watch::Receiver<Vec<peers::Known>>>,
    number: u16,
    ownership: watch::Receiver<Ownership>,
    pub tunnels: Arc<Tunnels>,
    peers: Option<Arc<dyn apiserver::Extension>>,
    /// There once the API is.
    client: OnceLock<kube::Client>,
    /// The token that nodes keep.
    token: token::Current,
    /// Names that users may reach this server by, beside its own.
    names: Vec<String>,
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
            cluster_cidr: config.cluster_cidr,
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
            all: peers.map(peers::Peers::known),
            number: site.number,
            ownership: known.sites.ownership.clone(),
            tunnels: Arc::new(tunnels),
            peers: peers.map(peers::Peers::extension),
            client: OnceLock::new(),
            token: token::Current::default(),
            names: config.tls_san.clone(),
            admitting: tokio::sync::Mutex::default(),
        })
    }

    /// From now on there is an API to write through.
    pub fn serve_through(&self, client: kube::Client) {
        let _ = self.client.set(client);
    }

    /// What keeps the token of nodes.
    pub(crate) fn token_service(&self, known: &Known, backend: Arc<dyn Backend>) -> token::Service {
        token::Service {
            backend,
            tokens: known.tokens.clone(),
            current: self.token.clone(),
            server: known.token.clone(),
            root_pem: known.authority.root_pem().to_owned(),
            data_dir: known.config.data_dir.clone(),
            given: known.agent_token.clone(),
        }
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

    /// `query` may name another server.
    fn list(&self, user: &User, query: Option<&str>) -> Result<Response<Body>, Status> {
        if node_of(user).is_none() {
            return Err(forbidden(user, "read the list of servers as a node does"));
        }
        let sites = message::Sites::of(&self.ownership.borrow());
        let known = self.all.as_ref().map(|all| all.borrow().clone()).unwrap_or_default();
        let asked = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix(message::MEMBER));
        let removed = asked.and_then(|number| number.parse().ok()).is_some_and(|number| is_removed(&known, number));
        let number = (!known.is_empty()).then_some(self.number);
        answer(&message::Servers {
            servers: self.servers(),
            sites,
            authorities: authorities(&known),
            number,
            removed,
            flannel_backend: Some(self.cluster.flannel_backend),
        })
    }
}

#[async_trait::async_trait]
impl apiserver::Extension for Extension {
    async fn serve(&self, user: &User, request: Request<RequestBody>) -> Result<Response<Body>, Status> {
        let path = request.uri().path().to_owned();
        match (request.method(), path.as_str()) {
            (&Method::POST, message::JOIN) => self.admit(user, request).await,
            (&Method::GET, message::SERVERS) => self.list(user, request.uri().query()),
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

/// The CA of each member; none where that of one is not known, which must not be taken for a stranger.
fn authorities(known: &[peers::Known]) -> Vec<String> {
    let all = known.iter().map(|known| known.authority.clone());
    all.map(|pem| Some(pem).filter(|pem| !pem.is_empty())).collect::<Option<Vec<_>>>().unwrap_or_default()
}

/// Whether a server was a member and is none any more: nobody has its number, and nobody has it to give away, for what is given
/// never comes back. One that this server has not heard of yet has a number that is still to be given.
fn is_removed(known: &[peers::Known], number: u16) -> bool {
    let left: Option<Vec<_>> = known.iter().map(|known| known.numbers.as_ref()).collect();
    let given = left.is_some_and(|left| !left.iter().any(|numbers| numbers.contains(number.into())));
    given && !known.is_empty() && known.iter().all(|known| known.member.number != number)
}

fn answer(content: &impl serde::Serialize) -> Result<Response<Body>, Status> {
    let text = serde_json::to_string(content).map_err(Status::internal)?;
    Ok(body::json(StatusCode::OK, text))
}

fn forbidden(user: &User, what: &str) -> Status {
    Status::failure(403, "Forbidden", format!("user {:?} may not {what}", user.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(number: u16, numbers: &[&str], authority: &str) -> peers::Known {
        let name = format!("s{number}");
        let member = Member { number, name, site: "s".into(), address: None, actor: None, absent: false };
        let ranges: Vec<String> = numbers.iter().map(|range| (*range).to_owned()).collect();
        let numbers = Some(::api::slice::ranges(&ranges).unwrap());
        peers::Known { member, grant: None, takeover: None, keys: Vec::new(), authority: authority.into(), numbers }
    }

    #[test]
    fn a_server_was_removed_when_its_number_is_given_and_nobody_has_it() {
        let all = [known(1, &["40-1022"], "a"), known(2, &["5-20"], "b")];
        assert!(is_removed(&all, 3));
        assert!(!is_removed(&all, 2), "a member");
        assert!(!is_removed(&all, 7) && !is_removed(&all, 40), "admitted, perhaps, where this one has not heard of it");
        let silent = peers::Known { numbers: None, ..all[1].clone() };
        assert!(!is_removed(&[all[0].clone(), silent], 3), "who can say what that one has given?");
        assert!(!is_removed(&[], 3), "a server for itself");
    }

    #[test]
    fn members_are_told_whole_or_not_at_all() {
        assert_eq!(authorities(&[known(1, &[], "a"), known(2, &[], "b")]), ["a", "b"]);
        assert!(authorities(&[known(1, &[], "a"), known(2, &[], "")]).is_empty());
    }
}
