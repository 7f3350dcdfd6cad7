//! Claims without a class get the default one, and claims, volumes and their attributes are kept while they are in use
//! (`plugin/pkg/admission/storage`).
use crate::registry::strategy::child;
use serde_json::{Value, json};
use std::cmp::Reverse;

pub const CLAIM: &str = "kubernetes.io/pvc-protection";
pub const VOLUME: &str = "kubernetes.io/pv-protection";
pub const ATTRIBUTES_CLASS: &str = "kubernetes.io/vac-protection";

const DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";
const OLD_DEFAULT: &str = "storageclass.beta.kubernetes.io/is-default-class";
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// Adds a finalizer that the object does not have.
pub fn protect(object: &mut Value, finalizer: &str) {
    let metadata = child(object, "metadata");
    match metadata.get_mut("finalizers").and_then(Value::as_array_mut) {
        Some(finalizers) if finalizers.iter().any(|name| name == finalizer) => {}
        Some(finalizers) => finalizers.push(finalizer.into()),
        None => _ = metadata.insert("finalizers".into(), json!([finalizer])),
    }
}

/// Does a claim leave its class open? An empty name is a choice, too.
pub fn lacks_class(claim: &Value) -> bool {
    claim["spec"]["storageClassName"].is_null() && claim["metadata"]["annotations"][OLD_CLASS].is_null()
}

/// The newest of the classes that are marked as default; among equals the first by name.
pub fn default_class(classes: impl Iterator<Item = Value>) -> Option<String> {
    let marked = |class: &Value| {
        let annotations = &class["metadata"]["annotations"];
        annotations[DEFAULT] == "true" || annotations[OLD_DEFAULT] == "true"
    };
    let text = |class: &Value, field: &str| class["metadata"][field].as_str().unwrap_or_default().to_owned();
    let newest = |class: &Value| (text(class, "creationTimestamp"), Reverse(text(class, "name")));
    classes.filter(marked).max_by_key(newest).map(|class| text(&class, "name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finalizers_are_added_once() {
        let mut claim = json!({"metadata": {"finalizers": ["x"]}});
        protect(&mut claim, CLAIM);
        protect(&mut claim, CLAIM);
        assert_eq!(claim["metadata"]["finalizers"], json!(["x", CLAIM]));
        let mut bare = json!({"metadata": {}});
        protect(&mut bare, CLAIM);
        assert_eq!(bare["metadata"]["finalizers"], json!([CLAIM]));
    }

    #[test]
    fn the_newest_default_is_given_to_who_names_none() {
        let class = |name: &str, time: &str, default: &str| json!({"metadata": {"name": name, "creationTimestamp": time, "annotations": {DEFAULT: default}}});
        let classes = [
            class("old", "2026-01-01T00:00:00Z", "true"),
            class("new-b", "2026-01-02T00:00:00Z", "true"),
            class("new-a", "2026-01-02T00:00:00Z", "true"),
            class("newer", "2026-01-03T00:00:00Z", "false"),
        ];
        assert_eq!(default_class(classes.into_iter()).as_deref(), Some("new-a"));
        assert!(lacks_class(&json!({"spec": {}})));
        assert!(!lacks_class(&json!({"spec": {"storageClassName": ""}})));
    }
}
