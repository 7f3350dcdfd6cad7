//! What is served: a descriptor a resource, and the set of them, which custom resources join and leave while
//! the server runs.
pub mod builtin;
mod convert;
pub mod custom;
pub mod strategy;
pub mod summarize;

use api::validate::{FieldError, Reason};
use api::{GroupVersion, GroupVersionKind, GroupVersionResource};
use arc_swap::ArcSwap;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
pub use strategy::Strategy;

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
    /// What happens to it on its way into the store.
    pub strategy: Strategy,
    /// What `apiVersion` says in the store.
    pub storage_version: GroupVersion,
    /// From the stored version to the served one.
    pub conversion: Conversion,
}

/// How a stored object becomes the served one and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conversion {
    /// Stored as served: bytes pass through.
    Identity,
    /// Only `apiVersion` differs, object by object (custom resources of several versions).
    Rewrite,
    /// A definition's webhook converts, before trees get here: [`Custom::converter`].
    Webhook,
    /// `events.k8s.io/v1` over stored core events.
    Events,
    /// `autoscaling/v1` over stored `autoscaling/v2`.
    Autoscaler,
}

/// What a CustomResourceDefinition says of a version beyond its schema.
#[derive(Clone, Debug)]
pub struct Custom {
    /// The version's `openAPIV3Schema`.
    pub schema: Arc<serde_json::Value>,
    /// `additionalPrinterColumns`.
    pub columns: Vec<serde_json::Value>,
    pub scale: Option<Scale>,
    /// The schema's patterns, compiled.
    pub patterns: custom::validate::Patterns,
    /// The schema's `x-kubernetes-validations`.
    pub rules: api::cel::rules::Rules,
    /// Whether the schema has defaults, which reading fills in.
    pub has_defaults: bool,
    /// The definition's revision, where its schema may have changed since objects were stored; else zero. What is older is
    /// read without what the schema does not know any more.
    pub reshaped: store::Revision,
    /// What there is to say of a version that goes out of use.
    pub deprecation: Option<String>,
    /// Asks the definition's webhook to convert between versions.
    pub converter: Option<Arc<custom::conversion::Converter>>,
}

impl Custom {
    /// What the rules refuse. They rely on types and sizes: where `found` has those wrong, none is asked.
    fn check_rules(&self, new: &Value, old: Option<&Value>, found: &[FieldError]) -> Vec<FieldError> {
        let blocks = |e: &FieldError| {
            matches!(e.reason, Reason::Required | Reason::TooLong | Reason::TooMany | Reason::TypeInvalid)
        };
        if self.rules.is_empty() || !found.iter().any(blocks) {
            return self.rules.validate(new, old);
        }
        let detail = "some validation rules were not checked because the object was invalid; correct the existing errors \
                      to complete validation";
        vec![FieldError {
            field: "<nil>".into(),
            reason: Reason::Invalid,
            value: Some(Value::Null),
            detail: detail.into(),
        }]
    }
}

/// Where a custom resource keeps what its `scale` shows, as JSON pointers (`/spec/replicas`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scale {
    pub spec_replicas: String,
    pub status_replicas: String,
    pub label_selector: Option<String>,
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

    pub fn group_kind(&self) -> api::GroupKind {
        self.gvk().group_kind()
    }

    /// The kind as it is stored.
    pub fn stored_gvk(&self) -> GroupVersionKind {
        GroupVersionKind::new(&*self.storage_version.group, &*self.storage_version.version, &*self.kind)
    }

    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    pub fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }

    /// The schema's root; without one (no schemas loaded) anything goes.
    pub fn ty(&self) -> &api::schema::Type {
        self.schemas.for_kind(&self.gvk()).map_or(&api::schema::Type::Any, |d| &d.ty)
    }

    /// What is wrong with a defaulted object, alone or as an update of `old` through a subresource.
    pub fn validate(
        &self,
        subresource: &str,
        new: &serde_json::Value,
        old: Option<&serde_json::Value>,
    ) -> Vec<api::validate::FieldError> {
        let Some(custom) = &self.custom else {
            let mut errors = api::validate::validate_subresource(&self.gvk(), subresource, new, old);
            if self.kind == "CustomResourceDefinition" && subresource.is_empty() && errors.is_empty() {
                errors = custom::defaults::check(new, old);
            }
            return errors;
        };
        let mut errors = api::validate::validate_metadata(new, old);
        let mut found = custom::validate::validate(new, &custom.schema, &custom.patterns);
        if let Some(old) = old.filter(|_| !found.is_empty()) {
            // Ratcheting: what the stored object had wrong, too, does not stand in the way of other changes.
            let before = custom::validate::validate(old, &custom.schema, &custom.patterns);
            found.retain(|error| !before.contains(error));
        }
        found.extend(custom.check_rules(new, old, &found));
        errors.extend(found);
        errors
    }

    /// Fills in what the object leaves out.
    pub fn default(&self, object: &mut serde_json::Value) {
        match &self.custom {
            Some(custom) => custom::schema::default(object, &custom.schema),
            None => {
                self.convert_input(object);
                api::default::default(&self.gvk(), object, self.ty(), &self.schemas);
            }
        }
    }

    /// Brings a whole object into the form that upstream's store would give it back in.
    pub fn settle(&self, object: &mut serde_json::Value) {
        if self.custom.is_none() {
            api::default::settle(object, self.ty(), &self.schemas);
        }
    }

    /// How kubectl's tables show it.
    pub fn printer(&self) -> Box<dyn api::table::Printer> {
        match &self.custom {
            Some(custom) => Box::new(api::table::CustomPrinter::new(&custom.columns)),
            None => api::table::printer(&self.gvk()),
        }
    }

    /// All keys of the collection, or of one namespace of it.
    pub fn range_prefix(&self, namespace: &str) -> String {
        if namespace.is_empty() || !self.namespaced {
            format!("{}/", self.key_prefix)
        } else {
            format!("{}/{namespace}/", self.key_prefix)
        }
    }

    /// Namespace and name of a key of this resource.
    pub fn parse_key<'k>(&self, key: &'k [u8]) -> Option<(&'k str, &'k str)> {
        let rest = std::str::from_utf8(key).ok()?.strip_prefix(&*self.key_prefix)?.strip_prefix('/')?;
        if self.namespaced { rest.split_once('/') } else { Some(("", rest)) }
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
    index: ArcSwap<Index>,
    /// Tells followers that another set is published.
    changed: tokio::sync::watch::Sender<()>,
}

/// The served set and where each resource is stored.
#[derive(Default)]
struct Index {
    served: Arc<Served>,
    by_prefix: HashMap<String, Arc<Resource>>,
}

impl Registry {
    /// The registry of the built-in resources.
    pub fn builtin(schemas: &Arc<api::schema::Schemas>) -> Self {
        let registry = Self::default();
        registry.publish(builtin::served(schemas));
        registry
    }

    pub fn served(&self) -> Arc<Served> {
        self.index.load().served.clone()
    }

    /// Becomes ready whenever another set is published.
    pub fn changes(&self) -> tokio::sync::watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub fn get(&self, gvr: &GroupVersionResource) -> Option<Arc<Resource>> {
        self.index.load().served.get(gvr).cloned()
    }

    /// The resource, in its storage version where served, that a stored key belongs to.
    pub fn by_key(&self, key: &[u8]) -> Option<Arc<Resource>> {
        let key = std::str::from_utf8(key).ok()?;
        let index = self.index.load();
        let second = key.match_indices('/').map(|(at, _)| at).nth(2)?;
        let third = key[second + 1..].find('/').map(|at| second + 1 + at);
        let long = third.and_then(|end| index.by_prefix.get(&key[..end]));
        long.or_else(|| index.by_prefix.get(&key[..second])).cloned()
    }

    pub fn publish(&self, served: Served) {
        let mut by_prefix = HashMap::new();
        for resource in served.values() {
            if resource.conversion == Conversion::Identity || !by_prefix.contains_key(&resource.key_prefix) {
                by_prefix.insert(resource.key_prefix.clone(), resource.clone());
            }
        }
        self.index.store(Arc::new(Index { served: Arc::new(served), by_prefix }));
        self.changed.send_replace(());
    }
}
