//! Strategies of CustomResourceDefinitions.
use super::{Context, child, items};
use serde_json::{Value, json};

pub fn create_definition(object: &mut Value, _: &Context<'_>) {
    object["status"] = json!({"conditions": null, "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": []});
    remember_storage_version(object);
}

pub fn update_definition(new: &mut Value, _: &Value, _: &Context<'_>) {
    remember_storage_version(new);
}

/// Every version that objects may be stored in stays listed until an administrator has migrated them.
fn remember_storage_version(definition: &mut Value) {
    let versions = definition["spec"]["versions"].as_array().into_iter().flatten();
    let Some(name) = versions.filter(|v| v["storage"] == true).find_map(|v| v.get("name")).cloned() else { return };
    let stored = items(child(definition, "status"), "storedVersions");
    if !stored.contains(&name) {
        stored.push(name);
    }
}
