//! What merging means, case by case.
mod copies;

use copies::{Copy, exchange, meet_at, pair_at, remove, stamp};
use eyot_crdt::{Conflict, Document, Vector};
use serde_json::{Value, json};

const KEY: &[u8] = b"/registry/pods/default/p";

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "namespace": "default", "uid": "u", "generation": 1, "resourceVersion": "7",
            "finalizers": ["a"], "labels": {"app": "x"}},
        "spec": {
            "nodeSelector": {"disk": "ssd"},
            "containers": [
                {"name": "one", "image": "a", "args": ["1", "2"],
                 "ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "protocol": "UDP"}]},
                {"name": "two", "image": "b"}
            ]
        }
    })
}

fn pair(object: &Value) -> (Copy, Copy) {
    pair_at(KEY, object)
}

fn meet(a: impl FnOnce(&mut Value), b: impl FnOnce(&mut Value)) -> (Value, Vec<Conflict>) {
    meet_at(KEY, &pod(), a, b)
}

#[test]
fn resource_version_is_never_inside() {
    let (one, two) = pair(&pod());
    let mut expected = pod();
    remove(&mut expected["metadata"], "resourceVersion");
    assert_eq!(two.value(), expected);
    assert!(one.document.says(KEY, Some(pod().to_string().as_bytes())));
}

#[test]
fn the_same_again_is_no_change() {
    let (mut one, _) = pair(&pod());
    let mut again = pod();
    again["metadata"]["resourceVersion"] = "8".into();
    assert_eq!(one.document.write(KEY, Some(again.to_string().as_bytes()), stamp(1, 11)), None);
}

#[test]
fn what_is_known_already_changes_nothing() {
    let (mut one, two) = pair(&pod());
    let edit = one.edit(20, |pod| pod["spec"]["nodeName"] = "n".into());
    let before = one.document.clone();
    assert!(one.document.merge(&edit).is_empty());
    assert_eq!(one.document, before);
    assert_ne!(one.document, two.document);
}

#[test]
fn edits_of_two_containers_both_stay() {
    let (merged, lost) = meet(
        |a| a["spec"]["containers"][0]["image"] = "a2".into(),
        |b| {
            b["spec"]["containers"][1]["image"] = "b2".into();
            b["spec"]["containers"].as_array_mut().unwrap().insert(0, json!({"name": "zero"}));
        },
    );
    let images: Vec<_> = merged["spec"]["containers"].as_array().unwrap().iter().map(|c| c["image"].clone()).collect();
    assert_eq!(images, [Value::Null, "a2".into(), "b2".into()]);
    assert_eq!(lost, []);
}

#[test]
fn the_later_write_wins_and_the_earlier_is_told() {
    let (mut one, mut two) = pair(&pod());
    let image = |image: &'static str| move |pod: &mut Value| pod["spec"]["containers"][0]["image"] = image.into();
    // The busier side must not win by its number of edits.
    let edits = [one.edit(20, |pod| pod["metadata"]["labels"]["n"] = "1".into()), one.edit(21, image("early"))];
    let late = two.edit(22, image("late"));
    let (merged, at_one, at_two) = exchange(&mut one, &mut two, &edits, &[late]);
    assert_eq!(merged["spec"]["containers"][0]["image"], "late");
    let expected = Conflict {
        life: "u".to_owned(),
        path: "spec.containers.one.image".to_owned(),
        winner: (stamp(2, 22), Some("late".into())),
        loser: (stamp(1, 21), Some("early".into())),
    };
    assert_eq!((at_one, at_two), (vec![expected.clone()], vec![expected]));
}

#[test]
fn the_same_value_twice_is_no_conflict() {
    let (_, lost) = meet(|a| a["spec"]["nodeName"] = "n".into(), |b| b["spec"]["nodeName"] = "n".into());
    assert_eq!(lost, []);
}

#[test]
fn generation_adds_up() {
    let (merged, lost) = meet(|a| a["metadata"]["generation"] = 2.into(), |b| b["metadata"]["generation"] = 2.into());
    assert_eq!(merged["metadata"]["generation"], 3);
    assert_eq!(lost, []);
}

#[test]
fn of_two_deletion_times_the_earlier_stays() {
    let delete = |time: &'static str, grace: i64| {
        move |pod: &mut Value| {
            pod["metadata"]["deletionTimestamp"] = time.into();
            pod["metadata"]["deletionGracePeriodSeconds"] = grace.into();
        }
    };
    let (merged, _) = meet(delete("2026-01-01T00:00:30Z", 30), delete("2026-01-01T00:00:05Z", 5));
    assert_eq!(merged["metadata"]["deletionTimestamp"], "2026-01-01T00:00:05Z");
    assert_eq!(merged["metadata"]["deletionGracePeriodSeconds"], 5);
    let (merged, _) = meet(delete("2026-01-01T00:00:05Z", 5), delete("2026-01-01T00:00:30Z", 30));
    assert_eq!(merged["metadata"]["deletionTimestamp"], "2026-01-01T00:00:05Z");
    let (merged, _) = meet(delete("2026-01-01T00:00:05Z", 9), |b| b["metadata"]["labels"]["n"] = "1".into());
    assert_eq!(merged["metadata"]["deletionGracePeriodSeconds"], 9);
}

#[test]
fn finalizers_unite_and_adding_beats_removing() {
    let (merged, lost) =
        meet(|a| a["metadata"]["finalizers"] = json!(["a", "b"]), |b| b["metadata"]["finalizers"] = json!(["c"]));
    assert_eq!(merged["metadata"]["finalizers"], json!(["c", "b"]));
    assert_eq!(lost, []);
    // Removing the last one removes the field; what somebody adds meanwhile stays.
    let (merged, _) =
        meet(|a| a["metadata"]["finalizers"] = json!(["a", "b"]), |b| remove(&mut b["metadata"], "finalizers"));
    assert_eq!(merged["metadata"]["finalizers"], json!(["b"]));
    let (mut one, mut two) = pair(&pod());
    let add = |pod: &mut Value| pod["metadata"]["finalizers"] = json!(["a", "z"]);
    let (a, b) = (one.edit(20, add), two.edit(21, add));
    let gone = two.edit(22, |pod| pod["metadata"]["finalizers"] = json!(["a"]));
    let (merged, at_one, _) = exchange(&mut one, &mut two, &[a], &[b, gone]);
    assert_eq!(merged["metadata"]["finalizers"], json!(["a", "z"]));
    assert_eq!(at_one.len(), 1, "the removal did not survive: {at_one:?}");
}

#[test]
fn maps_made_on_both_sides_become_one() {
    let (mut one, mut two) = pair(&pod());
    let a = one.edit(20, |pod| pod["metadata"]["annotations"] = json!({"a": "1", "both": "1"}));
    let b = two.edit(21, |pod| pod["metadata"]["annotations"] = json!({"b": "2", "both": "2"}));
    let (merged, lost, _) = exchange(&mut one, &mut two, &[a], &[b]);
    assert_eq!(merged["metadata"]["annotations"], json!({"a": "1", "b": "2", "both": "2"}));
    assert_eq!(lost.iter().map(|c| &*c.path).collect::<Vec<_>>(), ["metadata.annotations.both"]);
    // And what is then written replaces what either side had.
    let after = one.edit(30, |pod| pod["metadata"]["annotations"] = json!({"both": "3"}));
    assert!(two.document.merge(&after).is_empty());
    assert_eq!(two.value()["metadata"]["annotations"], json!({"both": "3"}));
}

#[test]
fn a_label_survives_that_the_remover_of_all_labels_did_not_know() {
    let (merged, lost) =
        meet(|a| a["metadata"]["labels"]["new"] = "1".into(), |b| remove(&mut b["metadata"], "labels"));
    assert_eq!(merged["metadata"]["labels"], json!({"new": "1"}));
    assert_eq!(lost, []);
}

#[test]
fn removed_with_an_edit_inside_stays_removed_and_the_edit_is_told() {
    let object = {
        let mut pod = pod();
        pod["spec"]["securityContext"] = json!({"runAsUser": 1, "seLinuxOptions": {"user": "a"}});
        pod
    };
    for (early, late) in [(true, "removed"), (false, "edited")] {
        let edit = |pod: &mut Value| pod["spec"]["securityContext"]["seLinuxOptions"]["user"] = "b".into();
        let gone = |pod: &mut Value| remove(&mut pod["spec"], "securityContext");
        let (merged, lost) = if early { meet_at(KEY, &object, edit, gone) } else { meet_at(KEY, &object, gone, edit) };
        assert_eq!(merged["spec"].get("securityContext"), None, "{late} later");
        assert_eq!(lost.len(), 1, "{lost:?}");
        assert_eq!(lost[0].winner.1, None);
        assert!(lost[0].loser.1.as_ref().unwrap().to_string().contains("\"b\""), "{lost:?}");
    }
}

#[test]
fn a_field_stays_in_what_was_made_anew() {
    let mut object = pod();
    object["spec"]["securityContext"] = json!({"runAsUser": 1});
    let (mut one, mut two) = pair(&object);
    let gone = one.edit(20, |pod| remove(&mut pod["spec"], "securityContext"));
    let again = one.edit(25, |pod| pod["spec"]["securityContext"] = json!({"runAsUser": 2}));
    let late = two.edit(22, |pod| pod["spec"]["securityContext"]["runAsGroup"] = 3.into());
    let (merged, ..) = exchange(&mut one, &mut two, &[gone, again], &[late]);
    assert_eq!(merged["spec"]["securityContext"], json!({"runAsUser": 2, "runAsGroup": 3}));
}

#[test]
fn a_removed_container_stays_removed_and_its_edit_is_told() {
    let (merged, lost) = meet(
        |a| drop(a["spec"]["containers"].as_array_mut().unwrap().remove(1)),
        |b| b["spec"]["containers"][1]["image"] = "b2".into(),
    );
    assert_eq!(merged["spec"]["containers"].as_array().unwrap().len(), 1);
    assert_eq!(lost[0].path, "spec.containers.two.image");
    assert_eq!((&lost[0].winner.1, &lost[0].loser.1), (&None, &Some("b2".into())));
}

#[test]
fn conditions_and_owners_merge_by_key() {
    let condition = |kind: &str, status: &str| json!({"type": kind, "status": status});
    let owner = |uid: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": uid, "uid": uid});
    let (merged, lost) = meet(
        |a| {
            a["status"] = json!({"conditions": [condition("Ready", "True")]});
            a["metadata"]["ownerReferences"] = json!([owner("1")]);
        },
        |b| {
            b["status"] = json!({"conditions": [condition("PodScheduled", "True"), condition("Ready", "True")]});
            b["metadata"]["ownerReferences"] = json!([owner("2")]);
        },
    );
    assert_eq!(merged["status"]["conditions"].as_array().unwrap().len(), 2);
    assert_eq!(merged["metadata"]["ownerReferences"], json!([owner("1"), owner("2")]));
    assert_eq!(lost, []);
}

#[test]
fn conditions_of_kinds_without_a_schema_merge_by_type() {
    let object = json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "t", "uid": "t"}, "spec": {"list": [1]}});
    let (merged, _) = meet_at(
        b"/registry/example.com/things/default/t",
        &object,
        |a| a["status"] = json!({"conditions": [{"type": "A", "status": "True"}]}),
        |b| b["status"] = json!({"conditions": [{"type": "B", "status": "True"}]}),
    );
    assert_eq!(merged["status"]["conditions"].as_array().unwrap().len(), 2);
}

#[test]
fn atomic_values_are_replaced_whole() {
    let (merged, lost) = meet(
        |a| {
            a["spec"]["nodeSelector"] = json!({"disk": "ssd", "zone": "a"});
            a["spec"]["containers"][0]["args"] = json!(["1"]);
        },
        |b| b["spec"]["nodeSelector"] = json!({"disk": "hdd"}),
    );
    assert_eq!(merged["spec"]["nodeSelector"], json!({"disk": "hdd"}));
    assert_eq!(merged["spec"]["containers"][0]["args"], json!(["1"]));
    assert_eq!(lost.len(), 1);
}

#[test]
fn a_duplicate_or_missing_key_makes_the_list_atomic() {
    let mut object = pod();
    object["spec"]["containers"][1]["name"] = "one".into();
    let (_, two) = pair(&object);
    assert_eq!(two.value()["spec"], object["spec"]);
    let (merged, _) = meet_at(
        KEY,
        &object,
        |a| a["spec"]["containers"][0]["image"] = "a2".into(),
        |b| b["spec"]["containers"][1]["image"] = "b2".into(),
    );
    assert_eq!(merged["spec"]["containers"][0]["image"], "a", "replaced whole by the later");
    assert_eq!(merged["spec"]["containers"][1]["image"], "b2");
    // And a list by key becomes atomic when such items come.
    let (mut one, mut two) = pair(&pod());
    let edit = one.edit(20, |pod| remove(&mut pod["spec"]["containers"][0], "name"));
    assert!(two.document.merge(&edit).is_empty());
    assert_eq!(two.value(), one.value());
}

#[test]
fn managed_fields_merge_as_sets_of_paths_a_manager() {
    let entry = |manager: &str, time: &str, field: &str| {
        json!({"manager": manager, "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "time": time,
            "fieldsV1": {"f:metadata": {"f:labels": {field: {}}}}})
    };
    let (merged, _) = meet(
        |a| a["metadata"]["managedFields"] = json!([entry("m", "1", "f:a"), entry("x", "1", "f:x")]),
        |b| b["metadata"]["managedFields"] = json!([entry("m", "2", "f:b")]),
    );
    let managers = merged["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(managers.len(), 2);
    let m = managers.iter().find(|entry| entry["manager"] == "m").unwrap();
    assert_eq!(m["fieldsV1"]["f:metadata"]["f:labels"], json!({"f:a": {}, "f:b": {}}));
    assert_eq!(m["time"], "2");
}

#[test]
fn a_delete_beats_an_edit_of_the_same_life() {
    let (mut one, mut two) = pair(&pod());
    let gone = one.put(None, 20);
    let late = two.edit(30, |pod| pod["metadata"]["labels"]["late"] = "yes".into());
    let (merged, at_one, at_two) = exchange(&mut one, &mut two, &[gone], &[late]);
    assert_eq!(merged, Value::Null);
    for lost in [at_one, at_two] {
        assert_eq!((lost.len(), &*lost[0].path, &lost[0].winner.1), (1, "", &None));
        assert_eq!(lost[0].loser.0, stamp(2, 30));
        assert!(lost[0].loser.1.as_ref().unwrap().to_string().contains("yes"));
    }
}

#[test]
fn what_is_deleted_may_be_made_again() {
    let (mut one, mut two) = pair(&pod());
    let gone = one.put(None, 20);
    let again = one.write(&pod(), 21);
    let other = one.edit(22, |pod| pod["metadata"]["uid"] = "v".into());
    for delta in [gone, again, other] {
        assert!(two.document.merge(&delta).is_empty());
    }
    assert_eq!(two.value(), one.value());
    assert_eq!(two.document.visible(KEY, None).life.as_deref(), Some("v"));
}

fn map(uid: &str, text: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "uid": uid}, "data": {"k": text, uid: "1"}})
}

#[test]
fn of_two_lives_the_older_stays_and_the_other_becomes_its_alias() {
    let key = b"/registry/configmaps/default/m";
    let (mut one, mut two) = (Copy::new(key, 1), Copy::new(key, 2));
    let (a, b) = (one.write(&map("younger", "a"), 20), two.write(&map("older", "b"), 19));
    let (merged, at_one, at_two) = exchange(&mut one, &mut two, &[a], &[b]);
    assert_eq!(merged, map("older", "b"));
    assert_eq!(one.document.visible(key, None).aliases, ["younger"]);
    for lost in [at_one, at_two] {
        assert_eq!((lost.len(), &*lost[0].path, &*lost[0].life), (1, "", "younger"));
        assert_eq!(lost[0].loser.1, Some(map("younger", "a")));
    }
    // Its name dies with the older one.
    let gone = two.put(None, 30);
    assert!(one.document.merge(&gone).is_empty());
    assert_eq!(one.value(), Value::Null);
}

#[test]
fn pods_are_never_aliased() {
    let (mut one, mut two) = (Copy::new(KEY, 1), Copy::new(KEY, 2));
    let (a, b) = (
        one.write(&pod(), 20),
        two.edit(19, |value| {
            *value = {
                let mut pod = pod();
                pod["metadata"]["uid"] = "v".into();
                pod
            }
        }),
    );
    exchange(&mut one, &mut two, &[a], &[b]);
    let visible = one.document.visible(KEY, None);
    assert_eq!((visible.life.as_deref(), visible.aliases.len()), (Some("v"), 0));
}

#[test]
fn made_twice_under_one_uid_is_one_life() {
    let key = b"/registry/configmaps/default/m";
    let (mut one, mut two) = (Copy::new(key, 1), Copy::new(key, 2));
    let mut other = map("u", "b");
    other["data"]["more"] = "1".into();
    let (a, b) = (one.write(&map("u", "b"), 20), two.write(&other, 19));
    let (merged, lost, _) = exchange(&mut one, &mut two, &[a], &[b]);
    assert_eq!((merged, lost), (other, vec![]));
}

/// Of three servers one deletes; one that did not know gives the object a selector, learns of the delete and makes the
/// object anew without it; the third makes it anew earlier, so that the selector is there, and writes into it.
#[test]
fn what_goes_out_of_sight_as_its_surroundings_are_made_anew_is_told() {
    let key = b"/registry/boats.example.com/default/b";
    let boat = json!({"apiVersion": "example.com/v1", "kind": "Boat", "metadata": {"uid": "u"}, "spec": {}});
    let (mut one, mut two) = pair_at(key, &boat);
    let mut three = one.clone();
    let gone = three.put(None, 20);
    let selector = two.edit(30, |boat| boat["spec"]["selector"] = json!({"k1": "w1"}));
    let told: Vec<Conflict> = two.document.merge(&gone);
    assert_eq!((told.len(), two.value()), (1, Value::Null));
    one.document.merge(&gone);
    let made = one.write(&boat, 25);
    one.document.merge(&selector);
    let inside = one.edit(35, |boat| boat["spec"]["selector"]["k0"] = "w2".into());
    let again = two.write(&boat, 32);
    let (merged, at_one, at_two) = exchange(&mut one, &mut two, &[made, inside], &[again]);
    assert_eq!(merged["spec"], json!({}));
    let told = |found: &[Conflict]| found.iter().any(|conflict| conflict.loser.1 == Some("w2".into()));
    assert!(told(&at_one), "{at_one:?}");
    assert!(
        at_two.iter().any(|conflict| conflict.loser.1.as_ref().is_some_and(|lost| lost.to_string().contains("w2")))
    );
    assert_eq!(at_one[0].path, "spec.selector.k0");
}

#[test]
fn bytes_without_an_identity_are_the_last_writers() {
    let (mut one, mut two) = (Document::default(), Document::default());
    let a = one.write(b"/mine", Some(b"a"), stamp(1, 20)).unwrap();
    let b = two.write(b"/mine", Some(b"\xff"), stamp(2, 21)).unwrap();
    assert_eq!(one.merge(&b).len(), 1);
    assert_eq!(two.merge(&a).len(), 1);
    assert_eq!(one, two);
    assert_eq!(one.visible(b"/mine", None).value.as_deref(), Some(&b"\xff"[..]));
    assert!(one.write(b"/mine", None, stamp(1, 30)).is_some());
    assert_eq!(one.visible(b"/mine", None).value, None);
    assert!(!one.prune(30));
}

#[test]
fn heartbeats_are_the_last_writers_as_they_came() {
    let key = b"/registry/leases/kube-node-lease/n";
    let mut one = Document::default();
    let bytes = b"{ \"metadata\": {\"uid\": \"u\"} }";
    one.write(key, Some(bytes), stamp(1, 1)).unwrap();
    assert_eq!(one.visible(key, None).value.as_deref(), Some(&bytes[..]));
}

#[test]
fn the_status_of_a_server_is_each_servers_own() {
    let key = b"/registry/eyot.dev/servers/s";
    let server = |lag: u64| json!({"apiVersion": "eyot.dev/v1", "kind": "Server", "metadata": {"name": "s", "uid": "u"}, "status": {"lag": lag}});
    let (mut one, two) = pair_at(key, &server(1));
    assert_eq!(two.value().get("status"), None);
    assert_eq!(one.document.write(key, Some(server(2).to_string().as_bytes()), stamp(1, 11)), None);
    let current = server(3).to_string();
    let visible = two.document.visible(key, Some(current.as_bytes())).value.unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&visible).unwrap(), server(3));
    assert!(two.document.says(key, Some(current.as_bytes())));
}

#[test]
fn what_was_forgotten_does_not_come_back_with_a_snapshot() {
    let (mut one, two) = pair(&pod());
    one.edit(20, |pod| {
        remove(&mut pod["metadata"], "labels");
        pod["spec"]["containers"].as_array_mut().unwrap().pop();
    });
    let seen = Vector::from_iter([stamp(1, 20)]);
    let before = one.value();
    assert!(one.document.prune(20));
    assert_eq!(one.value(), before);
    let mut stale = two.clone();
    assert!(stale.document.join(one.document.clone(), &Vector::from_iter([stamp(1, 10)]), &seen).is_empty());
    assert_eq!(stale.value(), before);
    assert!(one.document.join(two.document, &seen, &Vector::from_iter([stamp(1, 10)])).is_empty());
    assert_eq!(one.value(), before);
}

#[test]
fn unsent_work_on_what_is_gone_and_forgotten_is_told() {
    let (mut one, mut two) = pair(&pod());
    one.put(None, 20);
    two.edit(15, |pod| pod["spec"]["nodeName"] = "mine".into());
    assert!(!one.document.prune(20));
    let (mine, seen) = (Vector::from_iter([stamp(1, 10), stamp(2, 15)]), Vector::from_iter([stamp(1, 20)]));
    let lost = two.document.join(Document::default(), &mine, &seen);
    assert_eq!(two.value(), Value::Null);
    assert_eq!((lost.len(), &*lost[0].path), (1, ""));
    assert!(lost[0].loser.1.as_ref().unwrap().to_string().contains("mine"));
}

#[test]
fn it_does_not_grow_with_the_number_of_writes() {
    let (mut one, _) = pair(&pod());
    let size = one.document.encode().len();
    for time in 11..200 {
        one.edit(time, |pod| {
            pod["metadata"]["labels"] = json!({"app": "x", format!("l{}", time % 7): "1"});
            pod["spec"]["containers"][0]["image"] = format!("i{time}").into();
        });
    }
    one.edit(200, |value| {
        *value = {
            let mut pod = pod();
            remove(&mut pod["metadata"], "resourceVersion");
            pod
        }
    });
    one.document.prune(200);
    assert!(one.document.encode().len() <= size + 40, "{} of {size}", one.document.encode().len());
}
