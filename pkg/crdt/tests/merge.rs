//! Merging, over arbitrary edits, orders and duplications.
use eyot_crdt::{Actor, Document, Shape};
use proptest::prelude::*;
use serde_json::{Value, json};

fn shape(object: &Value) -> Shape<'_> {
    Shape::of(object, api::schema::Schemas::builtin())
}

fn actor(n: u8) -> Actor {
    Actor([n; 16])
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "uid": "u", "generation": 1, "finalizers": ["a"], "labels": {"app": "x"}},
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

/// Two servers that know the same pod.
fn pair(object: &Value) -> (Document, Document) {
    let mut one = Document::new(actor(1));
    let first = one.write(object, shape(object), 10).unwrap().unwrap();
    let two = Document::load(actor(2), [&first[..]]).unwrap();
    (one, two)
}

fn both_ways(one: &mut Document, two: &mut Document, from_one: &[u8], from_two: &[u8]) -> Value {
    one.merge(from_two).unwrap();
    two.merge(from_one).unwrap();
    assert_eq!(one.view(), two.view());
    one.view().value.unwrap()
}

fn edit(document: &mut Document, object: &Value, time: u64) -> Vec<u8> {
    let change = document.write(object, shape(object), time).unwrap().expect("something differs");
    assert_eq!(document.view().value.as_ref(), Some(object));
    change
}

#[test]
fn an_object_reads_as_it_was_written() {
    let (one, two) = pair(&pod());
    assert_eq!(one.view().value, Some(pod()));
    assert_eq!(two.view().value, Some(pod()));
    assert!(one.view().conflicts.is_empty());
}

#[test]
fn the_same_again_is_no_change() {
    let (mut one, _) = pair(&pod());
    assert!(one.write(&pod(), shape(&pod()), 11).unwrap().is_none());
}

#[test]
fn edits_of_two_containers_both_stay() {
    let (mut one, mut two) = pair(&pod());
    let (mut a, mut b) = (pod(), pod());
    a["spec"]["containers"][0]["image"] = "a2".into();
    b["spec"]["containers"][1]["image"] = "b2".into();
    b["spec"]["containers"].as_array_mut().unwrap().insert(0, json!({"name": "zero"}));
    let (a, b) = (edit(&mut one, &a, 20), edit(&mut two, &b, 21));
    let merged = both_ways(&mut one, &mut two, &a, &b);
    let images: Vec<_> = merged["spec"]["containers"].as_array().unwrap().iter().map(|c| c["image"].clone()).collect();
    assert_eq!(images, [Value::Null, "a2".into(), "b2".into()]);
}

#[test]
fn the_later_write_wins_and_the_earlier_is_reported() {
    let (mut one, mut two) = pair(&pod());
    let (mut a, mut b) = (pod(), pod());
    a["spec"]["containers"][0]["image"] = "early".into();
    b["spec"]["containers"][0]["image"] = "late".into();
    // The busier side must not win by its number of edits.
    let mut busy = a.clone();
    busy["metadata"]["labels"]["n"] = "1".into();
    let first = edit(&mut one, &busy, 20);
    let second = edit(&mut one, &a, 21);
    let late = edit(&mut two, &b, 22);
    two.merge(&first).unwrap();
    let merged = both_ways(&mut one, &mut two, &second, &late);
    assert_eq!(merged["spec"]["containers"][0]["image"], "late");
    let conflicts = one.view().conflicts;
    assert_eq!(conflicts.len(), 1);
    assert!(conflicts[0].path.ends_with("image"), "{}", conflicts[0].path);
    assert_eq!(conflicts[0].losers[0].1, "early");
}

#[test]
fn generation_adds_up_and_sets_unite() {
    let (mut one, mut two) = pair(&pod());
    let (mut a, mut b) = (pod(), pod());
    (a["metadata"]["generation"], b["metadata"]["generation"]) = (2.into(), 2.into());
    (a["metadata"]["finalizers"], b["metadata"]["finalizers"]) = (json!(["a", "b"]), json!(["c"]));
    let (a, b) = (edit(&mut one, &a, 20), edit(&mut two, &b, 21));
    let merged = both_ways(&mut one, &mut two, &a, &b);
    assert_eq!(merged["metadata"]["generation"], 3);
    assert_eq!(merged["metadata"]["finalizers"], json!(["c", "b"]));
}

#[test]
fn maps_made_on_both_sides_become_one() {
    let (mut one, mut two) = pair(&pod());
    let (mut a, mut b) = (pod(), pod());
    a["metadata"]["annotations"] = json!({"a": "1", "both": "1"});
    b["metadata"]["annotations"] = json!({"b": "2", "both": "2"});
    let (a, b) = (edit(&mut one, &a, 20), edit(&mut two, &b, 21));
    let merged = both_ways(&mut one, &mut two, &a, &b);
    assert_eq!(merged["metadata"]["annotations"], json!({"a": "1", "b": "2", "both": "2"}));
    // And what is then written replaces what either side had.
    let mut after = merged.clone();
    after["metadata"]["annotations"] = json!({"both": "3"});
    let change = edit(&mut one, &after, 30);
    two.merge(&change).unwrap();
    assert_eq!(two.view().value, Some(after));
}

#[test]
fn atomic_values_are_replaced_whole() {
    let (mut one, mut two) = pair(&pod());
    let (mut a, mut b) = (pod(), pod());
    a["spec"]["nodeSelector"] = json!({"disk": "ssd", "zone": "a"});
    b["spec"]["nodeSelector"] = json!({"disk": "hdd"});
    a["spec"]["containers"][0]["args"] = json!(["1"]);
    let (a, b) = (edit(&mut one, &a, 20), edit(&mut two, &b, 21));
    let merged = both_ways(&mut one, &mut two, &a, &b);
    assert_eq!(merged["spec"]["nodeSelector"], json!({"disk": "hdd"}));
    assert_eq!(merged["spec"]["containers"][0]["args"], json!(["1"]));
}

#[test]
fn a_duplicate_key_makes_the_list_atomic() {
    let mut object = pod();
    object["spec"]["containers"][1]["name"] = "one".into();
    let (one, two) = pair(&object);
    assert_eq!(one.view().value.as_ref(), Some(&object));
    assert_eq!(two.view().value, Some(object));
}

#[test]
fn a_delete_beats_an_edit_of_the_same_life() {
    let (mut one, mut two) = pair(&pod());
    let mut b = pod();
    b["metadata"]["labels"]["late"] = "yes".into();
    let gone = one.bury(20).unwrap().unwrap();
    let late = edit(&mut two, &b, 30);
    both_ways(&mut one, &mut two, &gone, &late);
    assert!(one.view().dead && one.is_dead());
}

/// One edit of one server: which, what, when.
#[derive(Clone, Debug)]
struct Edit {
    server: u8,
    field: u8,
    text: u8,
    /// Whose changes it takes in first.
    pull: Option<u8>,
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let one = (0..3u8, 0..8u8, 0..4u8, proptest::option::of(0..3u8));
    prop::collection::vec(one.prop_map(|(server, field, text, pull)| Edit { server, field, text, pull }), 1..16)
}

fn apply(object: &mut Value, edit: &Edit) {
    let text = Value::from(format!("t{}", edit.text));
    match edit.field {
        0 => object["metadata"]["labels"]["app"] = text,
        1 => object["metadata"]["annotations"] = json!({ format!("k{}", edit.text): text }),
        2 => object["metadata"]["finalizers"] = json!([text, "z"]),
        3 => object["metadata"]["generation"] = (object["metadata"]["generation"].as_i64().unwrap() + 1).into(),
        4 => object["spec"]["containers"] = json!([{"name": text, "image": "i"}, {"name": "one", "image": text}]),
        5 => object["spec"]["nodeSelector"] = json!({"at": text}),
        6 => drop(object["metadata"].as_object_mut().unwrap().remove("annotations")),
        _ => object["spec"]["containers"].as_array_mut().unwrap().reverse(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Commutative, associative, idempotent: whoever has all changes, in whatever order and how often, says the same.
    #[test]
    fn all_orders_converge(edits in edits(), shuffle in any::<u64>()) {
        let mut first = Document::new(actor(9));
        let birth = first.write(&pod(), shape(&pod()), 1).unwrap().unwrap();
        let mut servers: Vec<_> = (0..3).map(|n| Document::load(actor(n), [&birth[..]]).unwrap()).collect();
        let mut made: Vec<Vec<Vec<u8>>> = vec![Vec::new(); 3];
        for (n, edit) in edits.iter().enumerate() {
            let server = usize::from(edit.server);
            if let Some(from) = edit.pull {
                for change in made[usize::from(from)].clone() {
                    servers[server].merge(&change).unwrap();
                }
            }
            let mut object = servers[server].view().value.unwrap();
            apply(&mut object, edit);
            let change = servers[server].write(&object, shape(&object), 10 + n as u64).unwrap();
            prop_assert_eq!(servers[server].view().value, Some(object));
            made[server].extend(change);
        }
        let all: Vec<Vec<u8>> = std::iter::once(birth).chain(made.into_iter().flatten()).collect();
        let in_order = Document::load(actor(20), all.iter().map(|c| &c[..])).unwrap().view();
        let mut order: Vec<usize> = (0..all.len()).chain(0..all.len()).collect();
        order.sort_by_key(|n| (*n as u64 + 1).wrapping_mul(shuffle | 1).rotate_left(17));
        let shuffled = Document::load(actor(21), order.iter().map(|n| &all[*n][..])).unwrap();
        prop_assert_eq!(&shuffled.view(), &in_order);
        let saved = shuffled.save();
        prop_assert_eq!(&Document::load(actor(22), [&saved[..]]).unwrap().view(), &in_order);
        for server in &mut servers {
            all.iter().try_for_each(|change| server.merge(change)).unwrap();
            prop_assert_eq!(&server.view(), &in_order);
        }
    }
}
