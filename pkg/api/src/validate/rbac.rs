//! Roles and bindings.
use super::field::{Errors, Path, Tree};
use super::{names, selector};
use serde_json::Value;

const GROUP: &str = "rbac.authorization.k8s.io";

pub fn rbac(errors: &mut Errors, kind: &str, object: &Value) {
    match kind {
        "Role" => rules(errors, object, true),
        "ClusterRole" => {
            rules(errors, object, false);
            aggregation(errors, object);
        }
        "RoleBinding" => binding(errors, object, &["Role", "ClusterRole"], true),
        "ClusterRoleBinding" => binding(errors, object, &["ClusterRole"], false),
        _ => {}
    }
}

fn rules(errors: &mut Errors, object: &Value, namespaced: bool) {
    let path = Path::field("rules");
    for (i, rule) in object.list("rules").iter().enumerate() {
        let at = path.index(i);
        if rule.count("verbs") == 0 {
            errors.required(&at.child("verbs"), "verbs must contain at least one value");
        }
        if rule.count("nonResourceURLs") > 0 {
            let (at, urls) = (at.child("nonResourceURLs"), &rule["nonResourceURLs"]);
            if namespaced {
                errors.invalid(&at, urls.clone(), "namespaced rules cannot apply to non-resource URLs");
            }
            if ["apiGroups", "resources", "resourceNames"].iter().any(|name| rule.count(name) > 0) {
                let text = "rules cannot apply to both regular resources and non-resource URLs";
                errors.invalid(&at, urls.clone(), text);
            }
            continue;
        }
        if rule.count("apiGroups") == 0 {
            errors.required(&at.child("apiGroups"), "resource rules must supply at least one api group");
        }
        if rule.count("resources") == 0 {
            errors.required(&at.child("resources"), "resource rules must supply at least one resource");
        }
    }
}

fn aggregation(errors: &mut Errors, object: &Value) {
    if !object.has("aggregationRule") {
        return;
    }
    let rule = Path::field("aggregationRule");
    let path = rule.child("clusterRoleSelectors");
    let selectors = object["aggregationRule"].list("clusterRoleSelectors");
    if selectors.is_empty() {
        errors.required(&path, "at least one clusterRoleSelector required if aggregationRule is non-nil");
    }
    for (i, of) in selectors.iter().enumerate() {
        selector::label_selector(errors, &path.index(i), of);
    }
}

fn binding(errors: &mut Errors, object: &Value, kinds: &[&str], namespaced: bool) {
    let (path, role) = (Path::field("roleRef"), &object["roleRef"]);
    if role.text("apiGroup") != GROUP {
        errors.unsupported(&path.child("apiGroup"), role.text("apiGroup"), &[GROUP]);
    }
    if !kinds.contains(&role.text("kind")) {
        errors.unsupported(&path.child("kind"), role.text("kind"), kinds);
    }
    match role.text("name") {
        "" => errors.required(&path.child("name"), ""),
        name => errors.each(&path.child("name"), name, names::path_segment(name)),
    }
    let subjects = Path::field("subjects");
    for (i, subject) in object.list("subjects").iter().enumerate() {
        self::subject(errors, &subjects.index(i), subject, namespaced);
    }
}

fn subject(errors: &mut Errors, at: &Path<'_>, subject: &Value, namespaced: bool) {
    let [kind, name, group] = ["kind", "name", "apiGroup"].map(|field| subject.text(field));
    if name.is_empty() {
        errors.required(&at.child("name"), "");
    }
    match kind {
        "ServiceAccount" => {
            if !name.is_empty() {
                errors.each(&at.child("name"), name, names::dns_subdomain(name));
            }
            if !group.is_empty() {
                errors.unsupported(&at.child("apiGroup"), group, &[""]);
            }
            if !namespaced && subject.text("namespace").is_empty() {
                errors.required(&at.child("namespace"), "");
            }
        }
        "User" | "Group" if group != GROUP => errors.unsupported(&at.child("apiGroup"), group, &[GROUP]),
        "User" | "Group" => {}
        _ => errors.unsupported(&at.child("kind"), kind, &["ServiceAccount", "User", "Group"]),
    }
}

pub fn update(errors: &mut Errors, new: &Value, old: &Value) {
    if new["roleRef"] != old["roleRef"] {
        errors.invalid_as(&Path::field("roleRef"), "rbac.RoleRef", &new["roleRef"], "cannot change roleRef");
    }
}
