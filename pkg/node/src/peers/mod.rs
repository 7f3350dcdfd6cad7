//! This server among the others of its cluster: who they are, the links to them, and what they ask.
//!
//! Place in the flow: `store <-> sync <-> [peers] <-> other servers`, and `servers.eyot.dev` for people.

mod conflicts;
mod contact;
mod digest;
mod door;
mod extension;
mod forward;
mod members;
mod objects;
mod register;
mod sites;
mod watermarks;

use crate::dial;
use crate::server::{self, Tasks};
use crate::site::Site;
use crate::{pki, tls};
use anyhow::Context;
use api::slice::{Grant, Numbers};
use apiserver::Sites;
use async_trait::async_trait;
use contact::Contacts;
pub use extension::{CONFLICTS, DIGEST, Extension, JOIN_USER, NODE_JOIN_USER};
use register::Register;
pub(crate) use register::servers;
use rustls::ClientConfig;
pub use sites::Known;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use store::{Replica, Store};
use sync::{Handle, Member, Wire};
use tokio::sync::watch;

/// What the certificate that a server shows others says: this, and its name.
pub const USER: &str = "eyot:server:";
/// The group of all servers.
pub const GROUP: &str = "eyot:servers";
/// Where links are asked for.
pub const LINK: &str = "/v1-eyot/link";

/// How long a server that has just joined waits for what its cluster has.
const FIRST_SYNC: Duration = Duration::from_secs(600);
/// It looks at its links at least this often meanwhile.
const GLANCE: Duration = Duration::from_secs(1);

/// The running parts.
pub struct Peers {
    pub handle: Handle,
    pub members: watch::Receiver<Vec<Member>>,
    extension: Arc<Extension>,
    pub site: Site,
    met: Arc<AtomicBool>,
    sites: Sites,
    all: watch::Receiver<Vec<Known>>,
    judging: sites::Service,
    contacts: Arc<Contacts>,
    store: Arc<Store>,
}

/// Dials other servers' API port and asks to be linked.
struct Dialer {
    tls: Arc<ClientConfig>,
}

#[async_trait]
impl sync::Dialer for Dialer {
    async fn dial(&self, member: &Member) -> std::io::Result<Box<dyn Wire>> {
        let address = member.address.as_deref().unwrap_or_default();
        let stream = dial::upgrade(address, self.tls.clone(), LINK).await;
        stream.map(|stream| Box::new(stream) as Box<dyn Wire>).map_err(std::io::Error::other)
    }
}

/// Starts the links. What needs the API follows with [`Peers::start`].
pub(crate) async fn open(known: &server::Known, site: Site, store: Arc<Store>, tasks: &Tasks) -> anyhow::Result<Peers> {
    let subject = pki::Subject::user(&format!("{USER}{}", site.name), &[GROUP]);
    let pair = known.authority.leaf("client-server", &subject)?;
    let tls = Arc::new(tls::client_of_members(known.trust.clone(), &pair)?);
    let own = members::Own::new(site.clone(), known.config.absent_after, known.authority.intermediate_pem());
    let met = own.met.clone();
    let (following, task) = members::follow(store.clone(), own.clone(), known.trust.clone()).await?;
    let (members, all) = (following.members, following.known);
    let shutdown = tasks.shutdown.clone();
    tasks.tracker.spawn(async move { shutdown.run_until_cancelled(task).await });
    let cluster = crate::api::cluster_id(&known.config.data_dir.join("server/cluster-id"))?;
    let options = sync::Options {
        replica: store.clone(),
        cluster: cluster.into_bytes(),
        number: site.number,
        name: site.name.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        members: members.clone(),
        dialer: Arc::new(Dialer { tls: tls.clone() }),
    };
    let service = sync::Service::new(options, tasks.shutdown.clone());
    let handle = service.handle();
    tasks.tracker.spawn(service.run());
    let whole = whole(known)?;
    let contacts = Arc::new(Contacts::new(&store.vector(), Instant::now()));
    let (judging, mut sites) =
        sites::Service::new(site.clone(), whole.clone(), store.clone(), contacts.clone(), all.clone());
    sites.watermarks = Some(Arc::new(watermarks::Watermarks { store: store.clone(), known: all.clone() }));
    sites.proxy = Some(Arc::new(forward::Forward { members: members.clone(), tls, number: site.number }));
    let seen = extension::Seen { handle: handle.clone(), store: store.clone(), own, whole };
    let extension = Arc::new(Extension::new(known, &site, seen, cluster));
    Ok(Peers { handle, members, extension, site, met, sites, all, judging, contacts, store })
}

/// All numbers that the servers of the cluster share.
fn whole(known: &server::Known) -> anyhow::Result<Numbers> {
    let config = &known.config;
    let (first, last) = config.service_node_port_range;
    let all = Grant {
        service_ips: vec![config.service_cidr.trunc().to_string()],
        node_ports: vec![format!("{first}-{last}")],
        pod_cidrs: vec![config.cluster_cidr.trunc().to_string()],
    };
    Ok(all.numbers()?)
}

impl Peers {
    /// What serves other servers' requests, and the administrator's about them.
    pub fn extension(&self) -> Arc<dyn apiserver::Extension> {
        self.extension.clone()
    }

    /// The members with all that is known of them.
    pub fn known(&self) -> watch::Receiver<Vec<Known>> {
        self.all.clone()
    }

    /// What everything that acts is told of other sites.
    pub fn sites(&self) -> Sites {
        self.sites.clone()
    }

    /// Waits until a server that has joined has everything of the server that admitted it.
    ///
    /// # Errors
    /// It could not be reached for too long.
    pub(crate) async fn first_sync(&mut self, known: &server::Known) -> anyhow::Result<()> {
        let Some(by) = self.site.admitted_by.clone().filter(|_| !self.site.synced) else { return Ok(()) };
        tracing::info!(by = by.name, address = by.address, "taking over what the cluster has");
        let mut changes = self.handle.changes();
        let complete = async {
            while !self.handle.links().iter().any(|link| link.number == by.number && link.complete) {
                // Links end and begin; what comes in is seen sooner or later.
                let _ = tokio::time::timeout(GLANCE, changes.changed()).await;
            }
        };
        tokio::time::timeout(FIRST_SYNC, complete).await.with_context(|| {
            format!("{} at {} did not send what the cluster has within {} s", by.name, by.address, FIRST_SYNC.as_secs())
        })?;
        self.site.synced = true;
        self.met.store(true, Ordering::Relaxed);
        self.site.save(&known.config.data_dir)
    }

    /// Starts what stands on the API: this server's own object, what is shown of the others, and what is told of
    /// conflicts.
    pub(crate) fn start(
        self,
        known: &server::Known,
        api: &apiserver::Handle,
        client: kube::Client,
        tasks: &Tasks,
    ) -> anyhow::Result<()> {
        self.begin(known, Register::Api(client.clone()), Some((api.clone(), client)), tasks)
    }

    /// The same where no API is served, with a listener for other servers alone.
    ///
    /// # Errors
    /// The port is taken.
    pub(crate) fn start_alone(self, known: &server::Known, tasks: &Tasks) -> anyhow::Result<()> {
        let address = SocketAddr::new(known.config.bind_address, known.config.https_listen_port);
        let listener =
            TcpListener::bind(address).with_context(|| format!("listening on {address} for other servers"))?;
        let door = door::Door::new(listener, &known.serving()?, known, self.extension.clone())?;
        tasks.tracker.spawn(door.run(tasks.shutdown.clone()));
        tracing::info!(%address, "other servers are answered");
        let register = Register::Store(self.store.clone());
        self.begin(known, register, None, tasks)
    }

    fn begin(
        self,
        known: &server::Known,
        register: Register,
        api: Option<(apiserver::Handle, kube::Client)>,
        tasks: &Tasks,
    ) -> anyhow::Result<()> {
        let (api, client) = api.unzip();
        let spawn = |name: &'static str, run: Pin<Box<dyn Future<Output = ()> + Send>>| {
            let shutdown = tasks.shutdown.clone();
            tasks.tracker.spawn(async move {
                shutdown.run_until_cancelled(run).await;
                tracing::debug!(name, "ended");
            });
        };
        self.extension.serve_through(register.clone(), api.clone());
        spawn("judging sites", Box::pin(self.judging.run(api.is_some().then(|| register.clone()))));
        let own = objects::Own {
            name: self.site.name.clone(),
            number: self.site.number,
            site: self.site.site.clone(),
            address: format!("{}:{}", known.address, known.config.https_listen_port),
            service_account_key: known.authority.service_account_public_pem()?,
            authority: known.authority.intermediate_pem().to_owned(),
        };
        let objects = objects::Service {
            own,
            register,
            handle: self.handle.clone(),
            members: self.members,
            all: self.all,
            contacts: self.contacts,
            api,
        };
        spawn("showing servers", Box::pin(objects.run()));
        let conflicts = conflicts::Service { client, store: self.store, server: self.site.name };
        spawn("telling of conflicts", Box::pin(conflicts.run()));
        Ok(())
    }
}
