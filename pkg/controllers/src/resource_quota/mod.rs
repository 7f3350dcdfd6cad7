//! Counts what quotas limit when a quota is new or changed, and now and then. In between, the API server charges
//! and releases with each write, so nothing has to be watched but the quotas.
mod plan;

use crate::error::Error;
use crate::execute::Run;
use crate::runner::{Reconciler, Watches, key_of};
use client::Reflector;
use client::informers::Key;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ResourceQuota;
use kube::api::{Api, DynamicObject, ListParams, PostParams};
use kube::discovery::{ApiResource, verbs};
use plan::{Collection, Found};
use std::collections::BTreeMap;

/// Objects read at once from a collection.
const PAGE: u32 = 500;

pub(crate) struct ResourceQuotas {
    pub(crate) quotas: Reflector<ResourceQuota>,
}

impl Reconciler for ResourceQuotas {
    const NAME: &'static str = "resourcequota-controller";

    fn watch(&self, watches: &mut Watches) {
        watches.primary::<ResourceQuota>();
        watches.on::<ResourceQuota>(|change| {
            // A charge changes the use alone; a spec that is not counted yet, and the regular look, count anew.
            let charged = change.old.is_some_and(|old| old.spec == change.new.spec);
            let current = serde_json::to_value(change.new).is_ok_and(|quota| plan::is_current(&quota));
            if change.deleted || (charged && current) { Vec::new() } else { vec![key_of(change.new)] }
        });
    }

    async fn reconcile(&self, (namespace, name): Key, run: &mut Run) -> Result<(), Error> {
        if self.quotas.get(&namespace, &name).is_none() {
            return Ok(());
        }
        let what = || format!("ResourceQuota {namespace}/{name}");
        let api: Api<ResourceQuota> = Api::namespaced(run.client().clone(), &namespace);
        // Read before anything is counted: a charge in between then makes the write below a conflict.
        let only = ListParams::default().fields(&format!("metadata.name={name}"));
        let quotas = api.list(&only).await.map_err(|source| Error::Api { verb: "list", what: what(), source })?;
        let Some(mut quota) = quotas.items.into_iter().next() else { return Ok(()) };
        let json = serde_json::to_value(&quota).expect("typed objects are JSON");
        let hard = api::quota::read(&json["spec"]["hard"]);
        let mut found = BTreeMap::new();
        for (collection, whole) in plan::collections(&hard) {
            if let Some(content) = count(run.client(), &namespace, &collection, whole).await? {
                found.insert(collection, content);
            }
        }
        let status = plan::status(&json, &found, Timestamp::now());
        if status == json["status"] {
            return Ok(());
        }
        quota.status = serde_json::from_value(status).ok();
        let written = api.replace_status(&name, &PostParams::default(), &quota).await;
        match written.map_err(|source| Error::Api { verb: "update", what: what(), source }) {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(drop),
        }
    }
}

/// What the collection holds; none where nothing serves it.
async fn count(
    client: &kube::Client,
    namespace: &str,
    (group, plural): &Collection,
    whole: bool,
) -> Result<Option<Found>, Error> {
    let Some(resource) = find(client, group, plural).await? else { return Ok(None) };
    let failed = |source| Error::Api { verb: "list", what: format!("{plural}.{group} of {namespace}"), source };
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    if whole {
        let (mut objects, mut params) = (Vec::new(), ListParams::default().limit(PAGE));
        loop {
            let page = api.list(&params).await.map_err(failed)?;
            let values = page.items.iter().filter_map(|object| serde_json::to_value(object).ok());
            objects.extend(values);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(Some(Found::Objects(objects))),
            }
        }
    }
    let first = api.list_metadata(&ListParams::default().limit(1)).await.map_err(failed)?;
    let rest = first.metadata.remaining_item_count.unwrap_or(0);
    Ok(Some(Found::Number(i64::try_from(first.items.len()).unwrap_or(i64::MAX) + rest)))
}

/// The served resource of that name, in its preferred version.
async fn find(client: &kube::Client, group: &str, plural: &str) -> Result<Option<ApiResource>, Error> {
    let failed = |source| Error::Api { verb: "discover", what: format!("{plural}.{group}"), source };
    let served = match kube::discovery::group(client, group).await {
        Err(kube::Error::Discovery(_)) => return Ok(None),
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(None),
        other => other.map_err(failed)?,
    };
    let found = served
        .recommended_resources()
        .into_iter()
        .find(|(resource, can)| resource.plural == plural && can.supports_operation(verbs::LIST));
    Ok(found.map(|(resource, _)| resource))
}
