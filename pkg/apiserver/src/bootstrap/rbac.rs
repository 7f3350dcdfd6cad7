//! Kubernetes' default roles and bindings, and the few of our own components. The lists are data in
//! `rbac.json`: facts of kube-apiserver v1.36's bootstrap policy, without comments or generated fields.
use super::{Object, Update};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

const POLICY: &str = include_str!("rbac.json");
const GROUP: &str = "rbac.authorization.k8s.io";
/// `false` on an object keeps it from being brought up to date.
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
/// What the names of controllers' roles begin with.
const CONTROLLERS: &str = "system:controller:";
const LABEL: &str = "kubernetes.io/bootstrapping";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Policy {
    cluster_roles: Vec<Role>,
    cluster_role_bindings: Vec<Binding>,
    roles: Vec<Role>,
    role_bindings: Vec<Binding>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Role {
    name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    aggregation_rule: Option<Value>,
    #[serde(default)]
    rules: Vec<Value>,
}

/// `role` is `KIND/NAME`, subjects are `User/NAME`, `Group/NAME` or `ServiceAccount/NAMESPACE/NAME`.
#[derive(Deserialize)]
struct Binding {
    name: String,
    #[serde(default)]
    namespace: String,
    role: String,
    subjects: Vec<String>,
}

pub fn all() -> Vec<Object> {
    let policy: Policy = serde_json::from_str(POLICY).expect("rbac.json is checked by a test");
    let aggregated = |role: &Role| aggregate(role, &policy.cluster_roles);
    let mut objects: Vec<Object> =
        policy.cluster_roles.iter().map(|r| role(r, "ClusterRole", "clusterroles", aggregated(r))).collect();
    objects.extend(policy.roles.iter().map(|r| role(r, "Role", "roles", r.rules.clone())));
    objects
        .extend(policy.cluster_role_bindings.iter().map(|b| binding(b, "ClusterRoleBinding", "clusterrolebindings")));
    objects.extend(policy.role_bindings.iter().map(|b| binding(b, "RoleBinding", "rolebindings")));
    objects
}

/// An aggregated role begins with the rules of the roles that its selectors match.
fn aggregate(role: &Role, all: &[Role]) -> Vec<Value> {
    let Some(rule) = &role.aggregation_rule else { return role.rules.clone() };
    let selectors = rule["clusterRoleSelectors"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut rules: Vec<Value> = Vec::new();
    for other in all.iter().filter(|other| selectors.iter().any(|selector| matches(selector, &other.labels))) {
        let new = aggregate(other, all);
        rules.extend(new.into_iter().filter(|rule| !rules.contains(rule)).collect::<Vec<_>>());
    }
    rules
}

fn matches(selector: &Value, labels: &BTreeMap<String, String>) -> bool {
    let wanted = selector["matchLabels"].as_object();
    wanted.is_some_and(|wanted| wanted.iter().all(|(key, value)| labels.get(key).map(String::as_str) == value.as_str()))
}

fn metadata(name: &str, namespace: &str, labels: &BTreeMap<String, String>) -> Value {
    let mut metadata = json!({"name": name, "labels": labels, "annotations": {AUTOUPDATE: "true"}});
    metadata["labels"][LABEL] = "rbac-defaults".into();
    if !namespace.is_empty() {
        metadata["namespace"] = namespace.into();
    }
    metadata
}

fn key(resource: &str, namespace: &str, name: &str) -> String {
    let slash = if namespace.is_empty() { "" } else { "/" };
    format!("/registry/{resource}/{namespace}{slash}{name}")
}

fn role(role: &Role, kind: &str, resource: &str, rules: Vec<Value>) -> Object {
    let mut value = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": kind,
        "metadata": metadata(&role.name, &role.namespace, &role.labels), "rules": rules,
    });
    if let Some(rule) = &role.aggregation_rule {
        value["aggregationRule"] = rule.clone();
    }
    if role.name.starts_with(CONTROLLERS) {
        value["rules"].as_array_mut().into_iter().flatten().for_each(allow_patch);
    }
    Object { key: key(resource, &role.namespace, &role.name), value, update: Update::Rbac }
}

/// Our controllers write by patch what upstream's write by update.
fn allow_patch(rule: &mut Value) {
    if let Some(verbs) = rule["verbs"].as_array_mut().filter(|verbs| verbs.contains(&json!("update"))) {
        verbs.extend((!verbs.contains(&json!("patch"))).then(|| json!("patch")));
    }
}

fn binding(binding: &Binding, kind: &str, resource: &str) -> Object {
    let (role_kind, role) = binding.role.split_once('/').expect("rbac.json is checked by a test");
    let value = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": kind,
        "metadata": metadata(&binding.name, &binding.namespace, &BTreeMap::new()),
        "roleRef": {"apiGroup": GROUP, "kind": role_kind, "name": role},
        "subjects": binding.subjects.iter().map(|subject| read_subject(subject)).collect::<Vec<_>>(),
    });
    Object { key: key(resource, &binding.namespace, &binding.name), value, update: Update::Rbac }
}

fn read_subject(text: &str) -> Value {
    let parts: Vec<&str> = text.splitn(3, '/').collect();
    match parts[..] {
        ["ServiceAccount", namespace, name] => json!({"kind": "ServiceAccount", "name": name, "namespace": namespace}),
        [kind, name] => json!({"apiGroup": GROUP, "kind": kind, "name": name}),
        _ => unreachable!("rbac.json is checked by a test: {text}"),
    }
}

/// Adds what is missing to the live object and takes nothing away (`pkg/registry/rbac/reconciliation`).
pub fn reconcile(wanted: &Value, live: &mut Value) {
    if live["metadata"]["annotations"][AUTOUPDATE] == "false" {
        return;
    }
    for field in ["labels", "annotations"] {
        let Some(wanted) = wanted["metadata"][field].as_object() else { continue };
        let metadata = &mut live["metadata"][field];
        if !metadata.is_object() {
            *metadata = Value::Object(Map::new());
        }
        for (key, value) in wanted {
            metadata[key] = value.clone();
        }
    }
    // Rules of an aggregated role follow from its parts, not from here.
    let lists: &[&str] = if wanted["aggregationRule"].is_null() { &["rules", "subjects"] } else { &[] };
    for list in lists {
        let missing = missing(list, &wanted[*list], &live[*list]);
        if !missing.is_empty() {
            let mut all = live[*list].as_array().cloned().unwrap_or_default();
            all.extend(missing);
            live[*list] = all.into();
        }
    }
}

fn missing(list: &str, wanted: &Value, live: &Value) -> Vec<Value> {
    use crate::authz::rules::{self, Rule};
    if list == "rules" {
        let missing = rules::missing(Rule::list(live).iter(), &Rule::list(wanted));
        return missing.iter().map(|rule| serde_json::to_value(rule).expect("a rule is strings")).collect();
    }
    let same = |a: &Value, b: &Value| ["kind", "name", "namespace"].iter().all(|key| a[*key] == b[*key]);
    let live = live.as_array().map(Vec::as_slice).unwrap_or_default();
    let wanted = wanted.as_array().map(Vec::as_slice).unwrap_or_default();
    wanted.iter().filter(|subject| !live.iter().any(|held| same(held, subject))).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(key: &str) -> Value {
        all().into_iter().find(|object| object.key == key).unwrap_or_else(|| panic!("{key} is missing")).value
    }

    #[test]
    fn the_policy_is_whole() {
        let objects = all();
        let mut keys: Vec<&str> = objects.iter().map(|object| &*object.key).collect();
        keys.dedup();
        assert_eq!(keys.len(), objects.len());
        assert!(objects.len() > 130);
        for object in &objects {
            assert!(object.value["rules"].is_array() || object.value["roleRef"]["name"].is_string(), "{}", object.key);
        }
        let masters = object("/registry/clusterrolebindings/cluster-admin");
        assert_eq!(masters["subjects"][0], json!({"apiGroup": GROUP, "kind": "Group", "name": "system:masters"}));
    }

    #[test]
    fn aggregated_roles_hold_the_rules_of_their_parts() {
        let rules = |name: &str| object(&format!("/registry/clusterroles/{name}"))["rules"].as_array().unwrap().len();
        assert!(rules("view") > 5);
        assert!(rules("edit") > rules("view"));
        assert!(rules("admin") > rules("edit"));
    }

    #[test]
    fn reconciling_adds_and_never_takes() {
        let key = "/registry/clusterroles/system:kube-dns";
        let wanted = object(key);
        let mut live = wanted.clone();
        reconcile(&wanted, &mut live);
        assert_eq!(live, wanted);
        live["rules"] = json!([{"apiGroups": [""], "resources": ["services"], "verbs": ["list", "get"]}]);
        reconcile(&wanted, &mut live);
        let rules = crate::authz::rules::Rule::list(&live["rules"]);
        assert!(
            crate::authz::rules::missing(rules.iter(), &crate::authz::rules::Rule::list(&wanted["rules"])).is_empty()
        );
        assert!(rules[0].verbs.contains(&"get".to_owned()));
        let mut kept = json!({"metadata": {"annotations": {AUTOUPDATE: "false"}}, "rules": []});
        reconcile(&wanted, &mut kept);
        assert_eq!(kept["rules"], json!([]));
    }
}
