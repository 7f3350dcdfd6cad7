//! `APIGroupDiscoveryList` of `apidiscovery.k8s.io/v2`.
use super::groups::{Content, Group, Version};
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
    let (resources, fresh) = match &version.content {
        Content::Local(resources) => (resources.iter().map(|resource| entry(resource)).collect(), true),
        Content::Remote(remote) => (theirs(&remote.resources), remote.available.status),
    };
    let freshness = if fresh { "Current" } else { "Stale" };
    json!({"version": version.name, "resources": resources, "freshness": freshness})
}

/// Another server's `APIResourceList` in this document's form.
fn theirs(list: &Value) -> Vec<Value> {
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let kind =
        |of: &Value| json!({"group": text(of, "group"), "version": text(of, "version"), "kind": text(of, "kind")});
    let all = list["resources"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut entries: Vec<Value> = Vec::new();
    for resource in all.iter().filter(|resource| !text(resource, "name").contains('/')) {
        let name = text(resource, "name");
        let mut entry = json!({
            "resource": name,
            "responseKind": kind(resource),
            "scope": if resource["namespaced"] == true { "Namespaced" } else { "Cluster" },
            "singularResource": text(resource, "singularName"),
            "verbs": resource["verbs"],
        });
        for key in ["shortNames", "categories"] {
            if resource[key].is_array() {
                entry[key] = resource[key].clone();
            }
        }
        let subresources: Vec<Value> = all
            .iter()
            .filter_map(|sub| Some((sub, sub["name"].as_str()?.strip_prefix(&name)?.strip_prefix('/')?)))
            .map(|(sub, name)| json!({"subresource": name, "responseKind": kind(sub), "verbs": sub["verbs"]}))
            .collect();
        if !subresources.is_empty() {
            entry["subresources"] = json!(subresources);
        }
        entries.push(entry);
    }
    entries
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_servers_list_is_told_alike() {
        let list = json!({"resources": [
            {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get"], "shortNames": ["fl"]},
            {"name": "flunders/status", "singularName": "", "namespaced": true, "kind": "Flunder", "verbs": ["get"]},
            {"name": "fischers", "singularName": "fischer", "namespaced": false, "kind": "Fischer", "verbs": ["list"]}]});
        let entries = theirs(&list);
        assert_eq!(entries.len(), 2);
        assert_eq!((&entries[0]["scope"], &entries[0]["shortNames"][0]), (&json!("Namespaced"), &json!("fl")));
        assert_eq!(entries[0]["subresources"][0]["subresource"], "status");
        assert_eq!((&entries[1]["scope"], entries[1].get("subresources")), (&json!("Cluster"), None));
    }
}
