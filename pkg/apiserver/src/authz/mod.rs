//! May they? RBAC over an index that follows the store, after the two identities that need no rules:
//! `system:masters` may everything, and a node gets what the node authorizer gives it.
//!
//! Place in the flow: `front -> authn -> [authz] -> engine`; virtual reviews ask the same [`Authorizer`].

mod aggregate;
pub mod escalation;
mod follow;
mod index;
mod node;
pub mod rules;

pub use follow::{Follower, follow, load};
pub use index::Index;
pub(crate) use node::referred_by;
pub use node::{NODE_PREFIX, NODES};

use crate::request::{MASTERS, RequestInfo, User};
use arc_swap::ArcSwap;
use rules::Rule;
use std::borrow::Cow;
use std::sync::Arc;

/// What somebody wants to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attributes<'a> {
    Resource {
        verb: Cow<'a, str>,
        group: Cow<'a, str>,
        resource: Cow<'a, str>,
        subresource: Cow<'a, str>,
        namespace: Cow<'a, str>,
        name: Cow<'a, str>,
    },
    NonResource {
        verb: Cow<'a, str>,
        path: Cow<'a, str>,
    },
}

impl<'a> From<&'a RequestInfo> for Attributes<'a> {
    fn from(info: &'a RequestInfo) -> Self {
        Self::Resource {
            verb: info.verb.as_str().into(),
            group: (&*info.group).into(),
            resource: (&*info.resource).into(),
            subresource: (&*info.subresource).into(),
            namespace: (&*info.namespace).into(),
            name: info.authorized_name().into(),
        }
    }
}

/// What authorization answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow {
        /// Which binding or rule allowed it, as access reviews show.
        reason: String,
    },
    /// Nothing allows it; the reason is empty unless a binding points at a role that is missing.
    NoOpinion { reason: String },
}

impl Decision {
    pub fn allowed(&self) -> bool {
        matches!(self, Self::Allow { .. })
    }
}

/// Decides on the newest published [`Index`]. Cheap to share.
#[derive(Default)]
pub struct Authorizer {
    index: ArcSwap<Index>,
    nodes: node::Graph,
}

impl Authorizer {
    pub fn authorize(&self, user: &User, wanted: &Attributes<'_>) -> Decision {
        if user.in_group(MASTERS) {
            return Decision::Allow { reason: String::new() };
        }
        let index = self.index.load();
        if let Some(node) = node::name(user)
            && self.nodes.allows(node, wanted, index.role("", node::ROLE).unwrap_or_default())
        {
            return Decision::Allow { reason: String::new() };
        }
        index.authorize(user, wanted)
    }

    /// # Errors
    /// 403 with upstream's text.
    pub fn check(&self, user: &User, wanted: &Attributes<'_>) -> Result<(), api::Status> {
        match self.authorize(user, wanted) {
            Decision::Allow { .. } => Ok(()),
            Decision::NoOpinion { reason } => Err(forbidden(user, wanted, &reason)),
        }
    }

    /// All rules that hold for the user in the namespace (empty: cluster-wide ones alone), and what could not be
    /// resolved.
    pub fn rules_for(&self, user: &User, namespace: &str) -> (Vec<Arc<Rule>>, Vec<String>) {
        self.index.load().rules_for(user, namespace)
    }

    /// The newest roles and bindings.
    pub fn index(&self) -> Arc<Index> {
        self.index.load_full()
    }

    fn publish(&self, index: Index) {
        self.index.store(Arc::new(index));
    }

    fn graph(&self) -> &node::Graph {
        &self.nodes
    }
}

/// The 403 of `k8s.io/apiserver/pkg/endpoints/handlers/responsewriters`.
pub fn forbidden(user: &User, wanted: &Attributes<'_>, reason: &str) -> api::Status {
    let why = |text: String| {
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        if reason.is_empty() { text } else { format!("{text}: {reason}") }
    };
    match wanted {
        Attributes::NonResource { verb, path } => {
            let message = why(format!("User {:?} cannot {verb} path {path:?}", user.name));
            api::Status::failure(403, "Forbidden", format!("forbidden: {message}")).with_details(Default::default())
        }
        Attributes::Resource { verb, group, resource, subresource, namespace, name } => {
            let slash = if subresource.is_empty() { "" } else { "/" };
            let place = if namespace.is_empty() {
                "at the cluster scope".to_owned()
            } else {
                format!("in the namespace {namespace:?}")
            };
            let message = why(format!(
                "User {:?} cannot {verb} resource \"{resource}{slash}{subresource}\" in API group {group:?} {place}",
                user.name
            ));
            api::Status::forbidden(group, resource, name, &message)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_read_as_upstream_writes_them() {
        let user = User::new("x", &[]);
        let list = Attributes::Resource {
            verb: "list".into(),
            group: "".into(),
            resource: "pods".into(),
            subresource: "".into(),
            namespace: "default".into(),
            name: "".into(),
        };
        assert_eq!(
            forbidden(&user, &list, "").message,
            r#"pods is forbidden: User "x" cannot list resource "pods" in API group "" in the namespace "default""#
        );
        let scale = Attributes::Resource {
            verb: "update".into(),
            group: "apps".into(),
            resource: "deployments".into(),
            subresource: "scale".into(),
            namespace: "".into(),
            name: "web".into(),
        };
        assert_eq!(
            forbidden(&user, &scale, "").message,
            r#"deployments.apps "web" is forbidden: User "x" cannot update resource "deployments/scale" in API group "apps" at the cluster scope"#
        );
        let path = Attributes::NonResource { verb: "get".into(), path: "/".into() };
        assert_eq!(forbidden(&user, &path, "").message, r#"forbidden: User "x" cannot get path "/""#);
    }

    #[test]
    fn masters_may_everything() {
        let path = Attributes::NonResource { verb: "get".into(), path: "/metrics".into() };
        let authorizer = Authorizer::default();
        assert!(authorizer.authorize(&User::new("admin", &[MASTERS]), &path).allowed());
        assert!(!authorizer.authorize(&User::new("admin", &[]), &path).allowed());
    }
}
