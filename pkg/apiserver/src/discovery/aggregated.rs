//! `APIGroupDiscoveryList` of `apidiscovery.k8s.io/v2`.
use super::groups::{Group, Version};
use crate::registry::Resource;
use api::GroupVersionKind;
use serde_json::{Value, json};

pub fn list(groups: &[Group]) -> Value {
    let items: Vec<Value> = groups.iter().map(group).collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn group(group: &Group) -> Value {
    let metadata = if group.name.is_empty() { json!({}) } else { json!({"name": group.name}) };
    json!({"metadata": metadata, "versions": group.versions.iter().map(version).collect::<Vec<_>>()})
}

fn version(version: &Version) -> Value {
    let resources: Vec<Value> = version.resources.iter().map(|resource| entry(resource)).collect();
    json!({"version": version.name, "resources": resources, "freshness": "Current"})
}

fn entry(resource: &Resource) -> Value {
    let mut entry = json!({
        "resource": resource.gvr.resource,
        "responseKind": response_kind(&resource.gvk(), resource),
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": resource.verbs,
    });
    for (key, list) in [("shortNames", &resource.short_names), ("categories", &resource.categories)] {
        if !list.is_empty() {
            entry[key] = json!(list);
        }
    }
    let subresources: Vec<Value> = resource
        .subresources
        .iter()
        .map(|sub| json!({"subresource": sub.name, "responseKind": response_kind(&sub.kind, resource), "verbs": sub.verbs}))
        .collect();
    if !subresources.is_empty() {
        entry["subresources"] = json!(subresources);
    }
    entry
}

/// Group and version are left empty where they are the resource's own.
fn response_kind(kind: &GroupVersionKind, resource: &Resource) -> Value {
    let own = kind.group_version() == resource.gvr.group_version();
    let (group, version) = if own { ("", "") } else { (&*kind.group, &*kind.version) };
    json!({"group": group, "version": version, "kind": kind.kind})
}
