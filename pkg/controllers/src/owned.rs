//! Ownership: which objects a controller manages, and which it adopts or lets go.
use crate::action::{self, Action};
use crate::error::Error;
use api::selector::LabelSelector;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector as Selector, OwnerReference};
use kube::{Resource, ResourceExt};
use serde_json::json;
use std::sync::Arc;

/// The owner that manages an object, if one does.
pub fn controller_of<K: Resource>(object: &K) -> Option<&OwnerReference> {
    object.meta().owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// The reference that makes `owner` the manager.
pub fn reference_to<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference { block_owner_deletion: Some(true), ..owner.controller_owner_ref(&()).unwrap_or_default() }
}

pub fn is_controlled_by<K: Resource, O: Resource>(object: &K, owner: &O) -> bool {
    controller_of(object).is_some_and(|controller| Some(&controller.uid) == owner.meta().uid.as_ref())
}

/// The managing owner's key, if it is of this kind.
pub fn owner_key<K: Resource>(object: &K, kind: &str) -> Option<client::informers::Key> {
    let owner = controller_of(object).filter(|owner| owner.kind == kind)?;
    Some((object.meta().namespace.clone().unwrap_or_default(), owner.name.clone()))
}

/// A typed selector, ready to match.
pub fn selector<O: Resource<DynamicType = ()>>(owner: &O, selector: &Selector) -> Result<LabelSelector, Error> {
    let labels = selector.match_labels.iter().flatten().map(|(k, v)| (k.as_str(), v.as_str()));
    let expressions = selector.match_expressions.iter().flatten();
    let expressions = expressions.map(|e| (e.key.as_str(), e.operator.as_str(), e.values.clone().unwrap_or_default()));
    LabelSelector::from_parts(labels, expressions).map_err(|reason| {
        let what = format!("{} {}/{}", O::kind(&()), owner.namespace().unwrap_or_default(), owner.name_any());
        Error::Selector { what, reason: reason.to_string() }
    })
}

/// What the owner manages, or might adopt, from a cache.
pub fn candidates<K, O>(cache: &client::Reflector<K>, owner: &O) -> Vec<Arc<K>>
where
    K: client::informers::Cached,
    O: Resource,
{
    let mut all = cache.controlled_by(owner.meta().uid.as_deref().unwrap_or_default());
    all.extend(cache.uncontrolled(owner.meta().namespace.as_deref().unwrap_or_default()));
    all
}

/// What a claim found.
pub struct Claimed<K> {
    /// Managed by the owner, now or once the actions are done.
    pub mine: Vec<Arc<K>>,
    /// Adoptions and releases.
    pub actions: Vec<Action>,
}

impl<K> Claimed<K> {
    /// Whether an object is about to be adopted; the owner must then be looked up live first.
    pub fn adopts(&self) -> bool {
        self.actions.iter().any(|action| match action {
            Action::Patch { patch: action::Patch::Strategic(patch), .. } => {
                patch["metadata"]["ownerReferences"][0]["$patch"].is_null()
            }
            _ => false,
        })
    }
}

/// Upstream's ControllerRefManager: what the owner manages and no longer selects is let go; what nobody manages and
/// it selects is adopted, unless either of them is being deleted.
pub fn claim<K, O>(owner: &O, selector: &LabelSelector, candidates: Vec<Arc<K>>) -> Claimed<K>
where
    K: Resource<DynamicType = ()>,
    O: Resource<DynamicType = ()>,
{
    claim_held(owner, selector, candidates, None)
}

/// [`claim`] for an owner that holds what it manages with a finalizer.
pub fn claim_held<K, O>(
    owner: &O,
    selector: &LabelSelector,
    candidates: Vec<Arc<K>>,
    finalizer: Option<&str>,
) -> Claimed<K>
where
    K: Resource<DynamicType = ()>,
    O: Resource<DynamicType = ()>,
{
    let deleting = owner.meta().deletion_timestamp.is_some();
    let mut claimed = Claimed { mine: Vec::new(), actions: Vec::new() };
    for object in candidates {
        let matches = selector.matches(object.labels());
        match controller_of(&*object) {
            Some(controller) if Some(&controller.uid) != owner.meta().uid.as_ref() => {}
            Some(_) if matches => claimed.mine.push(object),
            Some(_) if !deleting => claimed.actions.push(release(owner, &*object, finalizer)),
            Some(_) => {}
            None if matches && !deleting && object.meta().deletion_timestamp.is_none() => {
                claimed.actions.push(adopt(owner, &*object, finalizer));
                claimed.mine.push(object);
            }
            None => {}
        }
    }
    claimed
}

fn adopt<K, O>(owner: &O, object: &K, finalizer: Option<&str>) -> Action
where
    K: Resource<DynamicType = ()>,
    O: Resource<DynamicType = ()>,
{
    let mut metadata = json!({"uid": object.meta().uid, "ownerReferences": [reference_to(owner)]});
    if let Some(finalizer) = finalizer {
        metadata["finalizers"] = json!([finalizer]);
    }
    strategic(object, json!({"metadata": metadata}))
}

fn release<K, O>(owner: &O, object: &K, finalizer: Option<&str>) -> Action
where
    K: Resource<DynamicType = ()>,
    O: Resource<DynamicType = ()>,
{
    let gone = json!({"$patch": "delete", "uid": owner.meta().uid});
    let mut metadata = json!({"uid": object.meta().uid, "ownerReferences": [gone]});
    if let Some(finalizer) = finalizer {
        metadata["$deleteFromPrimitiveList/finalizers"] = json!([finalizer]);
    }
    strategic(object, json!({"metadata": metadata}))
}

fn strategic<K: Resource<DynamicType = ()>>(object: &K, patch: serde_json::Value) -> Action {
    Action::Patch {
        target: action::Target::of(object),
        patch: action::Patch::Strategic(patch),
        subresource: None,
        told: action::Told::nothing(),
    }
}
