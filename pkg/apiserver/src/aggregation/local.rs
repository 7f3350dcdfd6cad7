//! The APIServices of what this server serves itself: made at start for the built-in groups, and kept in step with
//! custom resources (`k8s.io/kube-aggregator/pkg/controllers/autoregister`).
use crate::bootstrap::{Object, Update};
use crate::registry::Served;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Where APIServices are stored.
pub const PREFIX: &str = "/registry/apiregistration.k8s.io/apiservices/";
/// Marks an APIService as the server's own: `onstart`, or `true` for what comes and goes with custom resources.
pub const AUTOMANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
const ON_START: &str = "onstart";
const ALWAYS: &str = "true";

/// Priorities of groups, larger ones first in discovery (`cmd/kube-apiserver/app/aggregator.go`). The group of
/// APIServices itself has none there and comes before all that are named.
const GROUPS: [(&str, i64); 21] = [
    ("", 18_000),
    ("apiregistration.k8s.io", 17_900),
    ("apps", 17_800),
    ("events.k8s.io", 17_750),
    ("authentication.k8s.io", 17_700),
    ("authorization.k8s.io", 17_600),
    ("autoscaling", 17_500),
    ("batch", 17_400),
    ("certificates.k8s.io", 17_300),
    ("networking.k8s.io", 17_200),
    ("policy", 17_100),
    ("rbac.authorization.k8s.io", 17_000),
    ("storage.k8s.io", 16_800),
    ("admissionregistration.k8s.io", 16_700),
    ("apiextensions.k8s.io", 16_700),
    ("scheduling.k8s.io", 16_600),
    ("coordination.k8s.io", 16_500),
    ("node.k8s.io", 16_300),
    ("discovery.k8s.io", 16_200),
    ("resource.k8s.io", 16_200),
    ("flowcontrol.apiserver.k8s.io", 16_100),
];
/// Priority of groups and versions of custom resources.
const CUSTOM: (i64, i64) = (1_000, 100);

/// The priority of a group that this server serves.
pub fn group_priority(group: &str) -> i64 {
    GROUPS.iter().find(|(name, _)| *name == group).map_or(CUSTOM.0, |(_, priority)| *priority)
}

/// The priority of a version within its group.
pub fn version_priority(group: &str, version: &str) -> i64 {
    match (group, version) {
        ("", "v1") => 1,
        ("autoscaling", "v2") => 30,
        ("flowcontrol.apiserver.k8s.io" | "resource.k8s.io", "v1") => 21,
        _ if GROUPS.iter().any(|(name, _)| *name == group) => 15,
        _ => CUSTOM.1,
    }
}

/// What is to be done to the stored APIServices.
#[derive(Debug, PartialEq)]
pub enum Action {
    Create(String),
    Delete(String),
}

/// The server's own groups and versions by APIService name; true: of custom resources.
pub fn wanted(served: &Served) -> BTreeMap<String, (String, String, bool)> {
    let virtuals = crate::discovery::virtuals::resources().iter().map(|resource| &resource.gvr);
    let built_in = virtuals.map(|gvr| (gvr, false));
    let all = served.values().map(|resource| (&resource.gvr, resource.custom.is_some())).chain(built_in);
    // The group of APIServices is never delegated, so it has none of its own.
    let all = all.filter(|(gvr, _)| gvr.group != "apiregistration.k8s.io");
    all.map(|(gvr, custom)| (name(&gvr.group, &gvr.version), (gvr.group.clone(), gvr.version.clone(), custom)))
        .collect()
}

/// `v1.apps`, `v1.`.
pub fn name(group: &str, version: &str) -> String {
    format!("{version}.{group}")
}

/// Compares what this server serves with the stored APIServices, by name. Those that somebody else wrote are left
/// alone; the built-in ones are made at start alone, so that who deletes one has it gone until the next start.
pub fn plan(served: &Served, stored: &BTreeMap<String, Value>, starting: bool) -> Vec<Action> {
    let wanted = wanted(served);
    let missing = wanted.iter().filter(|(name, (.., custom))| !stored.contains_key(*name) && (*custom || starting));
    let is_ours = |value: &Value| value["metadata"]["labels"][AUTOMANAGED] == ALWAYS;
    let surplus = stored.iter().filter(|(name, value)| is_ours(value) && !wanted.contains_key(*name));
    missing
        .map(|(name, _)| Action::Create(name.clone()))
        .chain(surplus.map(|(name, _)| Action::Delete(name.clone())))
        .collect()
}

/// A local APIService as it is made.
pub fn object(group: &str, version: &str, custom: bool) -> Object {
    let name = name(group, version);
    let mut value = json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": name, "labels": {AUTOMANAGED: if custom { ALWAYS } else { ON_START }}},
        "spec": {
            "version": version,
            "groupPriorityMinimum": group_priority(group),
            "versionPriority": version_priority(group, version),
        },
        "status": {"conditions": [super::availability::Available::local().condition()]},
    });
    if !group.is_empty() {
        value["spec"]["group"] = group.into();
    }
    Object { key: format!("{PREFIX}{name}"), value, update: Update::Never }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::builtin;

    #[test]
    fn built_in_groups_are_registered_at_start_and_not_forced_afterwards() {
        let served = builtin::served(api::schema::Schemas::builtin());
        let actions = plan(&served, &BTreeMap::new(), true);
        assert!(
            actions.contains(&Action::Create("v1.".into()))
                && actions.contains(&Action::Create("v2.autoscaling".into()))
        );
        assert!(actions.contains(&Action::Create("v1.authorization.k8s.io".into())));
        assert!(!actions.contains(&Action::Create("v1.apiregistration.k8s.io".into())));
        assert_eq!(plan(&served, &BTreeMap::new(), false), []);
    }

    #[test]
    fn what_custom_resources_left_goes_and_what_others_made_stays() {
        let service = |label: &str| json!({"metadata": {"labels": {AUTOMANAGED: label}}});
        let stored: BTreeMap<String, Value> = [
            ("v1.gone.example".to_owned(), service("true")),
            ("v1.apps".to_owned(), service("onstart")),
            ("v1.theirs.example".to_owned(), json!({"metadata": {}})),
        ]
        .into();
        assert_eq!(plan(&Served::new(), &stored, false), [Action::Delete("v1.gone.example".into())]);
    }

    #[test]
    fn objects_look_as_upstream_makes_them() {
        let value = object("apps", "v1", false).value;
        assert_eq!(
            value["spec"],
            json!({"group": "apps", "version": "v1", "groupPriorityMinimum": 17800, "versionPriority": 15})
        );
        assert_eq!(value["status"]["conditions"][0]["reason"], "Local");
        let core = object("", "v1", false);
        assert_eq!(
            (core.key.as_str(), &core.value["spec"]["versionPriority"]),
            ("/registry/apiregistration.k8s.io/apiservices/v1.", &json!(1))
        );
    }
}
