//! What holds for any configurations of a Deployment, in any order of appliers.
use api::apply::{Error, Writer, apply, update};
use api::schema::{Schemas, Type};
use api::{GroupVersionKind, patch};
use eyot_api as api;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn ty() -> &'static Type {
    let kind = GroupVersionKind::new("apps", "v1", "Deployment");
    &Schemas::builtin().for_kind(&kind).expect("a built-in kind").ty
}

fn writer(manager: &str) -> Writer<'_> {
    Writer { manager, api_version: "apps/v1", subresource: "", now: "2026-01-01T00:00:00Z" }
}

fn applied(live: Option<&Value>, config: &Value, manager: &str, force: bool) -> Result<Value, Error> {
    apply(live, config, &writer(manager), force, ty(), Schemas::builtin())
}

/// Empty lists and maps are left out, as the API leaves them out. A few fields of each sort: scalars, maps, atomic maps, keyed lists in keyed lists, atomic lists, sets.
fn config() -> impl Strategy<Value = Value> {
    let text = || prop::sample::select(vec!["a", "b", "c"]);
    let map = || prop::collection::btree_map(text(), text(), 1..3);
    let env = prop::collection::btree_map(text(), text(), 1..3);
    let container = (prop::option::of(text()), env, prop::option::of(prop::collection::vec(text(), 1..3)));
    let containers = prop::collection::btree_map(text(), container, 1..3);
    let finalizers = prop::option::of(prop::collection::btree_set(text(), 1..3));
    let spec = (prop::option::of(0..3i32), prop::option::of(map()), containers, prop::option::of(map()));
    (spec, finalizers).prop_map(|((replicas, labels, containers, selector), finalizers)| {
        let containers: Vec<Value> = containers
            .into_iter()
            .map(|(name, (image, env, args))| {
                let env: Vec<Value> = env.into_iter().map(|(n, v)| json!({"name": n, "value": v})).collect();
                without_nulls(json!({"name": name, "image": image, "args": args, "env": env}))
            })
            .collect();
        let template = json!({"spec": without_nulls(json!({"containers": containers, "nodeSelector": selector}))});
        json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": without_nulls(json!({"name": "d", "labels": labels, "finalizers": finalizers})),
            "spec": without_nulls(json!({"replicas": replicas, "template": template}))})
    })
}

fn without_nulls(value: Value) -> Value {
    let Value::Object(fields) = value else { return value };
    Value::Object(fields.into_iter().filter(|(_, value)| !value.is_null()).collect::<Map<_, _>>())
}

/// Is everything of `part` in `whole`, lists of named elements by name and others whole?
fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(key, part)| whole.get(key).is_some_and(|whole| contains(whole, part)))
        }
        (Value::Array(whole), Value::Array(part)) if part.iter().any(|p| p.get("name").is_some()) => {
            part.iter().all(|part| whole.iter().any(|whole| whole["name"] == part["name"] && contains(whole, part)))
        }
        (whole, part) => whole == part || part.as_array().is_some_and(Vec::is_empty),
    }
}

/// A set's own elements are in the whole, in whatever order.
fn content(object: &Value) -> Value {
    json!({"spec": object["spec"], "labels": object["metadata"]["labels"]})
}

fn managers(object: &Value) -> Vec<Value> {
    object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default()
}

proptest! {
    #[test]
    fn applying_twice_changes_nothing(a in config(), b in config(), c in config()) {
        let first = applied(None, &a, "a", false).unwrap();
        let second = applied(Some(&first), &b, "b", true).unwrap();
        let third = applied(Some(&second), &c, "a", true).unwrap();
        prop_assert_eq!(&applied(Some(&third), &c, "a", false).unwrap(), &third);
    }

    #[test]
    fn what_is_applied_is_there(a in config(), b in config()) {
        let first = applied(None, &a, "a", false).unwrap();
        let second = applied(Some(&first), &b, "b", true).unwrap();
        let want = without_nulls(content(&b));
        prop_assert!(contains(&content(&second), &want), "{} lacks {}", second, b);
    }

    #[test]
    fn a_sole_applier_gets_exactly_its_configuration(a in config(), b in config()) {
        let first = applied(None, &a, "a", false).unwrap();
        let second = applied(Some(&first), &b, "a", false).unwrap();
        let alone = applied(None, &b, "a", false).unwrap();
        prop_assert_eq!(managers(&second), managers(&alone));
        prop_assert!(contains(&content(&second), &without_nulls(content(&alone))));
        prop_assert!(contains_only(&content(&second), &content(&alone)), "{} against {}", second, alone);
    }

    #[test]
    fn without_force_nothing_is_taken(a in config(), b in config()) {
        let first = applied(None, &a, "a", false).unwrap();
        if let Ok(second) = applied(Some(&first), &b, "b", false) {
            prop_assert!(contains(&content(&second), &without_nulls(content(&a))));
            let of = |object: &Value| managers(object).into_iter().find(|m| m["manager"] == "a");
            prop_assert_eq!(of(&first), of(&second));
        }
    }

    #[test]
    fn an_update_that_changes_nothing_owns_nothing(a in config(), b in config()) {
        let first = applied(None, &a, "a", false).unwrap();
        let live = applied(Some(&first), &b, "b", true).unwrap();
        let mut same = live.clone();
        update(Some(&live), &mut same, &writer("c"), ty(), Schemas::builtin());
        prop_assert_eq!(same, live);
    }

    #[test]
    fn no_field_has_an_applier_and_a_later_updater(a in config(), b in config()) {
        let live = applied(None, &a, "a", false).unwrap();
        let mut new = patch::merge_patch(&live, &b);
        update(Some(&live), &mut new, &writer("u"), ty(), Schemas::builtin());
        // What the update changed is its own, so applying the old configuration again conflicts or changes nothing.
        match applied(Some(&new), &a, "a", false) {
            Ok(again) => prop_assert_eq!(content(&again)["spec"]["replicas"].clone(), merged_replicas(&a, &new)),
            Err(Error::Conflicts(conflicts)) => prop_assert!(conflicts.iter().all(|c| c.manager == "u")),
            Err(error) => prop_assert!(false, "{}", error),
        }
    }

    #[test]
    fn a_strategic_patch_with_the_object_itself_changes_nothing(a in config()) {
        let spec = &a["spec"];
        let patched = patch::strategic_merge(&a, &json!({"spec": spec}), ty(), Schemas::builtin()).unwrap();
        prop_assert!(contains(&patched, &a) && contains(&a, &patched), "{} against {}", patched, a);
    }
}

fn merged_replicas(config: &Value, live: &Value) -> Value {
    config["spec"].get("replicas").unwrap_or(&live["spec"]["replicas"]).clone()
}

/// Is there nothing in `whole` beyond `part`, empty maps and lists aside?
fn contains_only(whole: &Value, part: &Value) -> bool {
    let empty =
        |value: &Value| value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty);
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => whole.iter().all(|(key, value)| {
            value.is_null() || empty(value) || part.get(key).is_some_and(|part| contains_only(value, part))
        }),
        (Value::Array(whole), Value::Array(part)) => whole.len() <= part.len(),
        (whole, part) => whole == part,
    }
}
