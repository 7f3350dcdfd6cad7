//! The kinds that the API serves, for controllers that care for all of them.
use crate::error::Error;
use kube::discovery::{ApiResource, Scope, verbs};

/// A served kind, in its preferred version.
#[derive(Clone, Debug, PartialEq)]
pub struct Served {
    pub resource: ApiResource,
    pub namespaced: bool,
    pub watched: bool,
    pub deletes_collections: bool,
}

/// Kinds whose objects can be listed and deleted.
pub async fn deletable(client: &kube::Client) -> Result<Vec<Served>, Error> {
    let failed = |source| Error::Api { verb: "discover", what: "the served kinds".to_owned(), source };
    let discovery = kube::Discovery::new(client.clone()).run().await.map_err(failed)?;
    let resources = discovery.groups().flat_map(|group| group.recommended_resources());
    let usable = resources
        .filter(|(_, can)| can.supports_operation(verbs::LIST) && can.supports_operation(verbs::DELETE))
        .map(|(resource, can)| Served {
            resource,
            namespaced: can.scope == Scope::Namespaced,
            watched: can.supports_operation(verbs::WATCH),
            deletes_collections: can.supports_operation(verbs::DELETE_COLLECTION),
        });
    Ok(usable.collect())
}
