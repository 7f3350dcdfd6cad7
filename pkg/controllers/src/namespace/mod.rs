//! Empties namespaces that are being deleted, and then lets them go.
mod plan;

use crate::action;
use crate::error::Error;
use crate::execute::Run;
use crate::runner::{Reconciler, Watches};
use crate::served::{self, Served};
use client::Reflector;
use client::informers::Key;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams};
use plan::Content;
use serde_json::{Value, json};
use std::time::Duration;

/// How often a namespace with content left is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// The finalizer that a namespace is born with.
const FINALIZER: &str = "kubernetes";

pub(crate) struct Namespaces {
    pub(crate) namespaces: Reflector<Namespace>,
}

impl Reconciler for Namespaces {
    const NAME: &'static str = "namespace-controller";
    const WORKERS: usize = 4;

    fn watch(&self, watches: &mut Watches) {
        watches.on::<Namespace>(|change| match change.new.metadata.deletion_timestamp {
            Some(_) => vec![crate::runner::key_of(change.new)],
            None => Vec::new(),
        });
    }

    async fn reconcile(&self, (_, name): Key, run: &mut Run) -> Result<(), Error> {
        let Some(namespace) = self.namespaces.get("", &name) else { return Ok(()) };
        let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.clone()).unwrap_or_default();
        if namespace.metadata.deletion_timestamp.is_none() || !finalizers.iter().any(|f| f == FINALIZER) {
            return Ok(());
        }
        let content = empty(run.client(), &name).await;
        let mut status = namespace.status.clone().unwrap_or_default();
        let old = status.clone();
        status.phase = Some("Terminating".into());
        status.conditions =
            Some(plan::conditions(old.conditions.as_deref().unwrap_or_default(), &content, Timestamp::now()));
        run.all(action::status(&*namespace, &old, &status).into_iter().collect()).await?;
        if content.is_empty() {
            return finalize(run.client(), &namespace).await;
        }
        run.again(LOOK_AGAIN);
        Ok(())
    }
}

/// Deletes everything, pods first: what they use goes only after them (KEP-5080).
async fn empty(client: &kube::Client, namespace: &str) -> Content {
    let mut content = Content::default();
    let served = match served::deletable(client).await {
        Ok(served) => served,
        Err(error) => {
            content.discovery_error = Some(error.message());
            return content;
        }
    };
    let (pods, rest): (Vec<_>, Vec<_>) = served
        .into_iter()
        .filter(|s| s.namespaced)
        .partition(|s| s.resource.kind == "Pod" && s.resource.group.is_empty());
    for kinds in [pods, rest] {
        for kind in &kinds {
            if let Err(error) = empty_kind(client, namespace, kind, &mut content).await {
                content.delete_errors.push(error.message());
            }
        }
        if !content.is_empty() {
            break;
        }
    }
    content
}

async fn empty_kind(client: &kube::Client, namespace: &str, kind: &Served, content: &mut Content) -> Result<(), Error> {
    let what = || format!("{} of {namespace}", kind.resource.plural);
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind.resource);
    let list = || async {
        let list = api.list_metadata(&ListParams::default()).await;
        list.map_err(|source| Error::Api { verb: "list", what: what(), source })
    };
    let before = list().await?;
    if before.items.is_empty() {
        return Ok(());
    }
    let background = DeleteParams::background();
    if kind.deletes_collections {
        let deleted = api.delete_collection(&background, &ListParams::default()).await;
        deleted.map_err(|source| Error::Api { verb: "delete", what: what(), source })?;
    } else {
        for object in &before.items {
            match api.delete(&object.name_any(), &background).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                result => _ = result.map_err(|source| Error::Api { verb: "delete", what: what(), source })?,
            }
        }
    }
    let after = list().await?;
    if !after.items.is_empty() {
        content.remaining.insert(format!("{}.{}", kind.resource.plural, kind.resource.group), after.items.len());
    }
    for finalizer in after.items.iter().flat_map(|object| object.finalizers()) {
        *content.finalizers.entry(finalizer.clone()).or_default() += 1;
    }
    Ok(())
}

/// `namespaces/finalize` takes the whole object: what was read is sent back without our finalizer.
async fn finalize(client: &kube::Client, namespace: &Namespace) -> Result<(), Error> {
    let name = namespace.name_any();
    let failed = |source| Error::Api { verb: "finalize", what: format!("Namespace {name}"), source };
    let path = format!("/api/v1/namespaces/{name}");
    let request = |method: &str, path: &str, body: Vec<u8>| {
        let request = http::Request::builder().method(method).uri(path).header("content-type", "application/json");
        request.body(body).map_err(|error| failed(kube::Error::HttpError(error)))
    };
    let live = client.request::<Value>(request("GET", &path, Vec::new())?).await;
    let mut live = match live {
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        other => other.map_err(failed)?,
    };
    if live["metadata"]["uid"].as_str() != namespace.metadata.uid.as_deref()
        || live["metadata"]["deletionTimestamp"].is_null()
    {
        return Ok(());
    }
    let left = live["spec"]["finalizers"].as_array().into_iter().flatten().filter(|f| *f != FINALIZER);
    live["spec"]["finalizers"] = json!(left.cloned().collect::<Vec<Value>>());
    let body = live.to_string().into_bytes();
    match client.request::<Value>(request("PUT", &format!("{path}/finalize"), body)?).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(|_| ()).map_err(failed),
    }
}
