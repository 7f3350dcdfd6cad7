//! A pod's volumes, before the pod itself is bound: what was decided is written, and the binder and provisioner waited
//! for.
use crate::pod::PodInfo;
use crate::report::BindError;
use crate::storage::Step;
use client::{Reflector, volumes};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use std::time::Duration;

/// How long volumes may take; upstream's default.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Writes the decisions and waits until all claims are bound.
///
/// # Errors
/// When the API refuses, a claim is gone, its provisioner wants another node, or it takes too long.
pub async fn volumes(
    client: &kube::Client,
    claims: &Reflector<PersistentVolumeClaim>,
    pod: &PodInfo,
    node: &str,
    steps: &[Step],
) -> Result<(), BindError> {
    let failed =
        |reason: String| BindError::Volumes { namespace: pod.namespace.clone(), name: pod.name.clone(), reason };
    let mut notices = claims.subscribe();
    for step in steps {
        write(client, step, node).await.map_err(|error| failed(error.to_string()))?;
    }
    let wait = async {
        let mut watched: Vec<Watched<'_>> = steps.iter().map(|step| Watched { step, selected: false }).collect();
        loop {
            let mut waiting = false;
            for claim in &mut watched {
                waiting |= claim.waits(claims)?;
            }
            if !waiting {
                return Ok(());
            }
            if notices.next().await.is_none() {
                return Err("the caches are gone".to_owned());
            }
        }
    };
    match tokio::time::timeout(TIMEOUT, wait).await {
        Ok(result) => result.map_err(failed),
        Err(_) => Err(failed("timed out waiting for the condition".to_owned())),
    }
}

async fn write(client: &kube::Client, step: &Step, node: &str) -> Result<(), kube::Error> {
    let params = PatchParams::default();
    match step {
        Step::Wait { .. } => Ok(()),
        Step::Bind { claim, volume } => {
            let Some(patch) = volumes::binding(volume, claim) else { return Ok(()) };
            let api: Api<PersistentVolume> = Api::all(client.clone());
            api.patch(&volume.name_any(), &params, &Patch::Merge(patch)).await.map(drop)
        }
        Step::Provision { claim } => {
            let api: Api<PersistentVolumeClaim> =
                Api::namespaced(client.clone(), claim.metadata.namespace.as_deref().unwrap_or_default());
            let metadata = json!({"uid": claim.metadata.uid, "annotations": {volumes::SELECTED_NODE: node}});
            api.patch(&claim.name_any(), &params, &Patch::Merge(json!({"metadata": metadata}))).await.map(drop)
        }
    }
}

/// A claim that is waited for.
struct Watched<'a> {
    step: &'a Step,
    /// Whether the cache has shown the node that was chosen for it.
    selected: bool,
}

impl Watched<'_> {
    fn waits(&mut self, claims: &Reflector<PersistentVolumeClaim>) -> Result<bool, String> {
        let claim = self.step.claim();
        let (namespace, name) = (claim.namespace().unwrap_or_default(), claim.name_any());
        let current = claims.get(&namespace, &name).filter(|current| current.uid() == claim.uid());
        let Some(current) = current else { return Err(format!("persistentvolumeclaim {name:?} not found")) };
        let has_node = current.annotations().contains_key(volumes::SELECTED_NODE);
        if self.selected && !has_node {
            return Err(format!("provisioning failed for PVC {name:?}"));
        }
        self.selected |= has_node;
        Ok(!volumes::is_bound(&current))
    }
}
