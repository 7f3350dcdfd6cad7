//! Which names of a definition are its own, and what its status says of that
//! (`apiextensions-apiserver/pkg/controller/{status,establish}`).
use crate::registry::strategy::child;
use api::validate::{Approval, approval_of};
use serde_json::{Value, json};

/// The finalizer under which a deleted definition waits for its objects to go.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Sets `acceptedNames` and the conditions; `others` are the established definitions.
/// Returns whether the definition may be served.
pub fn accept(definition: &mut Value, others: &[Value], now: &str) -> bool {
    let conflict = conflict(definition, others);
    let mut names = definition["spec"]["names"].clone();
    let kind = names["kind"].as_str().unwrap_or_default().to_owned();
    for (key, default) in [("singular", kind.to_lowercase()), ("listKind", format!("{kind}List"))] {
        if names[key].as_str().is_none_or(str::is_empty) {
            names[key] = default.into();
        }
    }
    let status = child(definition, "status");
    if conflict.is_none() {
        status.insert("acceptedNames".into(), names);
    }
    let accepted = conflict.is_none();
    let (reason, message) = conflict.unwrap_or(("NoConflicts", "no conflicts found".into()));
    condition(definition, "NamesAccepted", accepted, reason, &message, now);
    let was = condition_is(definition, "Established");
    let (reason, message) = if accepted {
        ("InitialNamesAccepted", "the initial names have been accepted")
    } else {
        ("NotAccepted", "not all names are accepted")
    };
    if !was {
        condition(definition, "Established", accepted, reason, message, now);
    }
    approve(definition, now);
    accepted || was
}

/// What became of a definition of Kubernetes' own groups (`apiextensions-apiserver/pkg/controller/apiapproval`).
fn approve(definition: &mut Value, now: &str) {
    let (state, message) = approval_of(definition);
    let (holds, reason) = match state {
        Approval::NotNeeded => return,
        Approval::Missing => (false, "MissingAnnotation"),
        Approval::Invalid => (false, "InvalidAnnotation"),
        Approval::Bypassed => (false, "UnapprovedAnnotation"),
        Approval::Approved => (true, "ApprovedAnnotation"),
    };
    condition(definition, "KubernetesAPIApprovalPolicyConformant", holds, reason, &message, now);
}

/// The first name that another definition of the group has taken.
fn conflict(definition: &Value, others: &[Value]) -> Option<(&'static str, String)> {
    let names = |d: &Value, key: &str| -> Vec<String> {
        let value = &d["spec"]["names"][key];
        let one = value.as_str().map(str::to_owned).into_iter();
        one.chain(value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned))).collect()
    };
    let own = &definition["metadata"]["name"];
    let same_group = |d: &&Value| d["spec"]["group"] == definition["spec"]["group"] && d["metadata"]["name"] != *own;
    let resources =
        |d: &Value| ["plural", "singular", "shortNames"].iter().flat_map(|k| names(d, k)).collect::<Vec<_>>();
    let kinds = |d: &Value| ["kind", "listKind"].iter().flat_map(|k| names(d, k)).collect::<Vec<_>>();
    for other in others.iter().filter(same_group) {
        let (taken, taken_kinds) = (resources(other), kinds(other));
        for (key, reason) in
            [("plural", "PluralConflict"), ("singular", "SingularConflict"), ("shortNames", "ShortNamesConflict")]
        {
            if let Some(name) = names(definition, key).into_iter().find(|n| !n.is_empty() && taken.contains(n)) {
                return Some((reason, format!("{name:?} is already in use")));
            }
        }
        for (key, reason) in [("kind", "KindConflict"), ("listKind", "ListKindConflict")] {
            if let Some(name) = names(definition, key).into_iter().find(|n| !n.is_empty() && taken_kinds.contains(n)) {
                return Some((reason, format!("{name:?} is already in use")));
            }
        }
    }
    None
}

pub fn condition_is(definition: &Value, kind: &str) -> bool {
    let conditions = definition["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == kind && c["status"] == "True")
}

/// Sets a condition; its time moves with its status.
pub fn condition(definition: &mut Value, kind: &str, holds: bool, reason: &str, message: &str, now: &str) {
    let status = if holds { "True" } else { "False" };
    let list = child(definition, "status").entry("conditions").or_insert_with(|| json!([]));
    if list.is_null() {
        *list = json!([]);
    }
    let Some(list) = list.as_array_mut() else { return };
    let old = list.iter_mut().find(|c| c["type"] == kind);
    let since = old.as_ref().filter(|o| o["status"] == status).map(|o| o["lastTransitionTime"].clone());
    let new = json!({
        "type": kind, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": since.unwrap_or_else(|| now.into()),
    });
    match old {
        Some(old) => *old = new,
        None => list.push(new),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::definition;
    use super::*;

    #[test]
    fn definitions_of_kubernetes_own_groups_say_whether_they_were_approved() {
        let mut own = definition();
        own["spec"]["group"] = "things.k8s.io".into();
        let condition = |annotation: Option<&str>| {
            let mut own = own.clone();
            own["metadata"]["annotations"] = json!({"api-approved.kubernetes.io": annotation});
            accept(&mut own, &[], "t");
            let conditions = own["status"]["conditions"].as_array().cloned().unwrap();
            let found = conditions.into_iter().find(|c| c["type"] == "KubernetesAPIApprovalPolicyConformant").unwrap();
            format!("{} {}", found["status"].as_str().unwrap(), found["reason"].as_str().unwrap())
        };
        assert_eq!(condition(Some("https://github.com/kubernetes/enhancements/pull/1")), "True ApprovedAnnotation");
        assert_eq!(condition(Some("unapproved, experimental")), "False UnapprovedAnnotation");
        assert_eq!(condition(Some("yes")), "False InvalidAnnotation");
        assert_eq!(condition(None), "False MissingAnnotation");
    }

    #[test]
    fn names_are_accepted_once() {
        let mut first = definition();
        assert!(accept(&mut first, &[], "t1"));
        assert_eq!(first["status"]["acceptedNames"]["listKind"], "ThingList");
        assert!(condition_is(&first, "Established") && condition_is(&first, "NamesAccepted"));
        let before = first.clone();
        assert!(accept(&mut first, &[], "t2"));
        assert_eq!(first, before);

        let mut second = definition();
        second["metadata"]["name"] = "stuff.example.com".into();
        second["spec"]["names"] = json!({"plural": "stuff", "kind": "Thing"});
        assert!(!accept(&mut second, &[first], "t3"));
        assert_eq!(second["status"]["conditions"][0]["reason"], "KindConflict");
        assert!(!condition_is(&second, "Established"));
    }
}
