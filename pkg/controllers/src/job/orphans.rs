//! Pods that a Job held and that no Job counts any more: they are let go, or they could never be deleted.
use super::plan::release;
use super::pods_of;
use crate::error::Error;
use crate::execute::Run;
use crate::owned;
use crate::runner::{Reconciler, Watches, key_of};
use client::Reflector;
use client::informers::Key;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

pub(crate) struct Orphans {
    pub(crate) jobs: Reflector<Job>,
    pub(crate) pods: Reflector<Pod>,
}

/// Held, and `job`, by the name of the managing owner if that is a Job, is not the one.
fn is_orphan(pod: &Pod, job: impl Fn(&Key) -> Option<String>) -> bool {
    let owner = owned::owner_key(pod, "Job").and_then(|key| job(&key));
    let manager = owned::controller_of(pod).map(|owner| owner.uid.clone());
    pods_of::is_tracked(pod) && (manager.is_none() || owner != manager)
}

impl Orphans {
    fn uid_of(&self, (namespace, name): &Key) -> Option<String> {
        self.jobs.get(namespace, name)?.uid()
    }
}

impl Reconciler for Orphans {
    const NAME: &'static str = "job-controller";

    fn watch(&self, watches: &mut Watches) {
        watches.primary::<Pod>();
        let jobs = self.jobs.clone();
        watches.on::<Pod>(move |change| {
            let uid_of = |(namespace, name): &Key| jobs.get(namespace, name)?.uid();
            let orphan = !change.deleted && is_orphan(change.new, uid_of);
            if orphan { vec![key_of(change.new)] } else { Vec::new() }
        });
        let pods = self.pods.clone();
        watches.on::<Job>(move |change| {
            if !change.deleted {
                return Vec::new();
            }
            let left = pods.controlled_by(change.new.metadata.uid.as_deref().unwrap_or_default());
            left.iter().filter(|pod| pods_of::is_tracked(pod)).map(|pod| key_of(&**pod)).collect()
        });
    }

    async fn reconcile(&self, (namespace, name): Key, run: &mut Run) -> Result<(), Error> {
        let pod = self.pods.get(&namespace, &name).filter(|pod| is_orphan(pod, |key| self.uid_of(key)));
        match run.all(pod.iter().map(|pod| release(pod)).collect()).await {
            Err(error) if error.is_not_found() => Ok(()),
            result => result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn held_pods_without_their_job_are_orphans() {
        let pod = |finalizers: serde_json::Value, owners: serde_json::Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "finalizers": finalizers,
                "ownerReferences": owners}}))
            .unwrap()
        };
        let owner = json!([{"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "1", "controller": true}]);
        let held = json!([pods_of::FINALIZER]);
        let there = |uid: &'static str| move |key: &Key| (key.1 == "j").then(|| uid.to_owned());
        assert!(!is_orphan(&pod(held.clone(), owner.clone()), there("1")));
        assert!(is_orphan(&pod(held.clone(), owner.clone()), there("2")), "the Job's next life is another Job");
        assert!(is_orphan(&pod(held.clone(), owner.clone()), |_| None));
        assert!(is_orphan(&pod(held, json!([])), there("1")));
        assert!(!is_orphan(&pod(json!([]), owner), |_| None), "nothing holds it");
    }
}
