//! What a plan asks for: the vocabulary all controllers share. Plans are pure; [`crate::execute`] carries them out.
use k8s_openapi::api::core::v1::ObjectReference;
use kube::core::ApiResource;
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// An object's place in the API, and its life when that matters.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    pub resource: ApiResource,
    /// Empty for cluster-scoped kinds.
    pub namespace: String,
    /// Empty in a create with `generateName`.
    pub name: String,
    pub uid: Option<String>,
    /// The site that the object names as its home.
    pub home: Option<String>,
}

impl Target {
    pub fn of<K: Resource<DynamicType = ()>>(object: &K) -> Self {
        Self {
            resource: ApiResource::erase::<K>(&()),
            namespace: object.namespace().unwrap_or_default(),
            name: object.meta().name.clone().unwrap_or_default(),
            uid: object.uid(),
            home: client::home::claim(object).home.map(str::to_owned),
        }
    }
}

/// One change to the cluster.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Neighbouring creates run together, slowly at first.
    Create { target: Target, object: Value, told: Told },
    /// A patch of the object or of one of its subresources.
    Patch { target: Target, patch: Patch, subresource: Option<&'static str>, told: Told },
    /// Only the life named by the target's uid is deleted.
    Delete { target: Target, grace_s: Option<i64>, told: Told },
    /// Tells about something that needs no write.
    Tell(Note),
    /// Look at the key again after this time.
    Again(Duration),
}

/// The two kinds of patch that controllers use.
#[derive(Clone, Debug, PartialEq)]
pub enum Patch {
    Merge(Value),
    Strategic(Value),
}

/// The Events that go with an action.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    pub done: Option<Note>,
    pub failed: Option<Note>,
}

/// An Event about an object. `{name}` stands for the written object's name, `{error}` for what went wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    pub about: ObjectReference,
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
}

impl Told {
    pub fn nothing() -> Self {
        Self::default()
    }

    pub fn done(about: &ObjectReference, reason: &'static str, message: impl Into<String>) -> Self {
        let note = Note { about: about.clone(), warning: false, reason, message: message.into() };
        Self { done: Some(note), failed: None }
    }

    pub fn or(mut self, reason: &'static str, message: impl Into<String>) -> Self {
        if let Some(done) = &self.done {
            let about = done.about.clone();
            self.failed = Some(Note { about, warning: true, reason, message: message.into() });
        }
        self
    }

    /// What upstream's pod control tells about pods it makes.
    pub fn pod_created(owner: &ObjectReference) -> Self {
        Self::done(owner, "SuccessfulCreate", "Created pod: {name}").or("FailedCreate", "Error creating: {error}")
    }

    /// What upstream's pod control tells about pods it deletes.
    pub fn pod_deleted(owner: &ObjectReference) -> Self {
        Self::done(owner, "SuccessfulDelete", "Deleted pod: {name}").or("FailedDelete", "Error deleting: {error}")
    }
}

/// A create of a typed object.
pub fn create<K: Resource<DynamicType = ()> + Serialize>(object: &K, told: Told) -> Action {
    let object_json = serde_json::to_value(object).expect("typed objects are JSON");
    Action::Create { target: Target::of(object), object: object_json, told }
}

/// A delete of exactly this life, with the kind's default grace period.
pub fn delete<K: Resource<DynamicType = ()>>(object: &K, told: Told) -> Action {
    Action::Delete { target: Target::of(object), grace_s: None, told }
}

/// A merge patch of the object itself.
pub fn patch<K: Resource<DynamicType = ()>>(object: &K, patch: Value) -> Action {
    let target = Target::of(object);
    Action::Patch { target, patch: Patch::Merge(patch), subresource: None, told: Told::nothing() }
}

/// What turns `old` into `new` as a merge patch of the status; nothing when they are equal.
pub fn status<K, S>(object: &K, old: &S, new: &S) -> Option<Action>
where
    K: Resource<DynamicType = ()>,
    S: Serialize,
{
    let to_json = |status: &S| serde_json::to_value(status).expect("typed statuses are JSON");
    let diff = merge_diff(&to_json(old), &to_json(new))?;
    let (target, patch) = (Target::of(object), Patch::Merge(json!({"status": diff})));
    Some(Action::Patch { target, patch, subresource: Some("status"), told: Told::nothing() })
}

/// The RFC 7386 patch from `old` to `new`; `None` when there is nothing to do.
pub fn merge_diff(old: &Value, new: &Value) -> Option<Value> {
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        return (old != new).then(|| new.clone());
    };
    let mut diff = Map::new();
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        diff.insert(key.clone(), Value::Null);
    }
    for (key, new) in new {
        match old.get(key) {
            Some(old) => diff.extend(merge_diff(old, new).map(|change| (key.clone(), change))),
            None => _ = diff.insert(key.clone(), new.clone()),
        }
    }
    (!diff.is_empty()).then_some(Value::Object(diff))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn merge(target: &mut Value, patch: &Value) {
        let Value::Object(patch) = patch else {
            *target = patch.clone();
            return;
        };
        if !target.is_object() {
            *target = json!({});
        }
        let object = target.as_object_mut().unwrap();
        for (key, value) in patch {
            if value.is_null() {
                object.remove(key);
            } else {
                merge(object.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
    }

    fn tree() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<u8>().prop_map(Value::from),
            prop::collection::vec(any::<u8>(), 0..3).prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 16, 3, |inner| {
            prop::collection::btree_map("[abc]", inner, 0..3).prop_map(|map| Value::Object(map.into_iter().collect()))
        })
    }

    proptest! {
        #[test]
        fn the_diff_applied_to_the_old_gives_the_new(old in tree(), new in tree()) {
            let (old, new) = (json!({"status": old}), json!({"status": new}));
            let mut patched = old.clone();
            match merge_diff(&old, &new) {
                Some(diff) => merge(&mut patched, &diff),
                None => prop_assert_eq!(&old, &new),
            }
            prop_assert_eq!(patched, new);
        }
    }
}
