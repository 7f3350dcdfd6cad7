//! Roles and bindings, arranged so that a request looks only at the bindings of its own user and groups.
use super::rules::Rule;
use super::{Attributes, Decision};
use crate::request::User;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// `(namespace, name)`; the namespace of a ClusterRole is empty.
type Key = (String, String);

/// What a binding points at, and how a review names the binding.
#[derive(Clone, Debug)]
struct Grant {
    role: Key,
    /// `Role` or `ClusterRole`.
    kind: String,
    source: String,
}

/// Whom a binding names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    /// Service accounts are users by their user name.
    User(String),
    Group(String),
}

/// An immutable view of all roles and bindings.
#[derive(Default)]
pub struct Index {
    roles: HashMap<Key, Vec<Arc<Rule>>>,
    /// By namespace of the binding; empty: ClusterRoleBindings.
    grants: HashMap<String, HashMap<Subject, Vec<Arc<Grant>>>>,
}

/// Which of the four resources a stored object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Role,
    Binding,
}

/// The objects as read, by kind, namespace and name.
pub type Objects = BTreeMap<(Kind, String, String), Value>;

impl Index {
    pub fn new(objects: &Objects) -> Self {
        let mut index = Self::default();
        for ((kind, namespace, name), object) in objects {
            match kind {
                Kind::Role => {
                    let rules = Rule::list(&object["rules"]).into_iter().map(Arc::new).collect();
                    index.roles.insert((namespace.clone(), name.clone()), rules);
                }
                Kind::Binding => index.add_binding(namespace, name, object),
            }
        }
        index
    }

    fn add_binding(&mut self, namespace: &str, name: &str, binding: &Value) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (kind, role) = (text(&binding["roleRef"]["kind"]), text(&binding["roleRef"]["name"]));
        let role_namespace = if kind == "Role" { namespace.to_owned() } else { String::new() };
        for subject in binding["subjects"].as_array().map(Vec::as_slice).unwrap_or_default() {
            let Some(who) = read_subject(subject, namespace) else { continue };
            let source = describe(namespace, name, &kind, &role, subject);
            let grant = Grant { role: (role_namespace.clone(), role.clone()), kind: kind.clone(), source };
            let grants = self.grants.entry(namespace.to_owned()).or_default();
            grants.entry(who).or_default().push(Arc::new(grant));
        }
    }

    /// The rules of one role; none when it does not exist. The namespace of a ClusterRole is empty.
    pub fn role(&self, namespace: &str, name: &str) -> Option<&[Arc<Rule>]> {
        self.roles.get(&(namespace.to_owned(), name.to_owned())).map(Vec::as_slice)
    }

    pub fn authorize(&self, user: &User, wanted: &Attributes<'_>) -> Decision {
        let namespace = match wanted {
            Attributes::Resource { namespace, .. } => namespace,
            Attributes::NonResource { .. } => "",
        };
        let mut errors = Vec::new();
        for grant in self.grants_of(user, namespace) {
            match self.roles.get(&grant.role) {
                Some(rules) if rules.iter().any(|rule| rule.allows(wanted)) => {
                    return Decision::Allow { reason: format!("RBAC: allowed by {}", grant.source) };
                }
                Some(_) => {}
                None => errors.push(missing_role(grant)),
            }
        }
        Decision::NoOpinion { reason: aggregate(errors) }
    }

    /// All rules that hold for the user in the namespace, and which roles are missing.
    pub fn rules_for(&self, user: &User, namespace: &str) -> (Vec<Arc<Rule>>, Vec<String>) {
        let (mut rules, mut errors) = (Vec::new(), Vec::new());
        for grant in self.grants_of(user, namespace) {
            match self.roles.get(&grant.role) {
                Some(of_role) => rules.extend(of_role.iter().cloned()),
                None => errors.push(missing_role(grant)),
            }
        }
        (rules, errors)
    }

    fn grants_of<'a>(&'a self, user: &'a User, namespace: &'a str) -> impl Iterator<Item = &'a Arc<Grant>> {
        let places = [Some(""), Some(namespace).filter(|ns| !ns.is_empty())];
        let by_subject = places.into_iter().flatten().filter_map(|ns| self.grants.get(ns));
        by_subject.flat_map(move |grants| {
            let subjects = std::iter::once(Subject::User(user.name.clone()))
                .chain(user.groups.iter().map(|group| Subject::Group(group.clone())));
            subjects.filter_map(|subject| grants.get(&subject)).flatten()
        })
    }
}

fn read_subject(subject: &Value, namespace: &str) -> Option<Subject> {
    let name = subject["name"].as_str()?;
    match subject["kind"].as_str()? {
        "User" => Some(Subject::User(name.into())),
        "Group" => Some(Subject::Group(name.into())),
        "ServiceAccount" => {
            let of = subject["namespace"].as_str().filter(|ns| !ns.is_empty()).unwrap_or(namespace);
            (!of.is_empty()).then(|| Subject::User(format!("system:serviceaccount:{of}:{name}")))
        }
        _ => None,
    }
}

/// `ClusterRoleBinding "b" of ClusterRole "r" to User "u"`
fn describe(namespace: &str, name: &str, role_kind: &str, role: &str, subject: &Value) -> String {
    let text = |key: &str| subject[key].as_str().unwrap_or_default();
    let binding = if namespace.is_empty() {
        format!("ClusterRoleBinding {name:?}")
    } else {
        format!("RoleBinding \"{name}/{namespace}\"")
    };
    let who = match text("kind") {
        "ServiceAccount" => {
            let of = if text("namespace").is_empty() { namespace } else { text("namespace") };
            format!("ServiceAccount \"{}/{of}\"", text("name"))
        }
        kind => format!("{kind} {:?}", text("name")),
    };
    format!("{binding} of {role_kind} {role:?} to {who}")
}

fn missing_role(grant: &Grant) -> String {
    let resource = if grant.kind == "Role" { "role" } else { "clusterrole" };
    format!("{resource}.rbac.authorization.k8s.io {:?} not found", grant.role.1)
}

/// Go's text of several errors in one.
fn aggregate(mut errors: Vec<String>) -> String {
    errors.dedup();
    match errors.as_slice() {
        [] => String::new(),
        [one] => format!("RBAC: {one}"),
        many => format!("RBAC: [{}]", many.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn index() -> Index {
        let role = json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]});
        let binding = |kind: &str, role: &str, subject: Value| json!({"roleRef": {"kind": kind, "name": role}, "subjects": [subject]});
        let at = |kind, ns: &str, name: &str| (kind, ns.to_owned(), name.to_owned());
        Index::new(&Objects::from([
            (at(Kind::Role, "", "reader"), role.clone()),
            (at(Kind::Role, "a", "reader"), role),
            (at(Kind::Binding, "", "all"), binding("ClusterRole", "reader", json!({"kind": "Group", "name": "staff"}))),
            (
                at(Kind::Binding, "a", "one"),
                binding("Role", "reader", json!({"kind": "ServiceAccount", "name": "bot"})),
            ),
            (at(Kind::Binding, "b", "two"), binding("ClusterRole", "reader", json!({"kind": "User", "name": "bob"}))),
            (at(Kind::Binding, "c", "lost"), binding("Role", "gone", json!({"kind": "User", "name": "bob"}))),
        ]))
    }

    fn get_pods(namespace: &str) -> Attributes<'_> {
        Attributes::Resource {
            verb: "get".into(),
            group: "".into(),
            resource: "pods".into(),
            subresource: "".into(),
            namespace: namespace.into(),
            name: "x".into(),
        }
    }

    #[test]
    fn bindings_hold_where_they_are() {
        let index = index();
        let staff = User::new("eve", &["staff"]);
        let bot = User::new("system:serviceaccount:a:bot", &[]);
        let bob = User::new("bob", &[]);
        let may = |user: &User, namespace| index.authorize(user, &get_pods(namespace)).allowed();
        assert!(may(&staff, "") && may(&staff, "z"));
        assert!(may(&bot, "a") && !may(&bot, "b") && !may(&bot, ""));
        assert!(may(&bob, "b") && !may(&bob, "a") && !may(&bob, ""));
    }

    #[test]
    fn reasons_are_upstreams() {
        let index = index();
        let allowed = index.authorize(&User::new("bob", &[]), &get_pods("b"));
        let reason = r#"RBAC: allowed by RoleBinding "two/b" of ClusterRole "reader" to User "bob""#;
        assert_eq!(allowed, Decision::Allow { reason: reason.into() });
        let lost = index.authorize(&User::new("bob", &[]), &get_pods("c"));
        let reason = r#"RBAC: role.rbac.authorization.k8s.io "gone" not found"#;
        assert_eq!(lost, Decision::NoOpinion { reason: reason.into() });
    }
}
