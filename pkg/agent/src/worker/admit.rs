//! Whether this node runs a pod at all, and what an earlier agent left of it.
use super::Worker;
use crate::context::Context;
use crate::cri::{ContainerState, ContainerStatus};
use crate::pod::admit::{self, Refusal};
use crate::pod::ledger::Held;
use crate::pod::observed::Observed;
use crate::pod::status::{has_begun, has_ended};
use crate::statics::is_static;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the API may take to show the node as it is.
const NODE_TIMEOUT: Duration = Duration::from_secs(5);
/// What containerd says of a container whose first process never ran (its `errorStartReason`).
const START_ERROR: &str = "StartError";

/// Containers that were there before this actor.
#[derive(Default)]
pub struct Inherited {
    /// By id; `None` until the runtime was asked for the first time.
    ids: Option<BTreeSet<String>>,
    /// Containers (by id) whose end an earlier agent told the API.
    told: BTreeSet<String>,
}

impl Inherited {
    fn of(pod: &Pod) -> Self {
        let status = pod.status.as_ref();
        let main = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
        let init = status.and_then(|status| status.init_container_statuses.as_deref()).unwrap_or_default();
        let states = main.iter().chain(init).flat_map(|status| [&status.state, &status.last_state]);
        let ended = states.filter_map(|state| state.as_ref()?.terminated.as_ref()?.container_id.as_deref());
        let told = ended.map(|id| id.rsplit('/').next().unwrap_or_default().to_owned()).collect();
        Self { ids: None, told }
    }

    /// A start that was cut off because whoever asked for it went away looks as if it had failed. Where nobody has
    /// said so yet, such a container counts as never started, and what has not started is made anew.
    pub fn mend(&mut self, observed: &mut Observed) {
        let first = || observed.containers.iter().map(|status| status.id.clone()).collect();
        let ids = self.ids.get_or_insert_with(first);
        ids.retain(|id| observed.containers.iter().any(|status| status.id == *id));
        let cut_off = |status: &ContainerStatus| {
            status.state() == ContainerState::ContainerExited
                && status.reason == START_ERROR
                && status.started_at == 0
                && ids.contains(&status.id)
                && !self.told.contains(&status.id)
        };
        for status in observed.containers.iter_mut().filter(|status| cut_off(status)) {
            status.state = ContainerState::ContainerCreated.into();
        }
    }
}

impl Worker {
    /// What an earlier agent put in force, and whether the pod gets in.
    pub(super) fn take_up(&mut self, pod: Arc<Pod>) {
        let held = crate::pod::resize::as_reported(&pod);
        let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        let actual = statuses.filter_map(|status| Some((status.name.clone(), status.resources.clone()?)));
        self.resizes.actual = actual.collect();
        self.inherited = Inherited::of(&pod);
        self.admitted = is_begun(&pod) || self.gone;
        if self.reporter.has_ended() || self.gone {
            self.context.ledger.lock().close(&self.uid);
        }
        match enter(&self.context, &self.uid, &pod).filter(|_| !self.admitted) {
            Some(refusal) => self.refuse(refusal),
            None => self.pod = self.grant(pod, &held),
        }
    }

    /// What depends on the node as it is now, which takes a look at the API when our own view speaks against the pod.
    pub(super) async fn judge_place(&mut self) {
        if self.admitted || self.refused.is_some() {
            return;
        }
        if is_static(&self.pod) {
            return;
        }
        let name = &self.context.options.node_name;
        let Some(known) = self.context.nodes.get("", name) else { return };
        if admit::misplaced(&self.pod, &known).is_none() {
            return;
        }
        let api = Api::<Node>::all(self.context.options.client.clone());
        let Ok(Ok(now)) = tokio::time::timeout(NODE_TIMEOUT, api.get(name)).await else { return };
        if let Some(refusal) = admit::misplaced(&self.pod, &now) {
            self.refuse(refusal);
        }
    }

    /// The node doesn't run the pod, or not any longer.
    pub(super) fn refuse(&mut self, refusal: Refusal) {
        if let Some(told) = &refusal.told {
            self.context.warn(&self.pod, refusal.reason, told.clone());
        }
        self.deadline = Some(Instant::now() + refusal.grace);
        self.refused = Some(refusal);
        if !self.admitted {
            self.context.ledger.lock().close(&self.uid);
        }
    }
}

/// Let in by an earlier agent, or on its way out already.
fn is_begun(pod: &Pod) -> bool {
    has_begun(pod) || pod.metadata.deletion_timestamp.is_some() || has_ended(pod)
}

/// Enters the pod in the ledger, at once with the look whether there is room.
fn enter(context: &Context, uid: &str, pod: &Pod) -> Option<Refusal> {
    let room = context.room();
    let mut ledger = context.ledger.lock();
    let refusal = admit::refusal(pod, &room, &ledger.others(uid), context.machine.apparmor);
    if refusal.is_none() {
        ledger.set(uid, Held::of(pod));
    }
    refusal
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn failed_start(id: &str) -> ContainerStatus {
        let state = ContainerState::ContainerExited.into();
        ContainerStatus { id: id.into(), state, exit_code: 128, reason: START_ERROR.into(), ..Default::default() }
    }

    fn states(inherited: &mut Inherited, containers: Vec<ContainerStatus>) -> Vec<ContainerState> {
        let mut observed = Observed { sandboxes: vec![], containers };
        inherited.mend(&mut observed);
        observed.containers.iter().map(ContainerStatus::state).collect()
    }

    #[test]
    fn a_start_that_was_cut_off_counts_as_none() {
        use ContainerState::{ContainerCreated as Created, ContainerExited as Exited};
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "status": {"containerStatuses": [
            {"name": "b", "image": "", "imageID": "", "ready": false, "restartCount": 0,
             "state": {"terminated": {"exitCode": 128, "containerID": "containerd://told"}}}]}}))
        .expect("a pod");
        let mut inherited = Inherited::of(&pod);
        let mut ran = failed_start("ran");
        ran.started_at = 1;
        let first = states(&mut inherited, vec![failed_start("cut"), failed_start("told"), ran]);
        assert_eq!(first, [Created, Exited, Exited]);
        let later = states(&mut inherited, vec![failed_start("cut"), failed_start("own")]);
        assert_eq!(later, [Created, Exited], "what this agent started has failed");
    }
}
