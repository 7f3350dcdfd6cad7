//! Custom resources as they are read: with the defaults of the schema as it is now, which may have come after the
//! object was stored. Entries of other resources pass through untouched.
use super::{Call, Result, errors};
use crate::registry::{Resource, summarize};
use serde_json::Value;
use std::sync::Arc;
use store::{Change, Entry, WatchItem};

/// Whether reading changes anything.
pub fn transforms(resource: &Resource) -> bool {
    resource.custom.as_ref().is_some_and(|custom| custom.has_defaults)
}

/// The live entry at a key.
pub async fn get(call: &Call<'_>, key: &str) -> Result<Option<Arc<Entry>>> {
    let found = call.backend().get(key.as_bytes(), None).await.map_err(errors::from_store)?;
    Ok(found.map(|entry| entry_of(&call.resource, entry)))
}

pub fn entries(resource: &Resource, entries: Vec<Arc<Entry>>) -> Vec<Arc<Entry>> {
    if !transforms(resource) {
        return entries;
    }
    entries.into_iter().map(|entry| entry_of(resource, entry)).collect()
}

/// What a watch shows of the store's changes.
pub fn item(resource: &Resource, item: WatchItem) -> WatchItem {
    let WatchItem::Changes(changes) = item else { return item };
    if !transforms(resource) {
        return WatchItem::Changes(changes);
    }
    let one = |change: Arc<Change>| {
        let of = |entry: &Option<Arc<Entry>>| entry.clone().map(|entry| entry_of(resource, entry));
        Arc::new(Change { entry: of(&change.entry), previous: of(&change.previous), ..Change::clone(&change) })
    };
    WatchItem::Changes(changes.into_iter().map(one).collect())
}

/// What is no object stays as it is, to be reported where it is parsed.
fn entry_of(resource: &Resource, entry: Arc<Entry>) -> Arc<Entry> {
    if !transforms(resource) {
        return entry;
    }
    let Ok(value) = serde_json::from_slice::<Value>(&entry.value) else { return entry };
    let mut value = resource.to_served(value);
    resource.default(&mut value);
    let bytes = serde_json::to_vec(&value).expect("a tree is JSON");
    let summary = summarize::summarize(&bytes, &resource.selectable_fields, Some(resource));
    Arc::new(Entry {
        key: entry.key.clone(),
        value: bytes.into(),
        create_revision: entry.create_revision,
        mod_revision: entry.mod_revision,
        index: entry.index,
        version: entry.version,
        lease: entry.lease,
        summary,
    })
}
