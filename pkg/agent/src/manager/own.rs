//! Static pods among the others: what the manifests describe runs, and the API shows it.
use super::Manager;
use crate::statics::{self, full_name};
use crate::worker::{Handle, Wanted};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, Preconditions};
use std::collections::BTreeMap;
use std::sync::Arc;

/// `(namespace, name)`.
type Name = (String, String);

/// What the manifests and the API say.
#[derive(Default)]
pub struct Statics {
    described: BTreeMap<Name, Arc<Pod>>,
    /// Mirror pods of this node, whether or not there is something that they mirror.
    pub shown: BTreeMap<Name, Arc<Pod>>,
}

impl Manager {
    /// The manifests as they are at start: their pods need no server.
    pub(super) fn start_from_manifests(&mut self) {
        let options = &self.context.options;
        match statics::read(&options.manifest_dir(), &options.node_name) {
            Ok(pods) => self.take_statics(pods),
            Err(error) => tracing::warn!(dir = %options.manifest_dir().display(), %error, "manifests can't be read"),
        }
    }

    /// From now on these are the static pods.
    pub(super) fn take_statics(&mut self, pods: Vec<Pod>) {
        self.statics.described = pods.into_iter().map(|pod| (full_name(&pod), Arc::new(pod))).collect();
        let described =
            |uid: &String| self.statics.described.values().any(|pod| pod.metadata.uid.as_ref() == Some(uid));
        for (uid, handle) in self.workers.iter().filter(|(uid, handle)| runs_static(handle) && !described(uid)) {
            self.context.ledger.lock().close(uid);
            handle.wanted.send_modify(|wanted| wanted.gone = true);
        }
        self.start_statics();
    }

    /// Starts what is described and does not run. A changed pod waits until the one before it has ended: they have one
    /// name.
    pub(super) fn start_statics(&mut self) {
        for (name, pod) in self.statics.described.clone() {
            let same_name = |handle: &&Handle| full_name(&handle.wanted.borrow().pod) == name;
            if self.workers.values().any(|handle| same_name(&handle) && runs_static(handle)) {
                continue;
            }
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            self.checkpoint(&uid, &pod);
            self.context.statics.lock().insert(name.clone(), pod.clone());
            let mirror = self.statics.shown.get(&name).cloned();
            self.spawn(uid, Wanted { pod, gone: false, mirror });
        }
        let described = &self.statics.described;
        let running: Vec<Name> = self.workers.values().map(|handle| full_name(&handle.wanted.borrow().pod)).collect();
        self.context.statics.lock().retain(|name, _| described.contains_key(name) || running.contains(name));
    }

    /// The API has this mirror pod.
    pub(super) fn show(&mut self, mirror: &Arc<Pod>) {
        let name = full_name(mirror);
        self.statics.shown.insert(name.clone(), mirror.clone());
        self.tell_mirror(&name, Some(mirror));
    }

    /// The API doesn't have this mirror pod any more.
    pub(super) fn hide(&mut self, mirror: &Arc<Pod>) {
        let name = full_name(mirror);
        if self.statics.shown.get(&name).is_some_and(|shown| shown.metadata.uid == mirror.metadata.uid) {
            self.statics.shown.remove(&name);
            self.tell_mirror(&name, None);
        }
    }

    fn tell_mirror(&self, name: &Name, mirror: Option<&Arc<Pod>>) {
        let of_name = |handle: &&Handle| runs_static(handle) && full_name(&handle.wanted.borrow().pod) == *name;
        for handle in self.workers.values().filter(of_name) {
            handle.wanted.send_modify(|wanted| wanted.mirror = mirror.cloned());
        }
    }

    /// Mirrors of nothing go: their manifest was removed, perhaps while no agent ran.
    pub(super) fn remove_stale_mirrors(&self) {
        let running = |name: &Name| {
            self.workers.values().any(|handle| runs_static(handle) && full_name(&handle.wanted.borrow().pod) == *name)
        };
        for (name, mirror) in self.statics.shown.iter().filter(|(name, _)| !running(name)) {
            let api: Api<Pod> = Api::namespaced(self.context.options.client.clone(), &name.0);
            let (name, uid, shutdown) = (name.1.clone(), mirror.metadata.uid.clone(), self.shutdown.clone());
            let preconditions = Some(Preconditions { uid, resource_version: None });
            let params = DeleteParams { preconditions, ..DeleteParams::default().grace_period(0) };
            self.context.tracker.spawn(async move {
                // Tried again with the next relist.
                if let Some(Err(error)) = shutdown.run_until_cancelled(api.delete(&name, &params)).await {
                    tracing::debug!(name, %error, "mirror pod not deleted yet");
                }
            });
        }
    }
}

fn runs_static(handle: &Handle) -> bool {
    statics::is_static(&handle.wanted.borrow().pod)
}
