//! Makes the claims of generic ephemeral volumes: each lives as long as its pod, which owns it
//! (Kubernetes documentation, "Generic ephemeral volumes").
use crate::action::{self, Action, Note, Told};
use crate::error::Error;
use crate::execute::{Run, unless_exists};
use crate::owned::reference_to;
use crate::pods;
use crate::runner::{Reconciler, Watches, key_of};
use client::Reflector;
use client::informers::Key;
use client::volumes;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, ResourceExt};
use std::sync::Arc;

pub(crate) struct EphemeralVolumes {
    pub(crate) pods: Reflector<Pod>,
    pub(crate) claims: Reflector<PersistentVolumeClaim>,
}

/// The claims to make.
///
/// # Errors
/// A claim of that name that belongs to somebody else.
fn plan(pod: &Pod, claim: impl Fn(&str) -> Option<Arc<PersistentVolumeClaim>>) -> Result<Vec<Action>, Refusal> {
    let mut actions = Vec::new();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let Some(template) = volume.ephemeral.as_ref().and_then(|source| source.volume_claim_template.as_ref()) else {
            continue;
        };
        let name = volumes::claim_name(pod, volume).unwrap_or_default();
        if let Some(claim) = claim(&name) {
            if volumes::is_made_for(&claim, pod) {
                continue;
            }
            return Err(Refusal { volume: volume.name.clone(), claim: name.into_owned() });
        }
        let given = template.metadata.clone().unwrap_or_default();
        let metadata = ObjectMeta {
            name: Some(name.into_owned()),
            namespace: pod.metadata.namespace.clone(),
            labels: given.labels,
            annotations: given.annotations,
            owner_references: Some(vec![reference_to(pod)]),
            ..ObjectMeta::default()
        };
        let claim = PersistentVolumeClaim { metadata, spec: Some(template.spec.clone()), status: None };
        actions.push(action::create(&claim, Told::nothing()));
    }
    Ok(actions)
}

#[derive(Debug)]
struct Refusal {
    volume: String,
    claim: String,
}

impl Reconciler for EphemeralVolumes {
    const NAME: &'static str = "ephemeral-volume-controller";

    fn watch(&self, watches: &mut Watches) {
        watches.primary::<Pod>();
        watches.on::<Pod>(|change| {
            let mut all = change.new.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
            match all.any(|volume| volume.ephemeral.is_some()) && !change.deleted {
                true => vec![key_of(change.new)],
                false => Vec::new(),
            }
        });
        watches.on::<PersistentVolumeClaim>(|change| match change.deleted {
            true => crate::owned::owner_key(change.new, "Pod").into_iter().collect(),
            false => Vec::new(),
        });
    }

    async fn reconcile(&self, (namespace, name): Key, run: &mut Run) -> Result<(), Error> {
        let Some(pod) = self.pods.get(&namespace, &name).filter(|pod| !pods::is_terminating(pod)) else {
            return Ok(());
        };
        match plan(&pod, |claim| self.claims.get(&namespace, claim)) {
            Ok(actions) => unless_exists(run.all(actions).await),
            Err(Refusal { volume, claim }) => {
                let pod_name = pod.name_any();
                let why = format!(
                    "PVC {namespace}/{claim} was not created for pod {namespace}/{pod_name} (pod is not owner)"
                );
                let message = format!("ephemeral volume {volume}: {why}");
                let about = pod.object_ref(&());
                run.all(vec![Action::Tell(Note {
                    about,
                    warning: true,
                    reason: "FailedBinding",
                    message: message.clone(),
                })])
                .await?;
                Err(Error::Refused(message))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_claim_a_volume() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"containers": [], "volumes": [{"name": "plain", "emptyDir": {}}, {"name": "scratch", "ephemeral":
                {"volumeClaimTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {"accessModes": ["ReadWriteOnce"]}}}}]}}))
        .unwrap();
        let actions = plan(&pod, |_| None).unwrap();
        let [Action::Create { object, .. }] = &actions[..] else { panic!("{actions:?}") };
        assert_eq!(
            (&object["metadata"]["name"], &object["metadata"]["labels"]["a"]),
            (&json!("p-scratch"), &json!("b"))
        );
        assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], "u");
        let made: Arc<PersistentVolumeClaim> = Arc::new(serde_json::from_value(object.clone()).unwrap());
        assert!(plan(&pod, |_| Some(made.clone())).unwrap().is_empty());
        let foreign = PersistentVolumeClaim::default();
        assert_eq!(plan(&pod, |_| Some(Arc::new(foreign.clone()))).unwrap_err().claim, "p-scratch");
    }
}
