//! Looks at one object and does what its owners' fate asks for. Nothing is deleted on the index's word alone: the
//! object, and owners that seem absent, are read live first.
use super::Shared;
use super::graph::{FOREGROUND, Node, ORPHAN, OwnerState, Uid, Verdict, judge};
use crate::error::Error;
use api::home::Claim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::core::PartialObjectMeta;
use serde_json::json;

pub(super) async fn look_at(shared: &Shared, uid: &Uid) -> Result<(), Error> {
    let Some(node) = shared.graph.lock().get(uid).cloned() else { return Ok(()) };
    let Some(live) = live(shared, &node, uid).await? else {
        // Gone already; the watch will say so.
        return Ok(());
    };
    if !shared.sites.ownership.borrow().is_home(&claim_of(&node, &live)) {
        // Its home collects it.
        return Ok(());
    }
    let has = |finalizer: &str| live.finalizers.iter().flatten().any(|f| f == finalizer);
    if live.deletion_timestamp.is_some() {
        if has(ORPHAN) {
            return let_dependents_go(shared, &node, uid, &live).await;
        }
        if has(FOREGROUND) {
            return wait_for_dependents(shared, &node, uid, &live).await;
        }
        return Ok(());
    }
    let mut owners = Vec::new();
    for owner in live.owner_references.iter().flatten() {
        owners.push((owner.clone(), owner_state(shared, &node, owner).await?));
    }
    let dependents = !shared.graph.lock().dependents_of(uid).is_empty();
    match judge(&owners, dependents) {
        Verdict::Keep => Ok(()),
        Verdict::Unlink(gone) => unlink(shared, &node, &live, &gone).await,
        Verdict::Delete { foreground: true } if blocks_in_a_circle(shared, uid, &live) => {
            unblock(shared, &node, &live).await
        }
        Verdict::Delete { foreground } => {
            let policy = match () {
                () if has(ORPHAN) => PropagationPolicy::Orphan,
                () if foreground || has(FOREGROUND) => PropagationPolicy::Foreground,
                () => PropagationPolicy::Background,
            };
            delete(shared, &node, &live, policy).await
        }
    }
}

fn claim_of<'a>(node: &'a Node, live: &'a ObjectMeta) -> Claim<'a> {
    Claim::read(&node.kind.kind, None, |name| live.annotations.as_ref()?.get(name).map(String::as_str))
}

fn api(shared: &Shared, node: &Node) -> Api<DynamicObject> {
    match node.namespace.is_empty() {
        true => Api::all_with(shared.client.clone(), node.kind.as_ref()),
        false => Api::namespaced_with(shared.client.clone(), &node.namespace, node.kind.as_ref()),
    }
}

fn failed(verb: &'static str, node: &Node) -> impl Fn(kube::Error) -> Error {
    let what = format!("{} {}/{}", node.kind.kind, node.namespace, node.name);
    move |source| Error::Api { verb, what: what.clone(), source }
}

/// The object as the API has it now, if it is still this life.
async fn live(shared: &Shared, node: &Node, uid: &Uid) -> Result<Option<ObjectMeta>, Error> {
    let found: Result<PartialObjectMeta<DynamicObject>, _> = api(shared, node).get_metadata(&node.name).await;
    match found {
        Ok(object) => Ok(Some(object.metadata).filter(|meta| meta.uid.as_ref() == Some(uid))),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(failed("get", node)(error)),
    }
}

async fn owner_state(shared: &Shared, node: &Node, owner: &OwnerReference) -> Result<OwnerState, Error> {
    let known = shared.graph.lock().get(&owner.uid).map(|owner| (owner.foreground, owner.namespace.clone()));
    match known {
        Some((true, _)) => return Ok(OwnerState::Waiting),
        Some((false, namespace)) if namespace.is_empty() || namespace == node.namespace => {
            return Ok(OwnerState::Solid);
        }
        _ => {}
    }
    let watched = shared.find_kind(&owner.api_version, &owner.kind)?;
    if watched.namespaced && node.namespace.is_empty() {
        return Err(Error::Refused(format!("{} {} can't own a cluster-scoped object", owner.kind, owner.name)));
    }
    let namespace = if watched.namespaced { node.namespace.clone() } else { String::new() };
    let seen = Node { kind: watched.kind, namespace, name: owner.name.clone(), ..node.clone() };
    Ok(match live(shared, &seen, &owner.uid).await? {
        None if shared.is_deleted(&owner.uid).await => OwnerState::Absent,
        None => OwnerState::Unknown,
        Some(meta)
            if meta.deletion_timestamp.is_some() && meta.finalizers.iter().flatten().any(|f| f == FOREGROUND) =>
        {
            OwnerState::Waiting
        }
        Some(_) => OwnerState::Solid,
    })
}

async fn delete(shared: &Shared, node: &Node, live: &ObjectMeta, policy: PropagationPolicy) -> Result<(), Error> {
    let preconditions = Preconditions { uid: live.uid.clone(), resource_version: live.resource_version.clone() };
    let params = DeleteParams {
        propagation_policy: Some(policy),
        preconditions: Some(preconditions),
        ..DeleteParams::default()
    };
    gone_is_fine(api(shared, node).delete(&node.name, &params).await.map(|_| ())).map_err(failed("delete", node))
}

async fn unlink(shared: &Shared, node: &Node, live: &ObjectMeta, gone: &[Uid]) -> Result<(), Error> {
    let left = live.owner_references.iter().flatten().filter(|owner| !gone.contains(&owner.uid));
    let left: Vec<&OwnerReference> = left.collect();
    let metadata = json!({"uid": live.uid, "resourceVersion": live.resource_version, "ownerReferences": left});
    patch(shared, node, metadata).await
}

/// Its owner waits for it, and one of its dependents waits too: everybody might wait for everybody. Deleting goes on
/// when it doesn't block any more, after the watch has shown that.
fn blocks_in_a_circle(shared: &Shared, uid: &Uid, live: &ObjectMeta) -> bool {
    let blocks = live.owner_references.iter().flatten().any(|owner| owner.block_owner_deletion == Some(true));
    blocks && shared.graph.lock().has_waiting_dependent(uid)
}

async fn unblock(shared: &Shared, node: &Node, live: &ObjectMeta) -> Result<(), Error> {
    let free = |owner: &OwnerReference| OwnerReference { block_owner_deletion: Some(false), ..owner.clone() };
    let owners: Vec<_> = live.owner_references.iter().flatten().map(free).collect();
    let metadata = json!({"uid": live.uid, "resourceVersion": live.resource_version, "ownerReferences": owners});
    patch(shared, node, metadata).await
}

async fn patch(shared: &Shared, node: &Node, metadata: serde_json::Value) -> Result<(), Error> {
    let patch = json!({"metadata": metadata});
    let patched = api(shared, node).patch_metadata(&node.name, &PatchParams::default(), &Patch::Merge(&patch)).await;
    gone_is_fine(patched.map(|_| ())).map_err(failed("patch", node))
}

fn gone_is_fine(result: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other,
    }
}

async fn drop_finalizer(shared: &Shared, node: &Node, live: &ObjectMeta, finalizer: &str) -> Result<(), Error> {
    let left: Vec<_> = live.finalizers.iter().flatten().filter(|f| *f != finalizer).collect();
    let metadata = json!({"uid": live.uid, "resourceVersion": live.resource_version, "finalizers": left});
    patch(shared, node, metadata).await
}

/// Foreground deletion: blocking dependents are deleted, and the last one lets the owner go.
async fn wait_for_dependents(shared: &Shared, node: &Node, uid: &Uid, live: &ObjectMeta) -> Result<(), Error> {
    let blocking = shared.graph.lock().blocking(uid);
    if blocking.is_empty() {
        return drop_finalizer(shared, node, live, FOREGROUND).await;
    }
    shared.look_at(blocking);
    Ok(())
}

/// Orphaning: dependents forget their owner before it goes.
async fn let_dependents_go(shared: &Shared, node: &Node, uid: &Uid, live: &ObjectMeta) -> Result<(), Error> {
    let dependents = shared.graph.lock().dependents_of(uid);
    for dependent in dependents {
        let Some(known) = shared.graph.lock().get(&dependent).cloned() else { continue };
        if let Some(meta) = self::live(shared, &known, &dependent).await? {
            unlink(shared, &known, &meta, std::slice::from_ref(uid)).await?;
        }
    }
    drop_finalizer(shared, node, live, ORPHAN).await
}
