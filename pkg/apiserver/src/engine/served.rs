//! Custom resources between the store and those who read them: converted to the version that is asked for, with
//! the defaults of the schema as it is now, which may have come after the object was stored, and without fields that
//! went since. Entries of other resources pass through untouched.
use super::{Call, Engine, Result, errors};
use crate::endpoints::Reach;
use crate::registry::{Conversion, Custom, Resource, summarize};
use api::Status;
use api::decode::FieldValidation;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use store::{Change, Entry, WatchItem};

/// Whether reading an entry may change it.
fn transforms(resource: &Resource, entry: &Entry) -> bool {
    let changes = |custom: &Arc<Custom>| {
        custom.has_defaults
            || custom.converter.is_some()
            || !resource.selectable_fields.is_empty()
            || is_older(custom, entry)
    };
    resource.custom.as_ref().is_some_and(changes)
}

/// Whether the schema may have changed since the entry was stored.
fn is_older(custom: &Custom, entry: &Entry) -> bool {
    entry.mod_revision < custom.reshaped
}

/// The live entry at a key.
pub async fn get(call: &Call<'_>, key: &str) -> Result<Option<Arc<Entry>>> {
    let found = call.backend().get(key.as_bytes(), None).await.map_err(errors::from_store)?;
    let found = entries(&call.engine.reach, &call.resource, found.into_iter().collect()).await?;
    Ok(found.into_iter().next())
}

/// What was just written, as the writer sees it. It had its defaults before.
pub async fn written(call: &Call<'_>, entry: Arc<Entry>) -> Result<Arc<Entry>> {
    if call.resource.conversion != Conversion::Webhook {
        return Ok(entry);
    }
    let all = entries(&call.engine.reach, &call.resource, vec![entry]).await?;
    Ok(all.into_iter().next().expect("as many as were given"))
}

/// Stored entries as readers of `resource` see them, in their order.
///
/// # Errors
/// 500 when a conversion webhook does not convert.
pub async fn entries(reach: &Reach, resource: &Resource, entries: Vec<Arc<Entry>>) -> Result<Vec<Arc<Entry>>> {
    // What is no object stays as it is, to be reported where it is parsed.
    let read = |(at, entry): (usize, &Arc<Entry>)| Some((at, serde_json::from_slice::<Value>(&entry.value).ok()?));
    let changes = |(_, entry): &(usize, &Arc<Entry>)| transforms(resource, entry);
    let (places, objects): (Vec<usize>, Vec<Value>) =
        entries.iter().enumerate().filter(changes).filter_map(read).unzip();
    if places.is_empty() {
        return Ok(entries);
    }
    let objects = to_served(reach, resource, objects).await?;
    let mut entries = entries;
    for (at, object) in places.into_iter().zip(objects) {
        let older = resource.custom.as_ref().is_some_and(|custom| is_older(custom, &entries[at]));
        let object = if older { pruned(resource, object) } else { object };
        entries[at] = Arc::new(entry_of(resource, &entries[at], object));
    }
    Ok(entries)
}

/// What a watch shows of the store's changes.
///
/// # Errors
/// As [`entries`].
pub async fn item(reach: &Reach, resource: &Resource, item: WatchItem) -> Result<WatchItem> {
    let WatchItem::Changes(changes) = item else { return Ok(item) };
    if resource.custom.is_none() {
        return Ok(WatchItem::Changes(changes));
    }
    // All in one go: a webhook is asked once.
    let before: Vec<Arc<Entry>> = changes.iter().flat_map(|c| c.entry.iter().chain(&c.previous)).cloned().collect();
    let after = entries(reach, resource, before.clone()).await?;
    let identity = |entry: &Arc<Entry>| Arc::as_ptr(entry) as usize;
    let known: HashMap<usize, Arc<Entry>> = before.iter().map(identity).zip(after).collect();
    let one = |change: Arc<Change>| {
        let of = |entry: &Option<Arc<Entry>>| entry.as_ref().and_then(|entry| known.get(&identity(entry)).cloned());
        Arc::new(Change { entry: of(&change.entry), previous: of(&change.previous), ..Change::clone(&change) })
    };
    Ok(WatchItem::Changes(changes.into_iter().map(one).collect()))
}

/// Stored objects of a custom resource in this version, with its defaults.
async fn to_served(reach: &Reach, resource: &Resource, objects: Vec<Value>) -> Result<Vec<Value>> {
    let converter = resource.custom.as_ref().and_then(|custom| custom.converter.as_ref());
    let mut objects = match converter {
        None => objects.into_iter().map(|object| resource.to_served(object)).collect(),
        Some(converter) => {
            let version = resource.gvr.group_version().to_string();
            let before: Vec<bool> = objects.iter().map(|object| object["apiVersion"] == *version).collect();
            let converted = converter.convert(reach, objects, &version).await.map_err(failed)?;
            let prune = |(object, same)| if same { object } else { pruned(resource, object) };
            converted.into_iter().zip(before).map(prune).collect::<Vec<Value>>()
        }
    };
    objects.iter_mut().for_each(|object| resource.default(object));
    Ok(objects)
}

/// Without what the version's schema does not know: a webhook may leave anything behind.
fn pruned(resource: &Resource, object: Value) -> Value {
    let whole = object.clone();
    let decoded = api::decode::check(object, resource.ty(), &resource.schemas, FieldValidation::Ignore);
    decoded.map_or(whole, |decoded| decoded.value)
}

/// An object of the call's version as it is stored.
///
/// # Errors
/// 500 when a conversion webhook does not convert.
pub async fn stored(call: &Call<'_>, object: Value) -> Result<Value> {
    let resource = &call.resource;
    let Some(converter) = resource.custom.as_ref().and_then(|custom| custom.converter.as_ref()) else {
        return Ok(resource.to_stored(object));
    };
    let version = resource.storage_version.to_string();
    let object = one(converter.convert(&call.engine.reach, vec![object], &version).await)?;
    let gvr = api::GroupVersionResource { version: resource.storage_version.version.clone(), ..resource.gvr.clone() };
    Ok(match call.engine.registry.get(&gvr) {
        Some(storage) if gvr != resource.gvr => pruned(&storage, object),
        _ => object,
    })
}

/// An object of one version of a resource in another.
///
/// # Errors
/// As [`stored`].
pub(crate) async fn convert(engine: &Engine, from: &Resource, to: &Resource, object: Value) -> Result<Value> {
    if from.gvr == to.gvr {
        return Ok(object);
    }
    match to.custom.as_ref().and_then(|custom| custom.converter.as_ref()) {
        None => Ok(to.to_served(from.to_stored(object))),
        Some(converter) => {
            let version = to.gvr.group_version().to_string();
            one(converter.convert(&engine.reach, vec![object], &version).await)
        }
    }
}

/// Whether what is stored is what would be written now for the live object, in its version and its fields; if not, a write
/// that changes nothing migrates it.
pub async fn is_current(call: &Call<'_>, entry: &Entry, live: &Value) -> Result<bool> {
    let resource = &call.resource;
    let Some(custom) = &resource.custom else { return Ok(true) };
    if resource.conversion == Conversion::Identity && !is_older(custom, entry) {
        return Ok(true);
    }
    let found = call.backend().get(&entry.key, None).await.map_err(errors::from_store)?;
    let stored = found.and_then(|entry| serde_json::from_slice::<Value>(&entry.value).ok());
    let same = |stored: Value| match resource.conversion {
        Conversion::Identity => stored == *live,
        _ => stored["apiVersion"] == *resource.storage_version.to_string(),
    };
    Ok(stored.is_none_or(same))
}

fn one(converted: std::result::Result<Vec<Value>, String>) -> Result<Value> {
    Ok(converted.map_err(failed)?.into_iter().next().expect("as many as were given"))
}

fn failed(why: String) -> Box<Status> {
    Status::failure(500, "", why).into()
}

fn entry_of(resource: &Resource, entry: &Entry, object: Value) -> Entry {
    let bytes = serde_json::to_vec(&object).expect("a tree is JSON");
    let summary = summarize::summarize(&bytes, &resource.selectable_fields, Some(resource));
    entry.with_value(bytes.into(), summary)
}
