//! Nobody gives rights that they do not hold: what a write to a role or binding must pass besides its own
//! permission (`pkg/registry/rbac/*/policybased`).
use super::rules::{self, Rule};
use super::{Attributes, Authorizer};
use crate::request::{MASTERS, RequestInfo, User, Verb};
use api::Status;
use serde_json::Value;
use std::sync::Arc;

const GROUP: &str = "rbac.authorization.k8s.io";

/// The check of one request; the engine calls it with the object that is about to be stored.
#[derive(Clone)]
pub struct Guard {
    authorizer: Arc<Authorizer>,
    user: User,
    info: RequestInfo,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").field("user", &self.user.name).finish_non_exhaustive()
    }
}

impl Guard {
    /// The guard that a request needs; none: it changes no rights, or its user may everything.
    pub fn new(authorizer: &Arc<Authorizer>, user: &User, info: &RequestInfo) -> Option<Self> {
        let writes = matches!(info.verb, Verb::Create | Verb::Update | Verb::Patch);
        let rbac = info.group == GROUP && info.subresource.is_empty();
        (rbac && writes && !user.in_group(MASTERS)).then(|| Self {
            authorizer: authorizer.clone(),
            user: user.clone(),
            info: info.clone(),
        })
    }

    /// # Errors
    /// 403 that names what is missing, 404 when a binding's role does not exist.
    pub fn check(&self, new: &Value, old: Option<&Value>) -> Result<(), Status> {
        if old.is_some_and(|old| only_ownership_differs(new, old)) {
            return Ok(());
        }
        match &*self.info.resource {
            "roles" | "clusterroles" => self.check_role(new, old),
            "rolebindings" | "clusterrolebindings" => self.check_binding(new),
            _ => Ok(()),
        }
    }

    fn check_role(&self, new: &Value, old: Option<&Value>) -> Result<(), Status> {
        if self.may("escalate", &self.info.resource, &self.info.name) {
            return Ok(());
        }
        self.must_hold(new, &Rule::list(&new["rules"]))?;
        let aggregates = |role: &Value| !list(&role["aggregationRule"]["clusterRoleSelectors"]).is_empty();
        let gathers = aggregates(new) || old.is_some_and(aggregates);
        if gathers && !self.missing(&[Rule::everything()]).is_empty() {
            return Err(self.forbidden(new, "must have cluster-admin privileges to use the aggregationRule"));
        }
        Ok(())
    }

    fn check_binding(&self, new: &Value) -> Result<(), Status> {
        let text = |field: &str| new["roleRef"][field].as_str().unwrap_or_default();
        let (resource, namespace) = match text("kind") {
            "Role" => ("roles", &*self.info.namespace),
            _ => ("clusterroles", ""),
        };
        if self.may("bind", resource, text("name")) {
            return Ok(());
        }
        let index = self.authorizer.index();
        let granted =
            index.role(namespace, text("name")).ok_or_else(|| Status::not_found(GROUP, resource, text("name")))?;
        let granted: Vec<Rule> = granted.iter().map(|rule| (**rule).clone()).collect();
        self.must_hold(new, &granted)
    }

    /// The explicit permission, in the namespace of the request.
    fn may(&self, verb: &str, resource: &str, name: &str) -> bool {
        let attributes = Attributes::Resource {
            verb: verb.into(),
            group: GROUP.into(),
            resource: resource.into(),
            subresource: "".into(),
            namespace: (&*self.info.namespace).into(),
            name: name.into(),
        };
        self.authorizer.authorize(&self.user, &attributes).allowed()
    }

    fn missing(&self, wanted: &[Rule]) -> Vec<Rule> {
        let (held, _) = self.authorizer.rules_for(&self.user, &self.info.namespace);
        rules::missing(held.iter().map(|rule| &**rule), wanted)
    }

    fn must_hold(&self, new: &Value, wanted: &[Rule]) -> Result<(), Status> {
        let mut missing: Vec<String> = self.missing(wanted).iter().map(Rule::compact).collect();
        if missing.is_empty() {
            return Ok(());
        }
        missing.sort();
        let why = format!(
            "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
            self.user.name,
            rules::quoted(&self.user.groups),
            missing.join("\n")
        );
        Err(self.forbidden(new, &why))
    }

    fn forbidden(&self, new: &Value, why: &str) -> Status {
        let name = new["metadata"]["name"].as_str().unwrap_or_default();
        Status::forbidden(GROUP, &self.info.resource, name, why)
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// What the garbage collector changes must pass whatever the role says.
fn only_ownership_differs(new: &Value, old: &Value) -> bool {
    let strip = |object: &Value| {
        let mut object = object.clone();
        if let Some(metadata) = object["metadata"].as_object_mut() {
            for field in ["ownerReferences", "finalizers", "managedFields", "resourceVersion"] {
                metadata.remove(field);
            }
        }
        object
    };
    strip(new) == strip(old)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::index::{Kind, Objects};
    use serde_json::json;

    /// `bob` may read pods and bind `reader`.
    fn authorizer() -> Arc<Authorizer> {
        let authorizer = Authorizer::default();
        let rule = |verbs: Value, group: &str, resource: &str| json!({"verbs": verbs, "apiGroups": [group], "resources": [resource]});
        let mut bind = rule(json!(["bind"]), GROUP, "clusterroles");
        bind["resourceNames"] = json!(["admin"]);
        let at = |kind, name: &str| (kind, String::new(), name.to_owned());
        authorizer.publish(crate::authz::Index::new(&Objects::from([
            (at(Kind::Role, "bobs"), json!({"rules": [rule(json!(["get"]), "", "pods"), bind]})),
            (at(Kind::Role, "admin"), json!({"rules": [Rule::everything()]})),
            (at(Kind::Role, "editor"), json!({"rules": [rule(json!(["update"]), "", "pods")]})),
            (
                at(Kind::Binding, "bobs"),
                json!({"roleRef": {"kind": "ClusterRole", "name": "bobs"}, "subjects": [{"kind": "User", "name": "bob"}]}),
            ),
        ])));
        Arc::new(authorizer)
    }

    fn guard(user: User, resource: &str) -> Option<Guard> {
        let uri = format!("/apis/{GROUP}/v1/{resource}").parse().unwrap();
        match crate::request::parse(&http::Method::POST, &uri).unwrap() {
            crate::request::Target::Resource(info) => Guard::new(&authorizer(), &user, &info),
            other => panic!("{other:?}"),
        }
    }

    fn role(verb: &str) -> Value {
        json!({"metadata": {"name": "r"}, "rules": [{"verbs": [verb], "apiGroups": [""], "resources": ["pods"]}]})
    }

    #[test]
    fn only_held_rights_are_given() {
        let guard = guard(User::new("bob", &[]), "clusterroles").unwrap();
        assert!(guard.check(&role("get"), None).is_ok());
        let refused = guard.check(&role("delete"), None).unwrap_err();
        assert_eq!(
            refused.message,
            "clusterroles.rbac.authorization.k8s.io \"r\" is forbidden: user \"bob\" (groups=[\"system:authenticated\"]) is \
             attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}"
        );
        let mut owned = role("delete");
        owned["metadata"]["finalizers"] = json!(["x"]);
        assert!(guard.check(&owned, Some(&role("delete"))).is_ok());
        let mut gathering = role("get");
        gathering["aggregationRule"] = json!({"clusterRoleSelectors": [{}]});
        assert!(guard.check(&gathering, None).unwrap_err().message.contains("cluster-admin privileges"));
    }

    #[test]
    fn bindings_give_what_their_role_says() {
        let guard = guard(User::new("bob", &[]), "clusterrolebindings").unwrap();
        let binding = |role: &str| json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": role}});
        assert!(guard.check(&binding("admin"), None).is_ok(), "bound by explicit permission");
        assert!(guard.check(&binding("bobs"), None).is_ok());
        assert_eq!(guard.check(&binding("editor"), None).unwrap_err().code, 403);
        assert_eq!(guard.check(&binding("none"), None).unwrap_err().code, 404);
    }

    #[test]
    fn masters_need_no_guard() {
        assert!(guard(User::new("admin", &[MASTERS]), "clusterroles").is_none());
        assert!(guard(User::new("bob", &[]), "other").unwrap().check(&role("delete"), None).is_ok());
    }
}
