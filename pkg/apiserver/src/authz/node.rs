//! What a node's agent may read: the Secrets, ConfigMaps, claims and service account tokens that the pods bound
//! to it refer to (`plugin/pkg/auth/authorizer/node`). The rest of a node's rights are `system:node`'s rules.
use super::Attributes;
use super::rules::Rule;
use crate::request::User;
use parking_lot::RwLock;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// The group that every node's certificate carries.
pub const NODES: &str = "system:nodes";
/// What a node's user name begins with; the node's name follows.
pub const NODE_PREFIX: &str = "system:node:";

/// Something that a pod refers to: resource and name, in the pod's namespace.
type Reference = (&'static str, String);

#[derive(Default)]
struct State {
    /// Pods by namespace and name: where each is bound, and what it refers to.
    pods: BTreeMap<(String, String), (String, Vec<Reference>)>,
    /// How many pods of a node refer to something.
    counts: HashMap<(String, String, Reference), usize>,
}

/// Which node may read what, by the pods bound to it.
#[derive(Default)]
pub struct Graph {
    state: RwLock<State>,
}

/// The ClusterRole whose rules every node has, but for the objects that [`Graph`] judges one by one. Nothing is
/// bound to it.
pub const ROLE: &str = "system:node";

/// The name of the node that a user is the agent of.
pub fn name(user: &User) -> Option<&str> {
    user.name.strip_prefix(NODE_PREFIX).filter(|name| !name.is_empty() && user.in_group(NODES))
}

/// What a node may do with a kind of object.
enum Judgement {
    /// What the role's rules say.
    ByRole,
    /// Only what a pod of the node refers to.
    Referred(&'static str),
    Always,
    Never,
}

impl Graph {
    /// Whether `node` may; `rules` are those of [`ROLE`].
    pub fn allows(&self, node: &str, wanted: &Attributes<'_>, rules: &[Arc<Rule>]) -> bool {
        let Attributes::Resource { namespace, name, .. } = wanted else {
            return rules.iter().any(|rule| rule.allows(wanted));
        };
        match judge(node, wanted) {
            Judgement::Always => true,
            Judgement::Never => false,
            Judgement::ByRole => rules.iter().any(|rule| rule.allows(wanted)),
            Judgement::Referred(resource) => {
                let key = (node.to_owned(), namespace.to_string(), (resource, name.to_string()));
                self.state.read().counts.contains_key(&key)
            }
        }
    }

    /// Records a pod's new state; `None`: it is gone.
    pub fn set_pod(&self, namespace: &str, name: &str, pod: Option<&Value>) {
        let mut state = self.state.write();
        let key = (namespace.to_owned(), name.to_owned());
        if let Some((node, references)) = state.pods.remove(&key) {
            for reference in references {
                state.drop_reference((node.clone(), namespace.to_owned(), reference));
            }
        }
        let Some((pod, node)) = pod.and_then(|pod| Some((pod, pod["spec"]["nodeName"].as_str()?))) else { return };
        let references: Vec<Reference> = references(pod).into_iter().collect();
        for reference in &references {
            *state.counts.entry((node.to_owned(), namespace.to_owned(), reference.clone())).or_default() += 1;
        }
        state.pods.insert(key, (node.to_owned(), references));
    }

    /// Forgets everything, before a new list.
    pub fn clear(&self) {
        *self.state.write() = State::default();
    }
}

fn judge(node: &str, wanted: &Attributes<'_>) -> Judgement {
    use Judgement::{Always, ByRole, Never, Referred};
    let Attributes::Resource { verb, group, resource, subresource, namespace, name } = wanted else { return ByRole };
    let if_true = |yes| if yes { Always } else { Never };
    match (&**group, &**resource, &**subresource, &**verb) {
        ("", "secrets", "", "get" | "list" | "watch") => Referred("secrets"),
        ("", "configmaps", "", "get" | "list" | "watch") => Referred("configmaps"),
        ("", "persistentvolumeclaims", _, "get") => Referred("persistentvolumeclaims"),
        ("", "serviceaccounts", "", "get") | ("", "serviceaccounts", "token", "create") => Referred("serviceaccounts"),
        ("", "secrets" | "configmaps" | "persistentvolumeclaims" | "serviceaccounts", ..) => Never,
        // A node creates, changes and deletes itself alone; it reads its neighbours, as before upstream's
        // selector rules.
        ("", "nodes", _, "update" | "patch" | "delete") => if_true(name == node),
        ("coordination.k8s.io", "leases", "", "create") => if_true(namespace == "kube-node-lease"),
        ("coordination.k8s.io", "leases", "", "get" | "update" | "patch" | "delete") => {
            if_true(namespace == "kube-node-lease" && name == node)
        }
        ("coordination.k8s.io", "leases", ..) => Never,
        _ => ByRole,
    }
}

impl State {
    fn drop_reference(&mut self, key: (String, String, Reference)) {
        if let Some(count) = self.counts.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&key);
            }
        }
    }
}

/// All that a pod names in its own namespace.
fn references(pod: &Value) -> HashSet<Reference> {
    let spec = &pod["spec"];
    let mut found = HashSet::new();
    let account = spec["serviceAccountName"].as_str().unwrap_or("default");
    found.insert(("serviceaccounts", account.to_owned()));
    walk(spec, &mut found);
    for secret in list(&spec["imagePullSecrets"]) {
        add(&mut found, "secrets", &secret["name"]);
    }
    for volume in list(&spec["volumes"]) {
        add(&mut found, "secrets", &volume["secret"]["secretName"]);
        add(&mut found, "persistentvolumeclaims", &volume["persistentVolumeClaim"]["claimName"]);
        if let (true, Some(pod), Some(volume)) =
            (volume.get("ephemeral").is_some(), pod["metadata"]["name"].as_str(), volume["name"].as_str())
        {
            found.insert(("persistentvolumeclaims", format!("{pod}-{volume}")));
        }
    }
    found
}

/// The resource of an object that a pod refers to, if there is any.
pub(crate) fn referred_by(pod: &Value) -> Option<&'static str> {
    if pod["spec"]["serviceAccountName"].as_str().is_some_and(|name| !name.is_empty()) {
        return Some("serviceaccounts");
    }
    if !list(&pod["spec"]["resourceClaims"]).is_empty() {
        return Some("resourceclaims");
    }
    references(pod).into_iter().map(|(resource, _)| resource).filter(|resource| *resource != "serviceaccounts").min()
}

/// References of one shape wherever they stand: `configMap`, `configMapRef`, `secretRef`, `…KeyRef`, and
/// `secret` sources of projected volumes.
fn walk(value: &Value, found: &mut HashSet<Reference>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| walk(item, found)),
        Value::Object(fields) => {
            for (key, value) in fields {
                match key.as_str() {
                    "configMap" | "configMapRef" | "configMapKeyRef" => add(found, "configmaps", &value["name"]),
                    "secret" | "secretRef" | "secretKeyRef" | "nodePublishSecretRef" => {
                        add(found, "secrets", &value["name"]);
                    }
                    _ => {}
                }
                walk(value, found);
            }
        }
        _ => {}
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn add(found: &mut HashSet<Reference>, resource: &'static str, name: &Value) {
    if let Some(name) = name.as_str() {
        found.insert((resource, name.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn get<'a>(resource: &'a str, name: &'a str) -> Attributes<'a> {
        Attributes::Resource {
            verb: "get".into(),
            group: "".into(),
            resource: resource.into(),
            subresource: "".into(),
            namespace: "a".into(),
            name: name.into(),
        }
    }

    #[test]
    fn a_node_reads_what_its_pods_name_while_they_are_there() {
        let graph = Graph::default();
        let (node, other) = ("n1", "n2");
        let allows = |node: &str, wanted: &Attributes<'_>| graph.allows(node, wanted, &[]);
        let pod = json!({"spec": {"nodeName": "n1", "volumes": [
            {"name": "v", "secret": {"secretName": "s1"}},
            {"name": "p", "projected": {"sources": [{"configMap": {"name": "c1"}}, {"secret": {"name": "s2"}}]}}],
            "containers": [{"envFrom": [{"configMapRef": {"name": "c2"}}],
                "env": [{"valueFrom": {"secretKeyRef": {"name": "s3", "key": "k"}}}]}]}});
        graph.set_pod("a", "p", Some(&pod));
        graph.set_pod("a", "q", Some(&pod));
        for (resource, name) in
            [("secrets", "s1"), ("secrets", "s2"), ("secrets", "s3"), ("configmaps", "c1"), ("configmaps", "c2")]
        {
            assert!(allows(node, &get(resource, name)), "{resource} {name}");
            assert!(!allows(other, &get(resource, name)));
        }
        assert!(!allows(node, &get("secrets", "v")));
        assert_eq!(name(&User::new("system:node:n1", &[])), None, "the group is needed too");
        assert_eq!(name(&User::new("system:node:n1", &[NODES])), Some("n1"));
        graph.set_pod("a", "q", None);
        assert!(allows(node, &get("secrets", "s1")), "another pod still names it");
        graph.set_pod("a", "p", None);
        assert!(!allows(node, &get("secrets", "s1")));
        assert!(graph.state.read().counts.is_empty());
    }
}
