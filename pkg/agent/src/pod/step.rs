//! What a pod needs next: a pure function of its spec, what the runtime has, and the time.
//!
//! Order follows the kubelet's `computePodActions`: sandbox, init containers one by one (sidecars stay and do not
//! hold up the next once they have started), then all others; restarts wait for their back-off.
use super::observed::{Observed, container_name, restart_count};
use super::probe::Health;
use crate::cri::{ContainerState, ContainerStatus, label};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use std::collections::BTreeSet;
use std::time::Duration;

/// First wait after a crash; doubled each time.
const BACKOFF_FIRST: Duration = Duration::from_secs(10);
const BACKOFF_LIMIT: Duration = Duration::from_secs(300);
/// A container that ran this long starts with the first wait again.
const BACKOFF_RESET: Duration = Duration::from_secs(600);

/// What is to be done now. Everything in one step may run at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Volumes, then a sandbox.
    StartSandbox {
        attempt: u32,
    },
    /// The sandbox is dead or unwanted: end what is in it and stop it.
    StopSandbox {
        id: String,
    },
    RemoveSandbox {
        id: String,
    },
    StartContainer {
        name: String,
        restart_count: u32,
    },
    Kill {
        id: String,
        name: String,
        why: Why,
    },
    RemoveContainer {
        id: String,
    },
}

/// Why a container is ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// The pod is going.
    Deleted,
    /// A probe failed past its threshold: the text says which.
    Unhealthy(&'static str),
    /// activeDeadlineSeconds passed.
    Deadline,
    /// The node doesn't run it (any more).
    Refused,
    /// All main containers have ended: sidecars follow.
    Finished,
    /// It is not what the spec says any more (its image, or resources that take a restart): it starts again.
    Changed(&'static str),
}

/// The result of a step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    pub actions: Vec<Action>,
    /// Look again after this long although nothing happened.
    pub again_in: Option<Duration>,
    /// Nothing of the pod runs, and nothing will.
    pub finished: bool,
    /// Containers whose restart waits, with the whole wait.
    pub backing_off: Vec<(String, Duration)>,
}

/// What a step looks at.
pub struct View<'a> {
    pub pod: &'a Pod,
    pub observed: &'a Observed,
    pub health: &'a dyn Health,
    /// The pod is to end: deleted, evicted, or past its deadline.
    pub ending: Option<Why>,
    /// Nanoseconds since the Unix epoch, as CRI counts.
    pub now_ns: i64,
    /// Containers (by id) that were ended only to be started again, whatever the restart policy says.
    pub again: &'a BTreeSet<String>,
}

pub fn step(view: &View<'_>) -> Decision {
    let spec = view.pod.spec.as_ref().expect("the API accepts no pod without a spec");
    let mut decision = Decision::default();
    match &view.ending {
        Some(why) => end(view, why, &mut decision),
        None if over(view, spec) => end(view, &Why::Finished, &mut decision),
        None => live(view, spec, &mut decision),
    }
    collect(view, &mut decision);
    decision
}

/// Sandboxes and container instances that nobody needs: all but the newest sandbox, all but the two newest
/// instances of each container (logs of the previous one must stay readable).
fn collect(view: &View<'_>, decision: &mut Decision) {
    for old in view.observed.sandboxes.iter().skip(1) {
        if old.ready {
            decision.actions.push(Action::StopSandbox { id: old.id.clone() });
        } else {
            decision.actions.push(Action::RemoveSandbox { id: old.id.clone() });
        }
    }
    let mut seen: Vec<&str> = Vec::new();
    for status in &view.observed.containers {
        let name = container_name(status);
        let instances = seen.iter().filter(|other| **other == name).count();
        seen.push(name);
        if instances >= 2 && status.state() == ContainerState::ContainerExited {
            decision.actions.push(Action::RemoveContainer { id: status.id.clone() });
        }
    }
}

fn end(view: &View<'_>, why: &Why, decision: &mut Decision) {
    let (sidecars, mains): (Vec<_>, Vec<_>) =
        view.observed.running().partition(|status| is_sidecar(view.pod, container_name(status)));
    // Sidecars go last, so that what leans on them can end well.
    let first = if mains.is_empty() { sidecars } else { mains };
    for status in &first {
        let (id, name) = (status.id.clone(), container_name(status).to_owned());
        decision.actions.push(Action::Kill { id, name, why: why.clone() });
    }
    if first.is_empty() {
        let ready = view.observed.sandboxes.first().filter(|sandbox| sandbox.ready);
        match ready {
            Some(sandbox) => decision.actions.push(Action::StopSandbox { id: sandbox.id.clone() }),
            None => decision.finished = true,
        }
    }
}

/// Whether all that the pod is for has ended, by its restart policy.
fn over(view: &View<'_>, spec: &PodSpec) -> bool {
    let policy = restart_policy(spec);
    if policy == "Always" {
        return false;
    }
    let failed_init = spec.init_containers.iter().flatten().filter(|c| !is_sidecar_spec(c)).any(|container| {
        let status = ended(view.observed, &container.name);
        status.is_some_and(|status| status.exit_code != 0) && policy == "Never"
    });
    failed_init
        || spec.containers.iter().all(|container| {
            let status = ended(view.observed, &container.name).filter(|status| !view.again.contains(&status.id));
            status.is_some_and(|status| status.exit_code == 0 || policy == "Never")
        })
}

fn live(view: &View<'_>, spec: &PodSpec, decision: &mut Decision) {
    let Some(sandbox) = view.observed.sandbox() else {
        let attempt = view.observed.sandboxes.first().map_or(0, |sandbox| sandbox.attempt + 1);
        // What ran in the dead sandbox must be gone before a new one starts.
        let left: Vec<_> = view.observed.running().collect();
        for status in &left {
            let (id, name) = (status.id.clone(), container_name(status).to_owned());
            decision.actions.push(Action::Kill { id, name, why: Why::Deleted });
        }
        if left.is_empty() {
            decision.actions.push(Action::StartSandbox { attempt });
        }
        return;
    };
    let in_sandbox = |status: &&ContainerStatus| status.created_at >= sandbox.created_at_ns;
    for container in spec.init_containers.iter().flatten() {
        let status = view.observed.latest(&container.name).filter(in_sandbox);
        if is_sidecar_spec(container) {
            start_or_restart(view, container, status, "Always", decision);
            let started = status.is_some_and(|status| {
                status.state() == ContainerState::ContainerRunning && view.health.started(container, &status.id)
            });
            if !started {
                return;
            }
            continue;
        }
        match status {
            Some(status) if status.state() == ContainerState::ContainerExited && status.exit_code == 0 => {}
            // Later containers ran already: this one's record is gone, which is no reason to run it again.
            None if later_started(view, spec, in_sandbox) => {}
            _ => {
                let policy = if restart_policy(spec) == "Never" { "Never" } else { "OnFailure" };
                return start_or_restart(view, container, status, policy, decision);
            }
        }
    }
    for container in &spec.containers {
        let status = view.observed.latest(&container.name).filter(in_sandbox);
        start_or_restart(view, container, status, restart_policy(spec), decision);
    }
    // Ephemeral containers are started once and never again.
    for container in spec.ephemeral_containers.iter().flatten() {
        if view.observed.latest(&container.name).is_none() {
            decision.actions.push(Action::StartContainer { name: container.name.clone(), restart_count: 0 });
        }
    }
}

fn later_started(view: &View<'_>, spec: &PodSpec, in_sandbox: impl Fn(&&ContainerStatus) -> bool) -> bool {
    spec.containers.iter().any(|container| view.observed.latest(&container.name).filter(&in_sandbox).is_some())
}

fn start_or_restart(
    view: &View<'_>,
    container: &Container,
    status: Option<&ContainerStatus>,
    policy: &str,
    decision: &mut Decision,
) {
    let name = container.name.clone();
    let before = view.observed.latest(&name);
    let count = before.map_or(0, |status| restart_count(status) + 1);
    let never_ran = |status: &&ContainerStatus| status.state() == ContainerState::ContainerCreated;
    // What was made in a sandbox that is dead by now and never ran is no earlier run.
    if let (None, Some(left)) = (status, before.filter(never_ran)) {
        return decision.actions.push(Action::RemoveContainer { id: left.id.clone() });
    }
    let Some(status) = status else {
        return decision.actions.push(Action::StartContainer { name, restart_count: count });
    };
    match status.state() {
        ContainerState::ContainerRunning => {
            if is_other_image(container, status) {
                let why = Why::Changed("definition changed");
                decision.actions.push(Action::Kill { id: status.id.clone(), name, why });
            } else if let Some(which) = view.health.failed(container, &status.id) {
                decision.actions.push(Action::Kill { id: status.id.clone(), name, why: Why::Unhealthy(which) });
            }
        }
        ContainerState::ContainerExited if view.again.contains(&status.id) => {
            decision.actions.push(Action::StartContainer { name, restart_count: count });
        }
        ContainerState::ContainerExited => {
            if policy == "Never" || (policy == "OnFailure" && status.exit_code == 0) {
                return;
            }
            let wait = backoff(view.observed, status);
            let since = Duration::from_nanos((view.now_ns - status.finished_at).max(0) as u64);
            match wait.checked_sub(since).filter(|left| !left.is_zero()) {
                Some(left) => {
                    decision.backing_off.push((name, wait));
                    decision.again_in = Some(decision.again_in.map_or(left, |other| other.min(left)));
                }
                None => decision.actions.push(Action::StartContainer { name, restart_count: count }),
            }
        }
        // Created but never started: what made it died in between. Start over.
        ContainerState::ContainerCreated | ContainerState::ContainerUnknown => {
            decision.actions.push(Action::RemoveContainer { id: status.id.clone() });
        }
    }
}

/// Whether the spec names another image than the one that the container was made from.
fn is_other_image(container: &Container, status: &ContainerStatus) -> bool {
    let made_from = status.annotations.get(label::IMAGE);
    made_from.is_some_and(|image| container.image.as_deref().is_some_and(|wanted| wanted != image))
}

/// How long a container that has ended waits before it starts again: nothing the first time, then 10 s, doubled
/// up to five minutes. The kubelet's own count starts with the first crash too.
fn backoff(observed: &Observed, status: &ContainerStatus) -> Duration {
    let ran = Duration::from_nanos((status.finished_at - status.started_at).max(0) as u64);
    let restarts = restart_count(status);
    let alone = observed.previous(container_name(status)).is_none();
    if (restarts == 0 && alone) || ran >= BACKOFF_RESET {
        return Duration::ZERO;
    }
    let doublings = restarts.saturating_sub(1).min(5);
    (BACKOFF_FIRST * 2u32.pow(doublings)).min(BACKOFF_LIMIT)
}

fn ended<'a>(observed: &'a Observed, name: &str) -> Option<&'a ContainerStatus> {
    observed.latest(name).filter(|status| status.state() == ContainerState::ContainerExited)
}

pub fn restart_policy(spec: &PodSpec) -> &str {
    spec.restart_policy.as_deref().unwrap_or("Always")
}

/// An init container that stays: `restartPolicy: Always`.
pub fn is_sidecar_spec(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn is_sidecar(pod: &Pod, name: &str) -> bool {
    let init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    init.filter(|container| is_sidecar_spec(container)).any(|container| container.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::observed::Sandbox;
    use serde_json::json;
    use std::collections::HashMap;

    const SECOND: i64 = 1_000_000_000;

    /// Everything is started and nothing fails, but what is named.
    #[derive(Default)]
    struct Fixed {
        not_started: Vec<String>,
        failed: Vec<String>,
    }

    impl Health for Fixed {
        fn started(&self, container: &Container, _: &str) -> bool {
            !self.not_started.contains(&container.name)
        }
        fn ready(&self, _: &Container, _: &str) -> bool {
            true
        }
        fn failed(&self, container: &Container, _: &str) -> Option<&'static str> {
            self.failed.contains(&container.name).then_some("liveness")
        }
    }

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    fn sandboxed(containers: Vec<ContainerStatus>) -> Observed {
        let sandbox = Sandbox { id: "s".into(), ready: true, created_at_ns: 1, ..Sandbox::default() };
        Observed { sandboxes: vec![sandbox], containers }
    }

    fn container(name: &str, state: ContainerState, exit_code: i32, restarts: u32) -> ContainerStatus {
        ContainerStatus {
            id: format!("{name}-{restarts}"),
            state: state.into(),
            exit_code,
            created_at: 2,
            started_at: 2,
            finished_at: if state == ContainerState::ContainerExited { SECOND } else { 0 },
            labels: HashMap::from([(label::CONTAINER_NAME.into(), name.into())]),
            annotations: HashMap::from([(label::RESTART_COUNT.into(), restarts.to_string())]),
            ..ContainerStatus::default()
        }
    }

    fn decide(pod: &Pod, observed: &Observed, health: &Fixed, now_ns: i64) -> Decision {
        step(&View { pod, observed, health, ending: None, now_ns, again: &BTreeSet::new() })
    }

    fn start(name: &str, restart_count: u32) -> Action {
        Action::StartContainer { name: name.into(), restart_count }
    }

    #[test]
    fn a_new_pod_gets_a_sandbox_and_then_its_containers() {
        let pod = pod(json!({"containers": [{"name": "a"}, {"name": "b"}]}));
        let first = decide(&pod, &Observed::default(), &Fixed::default(), SECOND);
        assert_eq!(first.actions, [Action::StartSandbox { attempt: 0 }]);
        let second = decide(&pod, &sandboxed(vec![]), &Fixed::default(), SECOND);
        assert_eq!(second.actions, [start("a", 0), start("b", 0)]);
    }

    #[test]
    fn init_containers_run_one_by_one_and_sidecars_stay() {
        let pod =
            pod(json!({"initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}, {"name": "j"}],
            "containers": [{"name": "a"}]}));
        let running = |name: &str| container(name, ContainerState::ContainerRunning, 0, 0);
        let done = |name: &str| container(name, ContainerState::ContainerExited, 0, 0);
        let next = |containers: Vec<ContainerStatus>, health: &Fixed| {
            decide(&pod, &sandboxed(containers), health, SECOND).actions
        };
        let well = Fixed::default();
        assert_eq!(next(vec![], &well), [start("i", 0)]);
        assert_eq!(next(vec![running("i")], &well), []);
        assert_eq!(next(vec![done("i")], &well), [start("s", 0)]);
        let slow = Fixed { not_started: vec!["s".into()], ..Fixed::default() };
        assert_eq!(next(vec![done("i"), running("s")], &slow), []);
        assert_eq!(next(vec![done("i"), running("s")], &well), [start("j", 0)]);
        assert_eq!(next(vec![done("i"), running("s"), done("j")], &well), [start("a", 0)]);
    }

    #[test]
    fn a_crash_restarts_at_once_then_waits_longer_and_longer() {
        let pod = pod(json!({"containers": [{"name": "a"}]}));
        let crashed = |restarts| sandboxed(vec![container("a", ContainerState::ContainerExited, 1, restarts)]);
        assert_eq!(decide(&pod, &crashed(0), &Fixed::default(), SECOND).actions, [start("a", 1)]);
        let waiting = decide(&pod, &crashed(1), &Fixed::default(), 2 * SECOND);
        assert_eq!((waiting.actions, waiting.again_in), (vec![], Some(Duration::from_secs(9))));
        assert_eq!(waiting.backing_off, [("a".to_owned(), Duration::from_secs(10))]);
        assert_eq!(decide(&pod, &crashed(1), &Fixed::default(), 11 * SECOND).actions, [start("a", 2)]);
        let late = decide(&pod, &crashed(20), &Fixed::default(), SECOND);
        assert_eq!(late.again_in, Some(BACKOFF_LIMIT));
    }

    #[test]
    fn what_never_ran_is_made_anew_and_counts_as_nothing() {
        let pod = pod(json!({"restartPolicy": "Never", "containers": [{"name": "a"}]}));
        let made = container("a", ContainerState::ContainerCreated, 0, 0);
        let remove = [Action::RemoveContainer { id: "a-0".into() }];
        assert_eq!(decide(&pod, &sandboxed(vec![made.clone()]), &Fixed::default(), SECOND).actions, remove);
        let mut newer = sandboxed(vec![made]);
        newer.sandboxes[0].created_at_ns = 3;
        assert_eq!(decide(&pod, &newer, &Fixed::default(), SECOND).actions, remove, "in a sandbox that is gone");
    }

    #[test]
    fn restart_policies_decide_when_it_is_over() {
        let over = |policy: &str, exit_code| {
            let pod = pod(json!({"restartPolicy": policy, "containers": [{"name": "a"}]}));
            let observed = sandboxed(vec![container("a", ContainerState::ContainerExited, exit_code, 0)]);
            decide(&pod, &observed, &Fixed::default(), SECOND).actions == [Action::StopSandbox { id: "s".into() }]
        };
        assert!(over("Never", 1) && over("Never", 0) && over("OnFailure", 0));
        assert!(!over("OnFailure", 1) && !over("Always", 0));
    }

    #[test]
    fn another_image_ends_a_container_which_then_starts_again_at_once() {
        let pod = pod(json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "new"}]}));
        let mut status = container("a", ContainerState::ContainerRunning, 0, 3);
        assert_eq!(decide(&pod, &sandboxed(vec![status.clone()]), &Fixed::default(), SECOND).actions, []);
        status.annotations.insert(label::IMAGE.into(), "old".into());
        let observed = sandboxed(vec![status.clone()]);
        let why = Why::Changed("definition changed");
        let kill = Action::Kill { id: "a-3".into(), name: "a".into(), why };
        assert_eq!(decide(&pod, &observed, &Fixed::default(), SECOND).actions, [kill]);
        status.state = ContainerState::ContainerExited.into();
        let (observed, again) = (sandboxed(vec![status]), BTreeSet::from(["a-3".to_owned()]));
        let health = Fixed::default();
        let view =
            View { pod: &pod, observed: &observed, health: &health, ending: None, now_ns: SECOND, again: &again };
        assert_eq!(step(&view).actions, [start("a", 4)]);
    }

    #[test]
    fn a_failed_init_container_ends_a_pod_that_never_restarts() {
        let pod =
            pod(json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}));
        let observed = sandboxed(vec![container("i", ContainerState::ContainerExited, 1, 0)]);
        assert_eq!(
            decide(&pod, &observed, &Fixed::default(), SECOND).actions,
            [Action::StopSandbox { id: "s".into() }]
        );
    }

    #[test]
    fn an_unhealthy_container_is_killed_and_a_deleted_pod_ends_sidecars_last() {
        let pod =
            pod(json!({"initContainers": [{"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "a"}]}));
        let running = sandboxed(vec![
            container("a", ContainerState::ContainerRunning, 0, 0),
            container("s", ContainerState::ContainerRunning, 0, 0),
        ]);
        let sick = Fixed { failed: vec!["a".into()], ..Fixed::default() };
        let kill = |name: &str, why| Action::Kill { id: format!("{name}-0"), name: name.into(), why };
        assert_eq!(decide(&pod, &running, &sick, SECOND).actions, [kill("a", Why::Unhealthy("liveness"))]);
        let health = Fixed::default();
        let again = BTreeSet::new();
        let ending = |observed: &Observed| {
            let ending = Some(Why::Deleted);
            step(&View { pod: &pod, observed, health: &health, ending, now_ns: SECOND, again: &again })
        };
        assert_eq!(ending(&running).actions, [kill("a", Why::Deleted)]);
        let sidecar_left = sandboxed(vec![container("s", ContainerState::ContainerRunning, 0, 0)]);
        assert_eq!(ending(&sidecar_left).actions, [kill("s", Why::Deleted)]);
        let empty = ending(&sandboxed(vec![]));
        assert_eq!((empty.actions, empty.finished), (vec![Action::StopSandbox { id: "s".into() }], false));
        assert!(ending(&Observed::default()).finished);
    }
}
