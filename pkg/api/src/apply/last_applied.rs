//! The way from client-side to server-side apply: kubectl may take over what its own last-applied annotation says
//! that it set, and the annotation is kept up to date for the way back.
use super::{Apply, Conflict, diff, remove};
use serde_json::Value;

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The manager that gets this treatment: kubectl's default.
pub(super) const KUBECTL: &str = "kubectl";

fn annotation(object: &Value) -> Option<&str> {
    object.get("metadata")?.get("annotations")?.get(ANNOTATION)?.as_str().filter(|text| !text.is_empty())
}

/// The conflicts that the annotation does not excuse.
pub(super) fn not_allowed(conflicts: Vec<Conflict>, live: Option<&Value>, apply: &Apply<'_>) -> Vec<Conflict> {
    let Some(allowed) = live.and_then(|live| allowed(live, apply)) else { return conflicts };
    conflicts.into_iter().filter(|conflict| !allowed.has_text(&conflict.field)).collect()
}

/// What the annotation sets and the live object still holds so.
fn allowed(live: &Value, apply: &Apply<'_>) -> Option<super::set::Set> {
    let last: Value = serde_json::from_str(annotation(live)?).ok()?;
    if last.get("apiVersion")?.as_str()? != apply.writer.api_version {
        return None;
    }
    let mut fields = remove::field_set(&last, apply.ty, &apply.types).ok()?;
    let comparison = diff::compare(&last, live, apply.ty, &apply.types);
    for changed in [&comparison.removed, &comparison.modified, &comparison.added] {
        fields.subtract(changed);
    }
    Some(fields)
}

/// Writes what was applied into the annotation, where there is one.
pub(super) fn refresh(object: &mut Value, applied: &Value) {
    if annotation(object).is_none() {
        return;
    }
    let mut applied = applied.clone();
    if let Some(annotations) = applied.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(ANNOTATION);
    }
    // Upstream's encoder ends with a line feed.
    object["metadata"]["annotations"][ANNOTATION] = format!("{applied}\n").into();
}
