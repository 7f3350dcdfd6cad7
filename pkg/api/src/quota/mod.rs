//! What objects count for against a ResourceQuota (`k8s.io/kubernetes/pkg/quota/v1/evaluator/core`).
//!
//! The API server charges and releases with it, the quota controller counts anew with it.
mod pods;

use crate::quantity::{Format, Quantity};
use crate::selector::LabelSelector;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Amounts by resource name.
pub type Amounts = BTreeMap<String, Quantity>;

const CLASS_SUFFIX: &str = ".storageclass.storage.k8s.io/";
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// A kind as quotas see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Counted {
    Pods,
    Services,
    Claims,
    /// Only its number counts, under these names.
    Objects(Vec<String>),
}

impl Counted {
    pub fn of(group: &str, resource: &str) -> Self {
        match (group, resource) {
            ("", "pods") => Self::Pods,
            ("", "services") => Self::Services,
            ("", "persistentvolumeclaims") => Self::Claims,
            ("", "configmaps" | "resourcequotas" | "replicationcontrollers" | "secrets") => {
                Self::Objects(vec![count_name(group, resource), resource.to_owned()])
            }
            _ => Self::Objects(vec![count_name(group, resource)]),
        }
    }

    /// Whether an amount of this name in a quota is about this kind.
    pub fn tracks(&self, name: &str) -> bool {
        match self {
            Self::Pods => pods::tracks(name),
            Self::Services => {
                matches!(name, "count/services" | "services" | "services.nodeports" | "services.loadbalancers")
            }
            Self::Claims => {
                const NAMES: [&str; 2] = ["persistentvolumeclaims", "requests.storage"];
                let of_class = name.split_once(CLASS_SUFFIX).map(|(_, rest)| rest);
                name == "count/persistentvolumeclaims" || NAMES.contains(&of_class.unwrap_or(name))
            }
            Self::Objects(names) => names.iter().any(|n| n == name),
        }
    }

    /// What one object takes, at `now`.
    pub fn usage(&self, object: &Value, now: jiff::Timestamp) -> Amounts {
        match self {
            Self::Pods => pods::usage(object, now),
            Self::Services => service(object),
            Self::Claims => claim(object),
            Self::Objects(names) => names.iter().map(|name| (name.clone(), number(1))).collect(),
        }
    }

    /// Whether the quota's scopes let the object count.
    pub fn in_scopes(&self, quota: &Value, object: &Value) -> bool {
        scopes(quota).all(|scope| match self {
            Self::Pods => pods::in_scope(&scope, object),
            Self::Claims => scope.name == "VolumeAttributesClass" && in_attributes_class(&scope, object),
            _ => false,
        })
    }

    /// What a pod must say because a quota limits it; none: nothing is missing.
    pub fn missing(&self, tracked: &[&str], object: &Value) -> Option<String> {
        if *self == Self::Pods { pods::missing(tracked, object) } else { None }
    }
}

/// `count/deployments.apps`
fn count_name(group: &str, resource: &str) -> String {
    let dot = if group.is_empty() { "" } else { "." };
    format!("count/{resource}{dot}{group}")
}

/// The group and resource that an amount counts objects of, where it does.
pub fn counted_resource(name: &str) -> Option<(&str, &str)> {
    match name {
        "configmaps" | "resourcequotas" | "replicationcontrollers" | "secrets" => Some(("", name)),
        _ => {
            let name = name.strip_prefix("count/")?;
            let (resource, group) = name.split_once('.').unwrap_or((name, ""));
            Some((group, resource))
        }
    }
}

/// One condition on what counts.
struct Scope<'q> {
    name: &'q str,
    operator: &'q str,
    values: Vec<&'q str>,
}

/// `scopes` and `scopeSelector`; all must hold.
fn scopes(quota: &Value) -> impl Iterator<Item = Scope<'_>> {
    let spec = &quota["spec"];
    let plain = spec["scopes"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let selected = spec["scopeSelector"]["matchExpressions"].as_array().into_iter().flatten();
    let text = |value: &'_ Value| value.as_str().map(str::len).is_some();
    plain.map(|name| Scope { name, operator: "Exists", values: Vec::new() }).chain(selected.map(move |e| Scope {
        name: e["scopeName"].as_str().unwrap_or_default(),
        operator: e["operator"].as_str().unwrap_or_default(),
        values: e["values"].as_array().into_iter().flatten().filter(|v| text(v)).filter_map(Value::as_str).collect(),
    }))
}

impl Scope<'_> {
    /// Whether one of the names that an object has is selected.
    fn selects(&self, names: &[&str]) -> bool {
        if self.operator == "Exists" {
            return !names.is_empty();
        }
        let values = self.values.iter().map(|&value| value.to_owned()).collect();
        let selector = LabelSelector::from_parts([], [(self.name, self.operator, values)]);
        let Ok(selector) = selector else { return false };
        let labels = |name: &str| BTreeMap::from([(self.name.to_owned(), name.to_owned())]);
        if names.is_empty() {
            return selector.matches(&BTreeMap::<String, String>::new());
        }
        names.iter().any(|name| selector.matches(&labels(name)))
    }
}

fn in_attributes_class(scope: &Scope<'_>, claim: &Value) -> bool {
    let names = [
        &claim["spec"]["volumeAttributesClassName"],
        &claim["status"]["currentVolumeAttributesClassName"],
        &claim["status"]["modifyVolumeStatus"]["targetVolumeAttributesClassName"],
    ];
    let names: Vec<&str> = names.iter().filter_map(|n| n.as_str()).filter(|n| !n.is_empty()).collect();
    scope.selects(&names)
}

fn number(value: i64) -> Quantity {
    Quantity::new(value, Format::DecimalSi)
}

fn service(service: &Value) -> Amounts {
    let spec = &service["spec"];
    let ports: &[Value] = spec["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    let given = ports.iter().filter(|port| port["nodePort"].as_i64().unwrap_or(0) != 0).count();
    let (node_ports, balancers) = match spec["type"].as_str() {
        Some("NodePort") => (ports.len(), 0),
        Some("LoadBalancer") if spec["allocateLoadBalancerNodePorts"] == false => (given, 1),
        Some("LoadBalancer") => (ports.len(), 1),
        _ => (0, 0),
    };
    [
        ("count/services", 1),
        ("services", 1),
        ("services.nodeports", i64::try_from(node_ports).unwrap_or(i64::MAX)),
        ("services.loadbalancers", balancers),
    ]
    .map(|(name, value)| (name.to_owned(), number(value)))
    .into()
}

fn claim(claim: &Value) -> Amounts {
    let mut used = Amounts::new();
    let beta = claim["metadata"]["annotations"][BETA_CLASS].as_str();
    let class = beta.or(claim["spec"]["storageClassName"].as_str()).unwrap_or_default();
    let mut add = |name: &str, amount: Quantity| {
        used.insert(name.to_owned(), amount);
        if !class.is_empty() && name != "count/persistentvolumeclaims" {
            used.insert(format!("{class}{CLASS_SUFFIX}{name}"), amount);
        }
    };
    add("count/persistentvolumeclaims", number(1));
    add("persistentvolumeclaims", number(1));
    let storage = |list: &Value| Quantity::from_json(&list["storage"]).ok();
    if let Some(wanted) = storage(&claim["spec"]["resources"]["requests"]) {
        let given = storage(&claim["status"]["allocatedResources"]).unwrap_or_default();
        let storage = if given > wanted { given } else { wanted };
        // Whole bytes.
        let whole = Quantity::new(storage.value(), storage.format());
        add("requests.storage", if whole > storage { whole } else { storage });
    }
    used
}

/// The `requests` or `limits` of all that a pod runs, without its overhead.
pub fn pod_amounts(pod: &Value, which: &str) -> Amounts {
    pods::total(pod, which)
}

/// Reads a `ResourceList`; what can't be read is left out.
pub fn read(list: &Value) -> Amounts {
    let entries = list.as_object().into_iter().flatten();
    entries.filter_map(|(name, value)| Some((name.clone(), Quantity::from_json(value).ok()?))).collect()
}

/// As a `ResourceList`.
pub fn write(amounts: &Amounts) -> Value {
    let entries = amounts.iter().map(|(name, amount)| (name.clone(), json!(amount.to_string())));
    Value::Object(entries.collect::<Map<_, _>>())
}

/// `cpu=1,pods=2`, as upstream's messages show amounts.
pub fn show(amounts: &Amounts) -> String {
    amounts.iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> jiff::Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn used(counted: &Counted, object: Value) -> Value {
        write(&counted.usage(&object, now()))
    }

    #[test]
    fn kinds_count_under_their_names() {
        assert_eq!(used(&Counted::of("apps", "replicasets"), json!({})), json!({"count/replicasets.apps": "1"}));
        assert_eq!(used(&Counted::of("", "secrets"), json!({})), json!({"count/secrets": "1", "secrets": "1"}));
        assert_eq!(counted_resource("count/replicasets.apps"), Some(("apps", "replicasets")));
        assert_eq!(counted_resource("count/pods"), Some(("", "pods")));
        assert_eq!(counted_resource("requests.cpu"), None);
    }

    #[test]
    fn services_count_what_they_ask_the_network_for() {
        let services = Counted::of("", "services");
        let balancer = json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 1}, {"port": 2}]}});
        assert_eq!(
            used(&services, balancer),
            json!({"count/services": "1", "services": "1", "services.nodeports": "2", "services.loadbalancers": "1"})
        );
        assert_eq!(used(&services, json!({"spec": {"ports": [{"port": 1}]}}))["services.nodeports"], "0");
        assert!(services.tracks("services.nodeports") && !services.tracks("pods"));
    }

    #[test]
    fn claims_count_for_their_class_too() {
        let claims = Counted::of("", "persistentvolumeclaims");
        let claim = json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}}});
        let used = used(&claims, claim);
        assert_eq!(used["gold.storageclass.storage.k8s.io/requests.storage"], "1Gi");
        assert_eq!(used["gold.storageclass.storage.k8s.io/persistentvolumeclaims"], "1");
        assert_eq!(used["requests.storage"], "1Gi");
        assert!(claims.tracks("gold.storageclass.storage.k8s.io/requests.storage"));
        assert!(!claims.tracks("gold.storageclass.storage.k8s.io/other"));
    }
}
