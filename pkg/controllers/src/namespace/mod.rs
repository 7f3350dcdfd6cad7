//! Empties namespaces that are being deleted, and then lets them go.
mod plan;

use crate::action;
use crate::error::Error;
use crate::execute::Run;
use crate::runner::{Reconciler, Watches};
use crate::served::{self, Served};
use api::home::Claim;
use client::Reflector;
use client::informers::Key;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams};
use kube::core::PartialObjectMeta;
use plan::Content;
use serde_json::{Value, json};
use std::time::Duration;

/// How often a namespace with content left is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How often a site looks again that has to delete something in a namespace of another's.
const LOOK_AGAIN_ELSEWHERE: Duration = Duration::from_secs(2);
/// The finalizer that a namespace is born with.
const FINALIZER: &str = "kubernetes";

pub(crate) struct Namespaces {
    pub(crate) namespaces: Reflector<Namespace>,
}

impl Reconciler for Namespaces {
    const NAME: &'static str = "namespace-controller";
    const WORKERS: usize = 4;

    fn watch(&self, watches: &mut Watches) {
        watches.everywhere();
        watches.primary::<Namespace>();
        watches.on::<Namespace>(|change| match change.new.metadata.deletion_timestamp {
            Some(_) => vec![crate::runner::key_of(change.new)],
            None if change.deleted => vec![crate::runner::key_of(change.new)],
            None => Vec::new(),
        });
    }

    async fn reconcile(&self, (_, name): Key, run: &mut Run) -> Result<(), Error> {
        let Some(namespace) = self.namespaces.get("", &name) else { return sweep(run, &name).await };
        let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.clone()).unwrap_or_default();
        if namespace.metadata.deletion_timestamp.is_none() || !finalizers.iter().any(|f| f == FINALIZER) {
            return Ok(());
        }
        let content = empty(run, &name, run.acts()).await;
        if !run.acts() {
            // Its home says how far it is and lets it go; we have deleted what is ours.
            if !content.is_empty() {
                run.again(LOOK_AGAIN_ELSEWHERE);
            }
            return Ok(());
        }
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

/// What was made at this site in a namespace that is gone already is deleted here: its home did not know of it.
async fn sweep(run: &mut Run, name: &str) -> Result<(), Error> {
    if !run.view().marked {
        return Ok(());
    }
    let content = empty(run, name, false).await;
    if let Some(error) = content.delete_errors.first().or(content.discovery_error.as_ref()) {
        return Err(Error::Refused(format!("emptying namespace {name}, which is gone: {error}")));
    }
    if !content.is_empty() {
        run.again(LOOK_AGAIN_ELSEWHERE);
    }
    Ok(())
}

/// Deletes everything that is this site's, pods first: what they use goes only after them (KEP-5080). What has no home
/// goes with the namespace's, if this is it.
async fn empty(run: &Run, namespace: &str, at_home: bool) -> Content {
    let client = run.client();
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
            if let Err(error) = empty_kind(run, namespace, kind, at_home, &mut content).await {
                content.delete_errors.push(error.message());
            }
        }
        if !content.is_empty() {
            break;
        }
    }
    content
}

async fn empty_kind(
    run: &Run,
    namespace: &str,
    kind: &Served,
    at_home: bool,
    content: &mut Content,
) -> Result<(), Error> {
    let client = run.client();
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
    let marked = run.view().marked;
    let ours = |object: &PartialObjectMeta<DynamicObject>| !marked || is_ours(run, kind, &object.metadata, at_home);
    if kind.deletes_collections && !marked {
        let deleted = api.delete_collection(&background, &ListParams::default()).await;
        deleted.map_err(|source| Error::Api { verb: "delete", what: what(), source })?;
    } else {
        for object in before.items.iter().filter(|object| ours(object)) {
            match api.delete(&object.name_any(), &background).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                result => _ = result.map_err(|source| Error::Api { verb: "delete", what: what(), source })?,
            }
        }
    }
    // Home waits for what all sites have left, others for their own.
    let mut after = list().await?.items;
    after.retain(|object| at_home || ours(object));
    if !after.is_empty() {
        content.remaining.insert(format!("{}.{}", kind.resource.plural, kind.resource.group), after.len());
    }
    for finalizer in after.iter().flat_map(|object| object.finalizers()) {
        *content.finalizers.entry(finalizer.clone()).or_default() += 1;
    }
    Ok(())
}

/// Whether this site deletes an object of a namespace.
fn is_ours(run: &Run, kind: &Served, metadata: &ObjectMeta, at_home: bool) -> bool {
    let annotation = |name: &str| metadata.annotations.as_ref()?.get(name).map(String::as_str);
    let claim = Claim::read(&kind.resource.kind, None, annotation);
    match claim.home {
        None if kind.resource.kind == "Event" || kind.resource.kind == "Lease" => at_home,
        _ => run.view().is_home(&claim),
    }
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
