//! A manager whose value of a field lost against another's owns the field no longer.
use crate::Stamp;
use crate::place::{Place, What, field_name, field_of, item_name};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A field's path in `fieldsV1`.
type Path = Vec<String>;

/// Where a manager's entry says that it owns a field, and since when.
struct Claim {
    entry: usize,
    since: Stamp,
}

/// Takes ownership from managers: whoever wrote a field's value became its owner in the same write, and the API server
/// then takes it from all others that it knows. Those that it did not know are left.
pub(super) fn repair(object: &mut Map<String, Value>, root: &Place, since: Stamp) {
    let Some(entries) = root.fields.get("metadata").and_then(|metadata| metadata.fields.get("managedFields")) else {
        return;
    };
    if !super::is_keyed(entries, since) {
        return;
    }
    let mut claims: BTreeMap<Path, Vec<Claim>> = BTreeMap::new();
    for (entry, place) in entries.ordered(since).into_iter().enumerate() {
        if let Some(fields) = place.fields.get("fieldsV1") {
            collect(fields, since, entry, &mut Vec::new(), &mut claims);
        }
    }
    let lost = claims.iter().filter(|(_, owners)| owners.len() > 1).flat_map(|(path, owners)| {
        let written = value(root, path).and_then(|place| leaf(place, since));
        let theirs = owners.iter().any(|owner| Some(owner.since) == written);
        let lost = owners.iter().filter(move |owner| theirs && Some(owner.since) < written);
        lost.map(move |owner| (owner.entry, path.clone()))
    });
    let lost: Vec<(usize, Path)> = lost.collect();
    let managers = object.get_mut("metadata").and_then(|metadata| metadata.get_mut("managedFields"));
    let Some(managers) = managers.and_then(Value::as_array_mut) else { return };
    for (entry, path) in lost {
        if let Some(fields) = managers.get_mut(entry).and_then(|entry| entry.get_mut("fieldsV1")) {
            remove(fields, &path);
        }
    }
    let owns = |entry: &Value| entry.get("fieldsV1").and_then(Value::as_object).is_none_or(|fields| !fields.is_empty());
    managers.retain(owns);
}

fn collect(place: &Place, since: Stamp, entry: usize, path: &mut Path, claims: &mut BTreeMap<Path, Vec<Claim>>) {
    let mut inner = false;
    for (name, place) in place.fields.iter().filter(|(_, place)| place.is_visible(since)) {
        let Some(name) = field_of(name) else { continue };
        inner = true;
        path.push(name.to_owned());
        collect(place, since, entry, path, claims);
        path.pop();
    }
    if let (false, Some(own)) = (inner, place.alive(since)) {
        claims.entry(path.clone()).or_default().push(Claim { entry, since: own.stamp });
    }
}

/// The place of the value that a path in `fieldsV1` names.
fn value<'a>(root: &'a Place, path: &[String]) -> Option<&'a Place> {
    path.iter().try_fold(root, |place, part| match part.split_once(':')? {
        ("f", name) => place.fields.get(&field_name(name)),
        ("k", keys) => {
            let What::Keyed(names) = &place.own.as_ref()?.what else { return None };
            let keys: Map<String, Value> = serde_json::from_str(keys).ok()?;
            let parts = names.trim_start_matches('?').split(',').map(|name| keys.get(name).cloned());
            let parts: Vec<Value> = parts.collect::<Option<_>>()?;
            let key = if parts.len() == 1 { parts[0].to_string() } else { Value::Array(parts).to_string() };
            place.fields.get(&item_name(&key))
        }
        _ => None,
    })
}

/// When a value was written that is one field.
fn leaf(place: &Place, since: Stamp) -> Option<Stamp> {
    place.alive(since).filter(|own| own.what.clears()).map(|own| own.stamp)
}

/// Removes a path, and what is then empty around it.
fn remove(fields: &mut Value, path: &[String]) {
    let (Some((first, rest)), Some(fields)) = (path.split_first(), fields.as_object_mut()) else { return };
    let Some(inner) = fields.get_mut(first) else { return };
    remove(inner, rest);
    if rest.is_empty() || inner.as_object().is_some_and(Map::is_empty) {
        fields.remove(first);
    }
}
