//! What is served: a descriptor a resource, and the set of them, which custom resources join and leave while
//! the server runs.
use api::{GroupVersionKind, GroupVersionResource};
use arc_swap::ArcSwap;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One served resource in one version. A kind adds only this and a strategy.
#[derive(Clone, Debug)]
pub struct Resource {
    pub gvr: GroupVersionResource,
    pub kind: String,
    pub list_kind: String,
    pub singular: String,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub namespaced: bool,
    /// `create`, `delete`, … as discovery lists them; empty for resources that only have subresources.
    pub verbs: Vec<&'static str>,
    pub subresources: Vec<Subresource>,
    /// Field selectors besides metadata.name and metadata.namespace, as JSON paths (`spec.nodeName`).
    pub selectable_fields: Vec<String>,
    /// `/registry/pods`, `/registry/services/specs`, `/registry/example.com/things`: kube-apiserver's keys.
    pub key_prefix: String,
    /// The schemas that decode it: the built-in set, or a custom resource's own.
    pub schemas: Arc<api::schema::Schemas>,
    pub custom: Option<Arc<Custom>>,
}

/// What a CustomResourceDefinition says of a version beyond its schema.
#[derive(Clone, Debug)]
pub struct Custom {
    pub storage_version: String,
    pub columns: Vec<api::table::Column>,
    /// JSON paths of the columns, in order.
    pub column_paths: Vec<String>,
}

/// `pods/status`, `pods/exec`, `deployments/scale`, …
#[derive(Clone, Debug)]
pub struct Subresource {
    pub name: String,
    /// The kind of its body, where that is not the resource's own (`autoscaling/v1 Scale`).
    pub kind: GroupVersionKind,
    pub verbs: Vec<&'static str>,
}

impl Resource {
    pub fn gvk(&self) -> GroupVersionKind {
        GroupVersionKind::new(&*self.gvr.group, &*self.gvr.version, &*self.kind)
    }

    /// `/registry/pods/NAMESPACE/NAME`.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        if self.namespaced {
            format!("{}/{namespace}/{name}", self.key_prefix)
        } else {
            format!("{}/{name}", self.key_prefix)
        }
    }
}

/// An immutable view of everything served at one moment.
pub type Served = BTreeMap<GroupVersionResource, Arc<Resource>>;

/// The set of served resources: one writer (built-ins at start, custom resources afterwards), many readers.
#[derive(Default)]
pub struct Registry {
    served: ArcSwap<Served>,
}

impl Registry {
    pub fn served(&self) -> Arc<Served> {
        self.served.load_full()
    }

    pub fn get(&self, gvr: &GroupVersionResource) -> Option<Arc<Resource>> {
        self.served.load().get(gvr).cloned()
    }

    pub fn publish(&self, served: Served) {
        self.served.store(Arc::new(served));
    }
}
