//! What may change in a pod that exists.
use super::super::field::{Errors, Path, Tree, same};
use super::super::shown::{difference, internal_pod_spec};
use super::MAX_ID;
use serde_json::{Map, Value};

/// Through which door the change came: each subresource opens one part of the spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The pod itself.
    Plain,
    /// `pods/binding`: the node.
    Binding,
    /// `pods/ephemeralcontainers`
    EphemeralContainers,
    /// `pods/resize`: requests and limits.
    Resize,
}

pub fn update(errors: &mut Errors, new: &Value, old: &Value, change: Change) {
    let path = Path::field("spec");
    let (new, old) = (&new["spec"], &old["spec"]);
    for list in ["containers", "initContainers"] {
        if new.count(list) != old.count(list) {
            return errors.forbidden(&path.child(list), "pod updates may not add or remove containers");
        }
    }
    if !deadline(errors, &path.child("activeDeadlineSeconds"), new, old) {
        return;
    }
    only_added_tolerations(errors, &path.child("tolerations"), new, old);
    only_deleted_gates(errors, &path.child("schedulingGates"), new, old);
    if change == Change::EphemeralContainers {
        only_added_ephemeral(errors, &path.child("ephemeralContainers"), new, old);
    }
    if !same(&fixed(new, old, change), &fixed(old, old, change)) {
        let (old, new) = (internal_pod_spec(old), internal_pod_spec(&with_mutable(new, old)));
        errors.forbidden(&path, format!("{REFUSED}\n{}", difference("core.PodSpec", &old, &new)));
    }
}

const REFUSED: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,\
                       `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
                       `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// The new spec with what may change as it was: what is left is what is wrong.
fn with_mutable(new: &Value, old: &Value) -> Value {
    let mut out = new.clone();
    let Some(fields) = out.as_object_mut() else { return out };
    for name in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        super::super::field::put_back(fields, old, name);
    }
    for list in ["containers", "initContainers"] {
        let containers = fields.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
        for (container, old) in containers.filter_map(Value::as_object_mut).zip(old.list(list)) {
            super::super::field::put_back(container, old, "image");
        }
    }
    out
}

/// The spec without what may change.
fn fixed(spec: &Value, old: &Value, change: Change) -> Value {
    let mut out: Map<String, Value> = spec.as_object().cloned().unwrap_or_default();
    for name in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        out.remove(name);
    }
    match change {
        Change::Plain => {}
        Change::Binding => drop(out.remove("nodeName")),
        Change::EphemeralContainers => drop(out.remove("ephemeralContainers")),
        Change::Resize => drop(out.remove("resources")),
    }
    for list in ["containers", "initContainers"] {
        for container in out.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Value::Object(container) = container {
                container.remove("image");
                if change == Change::Resize {
                    container.remove("resources");
                }
            }
        }
    }
    let negative = old.int("terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0);
    if negative && spec.int("terminationGracePeriodSeconds") == Some(1) {
        out.insert("terminationGracePeriodSeconds".into(), old["terminationGracePeriodSeconds"].clone());
    }
    if old.count("schedulingGates") > 0 {
        // A gated pod's node selection may still be narrowed.
        out.remove("nodeSelector");
        if let Some(Value::Object(affinity)) = out.get_mut("affinity") {
            affinity.remove("nodeAffinity");
        }
    }
    out.into()
}

/// It may be set and shortened. False: nothing more is to be said.
fn deadline(errors: &mut Errors, path: &Path<'_>, new: &Value, old: &Value) -> bool {
    let before = errors.0.len();
    match (new.int("activeDeadlineSeconds"), old.int("activeDeadlineSeconds")) {
        (Some(new), _) if !(0..=MAX_ID).contains(&new) => errors.in_range(path, new, 0, MAX_ID),
        (Some(new), Some(old)) if old < new => {
            errors.invalid(path, new, "must be less than or equal to previous value");
        }
        (None, Some(_)) => {
            errors.invalid(path, Value::Null, "must not update from a positive integer to nil value");
            return true;
        }
        _ => {}
    }
    errors.0.len() == before
}

fn only_added_tolerations(errors: &mut Errors, path: &Path<'_>, new: &Value, old: &Value) {
    let bare = |toleration: &Value| {
        let mut toleration = toleration.clone();
        toleration.as_object_mut().map(|fields| fields.remove("tolerationSeconds"));
        toleration
    };
    let kept = |old: &Value| new.list("tolerations").iter().any(|new| same(&bare(new), &bare(old)));
    if !old.list("tolerations").iter().all(kept) {
        errors.forbidden(path, "existing toleration can not be modified except its tolerationSeconds");
    }
}

fn only_deleted_gates(errors: &mut Errors, path: &Path<'_>, new: &Value, old: &Value) {
    for (i, gate) in new.list("schedulingGates").iter().enumerate() {
        let name = gate.text("name");
        if !old.list("schedulingGates").iter().any(|old| old.text("name") == name) {
            let text = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.forbidden(&path.index(i).child("name"), text);
        }
    }
}

fn only_added_ephemeral(errors: &mut Errors, path: &Path<'_>, new: &Value, old: &Value) {
    for (i, old) in old.list("ephemeralContainers").iter().enumerate() {
        let found = new.list("ephemeralContainers").iter().find(|new| new.text("name") == old.text("name"));
        match found {
            None => errors
                .forbidden(path, format!("existing ephemeral containers {:?} may not be removed\n", old.text("name"))),
            Some(new) if !same(new, old) => errors.forbidden(
                &path.index(i),
                format!("existing ephemeral containers {:?} may not be changed\n", old.text("name")),
            ),
            Some(_) => {}
        }
    }
}
