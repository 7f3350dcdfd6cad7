//! What users and controllers do to objects, as a seed says.
use crate::ledger::Ledger;
use bytes::Bytes;
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Map, Value, json};

/// Objects that all servers fight over.
const OBJECTS: u32 = 14;

/// A key that merges by field.
pub fn key(rng: &mut StdRng) -> (Bytes, &'static str) {
    let n = rng.random_range(0..OBJECTS);
    let (resource, kind) = match n % 4 {
        0 => ("configmaps", "ConfigMap"),
        1 => ("deployments", "Deployment"),
        2 => ("services/specs", "Service"),
        _ => ("boats.example.com", "Boat"),
    };
    (format!("/registry/{resource}/default/o{n}").into(), kind)
}

/// A key that is replaced whole.
pub fn register(rng: &mut StdRng) -> Bytes {
    match rng.random_bool(0.5) {
        true => format!("/registry/leases/kube-node-lease/n{}", rng.random_range(0..4)).into(),
        false => format!("/opaque/{}", rng.random_range(0..4)).into(),
    }
}

/// The object after an edit; none: deleted. `uid` is for a new one.
pub fn edit(rng: &mut StdRng, ledger: &mut Ledger, kind: &str, uid: String, before: Option<&Value>) -> Option<Value> {
    let Some(before) = before else { return Some(create(ledger, kind, uid)) };
    let mut object = before.clone();
    match rng.random_range(0..12) {
        0 => return None,
        1 | 2 => set(rng, ledger, &mut object, &["metadata", "labels"]),
        3 => set(rng, ledger, &mut object, &["metadata", "annotations"]),
        4 => unset(rng, &mut object, &["metadata", "labels"]),
        5 => finalizer(rng, &mut object),
        6 | 7 => condition(rng, ledger, &mut object),
        8 => set(rng, ledger, &mut object, &["spec", "selector"]),
        9 => unset(rng, &mut object, &["spec", "selector"]),
        _ => special(rng, ledger, kind, &mut object),
    }
    Some(object)
}

fn create(ledger: &mut Ledger, kind: &str, uid: String) -> Value {
    let api_version = match kind {
        "Deployment" => "apps/v1",
        "Boat" => "example.com/v1",
        _ => "v1",
    };
    json!({
        "apiVersion": api_version, "kind": kind,
        "metadata": {"name": "o", "namespace": "default", "uid": uid, "generation": 1, "annotations": {"born": ledger.word()}},
        "spec": {}, "status": {},
    })
}

fn place<'a>(object: &'a mut Value, path: &[&str]) -> &'a mut Map<String, Value> {
    let mut at = object;
    for name in path {
        at = &mut at[*name];
        if !at.is_object() {
            *at = json!({});
        }
    }
    at.as_object_mut().expect("it was made one")
}

fn set(rng: &mut StdRng, ledger: &mut Ledger, object: &mut Value, path: &[&str]) {
    let name = format!("k{}", rng.random_range(0..5));
    place(object, path).insert(name, ledger.word().into());
}

fn unset(rng: &mut StdRng, object: &mut Value, path: &[&str]) {
    let map = place(object, path);
    let names: Vec<String> = map.keys().cloned().collect();
    if let Some(name) = names.get(rng.random_range(0..names.len().max(1))) {
        map.remove(name);
    }
}

fn finalizer(rng: &mut StdRng, object: &mut Value) {
    let name = json!(format!("example.com/f{}", rng.random_range(0..3)));
    let metadata = place(object, &["metadata"]);
    let mut list = metadata.get("finalizers").and_then(Value::as_array).cloned().unwrap_or_default();
    match list.iter().position(|present| *present == name) {
        Some(at) => drop(list.remove(at)),
        None => list.push(name),
    }
    match list.is_empty() {
        true => drop(metadata.remove("finalizers")),
        false => drop(metadata.insert("finalizers".into(), list.into())),
    }
}

/// An item of a list with keys.
fn condition(rng: &mut StdRng, ledger: &mut Ledger, object: &mut Value) {
    let kind = format!("T{}", rng.random_range(0..3));
    let status = place(object, &["status"]);
    let mut list = status.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let item = json!({"type": kind, "status": "True", "message": ledger.word()});
    match list.iter().position(|present| present["type"] == item["type"]) {
        Some(at) if rng.random_bool(0.2) => drop(list.remove(at)),
        Some(at) => list[at] = item,
        None => list.push(item),
    }
    status.insert("conditions".into(), list.into());
}

fn special(rng: &mut StdRng, ledger: &mut Ledger, kind: &str, object: &mut Value) {
    let n = rng.random_range(0..3);
    match kind {
        "Deployment" => {
            let spec = place(object, &["spec", "template", "spec"]);
            let mut list = spec.get("containers").and_then(Value::as_array).cloned().unwrap_or_default();
            let name = format!("c{n}");
            let image = json!({"name": name, "image": ledger.word()});
            match list.iter().position(|present| present["name"] == image["name"]) {
                Some(at) => list[at] = image,
                None => list.insert(rng.random_range(0..=list.len()), image),
            }
            spec.insert("containers".into(), list.into());
            bump(object);
        }
        "Service" => {
            let port = json!([{"name": "p", "port": 80 + n, "protocol": "TCP", "appProtocol": ledger.word()}]);
            place(object, &["spec"]).insert("ports".into(), port);
        }
        "ConfigMap" => set(rng, ledger, object, &["data"]),
        _ => {
            // Unknown kinds' lists are replaced whole.
            place(object, &["spec"]).insert("crew".into(), json!([ledger.word(), ledger.word()]));
            bump(object);
        }
    }
}

fn bump(object: &mut Value) {
    let generation = object["metadata"]["generation"].as_i64().unwrap_or(0);
    object["metadata"]["generation"] = (generation + 1).into();
}
