//! `APIVersions`, `APIGroupList`, `APIGroup`, `APIResourceList` of `meta/v1`.
use super::groups::{Content, Group, Version};
use crate::registry::Resource;
use serde_json::{Value, json};
use sha2::Digest;

pub fn core_versions(server_address: &str) -> Value {
    json!({
        "kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}],
    })
}

pub fn group_list(groups: &[Group]) -> Value {
    let named = groups.iter().filter(|group| !group.name.is_empty());
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": named.map(group_body).collect::<Vec<_>>()})
}

pub fn group(groups: &[Group], name: &str) -> Option<Value> {
    let mut body = group_body(groups.iter().find(|group| group.name == name)?);
    body["kind"] = "APIGroup".into();
    body["apiVersion"] = "v1".into();
    Some(body)
}

fn group_body(group: &Group) -> Value {
    let version = |v: &Version| json!({"groupVersion": format!("{}/{}", group.name, v.name), "version": v.name});
    json!({
        "name": group.name,
        "versions": group.versions.iter().map(version).collect::<Vec<_>>(),
        "preferredVersion": version(&group.versions[0]),
    })
}

pub fn resources(groups: &[Group], group: &str, version: &str) -> Option<Value> {
    let found = groups.iter().find(|g| g.name == group)?.versions.iter().find(|v| v.name == version)?;
    let group_version = api::GroupVersion::new(group, version).to_string();
    // Another server's own document is asked of it.
    let Content::Local(resources) = &found.content else { return None };
    let list: Vec<Value> = resources.iter().flat_map(|resource| entries(resource)).collect();
    let mut document = json!({"kind": "APIResourceList", "groupVersion": group_version, "resources": list});
    // The core group's document says no version of its own.
    if !group.is_empty() {
        document["apiVersion"] = "v1".into();
    }
    Some(document)
}

/// What changes when a resource is stored in another version (`k8s.io/apiserver/pkg/endpoints/discovery`).
fn storage_version_hash(resource: &Resource) -> String {
    use base64::Engine;
    let stored = resource.stored_gvk();
    let digest = sha2::Sha256::digest(format!("{}/{}/{}", stored.group, stored.version, stored.kind));
    base64::engine::general_purpose::STANDARD.encode(&digest[..8])
}

/// The resource, where it has verbs of its own, then its subresources.
fn entries(resource: &Resource) -> Vec<Value> {
    let mut entries = Vec::new();
    if !resource.verbs.is_empty() {
        let mut entry = json!({
            "name": resource.gvr.resource, "singularName": resource.singular, "namespaced": resource.namespaced,
            "kind": resource.kind, "verbs": resource.verbs,
        });
        for (key, list) in [("shortNames", &resource.short_names), ("categories", &resource.categories)] {
            if !list.is_empty() {
                entry[key] = json!(list);
            }
        }
        if !resource.key_prefix.is_empty() {
            entry["storageVersionHash"] = storage_version_hash(resource).into();
        }
        entries.push(entry);
    }
    for sub in &resource.subresources {
        let mut entry = json!({
            "name": format!("{}/{}", resource.gvr.resource, sub.name), "singularName": "",
            "namespaced": resource.namespaced, "kind": sub.kind.kind, "verbs": sub.verbs,
        });
        if sub.kind.group_version() != resource.gvr.group_version() {
            entry["group"] = json!(sub.kind.group);
            entry["version"] = json!(sub.kind.version);
        }
        entries.push(entry);
    }
    entries
}
