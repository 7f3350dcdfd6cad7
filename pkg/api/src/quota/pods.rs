//! Pods: what their containers ask for, while they live.
use super::{Amounts, Scope, number};
use crate::quantity::Quantity;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Amounts that a quota may limit besides extended resources and huge pages.
const NAMES: &[&str] = &[
    "count/pods",
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
];
/// Where a quota limits one of these, each container must say how much it wants.
const EXPLICIT: &[&str] = &["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
/// What the pod as a whole may say instead of its containers.
const WHOLE: &[&str] = &["cpu", "memory"];
const HUGE: &str = "hugepages-";
const REQUESTS: &str = "requests.";

pub fn tracks(name: &str) -> bool {
    let huge = name.starts_with(HUGE) || name.strip_prefix(REQUESTS).is_some_and(|n| n.starts_with(HUGE));
    NAMES.contains(&name) || huge || name.strip_prefix(REQUESTS).is_some_and(extended)
}

/// Resources that vendors name.
fn extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/")
}

pub fn usage(pod: &Value, now: jiff::Timestamp) -> Amounts {
    let mut used = Amounts::from([("count/pods".to_owned(), number(1))]);
    if !lives(pod, now) {
        return used;
    }
    used.insert("pods".into(), number(1));
    let with_overhead = |which: &str| {
        let mut amounts = total(pod, which);
        overhead(pod, which, &mut amounts);
        amounts
    };
    let (requests, limits) = (with_overhead("requests"), with_overhead("limits"));
    compute(&mut used, &requests, &limits);
    used
}

/// Whether it still takes anything: it has not ended, and is not overdue to be gone.
fn lives(pod: &Value, now: jiff::Timestamp) -> bool {
    if matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded")) {
        return false;
    }
    let deadline = pod["metadata"]["deletionTimestamp"].as_str().and_then(|t| t.parse::<jiff::Timestamp>().ok());
    let grace = pod["metadata"]["deletionGracePeriodSeconds"].as_i64();
    !deadline.zip(grace).is_some_and(|(deadline, grace)| {
        deadline.checked_add(jiff::SignedDuration::from_secs(grace)).is_ok_and(|gone| now > gone)
    })
}

/// The names under which requests and limits count.
fn compute(used: &mut Amounts, requests: &Amounts, limits: &Amounts) {
    for (name, amount) in requests {
        let plain = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with(HUGE);
        if plain {
            used.insert(name.clone(), *amount);
        }
        if plain || extended(name) {
            used.insert(format!("{REQUESTS}{name}"), *amount);
        }
    }
    for (name, amount) in
        limits.iter().filter(|(name, _)| matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage"))
    {
        used.insert(format!("limits.{name}"), *amount);
    }
}

fn combine(to: &mut Amounts, other: &Amounts, f: impl Fn(&Quantity, &Quantity) -> Quantity) {
    for (name, amount) in other {
        let sum = to.get(name).map_or(*amount, |mine| f(mine, amount));
        to.insert(name.clone(), sum);
    }
}

fn larger(a: &Quantity, b: &Quantity) -> Quantity {
    if b > a { *b } else { *a }
}

/// The larger of what runs together (containers, sidecars) and what each init container needs beside the
/// sidecars before it; then what the pod as a whole says.
pub(super) fn total(pod: &Value, which: &str) -> Amounts {
    let spec = &pod["spec"];
    let (mut running, mut sidecars, mut starting) = (Amounts::new(), Amounts::new(), Amounts::new());
    for container in list(&spec["containers"]) {
        combine(&mut running, &of_container(pod, container, "containerStatuses", which), Quantity::add);
    }
    for container in list(&spec["initContainers"]) {
        let mut own = of_container(pod, container, "initContainerStatuses", which);
        if container["restartPolicy"] == "Always" {
            combine(&mut running, &own, Quantity::add);
            combine(&mut sidecars, &own, Quantity::add);
            own = sidecars.clone();
        } else {
            combine(&mut own, &sidecars, Quantity::add);
        }
        combine(&mut starting, &own, larger);
    }
    combine(&mut running, &starting, larger);
    let whole = super::read(&spec["resources"][which]);
    for (name, amount) in whole.iter().filter(|(n, _)| WHOLE.contains(&n.as_str()) || n.starts_with(HUGE)) {
        running.insert(name.clone(), *amount);
    }
    running
}

/// What the pod's sandbox costs on top; of limits only where there are any.
fn overhead(pod: &Value, which: &str, amounts: &mut Amounts) {
    for (name, amount) in super::read(&pod["spec"]["overhead"]) {
        if which == "requests" || amounts.contains_key(&name) {
            combine(amounts, &Amounts::from([(name, amount)]), Quantity::add);
        }
    }
}

/// What a container asks for, or still has while it is being resized, whichever is more.
fn of_container(pod: &Value, container: &Value, statuses: &str, which: &str) -> Amounts {
    let mut amounts = super::read(&container["resources"][which]);
    if let Some(status) = list(&pod["status"][statuses]).iter().find(|s| s["name"] == container["name"]) {
        let mut have = super::read(&status["resources"][which]);
        if which == "requests" {
            combine(&mut have, &super::read(&status["allocatedResources"]), larger);
        }
        have.retain(|name, _| amounts.contains_key(name));
        combine(&mut amounts, &have, larger);
    }
    amounts
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

pub fn missing(tracked: &[&str], pod: &Value) -> Option<String> {
    let whole = &pod["spec"]["resources"];
    if ["requests", "limits"].iter().any(|which| whole[*which].as_object().is_some_and(|list| !list.is_empty())) {
        return None;
    }
    let required: BTreeSet<&str> = tracked.iter().copied().filter(|name| EXPLICIT.contains(name)).collect();
    let mut without: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for container in list(&pod["spec"]["containers"]).iter().chain(list(&pod["spec"]["initContainers"])) {
        let mut said = Amounts::new();
        let of = |which: &str| super::read(&container["resources"][which]);
        compute(&mut said, &of("requests"), &of("limits"));
        for name in required.iter().filter(|name| !said.contains_key(**name)) {
            without.entry(name).or_default().insert(container["name"].as_str().unwrap_or_default());
        }
    }
    let texts: Vec<String> = without
        .iter()
        .map(|(name, of)| format!("{name} for: {}", Vec::from_iter(of.iter().copied()).join(",")))
        .collect();
    (!texts.is_empty()).then(|| format!("must specify {}", texts.join("; ")))
}

pub(super) fn in_scope(scope: &Scope<'_>, pod: &Value) -> bool {
    let terminating = pod["spec"]["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0);
    match scope.name {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => best_effort(pod),
        "NotBestEffort" => !best_effort(pod),
        "PriorityClass" => {
            let class = pod["spec"]["priorityClassName"].as_str().filter(|name| !name.is_empty());
            scope.selects(class.as_slice())
        }
        "CrossNamespacePodAffinity" => looks_abroad(pod),
        _ => false,
    }
}

/// Whether nothing in it asks for CPU or memory.
fn best_effort(pod: &Value) -> bool {
    let asks = |resources: &Value| {
        ["requests", "limits"].iter().any(|which| {
            let amounts = super::read(&resources[*which]);
            WHOLE.iter().any(|name| amounts.get(*name).is_some_and(|amount| !amount.is_zero()))
        })
    };
    let mut containers = list(&pod["spec"]["containers"]).iter().chain(list(&pod["spec"]["initContainers"]));
    !asks(&pod["spec"]["resources"]) && !containers.any(|container| asks(&container["resources"]))
}

/// Whether its affinity is to pods of other namespaces.
fn looks_abroad(pod: &Value) -> bool {
    let abroad = |term: &Value| {
        !list(&term["namespaces"]).is_empty() || term.get("namespaceSelector").is_some_and(|s| !s.is_null())
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let affinity = &pod["spec"]["affinity"][*kind];
        list(&affinity["requiredDuringSchedulingIgnoredDuringExecution"]).iter().any(abroad)
            || list(&affinity["preferredDuringSchedulingIgnoredDuringExecution"])
                .iter()
                .any(|t| abroad(&t["podAffinityTerm"]))
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Counted, write};
    use serde_json::{Value, json};

    fn used(pod: Value) -> Value {
        write(&Counted::Pods.usage(&pod, "2026-01-01T00:00:00Z".parse().unwrap()))
    }

    #[test]
    fn containers_add_up_and_init_containers_need_room() {
        let pod = json!({"spec": {
            "containers": [
                {"name": "a", "resources": {"requests": {"cpu": "100m", "example.com/gpu": "1"}, "limits": {"cpu": "1"}}},
                {"name": "b", "resources": {"requests": {"cpu": "200m"}}}],
            "initContainers": [
                {"name": "side", "restartPolicy": "Always", "resources": {"requests": {"cpu": "50m"}}},
                {"name": "i", "resources": {"requests": {"cpu": "400m"}}}],
            "overhead": {"cpu": "10m", "memory": "1Mi"},
        }});
        let used = used(pod);
        assert_eq!(
            (&used["cpu"], &used["requests.cpu"], &used["limits.cpu"]),
            (&json!("460m"), &json!("460m"), &json!("1010m"))
        );
        assert_eq!(
            (&used["requests.example.com/gpu"], &used["pods"], &used["memory"]),
            (&json!("1"), &json!("1"), &json!("1Mi"))
        );
        assert_eq!(used.get("limits.memory"), None);
    }

    #[test]
    fn the_dead_count_as_objects_only() {
        assert_eq!(used(json!({"status": {"phase": "Succeeded"}})), json!({"count/pods": "1"}));
        let overdue =
            json!({"metadata": {"deletionTimestamp": "2025-12-31T23:59:00Z", "deletionGracePeriodSeconds": 30}});
        assert_eq!(used(overdue), json!({"count/pods": "1"}));
    }

    #[test]
    fn a_limited_resource_must_be_asked_for() {
        let pod =
            json!({"spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}, {"name": "b"}]}});
        let missing = |names: &[&str]| Counted::Pods.missing(names, &pod);
        assert_eq!(missing(&["requests.cpu", "pods"]).unwrap(), "must specify requests.cpu for: b");
        assert_eq!(missing(&["cpu", "memory"]).unwrap(), "must specify cpu for: b; memory for: a,b");
        assert_eq!(missing(&["pods", "ephemeral-storage"]), None);
    }

    #[test]
    fn scopes_choose_pods() {
        let quota = |scopes: Value| json!({"spec": {"scopes": scopes}});
        let pod =
            json!({"spec": {"containers": [{"name": "a"}], "activeDeadlineSeconds": 5, "priorityClassName": "high"}});
        let counts = |quota: &Value| Counted::Pods.in_scopes(quota, &pod);
        assert!(counts(&json!({})) && counts(&quota(json!(["Terminating", "BestEffort"]))));
        assert!(!counts(&quota(json!(["NotTerminating"]))) && !counts(&quota(json!(["NotBestEffort"]))));
        assert!(!counts(&quota(json!(["CrossNamespacePodAffinity"]))));
        let class = |operator: &str, values: Value| {
            let expression = json!({"scopeName": "PriorityClass", "operator": operator, "values": values});
            counts(&json!({"spec": {"scopeSelector": {"matchExpressions": [expression]}}}))
        };
        assert!(class("In", json!(["high"])) && class("Exists", json!([])) && class("NotIn", json!(["low"])));
        assert!(!class("In", json!(["low"])) && !class("DoesNotExist", json!([])));
        assert!(!Counted::Services.in_scopes(&quota(json!(["Terminating"])), &json!({})));
    }
}
