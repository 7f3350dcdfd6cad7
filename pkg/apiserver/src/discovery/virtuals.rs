//! Resources that are never stored: access and token reviews, which the front answers by itself.
use crate::registry::Resource;
use api::GroupVersionResource;
use std::sync::{Arc, LazyLock};

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";

/// Group, kind, plural, whether it is namespaced.
const REVIEWS: [(&str, &str, &str, bool); 6] = [
    (AUTHENTICATION, "SelfSubjectReview", "selfsubjectreviews", false),
    (AUTHENTICATION, "TokenReview", "tokenreviews", false),
    (AUTHORIZATION, "LocalSubjectAccessReview", "localsubjectaccessreviews", true),
    (AUTHORIZATION, "SelfSubjectAccessReview", "selfsubjectaccessreviews", false),
    (AUTHORIZATION, "SelfSubjectRulesReview", "selfsubjectrulesreviews", false),
    (AUTHORIZATION, "SubjectAccessReview", "subjectaccessreviews", false),
];

/// Their descriptors, for discovery.
pub fn resources() -> &'static [Arc<Resource>] {
    static RESOURCES: LazyLock<Vec<Arc<Resource>>> = LazyLock::new(|| REVIEWS.iter().map(review).collect());
    &RESOURCES
}

fn review(&(group, kind, plural, namespaced): &(&str, &str, &str, bool)) -> Arc<Resource> {
    Arc::new(Resource {
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
    })
}
