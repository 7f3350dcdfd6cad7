//! Nodes that exist in the API alone, and what keeps a control plane from taking them for lost: each has a Lease that is
//! renewed as a kubelet renews its own.
use crate::measure::{PREPARE, object};
use anyhow::Result;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Where kubelets keep their Leases.
const LEASES: &str = "kube-node-lease";
/// As long as a kubelet lets its Lease be valid, in seconds.
const LEASE_SECONDS: i32 = 40;
/// Each Lease is renewed once in this time; Kubernetes gives a node up after 50 s (`--node-monitor-grace-period`).
const RENEWAL: Duration = Duration::from_secs(20);

/// Simulated nodes of one run; their Leases are renewed until they are removed.
pub struct Nodes {
    client: kube::Client,
    /// What removal finds them by, `key=value`; all of them have it.
    selector: String,
    renewing: tokio::task::JoinHandle<()>,
}

impl Nodes {
    /// Makes `count` nodes `<prefix>-<n>` with the label `key: value`, spread over three zones, each with room for `room`
    /// (a node's `capacity`).
    ///
    /// # Errors
    /// When the API refuses one; those that were made are removed.
    pub async fn make(
        client: &kube::Client,
        prefix: &str,
        count: usize,
        (key, value): (&str, &str),
        room: Value,
    ) -> Result<Self> {
        let names: Vec<String> = (0..count).map(|n| format!("{prefix}-{n}")).collect();
        let labels = json!({ key: value });
        let made = stream::iter(names.iter().enumerate())
            .map(|(n, name)| make(client, name, n, &labels, &room))
            .buffer_unordered(PREPARE)
            .try_collect::<Vec<()>>();
        let made = made.await;
        let renewing = tokio::spawn(renew(Api::namespaced(client.clone(), LEASES), names));
        let nodes = Self { client: client.clone(), selector: format!("{key}={value}"), renewing };
        match made {
            Ok(_) => Ok(nodes),
            Err(error) => nodes.remove().await.and(Err(error)),
        }
    }

    /// Removes the nodes and their Leases.
    ///
    /// # Errors
    /// When the API refuses that.
    pub async fn remove(self) -> Result<()> {
        self.renewing.abort();
        let (params, ours) = (DeleteParams::default(), ListParams::default().labels(&self.selector));
        Api::<Node>::all(self.client.clone()).delete_collection(&params, &ours).await?;
        Api::<Lease>::namespaced(self.client, LEASES).delete_collection(&params, &ours).await?;
        Ok(())
    }
}

async fn make(client: &kube::Client, name: &str, n: usize, labels: &Value, room: &Value) -> Result<()> {
    let post = PostParams::default();
    let spec = json!({"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now()});
    let lease = object(json!({"metadata": {"name": name, "labels": labels}, "spec": spec}))?;
    Api::<Lease>::namespaced(client.clone(), LEASES).create(&post, &lease).await?;
    let nodes: Api<Node> = Api::all(client.clone());
    let mut node = json!({"metadata": {"name": name, "labels": labels}});
    node["metadata"]["labels"]["kubernetes.io/hostname"] = json!(name);
    node["metadata"]["labels"]["topology.kubernetes.io/zone"] = json!(format!("zone-{}", n % 3));
    nodes.create(&post, &object(node)?).await?;
    let ready = json!([{"type": "Ready", "status": "True", "reason": "Simulated", "message": "simulated"}]);
    let status = json!({"status": {"capacity": room, "allocatable": room, "conditions": ready}});
    nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await?;
    Ok(())
}

/// Renews one Lease after the other, spread evenly, until the task is ended. A renewal that fails is left to the next
/// turn, as a kubelet would.
async fn renew(leases: Api<Lease>, names: Vec<String>) {
    let mut next = Instant::now();
    loop {
        for name in &names {
            next += RENEWAL / names.len().max(1) as u32;
            sleep_until(next).await;
            let renewed = Patch::Merge(json!({"spec": {"renewTime": now()}}));
            leases.patch(name, &PatchParams::default(), &renewed).await.ok();
        }
        if names.is_empty() {
            return;
        }
    }
}

/// The time as a Lease says it: with microseconds.
fn now() -> String {
    format!("{:.6}", k8s_openapi::jiff::Timestamp::now())
}
