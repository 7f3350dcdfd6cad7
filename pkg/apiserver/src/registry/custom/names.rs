//! Which names of a definition are its own, and what its status says of that
//! (`apiextensions-apiserver/pkg/controller/{status,establish}`).
use crate::registry::strategy::{child, items};
use api::validate::{Approval, approval_of};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The finalizer under which a deleted definition waits for its objects to go.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// The names that definitions have been given, by group.
#[derive(Debug, Default)]
pub struct Taken(BTreeMap<String, Names>);

#[derive(Debug, Default)]
struct Names {
    resources: BTreeSet<String>,
    kinds: BTreeSet<String>,
}

impl Taken {
    /// What the stored definitions have.
    pub fn of<'d>(definitions: impl Iterator<Item = &'d Value>) -> Self {
        let mut taken = Self::default();
        definitions.for_each(|definition| taken.add(definition));
        taken
    }

    fn add(&mut self, definition: &Value) {
        let accepted = &definition["status"]["acceptedNames"];
        let names = self.0.entry(text(&definition["spec"]["group"]).to_owned()).or_default();
        let given = |key: &str| Some(text(&accepted[key]).to_owned()).filter(|name| !name.is_empty());
        names.resources.extend(["plural", "singular"].into_iter().filter_map(given));
        names.resources.extend(list(&accepted["shortNames"]).map(str::to_owned));
        names.kinds.extend(["kind", "listKind"].into_iter().filter_map(given));
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// Sets `acceptedNames`, which are taken then, and the conditions.
/// Returns whether the definition may be served.
pub fn accept(definition: &mut Value, taken: &mut Taken, now: &str) -> bool {
    let (names, conflict) = judge(definition, taken);
    child(definition, "status").insert("acceptedNames".into(), names);
    taken.add(definition);
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

/// The names that the definition gets, and the last of those that it does not get.
fn judge(definition: &Value, taken: &Taken) -> (Value, Option<(&'static str, String)>) {
    const NAMES: &[(&str, &str)] = &[
        ("plural", "PluralConflict"),
        ("singular", "SingularConflict"),
        ("shortNames", "ShortNamesConflict"),
        ("kind", "KindConflict"),
        ("listKind", "ListKindConflict"),
    ];
    let (wanted, none) = (requested(definition), Names::default());
    let taken = taken.0.get(text(&definition["spec"]["group"])).unwrap_or(&none);
    let had = &definition["status"]["acceptedNames"];
    let mut names = if had.is_object() { had.clone() } else { json!({}) };
    let mut conflict = None;
    for (key, reason) in NAMES {
        let used = if key.to_lowercase().ends_with("kind") { &taken.kinds } else { &taken.resources };
        match in_use(&wanted[*key], &had[*key], used) {
            Some(message) => conflict = Some((*reason, message)),
            None => set(&mut names, key, &wanted[*key]),
        }
    }
    set(&mut names, "categories", &wanted["categories"]);
    (names, conflict)
}

fn set(names: &mut Value, key: &str, value: &Value) {
    match value {
        Value::Null => drop(names.as_object_mut().map(|names| names.remove(key))),
        value => names[key] = value.clone(),
    }
}

/// What another definition has of a name, or list of names, that is wanted and not had yet.
fn in_use(wanted: &Value, had: &Value, used: &BTreeSet<String>) -> Option<String> {
    let (has, new) = (|name: &str| had == name || list(had).any(|known| known == name), [text(wanted)]);
    let new = new.into_iter().filter(|name| !name.is_empty()).chain(list(wanted)).filter(|name| !has(name));
    let errors: Vec<String> =
        new.filter(|name| used.contains(*name)).map(|name| format!("{name:?} is already in use")).collect();
    match errors.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        many => Some(format!("[{}]", many.join(", "))),
    }
}

/// `spec.names` with what they leave out.
fn requested(definition: &Value) -> Value {
    let mut names = definition["spec"]["names"].clone();
    let kind = text(&names["kind"]).to_owned();
    for (key, default) in [("singular", kind.to_lowercase()), ("listKind", format!("{kind}List"))] {
        if text(&names[key]).is_empty() {
            names[key] = default.into();
        }
    }
    names
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

pub fn condition_is(definition: &Value, kind: &str) -> bool {
    let conditions = definition["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == kind && c["status"] == "True")
}

/// Sets a condition; its time moves with its status.
pub fn condition(definition: &mut Value, kind: &str, holds: bool, reason: &str, message: &str, now: &str) {
    let status = if holds { "True" } else { "False" };
    let list = items(child(definition, "status"), "conditions");
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
            accept(&mut own, &mut Taken::default(), "t");
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
        let (mut first, mut taken) = (definition(), Taken::default());
        assert!(accept(&mut first, &mut taken, "t1"));
        assert_eq!(first["status"]["acceptedNames"]["listKind"], "ThingList");
        assert!(condition_is(&first, "Established") && condition_is(&first, "NamesAccepted"));
        let before = first.clone();
        assert!(accept(&mut first, &mut taken, "t2"));
        assert_eq!(first, before);

        let mut second = definition();
        second["metadata"]["name"] = "stuff.example.com".into();
        second["spec"]["names"] =
            json!({"plural": "stuff", "singular": "stuff", "kind": "Thing", "shortNames": ["th", "st"]});
        assert!(!accept(&mut second, &mut taken, "t3"), "the first one's names are taken in the same round");
        assert_eq!(second["status"]["conditions"][0]["reason"], "ListKindConflict");
        assert_eq!(second["status"]["acceptedNames"], json!({"plural": "stuff", "singular": "stuff"}));
        assert!(!condition_is(&second, "Established"));

        let mut taken = Taken::of([&first].into_iter());
        first["spec"]["names"]["shortNames"] = json!(["th", "tg"]);
        assert!(accept(&mut first, &mut taken, "t4"), "its own names are no obstacle");
        assert_eq!(first["status"]["acceptedNames"]["shortNames"], json!(["th", "tg"]));
    }
}
