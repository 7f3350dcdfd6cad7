//! Where objects are kept: in this server's own store, or in an etcd that is there already.
use crate::config::External;
use crate::server::Tasks;
use anyhow::Context;
use api::summary::Summarize;
use etcd::remote::{self, Remote};
use std::path::Path;
use std::sync::Arc;
use store::{Backend, Store};

/// What a server stands on.
pub enum Datastore {
    Local(Arc<Store>),
    External(Remote),
}

impl Datastore {
    /// Connects to an etcd, and keeps its history short.
    ///
    /// # Errors
    /// The certificates can't be read, or no member answers.
    pub async fn connect(external: &External, summarize: Arc<dyn Summarize>, tasks: &Tasks) -> anyhow::Result<Self> {
        let members = external.endpoints.clone();
        let names = members.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let tls = if members.iter().any(|member| member.tls) { Some(Arc::new(tls(external)?)) } else { None };
        let options = remote::Options { members, tls, summarize, shutdown: tasks.shutdown.clone() };
        let remote = Remote::connect(options).await.with_context(|| format!("the datastore {names}"))?;
        tracing::info!(endpoints = names, revision = %remote.current_revision(), "the datastore is an etcd");
        tasks.tracker.spawn(remote.clone().run());
        Ok(Self::External(remote))
    }

    pub fn backend(&self) -> Arc<dyn Backend> {
        match self {
            Self::Local(store) => store.clone(),
            Self::External(remote) => Arc::new(remote.clone()),
        }
    }

    /// Finishes what was accepted.
    pub async fn close(&self) -> store::Result<()> {
        match self {
            Self::Local(store) => store.close().await,
            Self::External(_) => Ok(()),
        }
    }
}

fn tls(external: &External) -> anyhow::Result<rustls::ClientConfig> {
    let read = |path: &Path| crate::files::read(path);
    let ca = external.ca_file.as_deref().context("an etcd over https:// needs --datastore-cafile, who signed it")?;
    let pair = match (&external.cert_file, &external.key_file) {
        (Some(certificate), Some(key)) => Some(crate::pki::Pair { chain_pem: read(certificate)?, key_pem: read(key)? }),
        (None, None) => None,
        _ => anyhow::bail!("--datastore-certfile and --datastore-keyfile belong together"),
    };
    crate::tls::client(&read(ca)?, pair.as_ref()).context("the datastore's certificates")
}
