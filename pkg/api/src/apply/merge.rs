//! Merging what is applied into the live object: the applied values win, lists with identity keep both sides'
//! elements.
use super::Error;
use super::types::{Fields, Items, Shape, Ty, Types};
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};

pub(super) fn merge<'a>(live: &Value, applied: &Value, ty: Ty<'a>, types: &Types<'a>) -> Result<Value, Error> {
    match (live, applied, types.shape(ty, applied)) {
        (Value::Object(live), Value::Object(applied), Shape::Object(fields)) => {
            merge_fields(live, applied, fields, types).map(Value::Object)
        }
        (Value::Array(live), Value::Array(applied), Shape::List(items)) => {
            merge_elements(live, applied, items, types).map(Value::Array)
        }
        _ => Ok(applied.clone()),
    }
}

fn merge_fields<'a>(
    live: &Map<String, Value>,
    applied: &Map<String, Value>,
    fields: Fields<'a>,
    types: &Types<'a>,
) -> Result<Map<String, Value>, Error> {
    let mut out = live.clone();
    for (name, value) in applied {
        let merged = match live.get(name) {
            Some(live) => merge(live, value, fields.child(name), types)?,
            None => value.clone(),
        };
        out.insert(name.clone(), merged);
    }
    Ok(out)
}

/// Applied elements come in their own order; live ones that are not applied stay behind the element that they
/// followed, as far as the applied order allows.
fn merge_elements<'a>(
    live: &[Value],
    applied: &[Value],
    items: Items<'a>,
    types: &Types<'a>,
) -> Result<Vec<Value>, Error> {
    let no_identity = || Error::Malformed("an element of an applied list has none of the list's keys".into());
    let new_ids = types.elements(items, applied).ok_or_else(no_identity)?;
    let Some(old_ids) = types.elements(items, live) else { return Ok(applied.to_vec()) };
    let new: HashSet<&str> = new_ids.iter().map(String::as_str).collect();
    // The first live element of an identity is the one merged with; none if there are several.
    let mut old: HashMap<&str, Option<&Value>> = HashMap::new();
    for (id, value) in old_ids.iter().zip(live) {
        old.entry(id).and_modify(|found| *found = None).or_insert(Some(value));
    }
    let merged = |at: usize| match old.get(new_ids[at].as_str()) {
        Some(Some(live)) => merge(live, &applied[at], items.item(), types),
        _ => Ok(applied[at].clone()),
    };

    let mut shared = new_ids.iter().filter(|id| old.contains_key(id.as_str()));
    let mut next_shared = shared.next();
    let mut done: HashSet<&str> = HashSet::new();
    let mut out = Vec::with_capacity(live.len() + applied.len());
    let (mut l, mut r) = (0, 0);
    while l < live.len() || r < applied.len() {
        if l < live.len() && r < applied.len() {
            if old_ids[l] == new_ids[r] {
                done.insert(&new_ids[r]);
                out.push(merged(r)?);
                (l, r) = (l + 1, r + 1);
                next_shared = shared.next();
                continue;
            }
            if new.contains(old_ids[l].as_str()) && next_shared.is_some_and(|next| *next != old_ids[l]) {
                // Applied too, but elsewhere in the order.
                l += 1;
                continue;
            }
        }
        if l < live.len() {
            if !new.contains(old_ids[l].as_str()) {
                out.push(live[l].clone());
                l += 1;
                continue;
            }
            if done.contains(old_ids[l].as_str()) {
                l += 1;
            }
        }
        if r < applied.len() {
            done.insert(&new_ids[r]);
            out.push(merged(r)?);
            if next_shared == Some(&new_ids[r]) {
                next_shared = shared.next();
            }
            r += 1;
        }
    }
    Ok(out)
}
