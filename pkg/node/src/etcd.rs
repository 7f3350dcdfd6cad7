//! etcd's endpoint on this server's store: for `etcdctl`, and for people who bring their own kube-apiserver.
use crate::config::Etcd;
use crate::server::{Known, Tasks};
use crate::{api, tls};
use anyhow::Context;
use etcd::{Identity, Limits, Options, Service};
use std::net::IpAddr;
use std::sync::Arc;
use store::{Replica, Store};

/// Opens the port and serves until shutdown.
///
/// # Errors
/// The port is taken, or the certificates can't be made.
pub(crate) fn start(known: &Known, settings: &Etcd, store: Arc<Store>, tasks: &Tasks) -> anyhow::Result<()> {
    let address = settings.listen.address;
    let listener = std::net::TcpListener::bind(address)
        .with_context(|| format!("listening on {address} for etcd's clients (is an etcd running?)"))?;
    let limits = Limits { request_bytes: settings.max_request_bytes, txn_ops: settings.max_txn_ops };
    let identity = identity(known, settings, &store)?;
    let tls = if settings.listen.tls { Some(Arc::new(server_tls(known, address.ip())?)) } else { None };
    let service = Service::new(Options { backend: store, listener, tls, identity, limits })?;
    tracing::info!(listen = %settings.listen, "etcd's API serves");
    tasks.tracker.spawn(service.run(tasks.shutdown.clone()));
    Ok(())
}

fn identity(known: &Known, settings: &Etcd, store: &Store) -> anyhow::Result<Identity> {
    let cluster = api::cluster_id(&known.config.data_dir.join("server/cluster-id"))?;
    Ok(Identity {
        cluster_id: cluster.as_u64_pair().0,
        member_id: u64::from_be_bytes(std::array::from_fn(|at| store.actor().0[at])),
        name: known.node_name.clone(),
        client_urls: vec![settings.listen.to_string()],
    })
}

fn server_tls(known: &Known, listen: IpAddr) -> anyhow::Result<rustls::ServerConfig> {
    let mut subject = known.reached_as("etcd");
    if !listen.is_unspecified() && !subject.addresses.contains(&listen) {
        subject.addresses.push(listen);
    }
    let certificates = known.authority.etcd(&subject)?;
    Ok(tls::mutual(&certificates.ca_pem, &certificates.serving)?)
}
