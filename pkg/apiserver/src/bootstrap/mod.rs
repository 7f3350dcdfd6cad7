//! What exists at birth: namespaces, priority classes, built-in roles, the API's own Service. Written straight
//! to the store before anything is served, idempotent, and brought up to date at every start as upstream does.
//!
//! Two servers of one cluster make the same objects: their uids follow from the cluster's id and their keys.

mod flow_control;
mod objects;
mod rbac;

pub use objects::Wanted;

use serde_json::Value;
use store::{Backend, Compare, Op, Revision, Txn};

/// How often a write is tried again when somebody else wrote the same key meanwhile.
const ATTEMPTS: usize = 5;

/// The field manager of what is made here; Kubernetes' own name for it.
pub(crate) const MANAGER: &str = "kube-apiserver";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("writing {key}: {source}")]
    Store { key: String, source: store::Error },
    #[error("{key} is stored as something that is no JSON: {source}")]
    Stored { key: String, source: serde_json::Error },
    #[error("{key} kept changing while it was brought up to date")]
    Contended { key: String },
}

/// Makes what is missing and brings up to date what is there.
///
/// # Errors
/// The store's, by key.
pub async fn run(backend: &dyn Backend, wanted: &Wanted, now: jiff::Timestamp) -> Result<(), Error> {
    let objects = objects::all(wanted).into_iter().chain(rbac::all()).chain(flow_control::all());
    for object in objects {
        ensure(backend, wanted, &object, now).await?;
    }
    Ok(())
}

/// One object of birth.
pub struct Object {
    pub key: String,
    /// Without uid and creationTimestamp.
    pub value: Value,
    pub update: Update,
}

/// What happens when it exists already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Update {
    /// It is left as it is.
    Never,
    /// These fields are set to what is wanted.
    Set(&'static [&'static str]),
    /// The same, unless this annotation says `false`.
    SetUnless(&'static str, &'static [&'static str]),
    /// Rules and subjects that are missing are added, unless the object's annotation forbids it.
    Rbac,
}

async fn ensure(backend: &dyn Backend, wanted: &Wanted, object: &Object, now: jiff::Timestamp) -> Result<(), Error> {
    let store = |source| Error::Store { key: object.key.clone(), source };
    for _ in 0..ATTEMPTS {
        let stored = backend.get(object.key.as_bytes(), None).await.map_err(store)?;
        let (value, revision) = match &stored {
            None => (Some(newborn(&wanted.cluster_id, object, now)), Revision::ZERO),
            Some(entry) => {
                let live = serde_json::from_slice(&entry.value)
                    .map_err(|source| Error::Stored { key: object.key.clone(), source })?;
                (reconcile(object, live), entry.mod_revision)
            }
        };
        let Some(value) = value else { return Ok(()) };
        if backend.txn(put(&object.key, &value, revision)).await.map_err(store)?.succeeded {
            return Ok(());
        }
    }
    Err(Error::Contended { key: object.key.clone() })
}

pub(crate) fn put(key: &str, value: &Value, revision: Revision) -> Txn {
    let key = bytes::Bytes::copy_from_slice(key.as_bytes());
    let compare = vec![Compare::ModRevision { key: key.clone(), revision }];
    Txn { compare, then: vec![Op::Put { key, value: value.to_string().into(), lease: None }], otherwise: Vec::new() }
}

/// The object as it is first written: every server of the cluster gives it the same uid.
pub(crate) fn newborn(cluster_id: &uuid::Uuid, object: &Object, now: jiff::Timestamp) -> Value {
    let mut value = object.value.clone();
    value["metadata"]["uid"] = uuid::Uuid::new_v5(cluster_id, object.key.as_bytes()).to_string().into();
    let conditions = value.get_mut("status").and_then(|status| status.get_mut("conditions")?.as_array_mut());
    for condition in conditions.into_iter().flatten() {
        condition["lastTransitionTime"] = seconds(now).into();
    }
    value["metadata"]["creationTimestamp"] = seconds(now).into();
    own(&mut value, &seconds(now));
    value
}

/// Records who wrote the fields, as for every other object.
fn own(value: &mut Value, now: &str) {
    let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let version = api::GroupVersion::parse(&api_version);
    let schemas = api::schema::Schemas::builtin();
    let gvk = api::GroupVersionKind::new(version.group, version.version, kind);
    let Some(definition) = schemas.for_kind(&gvk) else { return };
    api::default::default(&gvk, value, &definition.ty, schemas);
    let writer = api::apply::Writer { manager: MANAGER, api_version: &api_version, subresource: "", now };
    api::apply::update(None, value, &writer, &definition.ty, schemas);
}

/// RFC 3339 without fractions, as Kubernetes writes times.
fn seconds(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The live object brought up to date; none when it is already.
fn reconcile(object: &Object, live: Value) -> Option<Value> {
    let mut new = live.clone();
    match object.update {
        Update::Never => return None,
        Update::SetUnless(annotation, _) if live["metadata"]["annotations"][annotation] == "false" => return None,
        Update::Set(fields) | Update::SetUnless(_, fields) => {
            for field in fields {
                new[*field] = object.value[*field].clone();
            }
        }
        Update::Rbac => rbac::reconcile(&object.value, &mut new),
    }
    (new != live).then_some(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_differs_is_written() {
        let wanted = json!({"data": {"a": "1"}});
        let object = |update| Object { key: "/k".into(), value: wanted.clone(), update };
        assert_eq!(reconcile(&object(Update::Never), json!({})), None);
        assert_eq!(reconcile(&object(Update::Set(&["data"])), wanted.clone()), None);
        let old = json!({"data": {"a": "0"}, "metadata": {"uid": "u"}});
        let new = json!({"data": {"a": "1"}, "metadata": {"uid": "u"}});
        assert_eq!(reconcile(&object(Update::Set(&["data"])), old), Some(new));
    }

    #[test]
    fn uids_follow_from_cluster_and_key() {
        let wanted = Wanted::example();
        let other = Wanted { cluster_id: uuid::Uuid::from_u128(2), ..Wanted::example() };
        let object = &objects::all(&wanted)[0];
        let now = "2026-01-02T03:04:05.678Z".parse().unwrap();
        let (one, two) = (newborn(&wanted.cluster_id, object, now), newborn(&wanted.cluster_id, object, now));
        assert_eq!(one, two);
        assert_eq!(one["metadata"]["creationTimestamp"], "2026-01-02T03:04:05Z");
        assert_eq!(one["metadata"]["managedFields"][0]["manager"], "kube-apiserver");
        assert_ne!(one["metadata"]["uid"], newborn(&other.cluster_id, object, now)["metadata"]["uid"]);
    }
}
