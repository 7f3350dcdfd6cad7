//! ControllerRevisions: the templates that a StatefulSet or DaemonSet has had, so that it can update step by step and
//! be rolled back.
use crate::action::{self, Action, Told};
use crate::{hash, owned};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::{Resource, ResourceExt};
use serde_json::json;
use std::collections::HashSet;
use std::sync::Arc;

/// The label of pods (and of a DaemonSet's revisions) that names their revision.
pub const REVISION_HASH: &str = "controller-revision-hash";

/// The revision of the current template.
pub struct Update {
    pub name: String,
    pub hash: String,
    /// Makes it, or makes it the newest again.
    pub actions: Vec<Action>,
}

/// Finds or makes the revision of `template` among those that exist. `label` holds its hash.
pub fn update<O: Resource<DynamicType = ()>>(
    owner: &O,
    template: &PodTemplateSpec,
    label: &str,
    existing: &[Arc<ControllerRevision>],
) -> Update {
    let data = data_of(template);
    let newest = existing.iter().map(|revision| revision.revision).max().unwrap_or_default();
    let same = existing.iter().filter(|r| r.data.as_ref().is_some_and(|d| d.0 == data)).max_by_key(|r| r.revision);
    if let Some(revision) = same {
        let again = action::patch(&**revision, json!({"revision": newest + 1}));
        let actions = if revision.revision == newest { Vec::new() } else { vec![again] };
        let name = revision.name_any();
        let hash = revision.labels().get(label).cloned().unwrap_or_else(|| suffix(&name).to_owned());
        return Update { name, hash, actions };
    }
    // A hash that is taken by another template is a collision: count on until it is free.
    let taken = |name: &String| existing.iter().any(|revision| revision.name_any() == *name);
    let names = (0..).map(|n| hash::of(&data, (n > 0).then_some(n))).map(|hash| (name_of(owner, &hash), hash));
    let (name, hash) = names.into_iter().find(|(name, _)| !taken(name)).expect("names don't end");
    let mut labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
    labels.insert(label.to_owned(), hash.clone());
    let metadata = ObjectMeta {
        name: Some(name.clone()),
        namespace: owner.namespace(),
        labels: Some(labels),
        owner_references: Some(vec![owned::reference_to(owner)]),
        ..ObjectMeta::default()
    };
    let revision = ControllerRevision { metadata, data: Some(RawExtension(data)), revision: newest + 1 };
    Update { name, hash, actions: vec![action::create(&revision, Told::nothing())] }
}

fn data_of(template: &PodTemplateSpec) -> serde_json::Value {
    let mut template = serde_json::to_value(template).expect("typed objects are JSON");
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

/// The template that a revision holds.
pub fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

fn name_of<O: Resource>(owner: &O, hash: &str) -> String {
    let name = owner.meta().name.clone().unwrap_or_default();
    format!("{}-{hash}", &name[..name.len().min(223)])
}

fn suffix(name: &str) -> &str {
    name.rsplit_once('-').map_or(name, |(_, hash)| hash)
}

/// Deletes the oldest revisions that no pod has, past the limit.
pub fn truncate(existing: &[Arc<ControllerRevision>], live: &HashSet<String>, limit: i32) -> Vec<Action> {
    let mut idle: Vec<_> = existing.iter().filter(|revision| !live.contains(&revision.name_any())).collect();
    idle.sort_by_key(|revision| revision.revision);
    let surplus = idle.len().saturating_sub(usize::try_from(limit).unwrap_or_default());
    idle.into_iter().take(surplus).map(|revision| action::delete(&**revision, Told::nothing())).collect()
}
