//! Resources that are never stored: access and token reviews, which the front answers by itself, bindings, how
//! the parts of the server are, and metrics, which it asks the agents for.
use crate::connect::{METRICS_GROUP, METRICS_VERSION};
use crate::registry::Resource;
use api::GroupVersionResource;
use std::sync::{Arc, LazyLock};

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";

/// What puts a pod on a node, where `pods/NAME/binding` does not.
pub const BINDINGS: &str = "bindings";
pub const COMPONENT_STATUSES: &str = "componentstatuses";

/// Group, kind, plural, whether it is namespaced.
const REVIEWS: [(&str, &str, &str, bool); 6] = [
    (AUTHENTICATION, "SelfSubjectReview", "selfsubjectreviews", false),
    (AUTHENTICATION, "TokenReview", "tokenreviews", false),
    (AUTHORIZATION, "LocalSubjectAccessReview", "localsubjectaccessreviews", true),
    (AUTHORIZATION, "SelfSubjectAccessReview", "selfsubjectaccessreviews", false),
    (AUTHORIZATION, "SelfSubjectRulesReview", "selfsubjectrulesreviews", false),
    (AUTHORIZATION, "SubjectAccessReview", "subjectaccessreviews", false),
];

/// Kind, plural, whether it is namespaced.
const METRICS: [(&str, &str, bool); 2] = [("NodeMetrics", "nodes", false), ("PodMetrics", "pods", true)];

/// Their descriptors, for discovery.
pub fn resources() -> &'static [Arc<Resource>] {
    static RESOURCES: LazyLock<Vec<Arc<Resource>>> = LazyLock::new(|| {
        let reviews = REVIEWS.iter().map(|&(group, kind, plural, namespaced)| row(group, kind, plural, namespaced));
        let component = Resource {
            list_kind: "ComponentStatusList".into(),
            short_names: vec!["cs".into()],
            verbs: vec!["get", "list"],
            ..row("", "ComponentStatus", COMPONENT_STATUSES, false)
        };
        let metrics = METRICS.iter().map(|&(kind, plural, namespaced)| Resource {
            gvr: GroupVersionResource::new(METRICS_GROUP, METRICS_VERSION, plural),
            list_kind: format!("{kind}List"),
            verbs: vec!["get", "list"],
            storage_version: api::GroupVersion::new(METRICS_GROUP, METRICS_VERSION),
            ..row(METRICS_GROUP, kind, plural, namespaced)
        });
        let core = [row("", "Binding", BINDINGS, true), component];
        reviews.chain(core).chain(metrics).map(Arc::new).collect()
    });
    &RESOURCES
}

/// One of them by its plural, in the core group.
pub fn core(plural: &str) -> Option<&'static Arc<Resource>> {
    resources().iter().find(|resource| resource.gvr.group.is_empty() && resource.gvr.resource == plural)
}

fn row(group: &str, kind: &str, plural: &str, namespaced: bool) -> Resource {
    Resource {
        gvr: GroupVersionResource::new(group, "v1", plural),
        kind: kind.into(),
        list_kind: String::new(),
        singular: kind.to_lowercase(),
        short_names: Vec::new(),
        categories: Vec::new(),
        namespaced,
        verbs: vec!["create"],
        subresources: Vec::new(),
        selectable_fields: Vec::new(),
        key_prefix: String::new(),
        schemas: Arc::default(),
        custom: None,
        strategy: crate::registry::Strategy::PLAIN,
        storage_version: api::GroupVersion::new(group, "v1"),
        conversion: crate::registry::Conversion::Identity,
    }
}
