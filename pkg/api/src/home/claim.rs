//! What an object says about who may act on it.
use super::{CONSISTENCY, CONSISTENCY_HOME, DEFAULT_TAKEOVER_S, HOME, STAY, TAKEOVER_SECONDS};
use crate::validate::{FieldError, Reason, names};
use serde_json::Value;

/// Kinds that belong to a machine or its disks: nobody else ever acts on them.
const FIXED: &[&str] = &["Node", "Pod", "PersistentVolume", "PersistentVolumeClaim"];
/// Kinds whose pods must never run twice, so that takeover has to be asked for.
const STAYING: &[&str] = &["StatefulSet"];

/// Whose an object is, and whether it may be taken over.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Claim<'a> {
    /// None: the founder's.
    pub home: Option<&'a str>,
    /// It waits for its home, however long that takes.
    pub stay: bool,
    /// Seconds that home may be out of reach.
    pub takeover_s: u64,
    /// Never acted on by takeover; at most replaced by something new.
    pub fixed: bool,
}

impl<'a> Claim<'a> {
    /// `controller` is the kind that manages the object, if one does.
    pub fn read(kind: &str, controller: Option<&str>, annotation: impl Fn(&str) -> Option<&'a str>) -> Self {
        let staying = STAYING.contains(&kind) || controller.is_some_and(|kind| STAYING.contains(&kind));
        let stay = annotation(STAY).map_or(staying, |stay| stay == "true");
        let takeover_s = annotation(TAKEOVER_SECONDS).and_then(|seconds| seconds.parse().ok());
        Self {
            home: annotation(HOME).filter(|home| !home.is_empty()),
            stay,
            takeover_s: takeover_s.unwrap_or(DEFAULT_TAKEOVER_S),
            fixed: FIXED.contains(&kind),
        }
    }

    /// Whether objects of this kind belong to a machine or its disks.
    pub fn is_fixed(kind: &str) -> bool {
        FIXED.contains(&kind)
    }

    /// The claim of an object as a tree.
    pub fn of(kind: &str, object: &'a Value) -> Self {
        let meta = &object["metadata"];
        let owners = meta["ownerReferences"].as_array().into_iter().flatten();
        let controller = owners.into_iter().find(|o| o["controller"] == true).and_then(|o| o["kind"].as_str());
        Self::read(kind, controller, |name| meta["annotations"][name].as_str())
    }
}

/// Checks what the annotations of this module hold.
pub fn check_annotations(object: &Value) -> Vec<FieldError> {
    let annotations = &object["metadata"]["annotations"];
    let mut errors = Vec::new();
    let mut check = |name: &str, judge: &dyn Fn(&str) -> Option<String>| {
        let value = annotations[name].as_str();
        if let Some(detail) = value.and_then(judge) {
            let field = format!("metadata.annotations[{name}]");
            errors.push(FieldError { field, reason: Reason::Invalid, value: value.map(Value::from), detail });
        }
    };
    check(HOME, &|site| names::dns_label(site).into_iter().next());
    check(STAY, &|stay| (!matches!(stay, "true" | "false")).then(|| "must be \"true\" or \"false\"".into()));
    let seconds = |text: &str| text.parse::<u32>().is_ok_and(|seconds| seconds > 0);
    check(TAKEOVER_SECONDS, &|text| (!seconds(text)).then(|| "must be a number of seconds greater than 0".into()));
    check(CONSISTENCY, &|mode| (mode != CONSISTENCY_HOME).then(|| format!("must be {CONSISTENCY_HOME:?}")));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn stateful_sets_and_their_pods_stay_unless_they_say_otherwise() {
        let object = json!({"metadata": {}});
        assert!(Claim::of("StatefulSet", &object).stay);
        assert!(!Claim::of("Deployment", &object).stay);
        let owned = json!({"metadata": {"ownerReferences": [{"kind": "StatefulSet", "controller": true}]}});
        assert!(Claim::of("Pod", &owned).stay);
        let free = json!({"metadata": {"annotations": {"eyot.dev/stay": "false"}}});
        assert!(!Claim::of("StatefulSet", &free).stay);
        let pinned = json!({"metadata": {"annotations": {"eyot.dev/stay": "true"}}});
        assert!(Claim::of("Deployment", &pinned).stay);
    }

    #[test]
    fn annotations_are_checked() {
        let with = |name: &str, value: &str| {
            let errors = check_annotations(&json!({"metadata": {"annotations": {name: value}}}));
            errors.into_iter().map(|error| error.field).collect::<Vec<_>>()
        };
        for (name, good, bad) in [
            (HOME, "north", "North Sea"),
            (STAY, "true", "yes"),
            (TAKEOVER_SECONDS, "30", "-1"),
            (CONSISTENCY, "home", "strong"),
        ] {
            assert_eq!(with(name, good), Vec::<String>::new());
            assert_eq!(with(name, bad), [format!("metadata.annotations[{name}]")]);
        }
    }
}
