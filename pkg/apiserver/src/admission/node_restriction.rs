//! NodeRestriction: a node writes about itself and the pods that are bound to it, nothing else
//! (`plugin/pkg/admission/noderestriction`).
use super::Operation;
use crate::User;
use serde_json::Value;

/// A write, as far as this plugin looks.
pub struct Write<'a> {
    pub operation: Operation,
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub new: Option<&'a Value>,
    pub old: Option<&'a Value>,
}

const USER_PREFIX: &str = "system:node:";
const GROUP: &str = "system:nodes";
const MIRROR: &str = "kubernetes.io/config.mirror";
const LEASES: &str = "kube-node-lease";

/// # Errors
/// Why a node may not do this.
pub fn check(user: &User, write: &Write<'_>) -> Result<(), String> {
    let Some(node) = user.name.strip_prefix(USER_PREFIX).filter(|_| user.groups.iter().any(|g| g == GROUP)) else {
        return Ok(());
    };
    match (write.group, write.resource) {
        ("", "pods") => pod(node, write),
        ("", "nodes") => own_node(node, write),
        ("coordination.k8s.io", "leases") => lease(node, write),
        ("storage.k8s.io", "csinodes") if write.name != node => {
            Err(format!("can only access CSINode with the same name as the requesting node, not {:?}", write.name))
        }
        _ => Ok(()),
    }
}

fn node_of(pod: &Value) -> &str {
    pod["spec"]["nodeName"].as_str().unwrap_or_default()
}

fn pod(node: &str, write: &Write<'_>) -> Result<(), String> {
    let null = Value::Null;
    match (write.operation, write.subresource) {
        (Operation::Create, "") => mirror(node, write.new.unwrap_or(&null)),
        // The delete that follows is judged by the pod.
        (Operation::Create, "eviction") => Ok(()),
        (Operation::Update, "status")
            if write
                .new
                .zip(write.old)
                .is_some_and(|(n, o)| n["metadata"].get("labels") != o["metadata"].get("labels")) =>
        {
            Err(format!("node {node:?} cannot update labels through pod status"))
        }
        (Operation::Delete, _) | (Operation::Update, "status") => {
            let pod = write.old.or(write.new).unwrap_or(&null);
            let bound = node_of(pod);
            let act = if write.operation == Operation::Update { "update pod status" } else { "delete pods" };
            if bound == node {
                Ok(())
            } else {
                Err(format!("node {node:?} can only {act} for pods with spec.nodeName set to itself"))
            }
        }
        (_, sub) => Err(format!("unexpected pod subresource {sub:?} of a node")),
    }
}

fn mirror(node: &str, pod: &Value) -> Result<(), String> {
    if pod["metadata"]["annotations"].get(MIRROR).is_none() {
        return Err(format!("pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"));
    }
    if node_of(pod) != node {
        return Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let owners = pod["metadata"]["ownerReferences"].as_array().map_or(&[][..], Vec::as_slice);
    match owners {
        [] => Ok(()),
        [owner] if owner["kind"] == "Node" && owner["name"] == node && owner["controller"] == true => Ok(()),
        _ => Err(format!("node {node:?} can only create pods with an owner reference set to itself")),
    }
}

fn own_node(node: &str, write: &Write<'_>) -> Result<(), String> {
    if write.name != node {
        return Err(format!("node {node:?} is not allowed to modify node {:?}", write.name));
    }
    if write.operation == Operation::Delete {
        return Err(format!("node {node:?} is not allowed to delete itself"));
    }
    let Some(new) = write.new else { return Ok(()) };
    let Some(old) = write.old else {
        let forbidden = forbidden_labels(new, &Value::Null);
        return match forbidden.is_empty() {
            true => Ok(()),
            false => Err(format!("node {node:?} is not allowed to set the following labels: {forbidden}")),
        };
    };
    if new["spec"].get("taints") != old["spec"].get("taints") {
        return Err(format!("node {node:?} is not allowed to modify taints"));
    }
    if new["metadata"].get("ownerReferences") != old["metadata"].get("ownerReferences") {
        return Err(format!("node {node:?} is not allowed to modify ownerReferences"));
    }
    let forbidden = forbidden_labels(new, old);
    if forbidden.is_empty() { Ok(()) } else { Err(format!("is not allowed to modify labels: {forbidden}")) }
}

/// Labels of Kubernetes that an agent sets on its own node (`k8s.io/kubelet/pkg/apis`).
const OWN_LABELS: &[&str] = &[
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
/// The same for whole prefixes. Unlike upstream's, a node may name its roles, which grant nothing: a server's own
/// agent says so that it is one.
const OWN_PREFIXES: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io", "node-role.kubernetes.io"];
/// Labels that say what may run on a node: never its own to set.
const RESTRICTED: &str = "node-restriction.kubernetes.io";

/// The labels that differ and are not the node's to change, sorted.
fn forbidden_labels(new: &Value, old: &Value) -> String {
    let labels = |node: &Value| node["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    let (new, old) = (labels(new), labels(old));
    let changed = new.keys().chain(old.keys()).filter(|key| new.get(*key) != old.get(*key));
    let forbidden: std::collections::BTreeSet<&str> = changed.map(String::as_str).filter(|key| !is_own(key)).collect();
    Vec::from_iter(forbidden).join(", ")
}

fn is_own(label: &str) -> bool {
    let prefix = label.split_once('/').map_or("", |(prefix, _)| prefix);
    let under = |domain: &str| prefix == domain || prefix.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
    if under(RESTRICTED) {
        return false;
    }
    let of_kubernetes = under("kubernetes.io") || under("k8s.io");
    !of_kubernetes || OWN_LABELS.contains(&label) || OWN_PREFIXES.iter().any(|own| under(own))
}

fn lease(node: &str, write: &Write<'_>) -> Result<(), String> {
    if write.namespace != LEASES {
        return Err(format!("can only access leases in the {LEASES:?} system namespace"));
    }
    if write.name != node {
        return Err(format!(
            "can only access node lease with the same name as the requesting node, not {:?}",
            write.name
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node() -> User {
        User { name: "system:node:n1".into(), groups: vec![GROUP.into()], ..User::default() }
    }

    fn write<'a>(resource: &'a str, name: &'a str, new: &'a Value, old: &'a Value) -> Write<'a> {
        let (operation, group, subresource, namespace) = (Operation::Update, "", "status", "ns");
        Write { operation, group, resource, subresource, namespace, name, new: Some(new), old: Some(old) }
    }

    #[test]
    fn a_node_minds_its_own_pods() {
        let (mine, other) = (json!({"spec": {"nodeName": "n1"}}), json!({"spec": {"nodeName": "n2"}}));
        assert!(check(&node(), &write("pods", "p", &mine, &mine)).is_ok());
        assert!(check(&node(), &write("pods", "p", &other, &other)).is_err());
        assert!(check(&User::default(), &write("pods", "p", &other, &other)).is_ok());
    }

    #[test]
    fn a_node_labels_itself_within_bounds() {
        let labelled = |key: &str| json!({"metadata": {"labels": {key: "x"}}, "spec": {}});
        let plain = json!({"metadata": {}, "spec": {}});
        let allowed = |key: &str| check(&node(), &write("nodes", "n1", &labelled(key), &plain));
        for own in ["team", "example.com/x", "kubernetes.io/hostname", "node.kubernetes.io/speed"] {
            assert!(allowed(own).is_ok(), "{own}");
        }
        let forbidden = ["node-restriction.kubernetes.io/zone", "pool.kubernetes.io/fast", "x.k8s.io/y"];
        for other in forbidden {
            assert_eq!(allowed(other).unwrap_err(), format!("is not allowed to modify labels: {other}"));
        }
        let create =
            Write { operation: Operation::Create, subresource: "", old: None, ..write("nodes", "n1", &plain, &plain) };
        assert!(check(&node(), &create).is_ok());
    }

    #[test]
    fn a_node_minds_itself() {
        let (old, tainted) = (json!({"spec": {}}), json!({"spec": {"taints": []}}));
        assert!(check(&node(), &write("nodes", "n1", &old, &old)).is_ok());
        assert!(check(&node(), &write("nodes", "n2", &old, &old)).is_err());
        assert!(check(&node(), &write("nodes", "n1", &tainted, &old)).is_err());
    }
}
