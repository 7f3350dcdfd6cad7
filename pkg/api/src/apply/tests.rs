//! What owners may expect, on a Deployment in miniature.
use super::*;
use crate::schema::{Field, List, ListKind, StringFormat, Struct};

fn text() -> Type {
    Type::String(StringFormat::Plain)
}

fn object<const N: usize>(fields: [(&str, Type); N]) -> Struct {
    let field = Field::optional;
    Struct { fields: fields.map(|(name, ty)| (name.into(), field(ty))).into(), ..Struct::default() }
}

fn list(item: Type, kind: ListKind) -> Type {
    Type::List(Box::new(List { item, kind, patch_merge_key: None, retain_keys: false }))
}

fn schema() -> Type {
    let strukt = |s: Struct| Type::Struct(Box::new(s));
    let mut port = object([("containerPort", Type::Integer { bits: 32 }), ("protocol", text()), ("name", text())]);
    port.fields.get_mut("protocol").unwrap().default = Some("TCP".into());
    let by = |keys: &[&str]| ListKind::Map(keys.iter().map(|k| (*k).into()).collect());
    let container = object([
        ("name", text()),
        ("image", text()),
        ("args", list(text(), ListKind::Atomic)),
        ("ports", list(strukt(port), by(&["containerPort", "protocol"]))),
    ]);
    let spec = object([
        ("replicas", Type::Integer { bits: 32 }),
        ("selector", strukt(Struct { atomic: true, ..object([("matchLabels", Type::Map(Box::new(text())))]) })),
        ("nodeSelector", Type::AtomicMap(Box::new(text()))),
        ("containers", list(strukt(container), by(&["name"]))),
        ("raw", Type::Any),
        ("empty", strukt(object([("x", text())]))),
    ]);
    let meta = object([
        ("name", text()),
        ("uid", text()),
        ("labels", Type::Map(Box::new(text()))),
        ("annotations", Type::Map(Box::new(text()))),
        ("finalizers", list(text(), ListKind::Set)),
        ("managedFields", list(Type::Any, ListKind::Atomic)),
    ]);
    strukt(object([
        ("apiVersion", text()),
        ("kind", text()),
        ("metadata", strukt(meta)),
        ("spec", strukt(spec)),
        ("status", strukt(object([("replicas", Type::Integer { bits: 32 })]))),
    ]))
}

fn writer(manager: &str) -> Writer<'_> {
    Writer { manager, api_version: "apps/v1", subresource: "", now: "2026-01-01T00:00:00Z" }
}

fn base(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec})
}

fn applied(live: Option<&Value>, spec: Value, by: &str) -> Value {
    applied_by(live, spec, by, false).unwrap()
}

fn applied_by(live: Option<&Value>, spec: Value, by: &str, force: bool) -> Result<Value, Error> {
    apply(live, &base(spec), &writer(by), force, &schema(), &Schemas::default())
}

fn updated(live: Option<&Value>, mut new: Value, by: &Writer<'_>) -> Value {
    update(live, &mut new, by, &schema(), &Schemas::default());
    new
}

fn created(spec: Value, by: &str) -> Value {
    updated(None, base(spec), &writer(by))
}

/// `manager operation fields` of every entry.
fn owners(object: &Value) -> Vec<(String, Value)> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let name = |e: &Value| format!("{} {}", e["manager"].as_str().unwrap(), e["operation"].as_str().unwrap());
    entries.iter().map(|e| (name(e), e["fieldsV1"].clone())).collect()
}

fn owner(object: &Value, name: &str) -> Option<Value> {
    owners(object).into_iter().find(|(n, _)| n == name).map(|(_, fields)| fields)
}

#[test]
fn a_create_owns_all_that_it_sets() {
    let d = created(
        json!({"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "nodeSelector": {"x": "y"},
        "containers": [{"name": "c", "ports": [{"containerPort": 80}], "args": ["a"]}], "empty": {}}),
        "kubectl-create",
    );
    let fields = json!({"f:spec": {".": {}, "f:replicas": {}, "f:selector": {}, "f:nodeSelector": {}, "f:empty": {},
        "f:containers": {".": {}, "k:{\"name\":\"c\"}": {".": {}, "f:name": {}, "f:args": {},
            "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}}}});
    assert_eq!(owners(&d), [("kubectl-create Update".to_owned(), fields)]);
    assert_eq!(d["metadata"]["managedFields"][0]["time"], "2026-01-01T00:00:00Z");
}

#[test]
fn applying_owns_leaves_and_elements() {
    let d = applied(None, json!({"replicas": 1, "containers": [{"name": "c", "image": "i"}], "empty": {}}), "me");
    let fields = json!({"f:spec": {"f:replicas": {}, "f:empty": {},
        "f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:name": {}, "f:image": {}}}}});
    assert_eq!(owners(&d), [("me Apply".to_owned(), fields)]);
}

#[test]
fn conflicts_and_force() {
    let live =
        created(json!({"replicas": 3, "containers": [{"name": "c", "image": "i"}]}), "kubectl-client-side-apply");
    let error = applied_by(Some(&live), json!({"replicas": 1}), "me", false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1: .spec.replicas"
    );
    let both = json!({"replicas": 1, "containers": [{"name": "c", "image": "j"}]});
    let error = applied_by(Some(&live), both.clone(), "me", false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 2 conflicts: conflicts with \"kubectl-client-side-apply\" using apps/v1:\n\
         - .spec.replicas\n- .spec.containers[name=\"c\"].image"
    );
    let forced = applied_by(Some(&live), both, "me", true).unwrap();
    assert_eq!(forced["spec"]["replicas"], 1);
    assert_eq!(owner(&forced, "kubectl-client-side-apply Update").unwrap()["f:spec"].get("f:replicas"), None);
    // The same value is shared, not fought over.
    let shared = applied(Some(&live), json!({"replicas": 3}), "me");
    assert!(owner(&shared, "kubectl-client-side-apply Update").unwrap()["f:spec"].get("f:replicas").is_some());
    assert!(owner(&shared, "me Apply").unwrap()["f:spec"].get("f:replicas").is_some());
}

#[test]
fn a_conflict_with_an_applier_names_no_version() {
    let live = applied(None, json!({"replicas": 1}), "a");
    let error = applied_by(Some(&live), json!({"replicas": 2}), "b", false).unwrap_err();
    assert_eq!(error.to_string(), "Apply failed with 1 conflict: conflict with \"a\": .spec.replicas");
}

#[test]
fn what_is_no_longer_applied_goes_unless_owned() {
    let full = json!({"replicas": 1, "nodeSelector": {"x": "y"},
        "containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]});
    let one = applied(None, full, "me");
    let two = applied(Some(&one), json!({"containers": [{"name": "b"}]}), "you");
    let left = applied(Some(&two), json!({"replicas": 1}), "me");
    assert_eq!(left["spec"], json!({"replicas": 1, "containers": [{"name": "b"}]}));
    assert_eq!(owner(&left, "me Apply"), Some(json!({"f:spec": {"f:replicas": {}}})));
    let gone = applied(Some(&left), json!({}), "you");
    assert_eq!(gone["spec"], json!({"replicas": 1}));
    assert_eq!(owner(&gone, "you Apply"), Some(json!({"f:spec": {}})));
}

#[test]
fn what_nobody_applied_stays() {
    let one = applied(None, json!({"containers": [{"name": "a", "image": "1"}]}), "me");
    let mut with_default = one.clone();
    with_default["spec"]["containers"][0]["args"] = json!(["d"]);
    let updated = updated(Some(&one), with_default, &writer("controller"));
    let two = applied(Some(&updated), json!({"containers": [{"name": "a"}]}), "me");
    assert_eq!(two["spec"], json!({"containers": [{"name": "a", "args": ["d"]}]}));
}

#[test]
fn applying_twice_changes_nothing() {
    let spec =
        json!({"replicas": 1, "containers": [{"name": "a", "ports": [{"containerPort": 1}]}], "raw": {"x": [1]}});
    let one = applied(None, spec.clone(), "me");
    let later = Writer { now: "2027-01-01T00:00:00Z", ..writer("me") };
    let two = apply(Some(&one), &base(spec), &later, false, &schema(), &Schemas::default()).unwrap();
    assert_eq!(one, two);
}

#[test]
fn an_update_takes_what_it_changes() {
    let live = applied(None, json!({"replicas": 1, "containers": [{"name": "a", "image": "1"}]}), "me");
    let mut new = live.clone();
    new["spec"]["replicas"] = json!(5);
    new["spec"]["containers"][0]["args"] = json!(["x"]);
    let new = updated(Some(&live), new, &writer("edit"));
    let fields = json!({"f:spec": {"f:replicas": {}, "f:containers": {"k:{\"name\":\"a\"}": {"f:args": {}}}}});
    assert_eq!(owner(&new, "edit Update"), Some(fields));
    assert_eq!(owner(&new, "me Apply").unwrap()["f:spec"].get("f:replicas"), None);
}

#[test]
fn an_update_that_removes_takes_ownership_away() {
    let live = applied(None, json!({"replicas": 1, "containers": [{"name": "a"}, {"name": "b"}]}), "me");
    let mut new = live.clone();
    new["spec"]["containers"].as_array_mut().unwrap().remove(0);
    let new = updated(Some(&live), new, &writer("edit"));
    assert_eq!(owners(&new).len(), 1, "removing alone owns nothing");
    let left = json!({"f:spec": {"f:replicas": {}, "f:containers": {"k:{\"name\":\"b\"}": {".": {}, "f:name": {}}}}});
    assert_eq!(owner(&new, "me Apply"), Some(left));
}

#[test]
fn subresources_have_entries_of_their_own_and_cannot_touch_others() {
    let live = created(json!({"replicas": 1}), "me");
    let mut new = live.clone();
    new["status"] = json!({"replicas": 1});
    new["metadata"]["managedFields"] = json!([]);
    let status = Writer { subresource: "status", ..writer("me") };
    let new = updated(Some(&live), new, &status);
    let entries = new["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[1]["subresource"], "status");
    assert_eq!(entries[1]["fieldsV1"], json!({"f:status": {".": {}, "f:replicas": {}}}));
    let error = apply(
        Some(&new),
        &json!({"apiVersion": "apps/v1", "status": {"replicas": 2}}),
        &writer("x"),
        false,
        &schema(),
        &Schemas::default(),
    );
    assert_eq!(
        error.unwrap_err().to_string(),
        "Apply failed with 1 conflict: conflict with \"me\" with subresource \"status\" using apps/v1: .status.replicas"
    );
}

#[test]
fn resetting_and_forgetting() {
    let live = created(json!({"replicas": 1}), "me");
    for reset in [json!([]), json!([{}])] {
        let mut new = live.clone();
        new["metadata"]["managedFields"] = reset;
        let new = updated(Some(&live), new, &writer("me"));
        assert_eq!(new["metadata"].get("managedFields"), None);
        // Untracked from here on, until the first apply finds an owner for what is there.
        let mut more = new.clone();
        more["spec"]["replicas"] = json!(2);
        let more = updated(Some(&new), more, &writer("me"));
        assert_eq!(more["metadata"].get("managedFields"), None);
        let again = applied(Some(&more), json!({"replicas": 2}), "a");
        assert!(owner(&again, "before-first-apply Update").is_some());
    }
    // A client that does not know them can't lose them, nor can one that writes nonsense.
    for nonsense in [None, Some(json!([{"operation": "Guess"}]))] {
        let mut new = live.clone();
        match nonsense {
            None => drop(new["metadata"].as_object_mut().unwrap().remove("managedFields")),
            Some(value) => new["metadata"]["managedFields"] = value,
        }
        assert_eq!(owners(&updated(Some(&live), new, &writer("x"))), owners(&live));
    }
}

#[test]
fn an_update_of_nothing_keeps_times() {
    let live = created(json!({"replicas": 1}), "me");
    let later = Writer { now: "2030-01-01T00:00:00Z", ..writer("me") };
    assert_eq!(updated(Some(&live), live.clone(), &later), live);
}

#[test]
fn old_updates_are_put_together() {
    let mut live = created(json!({"replicas": 0}), "m00");
    for i in 1..15 {
        let mut new = live.clone();
        new["metadata"]["labels"][format!("l{i}")] = json!("x");
        let (manager, now) = (format!("m{i:02}"), format!("2026-01-02T00:00:{i:02}Z"));
        let by = Writer { now: &now, ..writer(&manager) };
        live = updated(Some(&live), new, &by);
    }
    let owners = owners(&live);
    assert_eq!(owners.len(), 10);
    assert_eq!(owners[0].0, "ancient-changes Update");
    assert!(owners[0].1["f:metadata"]["f:labels"].get("f:l5").is_some());
    assert_eq!(live["metadata"]["managedFields"][0]["time"], "2026-01-02T00:00:05Z");
}

#[test]
fn merged_lists_keep_the_applied_order() {
    let live = created(json!({"containers": [{"name": "x"}, {"name": "a"}, {"name": "y"}, {"name": "b"}]}), "c");
    let d = applied(Some(&live), json!({"containers": [{"name": "b"}, {"name": "n"}, {"name": "a"}]}), "me");
    let names: Vec<_> = d["spec"]["containers"].as_array().unwrap().iter().map(|c| c["name"].clone()).collect();
    assert_eq!(names, ["x", "y", "b", "n", "a"]);
}

#[test]
fn sets_atoms_and_untyped() {
    let mut live = created(json!({"raw": {"a": {"b": 1}, "l": [{"x": 1}]}, "nodeSelector": {"a": "1"}}), "c");
    live["metadata"]["finalizers"] = json!(["f1"]);
    let mut config = base(json!({"raw": {"a": {"c": 2}, "l": [{"y": 2}]}, "nodeSelector": {"b": "2"}}));
    config["metadata"]["finalizers"] = json!(["f2"]);
    let ty = schema();
    let error = apply(Some(&live), &config, &writer("me"), false, &ty, &Schemas::default()).unwrap_err();
    assert!(error.to_string().contains("- .spec.nodeSelector\n- .spec.raw.l"), "{error}");
    let d = apply(Some(&live), &config, &writer("me"), true, &ty, &Schemas::default()).unwrap();
    assert_eq!(d["spec"]["raw"], json!({"a": {"b": 1, "c": 2}, "l": [{"y": 2}]}));
    assert_eq!(d["spec"]["nodeSelector"], json!({"b": "2"}));
    assert_eq!(d["metadata"]["finalizers"], json!(["f1", "f2"]));
    let fields = owner(&d, "me Apply").unwrap();
    assert_eq!(fields["f:metadata"]["f:finalizers"], json!({"v:\"f2\"": {}}));
}

#[test]
fn malformed_configurations() {
    let twice = json!({"containers": [{"name": "a"}, {"name": "a"}]});
    let error = applied_by(None, twice, "me", false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "failed to create typed patch object (/d; apps/v1, Kind=Deployment): .spec.containers: duplicate entries for key [name=\"a\"]"
    );
    let mut config = base(json!({}));
    config["metadata"]["managedFields"] = json!([]);
    let error = apply(None, &config, &writer("me"), false, &schema(), &Schemas::default()).unwrap_err();
    assert_eq!(error, Error::Malformed("metadata.managedFields must be nil".into()));
}

#[test]
fn duplicates_in_a_live_list_are_one_thing() {
    let live = created(json!({"containers": [{"name": "a", "image": "1"}, {"name": "a", "image": "2"}]}), "c");
    let fields = owner(&live, "c Update").unwrap();
    assert_eq!(fields["f:spec"]["f:containers"], json!({".": {}, "k:{\"name\":\"a\"}": {}}));
    let mut fixed = live.clone();
    fixed["spec"]["containers"].as_array_mut().unwrap().remove(1);
    let fixed = updated(Some(&live), fixed, &writer("c"));
    let element = &owner(&fixed, "c Update").unwrap()["f:spec"]["f:containers"]["k:{\"name\":\"a\"}"];
    assert_eq!(element, &json!({".": {}, "f:name": {}, "f:image": {}}));
}

#[test]
fn kubectl_takes_over_what_it_applied_on_the_client() {
    let mut live = created(json!({"replicas": 3}), "kubectl-client-side-apply");
    let last = base(json!({"replicas": 3})).to_string();
    live["metadata"]["annotations"][last_applied_key()] = json!(last);
    let d = applied(Some(&live), json!({"replicas": 1}), "kubectl");
    assert_eq!(d["spec"]["replicas"], 1);
    let written = d["metadata"]["annotations"][last_applied_key()].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(written).unwrap(), base(json!({"replicas": 1})));
    // Somebody else's change since then is still a conflict.
    let mut scaled = live.clone();
    scaled["spec"]["replicas"] = json!(7);
    let scaled = updated(Some(&live), scaled, &writer("scaler"));
    assert!(matches!(applied_by(Some(&scaled), json!({"replicas": 1}), "kubectl", false), Err(Error::Conflicts(_))));
}

fn last_applied_key() -> &'static str {
    "kubectl.kubernetes.io/last-applied-configuration"
}
