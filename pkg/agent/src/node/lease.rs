//! The heartbeat: a Lease in `kube-node-lease`, renewed while the agent lives.
use crate::context::Context;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use std::time::Duration;

/// Renewed this often; upstream's node controller waits 40 s.
const RENEW: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(1);
const LIFE_SECONDS: i32 = 40;

/// Renews for ever.
pub async fn renew(context: &Context) {
    loop {
        let wait = match renew_once(context).await {
            Ok(()) => RENEW,
            Err(error) => {
                tracing::debug!(%error, "lease not renewed");
                RETRY
            }
        };
        tokio::time::sleep(wait).await;
    }
}

async fn renew_once(context: &Context) -> Result<(), kube::Error> {
    let name = &context.options.node_name;
    let api: Api<Lease> = Api::namespaced(context.options.client.clone(), "kube-node-lease");
    let now = MicroTime(jiff::Timestamp::now());
    let spec = json!({"holderIdentity": name, "leaseDurationSeconds": LIFE_SECONDS, "renewTime": now});
    let patch = Patch::Merge(json!({"spec": spec}));
    match api.patch(name, &PatchParams::default(), &patch).await {
        Err(kube::Error::Api(answer)) if answer.code == 404 => {
            let node = super::api(context).get(name).await?;
            let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": name, "uid": node.metadata.uid}]);
            let lease = json!({"metadata": {"name": name, "ownerReferences": owner}, "spec": spec});
            let lease = serde_json::from_value(lease).map_err(kube::Error::SerdeError)?;
            api.create(&PostParams::default(), &lease).await.map(drop)
        }
        other => other.map(drop),
    }
}
