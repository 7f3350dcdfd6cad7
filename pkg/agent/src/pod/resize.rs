//! In-place resize (KEP-1287): which requests and limits are granted, and what puts them in force. Pure.
use super::config::spec;
use super::ledger::{Ledger, Requests};
use super::observed::{Observed, container_name};
use super::resources::{Qos, amount};
use crate::cri::ContainerState;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use std::collections::BTreeMap;

/// What a resize can change.
const RESOURCES: [&str; 2] = ["cpu", "memory"];

/// Why a resize is not granted: the reason and message of `PodResizePending`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    pub reason: &'static str,
    pub message: String,
}

/// Whether `pod` as it asks to be fits beside what all others hold. What shrinks always fits.
pub fn refusal(pod: &Pod, held: &Pod, ledger: &Ledger, node: Requests) -> Option<Pending> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    if Qos::of(spec(pod)) != Qos::of(spec(held)) {
        // The API refuses it; the pod's group has its place by its class.
        let message = "Pod QOS Class may not change as a result of resizing".to_owned();
        return Some(Pending { reason: "Infeasible", message });
    }
    let others = ledger.others(uid).requests;
    let (wanted, held, others) = (Requests::of(pod).each(), Requests::of(held).each(), others.each());
    for (index, (name, capacity)) in node.each().into_iter().enumerate() {
        let (wanted, held, used) = (wanted[index].1, held[index].1, others[index].1);
        if wanted <= held {
            continue;
        }
        if wanted > capacity {
            let message =
                format!("Node didn't have enough capacity: {name}, requested: {wanted}, capacity: {capacity}");
            return Some(Pending { reason: "Infeasible", message });
        }
        if wanted + used > capacity {
            let message = format!(
                "Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, capacity: {capacity}"
            );
            return Some(Pending { reason: "Deferred", message });
        }
    }
    None
}

/// `new` with the requests and limits that `old` has.
pub fn with_resources_of(new: &Pod, old: &Pod) -> Pod {
    let mut pod = new.clone();
    let Some(spec) = &mut pod.spec else { return pod };
    let old = old.spec.clone().unwrap_or_default();
    let before: Vec<&Container> = old.containers.iter().chain(old.init_containers.iter().flatten()).collect();
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        if let Some(before) = before.iter().find(|before| before.name == container.name) {
            container.resources = before.resources.clone();
        }
    }
    spec.resources = old.resources;
    pod
}

/// The pod with the requests and limits that its status says are in force: where a restarted agent goes on from.
pub fn as_reported(pod: &Pod) -> Pod {
    let mut pod = pod.clone();
    let statuses: Vec<_> = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten()).cloned().collect();
    for container in pod.spec.iter_mut().flat_map(|spec| spec.containers.iter_mut()) {
        let known = statuses.iter().find(|status| status.name == container.name);
        if let Some(resources) = known.and_then(|status| status.resources.clone()) {
            container.resources = Some(resources);
        }
    }
    pod
}

/// Whether any request or limit of cpu or memory differs in value.
pub fn differs(one: &Container, other: &Container) -> bool {
    changed(one, other).next().is_some()
}

/// The same of whole pods.
pub fn pods_differ(one: &Pod, other: &Pod) -> bool {
    let all = |pod: &Pod| -> Vec<Container> {
        let spec = pod.spec.clone().unwrap_or_default();
        spec.containers.into_iter().chain(spec.init_containers.into_iter().flatten()).collect()
    };
    let (one, other) = (all(one), all(other));
    one.iter().any(|c| other.iter().any(|o| o.name == c.name && differs(c, o)))
}

/// Names of resources whose request or limit differs.
fn changed<'a>(one: &'a Container, other: &'a Container) -> impl Iterator<Item = &'static str> + 'a {
    let of = |c: &Container, name: &str| (amount(c, name, false), amount(c, name, true));
    RESOURCES.into_iter().filter(move |name| of(one, name) != of(other, name))
}

/// What must happen so that running containers have what they are granted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// `(id, name)` of containers that want to be started again for it (`resizePolicy: RestartContainer`).
    pub restart: Vec<(String, String)>,
    /// `(id, name)` of containers that are changed while they run.
    pub update: Vec<(String, String)>,
}

/// `actual`: requests and limits that are in force, by container.
pub fn plan(pod: &Pod, observed: &Observed, actual: &BTreeMap<String, ResourceRequirements>) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = &pod.spec else { return plan };
    let sidecars = spec.init_containers.iter().flatten().filter(|c| super::step::is_sidecar_spec(c));
    for container in spec.containers.iter().chain(sidecars) {
        let running = observed.latest(&container.name).filter(|s| s.state() == ContainerState::ContainerRunning);
        let (Some(status), Some(actual)) = (running, actual.get(&container.name)) else { continue };
        let before = Container { resources: Some(actual.clone()), ..Container::default() };
        let changed: Vec<&str> = changed(container, &before).collect();
        let entry = (status.id.clone(), container_name(status).to_owned());
        let policies = container.resize_policy.as_deref().unwrap_or_default();
        let restarts =
            |name: &&str| policies.iter().any(|p| p.resource_name == *name && p.restart_policy == "RestartContainer");
        match changed.is_empty() {
            true => {}
            false if changed.iter().any(restarts) => plan.restart.push(entry),
            false => plan.update.push(entry),
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::{ContainerStatus, label};
    use crate::pod::ledger::Held;
    use serde_json::{Value, json};
    use std::collections::HashMap;

    fn pod(resources: Value, policy: &str) -> Pod {
        let policy = json!([{"resourceName": "memory", "restartPolicy": policy}]);
        serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [
            {"name": "a", "resources": resources, "resizePolicy": policy}]}}))
        .unwrap()
    }

    fn cpu(request: &str) -> Value {
        json!({"requests": {"cpu": request}})
    }

    const NODE: Requests = Requests { cpu_milli: 2000, memory_bytes: 1 << 30, ephemeral_bytes: 1 << 30 };

    fn reason_of(asked: &Pod, held: &Pod) -> Option<&'static str> {
        refusal(asked, held, &Ledger::default(), NODE).map(|pending| pending.reason)
    }

    #[test]
    fn what_fits_is_granted_what_never_fits_is_infeasible() {
        let mut ledger = Ledger::default();
        let holding = |cpu_milli| Held { requests: Requests { cpu_milli, ..Requests::default() }, ..Held::default() };
        ledger.set("u", holding(100));
        ledger.set("other", holding(1500));
        let held = pod(cpu("100m"), "");
        let reason = |request| refusal(&pod(cpu(request), ""), &held, &ledger, NODE).map(|pending| pending.reason);
        assert_eq!(reason("500m"), None);
        assert_eq!(reason("501m"), Some("Deferred"));
        assert_eq!(reason("2001m"), Some("Infeasible"));
        ledger.set("other", holding(9000));
        let smaller = refusal(&pod(cpu("50m"), ""), &held, &ledger, NODE);
        assert_eq!(smaller, None, "what shrinks needs no room");
        assert_eq!(reason_of(&pod(json!({}), ""), &held), Some("Infeasible"), "another class");
    }

    #[test]
    fn containers_are_changed_live_unless_they_want_a_restart() {
        let running = ContainerStatus {
            id: "1".into(),
            state: ContainerState::ContainerRunning.into(),
            labels: HashMap::from([(label::CONTAINER_NAME.to_owned(), "a".to_owned())]),
            ..ContainerStatus::default()
        };
        let observed = Observed { sandboxes: vec![], containers: vec![running] };
        let actual = |of: Value| BTreeMap::from([("a".to_owned(), serde_json::from_value(of).unwrap())]);
        let entry = vec![("1".to_owned(), "a".to_owned())];
        let wanted = pod(json!({"requests": {"cpu": "200m", "memory": "64Mi"}}), "RestartContainer");
        let same = actual(json!({"requests": {"cpu": "0.2", "memory": "65536Ki"}}));
        assert_eq!(plan(&wanted, &observed, &same), Plan::default(), "equal values in other words");
        let less_cpu = actual(json!({"requests": {"cpu": "100m", "memory": "64Mi"}}));
        assert_eq!(plan(&wanted, &observed, &less_cpu), Plan { update: entry.clone(), restart: vec![] });
        let less_memory = actual(json!({"requests": {"cpu": "200m", "memory": "32Mi"}}));
        assert_eq!(plan(&wanted, &observed, &less_memory), Plan { restart: entry, update: vec![] });
    }

    #[test]
    fn a_restarted_agent_goes_on_from_what_it_reported() {
        let mut pod = pod(cpu("200m"), "");
        pod.status = serde_json::from_value(json!({"containerStatuses": [{"name": "a", "image": "", "imageID": "",
            "ready": true, "restartCount": 0, "resources": {"requests": {"cpu": "100m"}}}]}))
        .unwrap();
        let reported = as_reported(&pod);
        assert!(pods_differ(&pod, &reported));
        assert!(!pods_differ(&reported, &with_resources_of(&pod, &reported)));
    }
}
