//! What `eyot status` says of a node without a server.
use super::connect::{self, Api};
use super::identity::{Dir, Identity};
use super::servers::Servers;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use std::path::Path;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    pub version: String,
    pub node: Option<Node>,
    pub pods: Vec<Pod>,
    /// Each server's name, site and address, and how long the way to it takes, or why there is none.
    pub servers: Vec<(String, String, String, Result<std::time::Duration, String>)>,
}

/// Whether the data directory is an agent's that has joined.
pub fn is_here(data_dir: &Path) -> bool {
    Dir::of(data_dir).servers().exists()
}

/// Asks the servers that the agent knows, as its node; with the reason where that ended early.
pub async fn look(data_dir: &Path) -> (Found, Option<String>) {
    let mut found = Found::default();
    let error = fill(data_dir, &mut found).await.err();
    (found, error.map(|error| format!("{error:#}")))
}

async fn fill(data_dir: &Path, found: &mut Found) -> anyhow::Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = Dir::of(data_dir);
    let Some(identity) = Identity::load(&dir, None)? else { anyhow::bail!("it has not joined yet") };
    let servers = Arc::new(Servers::open(dir.servers(), identity.membership.site.clone(), None)?);
    let looks = servers.all().into_iter().map(|server| async {
        let distance = connect::distance(&server.address).await.map_err(|error| error.to_string());
        match &distance {
            Ok(took) => servers.answered(&server.address, *took),
            Err(_) => servers.failed(&server.address),
        }
        (server.name.unwrap_or_default(), server.site.unwrap_or_default(), server.address, distance)
    });
    found.servers = futures::future::join_all(looks).await;
    let api = Api::new(servers.clone(), identity.node(), "eyot", TaskTracker::new(), CancellationToken::new()).client();
    found.version = api.apiserver_version().await?.git_version;
    let name = &identity.membership.name;
    found.node = Some(kube::Api::<Node>::all(api.clone()).get(name).await?);
    let here = ListParams::default().fields(&format!("spec.nodeName={name}"));
    found.pods = kube::Api::<Pod>::all(api).list(&here).await?.items;
    Ok(())
}
