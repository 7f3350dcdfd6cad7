//! The labels that a Node may not give itself (NodeRestriction): what a server's own node is to the cluster, its
//! server says. It follows the Node, so one that is deleted and comes back gets them again.
use client::Informers;
use client::kube::api::{Api, Patch, PatchParams};
use client::kube::{self, Client};
use k8s_openapi::api::core::v1::Node;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Labels of this prefix are an administrator's.
pub(crate) const PREFIX: &str = "node-role.kubernetes.io/";
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";
/// The pause before a refused patch is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Keeps the labels on one Node.
pub(crate) struct Service {
    pub client: Client,
    pub informers: Informers,
    pub node_name: String,
    /// Roles besides the control plane's.
    pub labels: BTreeMap<String, String>,
}

impl Service {
    /// Runs until shutdown.
    pub async fn run(self, shutdown: CancellationToken) {
        shutdown.run_until_cancelled(self.follow()).await;
    }

    async fn follow(&self) {
        let nodes = self.informers.reflector::<Node>();
        let mut changes = nodes.subscribe();
        nodes.synced().await;
        let labels = wanted(&self.labels);
        loop {
            let node = nodes.get("", &self.node_name);
            if node.is_some_and(|node| lacks(&node, &labels)) {
                match self.label(&labels).await {
                    Ok(()) => {}
                    Err(error) => {
                        tracing::debug!(%error, node = self.node_name, "labelling the node of this server");
                        tokio::time::sleep(RETRY).await;
                        continue;
                    }
                }
            }
            if changes.next().await.is_none() {
                return;
            }
        }
    }

    async fn label(&self, labels: &BTreeMap<String, String>) -> Result<(), kube::Error> {
        let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
        Api::<Node>::all(self.client.clone()).patch(&self.node_name, &PatchParams::default(), &patch).await.map(drop)
    }
}

fn wanted(given: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([(CONTROL_PLANE.to_owned(), "true".to_owned())]);
    labels.extend(given.clone());
    labels
}

fn lacks(node: &Node, labels: &BTreeMap<String, String>) -> bool {
    let has = |key: &String| node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(key));
    !labels.keys().all(has)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_that_is_there_stays_as_it_is() {
        let labels = wanted(&BTreeMap::from([(format!("{PREFIX}edge"), "yes".to_owned())]));
        let node = |keys: &[&str]| {
            let mut node = Node::default();
            node.metadata.labels = Some(keys.iter().map(|key| ((*key).to_owned(), "other".to_owned())).collect());
            node
        };
        assert!(lacks(&Node::default(), &labels));
        assert!(lacks(&node(&[CONTROL_PLANE]), &labels));
        assert!(!lacks(&node(&[CONTROL_PLANE, "node-role.kubernetes.io/edge"]), &labels));
    }
}
