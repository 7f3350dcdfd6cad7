//! Each case of the fixture is an object and what an unmodified kube-apiserver v1.36.3 said of it.
use super::*;
use crate::decode::{self, FieldValidation};
use crate::schema::{Schemas, Type};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct Case {
    name: String,
    object: Value,
    /// For an update.
    #[serde(default)]
    old: Option<Value>,
    /// `path: text`, as upstream's message has them.
    errors: Vec<String>,
}

/// Decoded and defaulted, as the engine has it.
fn prepared(object: &Value) -> (GroupVersionKind, Value) {
    let version = crate::GroupVersion::parse(object["apiVersion"].as_str().unwrap());
    let kind = GroupVersionKind::new(version.group, version.version, object["kind"].as_str().unwrap());
    let schemas = Schemas::builtin();
    let ty = Type::Ref(schemas.for_kind(&kind).unwrap().name.clone());
    let mut value = decode::check(object.clone(), &ty, schemas, FieldValidation::Ignore).unwrap().value;
    crate::default::default(&kind, &mut value, &ty, schemas);
    if kind.kind == "Job" && value["spec"]["selector"].is_null() {
        // As the resource's strategy does before it asks us.
        value["spec"]["selector"] = json!({"matchLabels": {"job": "a"}});
        value["spec"]["template"]["metadata"]["labels"] = json!({"job": "a"});
    }
    if kind.kind == "CustomResourceDefinition" && value["status"].get("storedVersions").is_none_or(Value::is_null) {
        let versions = value["spec"]["versions"].as_array().into_iter().flatten();
        let stored: Vec<Value> = versions.filter(|v| v["storage"] == true).map(|v| v["name"].clone()).collect();
        let established = json!([{"type": "Established", "status": "True"}]);
        value["status"] = json!({"storedVersions": stored, "conditions": established});
    }
    (kind, value)
}

/// Upstream shows whole structs under the names that its own code has for the fields; we show the API's.
fn without_structs(text: &str) -> String {
    match (text.find(": {").or_else(|| text.find(": [{")), text.rfind('}')) {
        (Some(from), Some(to)) if text[from..to].contains('"') => format!("{}: {{}}{}", &text[..from], &text[to + 1..]),
        _ => text.to_owned(),
    }
}

fn errors(object: &Value, old: Option<&Value>) -> Vec<String> {
    let (kind, mut new) = prepared(object);
    let old = old.map(|old| prepared(old).1);
    if let Some(old) = old.as_ref().filter(|_| kind.kind == "CustomResourceDefinition") {
        let stored = old["status"]["storedVersions"].as_array().into_iter().flatten().cloned();
        let all: Vec<Value> =
            stored.chain(new["status"]["storedVersions"].as_array().into_iter().flatten().cloned()).collect();
        new["status"]["storedVersions"] = all.into();
    }
    let all: std::collections::BTreeSet<String> =
        validate(&kind, &new, old.as_ref()).iter().map(ToString::to_string).collect();
    all.into_iter().collect()
}

#[test]
fn upstream_says_the_same() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("testdata/cases.json")).unwrap();
    assert!(cases.len() > 50, "the fixture is there");
    let mut differences = String::new();
    for case in cases {
        let sorted = |texts: Vec<String>| {
            let mut texts: Vec<String> = texts.iter().map(|text| without_structs(text)).collect();
            texts.sort();
            texts
        };
        let (ours, theirs) = (sorted(errors(&case.object, case.old.as_ref())), sorted(case.errors));
        if ours != theirs {
            let only = |these: &[String], those: &[String]| -> Vec<String> {
                these.iter().filter(|text| !those.contains(text)).cloned().collect()
            };
            let (ours, theirs) = (only(&ours, &theirs), only(&theirs, &ours));
            differences += &format!("{}:\n  only ours: {ours:#?}\n  only theirs: {theirs:#?}\n", case.name);
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

fn pod() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
        "spec": {"containers": [{"name": "a", "image": "x"}]}})
}

#[test]
fn what_was_wrong_before_may_stay_wrong_but_not_change() {
    let object = |label: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "a", "labels": {"a": label}}})
    };
    assert_eq!(errors(&object("-"), None).len(), 1);
    assert_eq!(errors(&object("-"), Some(&object("-"))), [""; 0]);
    assert_eq!(errors(&object("+"), Some(&object("-"))).len(), 1);
}

#[test]
fn each_subresource_opens_its_part_of_a_pod() {
    let kind = GroupVersionKind::new("", "v1", "Pod");
    let old = prepared(&pod()).1;
    let mut bound = old.clone();
    bound["spec"]["nodeName"] = "n".into();
    assert_eq!(validate(&kind, &bound, Some(&old)).len(), 1);
    assert_eq!(validate_subresource(&kind, "binding", &bound, Some(&old)), []);
    let mut image = old.clone();
    image["spec"]["containers"][0]["image"] = "y".into();
    assert_eq!(validate(&kind, &image, Some(&old)), []);
    let mut resized = old.clone();
    resized["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "1"}});
    assert_eq!(validate(&kind, &resized, Some(&old)).len(), 1);
    assert_eq!(validate_subresource(&kind, "resize", &resized, Some(&old)), []);
}

#[test]
fn secrets_are_not_shown() {
    let object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"},
        "type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "c2VjcmV0"}});
    let all = errors(&object, None);
    assert!(all.len() == 1 && all[0].contains("redacted") && !all[0].contains("secret\""), "{all:?}");
}

#[test]
fn every_fixture_kind_without_mistakes_is_accepted() {
    assert_eq!(errors(&pod(), None), [""; 0]);
}
