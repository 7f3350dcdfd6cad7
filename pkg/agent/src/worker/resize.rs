//! In-place resize: asks for room, then puts what is granted in force (KEP-1287).
use super::{Job, Outcome, Worker, find};
use crate::context::Context;
use crate::cri::{LinuxContainerResources, UpdateContainerResourcesRequest, request};
use crate::pod::config::spec;
use crate::pod::ledger::Held;
use crate::pod::resize::{self, Pending};
use crate::pod::resources::{self, Qos, cgroup_parent, pod_limits};
use crate::pod::step::Why;
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How often a resize that found no room asks again.
const ASK_AGAIN: Duration = Duration::from_secs(3);

/// What one pod's actor knows of resizes.
#[derive(Default)]
pub struct Resizes {
    /// The pod as the API has it, while not all that it asks for is granted.
    asked: Option<Arc<Pod>>,
    pub pending: Option<Pending>,
    /// Requests and limits that are in force, by container.
    pub actual: BTreeMap<String, ResourceRequirements>,
    /// Granted but not in force yet; with what went wrong last.
    pub under_way: bool,
    pub error: Option<String>,
    /// Containers (by id) that were ended only to be started again.
    pub again: BTreeSet<String>,
}

/// One container's new values.
pub struct Update {
    name: String,
    id: String,
    values: LinuxContainerResources,
    requirements: ResourceRequirements,
}

/// How updates ended: what is in force now, and the first error.
pub struct Updated {
    done: Vec<(String, ResourceRequirements)>,
    error: Option<String>,
}

impl Worker {
    /// The pod with as much as it is granted; `held` has what it was granted before.
    pub(super) fn grant(&mut self, asked: Arc<Pod>, held: &Pod) -> Arc<Pod> {
        let node = self.context.room().requests;
        let mut ledger = self.context.ledger.lock();
        let resizes = &mut self.resizes;
        let refusal = match resize::pods_differ(&asked, held) {
            true => resize::refusal(&asked, held, &ledger, node),
            false => None,
        };
        let granted = match &refusal {
            Some(_) => Arc::new(resize::with_resources_of(&asked, held)),
            None => asked.clone(),
        };
        ledger.set(&self.uid, Held::of(&granted));
        resizes.asked = refusal.is_some().then_some(asked);
        resizes.pending = refusal;
        granted
    }

    /// Grants what found no room before, if there is some by now.
    fn ask_again(&mut self) {
        if let Some(asked) = self.resizes.asked.clone() {
            let held = self.pod.clone();
            self.pod = self.grant(asked, &held);
        }
    }

    /// Begins what puts granted values in force; the time until the next look.
    pub(super) fn resize(&mut self) -> Duration {
        self.ask_again();
        let observed = &self.observed;
        self.resizes.actual.retain(|name, _| observed.latest(name).is_some());
        let plan = resize::plan(&self.pod, &self.observed, &self.resizes.actual);
        self.resizes.under_way = !plan.restart.is_empty() || !plan.update.is_empty();
        for (id, name) in plan.restart {
            self.kill(id, name, &Why::Changed("resize requires restarting"));
        }
        let updates: Vec<Update> = plan.update.into_iter().filter_map(|(id, name)| self.update(id, name)).collect();
        let mut again = if self.resizes.pending.is_some() { ASK_AGAIN } else { super::REFRESH };
        if !updates.is_empty() {
            let (context, pod) = self.shared();
            let job = async move { Outcome::Resized(apply(&context, &pod, updates).await) };
            again = again.min(self.job(Job::Resize, job));
        }
        again
    }

    fn update(&self, id: String, name: String) -> Option<Update> {
        let container = find(&self.pod, &name)?;
        let settings = &self.context.settings;
        let qos = Qos::of(spec(&self.pod));
        let values = resources::update(&container, qos, settings.node_memory_bytes, settings.oom_floor);
        Some(Update { id, name, values, requirements: container.resources.unwrap_or_default() })
    }

    /// True when it must be tried again.
    pub(super) fn resized(&mut self, updated: Updated) -> bool {
        self.resizes.actual.extend(updated.done);
        self.resizes.error = updated.error;
        self.resizes.error.is_some()
    }
}

/// The pod's group first where it grows, its containers, and the group at last where it shrinks: a child's limit may
/// never be above its parent's.
async fn apply(context: &Context, pod: &Pod, updates: Vec<Update>) -> Updated {
    let limits = pod_limits(spec(pod));
    let parent = cgroup_parent(&context.options.instance, pod, Qos::of(spec(pod)));
    let open = qos::Limits { cpu_quota_us: Some(qos::NO_LIMIT), memory_bytes: Some(qos::NO_LIMIT), ..limits };
    let mut updated = Updated { done: Vec::new(), error: None };
    if let Err(error) = context.cgroups.limit(&parent, &open) {
        updated.error = Some(error.to_string());
        return updated;
    }
    for update in updates {
        let ask = UpdateContainerResourcesRequest { container_id: update.id, linux: Some(update.values) };
        match context.cri.runtime().update_container_resources(request(ask)).await {
            Ok(_) => updated.done.push((update.name, update.requirements)),
            Err(status) => updated.error = updated.error.or(Some(status.message().to_owned())),
        }
    }
    if let Err(error) = context.cgroups.limit(&parent, &limits) {
        updated.error = updated.error.or(Some(error.to_string()));
    }
    updated
}
