//! What a request asks for, read from its method and path alone
//! (`k8s.io/apiserver/pkg/endpoints/request`).
use std::collections::BTreeMap;

/// Who is asking, as authentication found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

/// RBAC's verbs, and the one of connect subresources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

impl Verb {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
        }
    }
}

/// A request for a resource: `/api/v1/namespaces/NS/pods/NAME/SUB` or `/apis/GROUP/VERSION/...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestInfo {
    pub verb: Verb,
    pub group: String,
    pub version: String,
    /// Empty: cluster scope, or all namespaces.
    pub namespace: String,
    pub resource: String,
    /// Empty: the object itself. `proxy` may be followed by a path, which is in `path`.
    pub subresource: String,
    /// Empty: the collection.
    pub name: String,
    /// What follows the subresource, without the leading slash.
    pub path: String,
    /// Decoded query parameters in order; keys may repeat.
    pub query: Vec<(String, String)>,
}

impl RequestInfo {
    /// The first value of a query parameter.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}
