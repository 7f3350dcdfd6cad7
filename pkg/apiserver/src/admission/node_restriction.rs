//! NodeRestriction: a node writes about itself and the pods that are bound to it, nothing else
//! (`plugin/pkg/admission/noderestriction`).
use super::{Operation, certificates};
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
const STORAGE_PREFIX: &str = "eyot:local-path:";
const STORAGE_GROUP: &str = "eyot:local-path";
const STORAGE_CLASS: &str = "local-path";
const STORAGE_PROVISIONER: &str = "rancher.io/local-path";
const MIRROR: &str = "kubernetes.io/config.mirror";
const LEASES: &str = "kube-node-lease";

/// The node that a user is the agent of.
pub fn node_of_user(user: &User) -> Option<&str> {
    user.name.strip_prefix(USER_PREFIX).filter(|_| user.in_group(GROUP))
}

/// The node whose disk a user makes volumes of: the provisioner of a node that is no part of a server.
fn storage_of_user(user: &User) -> Option<&str> {
    user.name.strip_prefix(STORAGE_PREFIX).filter(|_| user.in_group(STORAGE_GROUP))
}

/// Of volumes, a node's provisioner makes and removes those of its own disk; the one class that it makes is its own.
fn storage(node: &str, write: &Write<'_>) -> Result<(), String> {
    match (write.group, write.resource) {
        ("", "persistentvolumes") => {
            let theirs = |volume: &Value| is_on(volume, node);
            match write.new.is_none_or(theirs) && write.old.is_none_or(theirs) {
                true => Ok(()),
                false => Err(format!("can only write volumes that node {node:?} alone can use")),
            }
        }
        ("storage.k8s.io", "storageclasses") => match write.new {
            Some(class) if class["provisioner"] == STORAGE_PROVISIONER && write.name == STORAGE_CLASS => Ok(()),
            _ => Err(format!("can only create the class {STORAGE_CLASS:?}")),
        },
        _ => Ok(()),
    }
}

/// Whether a volume can be used on this node alone.
fn is_on(volume: &Value, node: &str) -> bool {
    let terms = volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"].as_array();
    let of_node = |term: &Value| {
        let expressions = term["matchExpressions"].as_array().map_or(&[][..], Vec::as_slice);
        expressions.iter().any(|expression| {
            let values = expression["values"].as_array().map_or(&[][..], Vec::as_slice);
            expression["key"] == "kubernetes.io/hostname" && expression["operator"] == "In" && values == [node]
        })
    };
    terms.is_some_and(|terms| !terms.is_empty() && terms.iter().all(of_node))
}

/// # Errors
/// Why a node may not do this.
pub fn check(user: &User, write: &Write<'_>) -> Result<(), String> {
    if let Some(node) = storage_of_user(user) {
        return storage(node, write);
    }
    let Some(node) = node_of_user(user) else { return Ok(()) };
    match (write.group, write.resource) {
        ("", "pods") => pod(node, write),
        ("", "nodes") => own_node(node, write),
        ("coordination.k8s.io", "leases") => lease(node, write),
        ("storage.k8s.io", "csinodes") if write.name != node => {
            Err("can only access CSINode with the same name as the requesting node".into())
        }
        ("", "persistentvolumeclaims") => claim(node, write),
        ("resource.k8s.io", "resourceslices") => slice(node, write),
        ("certificates.k8s.io", "certificatesigningrequests") => signing(node, write),
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
        // Judged by its pod, which is looked up: `evicts`.
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
                return keeps_claims(node, write);
            }
            let what = if write.operation == Operation::Update { " for pods" } else { "" };
            Err(format!("node {node:?} can only {act}{what} with spec.nodeName set to itself"))
        }
        (operation, "") => {
            let operation = operation.as_str();
            Err(format!("unexpected operation {operation:?}, node {node:?} can only create and delete mirror pods"))
        }
        (_, sub) => Err(format!("unexpected pod subresource {sub:?}, only 'status' and 'eviction' are allowed")),
    }
}

/// Which devices a pod has is not its node's to say.
fn keeps_claims(node: &str, write: &Write<'_>) -> Result<(), String> {
    let Some((new, old)) = write.new.zip(write.old) else { return Ok(()) };
    // The first word's spelling is upstream's.
    let own = [
        ("resourceClaimStatuses", "resource claim statues"),
        ("extendedResourceClaimStatus", "extended resource claim status"),
    ];
    if let Some((_, what)) = own.iter().find(|(field, _)| new["status"].get(*field) != old["status"].get(*field)) {
        return Err(format!("node {node:?} cannot update {what}"));
    }
    Ok(())
}

/// An eviction, judged by the pod that it is of.
///
/// # Errors
/// The pod is another node's.
pub fn evicts(node: &str, pod: &Value) -> Result<(), String> {
    if node_of(pod) == node {
        return Ok(());
    }
    Err(format!("node {node} can only evict pods with spec.nodeName set to itself"))
}

/// A mirror pod's owner is the very Node that is there.
///
/// # Errors
/// It is one of another life.
pub fn owns(node: &str, pod: &Value, stored: &Value) -> Result<(), String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (said, is) = (text(&pod["metadata"]["ownerReferences"][0]["uid"]), text(&stored["metadata"]["uid"]));
    if said == is { Ok(()) } else { Err(format!("node {node} UID mismatch: expected {said} got {is}")) }
}

/// Of a claim, a node reports how large its volume is.
fn claim(node: &str, write: &Write<'_>) -> Result<(), String> {
    const OWN: &[&str] = &["capacity", "conditions", "allocatedResourceStatuses", "allocatedResources"];
    if write.subresource != "status" {
        return Err("may only update PVC status".into());
    }
    let rest = |claim: &Value| {
        let mut claim = claim.clone();
        for name in ["resourceVersion", "managedFields"] {
            claim["metadata"].as_object_mut().map(|fields| fields.remove(name));
        }
        for name in OWN {
            claim["status"].as_object_mut().map(|fields| fields.remove(*name));
        }
        claim
    };
    match write.new.zip(write.old) {
        Some((new, old)) if rest(new) == rest(old) => Ok(()),
        Some(_) => Err(format!(
            "node {node:?} is not allowed to update fields other than status.quantity and status.conditions"
        )),
        None => Err(format!("unexpected operation {:?}", write.operation.as_str())),
    }
}

fn slice(node: &str, write: &Write<'_>) -> Result<(), String> {
    let (act, slice) = match write.operation {
        Operation::Create => ("create", write.new),
        Operation::Delete => ("delete", write.old),
        _ => return Ok(()),
    };
    if slice.is_some_and(|slice| node_of(slice) == node) {
        return Ok(());
    }
    Err(format!("can only {act} ResourceSlice with the same NodeName as the requesting node"))
}

/// A node asks for certificates of its own name.
fn signing(node: &str, write: &Write<'_>) -> Result<(), String> {
    const SIGNERS: &[&str] = &["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];
    let (Operation::Create, Some(request)) = (write.operation, write.new) else { return Ok(()) };
    if !SIGNERS.iter().any(|signer| request["spec"]["signerName"] == **signer) {
        return Ok(());
    }
    let subject = certificates::Subject::of(request).map_err(|why| format!("unable to parse csr: {why}"))?;
    if subject.common_name == format!("{USER_PREFIX}{node}") {
        return Ok(());
    }
    Err(format!("can only create a node CSR with CN={USER_PREFIX}{node}"))
}

fn mirror(node: &str, pod: &Value) -> Result<(), String> {
    if pod["metadata"]["annotations"].get(MIRROR).is_none() {
        return Err(format!("pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"));
    }
    if node_of(pod) != node {
        return Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let owners = pod["metadata"]["ownerReferences"].as_array().map_or(&[][..], Vec::as_slice);
    let only =
        |what: &str| Err(format!("node {node:?} can only create pods with {what} owner reference set to itself"));
    match owners {
        [] => return only("an"),
        [owner] if owner["apiVersion"] != "v1" || owner["kind"] != "Node" || owner["name"] != node => {
            return only("an");
        }
        [owner] if owner["controller"] != true => return only("a controller"),
        [owner] if owner["blockOwnerDeletion"] == true => {
            return Err(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
        }
        [_] => {}
        _ => return only("a single"),
    }
    match crate::authz::referred_by(pod) {
        Some(resource) => Err(format!("node {node:?} can not create pods that reference {resource}")),
        None => Ok(()),
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
/// The same for whole prefixes.
const OWN_PREFIXES: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];
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
        return Err("can only access node lease with the same name as the requesting node".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
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
        let forbidden = [
            "node-role.kubernetes.io/control-plane",
            "node-restriction.kubernetes.io/zone",
            "pool.kubernetes.io/fast",
            "x.k8s.io/y",
        ];
        for other in forbidden {
            assert_eq!(allowed(other).unwrap_err(), format!("is not allowed to modify labels: {other}"));
        }
        let create =
            Write { operation: Operation::Create, subresource: "", old: None, ..write("nodes", "n1", &plain, &plain) };
        assert!(check(&node(), &create).is_ok());
    }

    #[test]
    fn a_mirror_pod_is_its_nodes_and_refers_to_nothing() {
        let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u", "controller": true});
        let pod = json!({
            "metadata": {"annotations": {MIRROR: "x"}, "ownerReferences": [owner]}, "spec": {"nodeName": "n1"},
        });
        let with = |pointer: &str, value: Value| {
            let mut pod = pod.clone();
            *pod.pointer_mut(pointer).unwrap() = value;
            mirror("n1", &pod)
        };
        assert_eq!(mirror("n1", &pod), Ok(()));
        assert!(with("/metadata/ownerReferences", json!([])).is_err());
        assert!(with("/metadata/ownerReferences/0/name", "n2".into()).is_err());
        assert!(
            with("/metadata/ownerReferences/0/controller", false.into()).unwrap_err().contains("a controller owner")
        );
        let secret = json!({"nodeName": "n1", "volumes": [{"name": "v", "secret": {"secretName": "s"}}]});
        assert_eq!(with("/spec", secret).unwrap_err(), "node \"n1\" can not create pods that reference secrets");
        assert_eq!(owns("n1", &pod, &json!({"metadata": {"uid": "u"}})), Ok(()));
        assert!(owns("n1", &pod, &json!({"metadata": {"uid": "other"}})).is_err());
    }

    #[test]
    fn a_node_asks_for_certificates_of_its_own_name() {
        let request = |name: &str| {
            let mut params = rcgen::CertificateParams::default();
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            let pem = params.serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap().pem().unwrap();
            let request = base64::engine::general_purpose::STANDARD.encode(pem);
            json!({"spec": {"signerName": "kubernetes.io/kubelet-serving", "request": request}})
        };
        let ask = |name: &str| {
            let (new, null) = (request(name), Value::Null);
            let write = Write {
                operation: Operation::Create,
                group: "certificates.k8s.io",
                subresource: "",
                old: None,
                ..write("certificatesigningrequests", "c", &new, &null)
            };
            check(&node(), &write)
        };
        assert_eq!(ask("system:node:n1"), Ok(()));
        assert_eq!(ask("system:node:n2").unwrap_err(), "can only create a node CSR with CN=system:node:n1");
    }

    #[test]
    fn a_node_reports_the_size_of_a_claim_only() {
        let claim = |capacity: &str, phase: &str| json!({"metadata": {"name": "c"}, "status": {"capacity": {"storage": capacity}, "phase": phase}});
        let update = |new: &Value, old: &Value| check(&node(), &write("persistentvolumeclaims", "c", new, old));
        assert_eq!(update(&claim("2Gi", "Bound"), &claim("1Gi", "Bound")), Ok(()));
        assert!(update(&claim("1Gi", "Lost"), &claim("1Gi", "Bound")).is_err());
    }

    #[test]
    fn a_nodes_provisioner_makes_volumes_of_its_own_disk() {
        let user = User { name: "eyot:local-path:n1".into(), groups: vec![STORAGE_GROUP.into()], ..User::default() };
        let volume = |host: &str| {
            json!({"spec": {"hostPath": {"path": "/x"}, "nodeAffinity": {"required":
            {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [host]}]}]}}}})
        };
        let writes = |new: &Value, old: Option<&Value>| {
            let null = Value::Null;
            check(&user, &Write { old, ..write("persistentvolumes", "v", new, &null) }).is_ok()
        };
        let (mine, other) = (volume("n1"), volume("n2"));
        assert!(writes(&mine, None) && writes(&mine, Some(&mine)));
        assert!(!writes(&other, None) && !writes(&mine, Some(&other)) && !writes(&json!({"spec": {}}), None));
        let mut wider = mine.clone();
        let terms = wider["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"].as_array_mut();
        terms.expect("a list").push(json!({}));
        assert!(!writes(&wider, None), "terms are alternatives");
        let class = |name, provisioner: &str| {
            let (new, null) = (json!({"provisioner": provisioner}), Value::Null);
            check(&user, &Write { group: "storage.k8s.io", ..write("storageclasses", name, &new, &null) })
        };
        assert!(class("local-path", STORAGE_PROVISIONER).is_ok());
        assert!(class("fast", STORAGE_PROVISIONER).is_err() && class("local-path", "other").is_err());
    }

    #[test]
    fn a_node_minds_itself() {
        let (old, tainted) = (json!({"spec": {}}), json!({"spec": {"taints": []}}));
        assert!(check(&node(), &write("nodes", "n1", &old, &old)).is_ok());
        assert!(check(&node(), &write("nodes", "n2", &old, &old)).is_err());
        assert!(check(&node(), &write("nodes", "n1", &tainted, &old)).is_err());
    }
}
