//! What a pod's parts name must be there.
use super::Node;
use serde_json::{Map, Value};

/// Lists of containers, and in each the lists of what they mount.
const CONTAINERS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];
const MOUNTS: [&str; 2] = ["volumeMounts", "volumeDevices"];

/// The names of volumes that a StatefulSet's pods get from its claim templates.
pub(super) fn claims(object: &Map<String, Value>) -> Vec<String> {
    let templates = object.get("spec").and_then(|spec| spec.get("volumeClaimTemplates")).and_then(Value::as_array);
    let name = |claim: &Value| claim.get("metadata")?.get("name")?.as_str().map(str::to_owned);
    templates.into_iter().flatten().filter_map(name).collect()
}

/// A mount goes whose volume somebody removed, not knowing of it.
pub(super) fn mounts(node: Node<'_>, claims: &[String]) {
    let volumes = node.object.get("volumes").and_then(Value::as_array).into_iter().flatten();
    let name = |item: &Value| item.get("name").and_then(Value::as_str).map(str::to_owned);
    let names: Vec<String> = volumes.filter_map(name).chain(claims.iter().cloned()).collect();
    let is_there = |mount: &Value| name(mount).is_none_or(|name| names.contains(&name));
    for field in CONTAINERS {
        let containers = node.object.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten();
        for container in containers.filter_map(Value::as_object_mut) {
            for field in MOUNTS {
                let Some(mounts) = container.get_mut(field).and_then(Value::as_array_mut) else { continue };
                mounts.retain(is_there);
                if mounts.is_empty() {
                    container.remove(field);
                }
            }
        }
    }
}
