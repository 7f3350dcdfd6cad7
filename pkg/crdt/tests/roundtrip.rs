//! What one server writes is what is served, whatever it is; and bytes that are none are refused.
use eyot_crdt::{Actor, Delta, Document, Stamp};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

const KEY: &[u8] = b"/registry/things/default/t";

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i32>().prop_map(|number| (f64::from(number) / 8.0).into()),
        "[a-z./~\u{0}\u{1}\"é]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 48, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map("[a-c./\u{0}]{0,3}", inner, 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// An object of some kind, with anything in it.
fn object() -> impl Strategy<Value = Value> {
    let anything = prop::collection::btree_map("spec|status|data|x", json_value(), 0..4);
    let metadata = prop::collection::btree_map("labels|annotations|generation|name|finalizers|z", json_value(), 0..5);
    let kind = prop_oneof![Just("Secret"), Just("Lease"), Just("Unknown")];
    (anything, metadata, kind).prop_map(|(rest, metadata, kind)| {
        let mut object: Map<String, Value> = rest.into_iter().collect();
        let mut metadata: Map<String, Value> = metadata.into_iter().collect();
        metadata.insert("uid".to_owned(), "u".into());
        object.extend([("apiVersion".to_owned(), "v1".into()), ("kind".to_owned(), kind.into())]);
        object.insert("metadata".to_owned(), metadata.into());
        object.into()
    })
}

fn value(document: &Document) -> Option<Value> {
    document.visible(KEY, None).value.map(|bytes| serde_json::from_slice(&bytes).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_servers_writes_are_what_is_served(objects in prop::collection::vec(object(), 1..5), prune in any::<bool>()) {
        let (mut one, mut two) = (Document::default(), Document::default());
        for (object, time) in objects.iter().zip(1..) {
            let bytes = object.to_string();
            let delta = one.write(KEY, Some(bytes.as_bytes()), Stamp { time, actor: Actor([1; 16]) });
            prop_assert_eq!(value(&one), Some(object.clone()));
            prop_assert!(one.says(KEY, Some(bytes.as_bytes())));
            if let Some(delta) = delta {
                let again = Delta::decode(&delta.encode()).unwrap();
                prop_assert_eq!(&again, &delta);
                prop_assert!(two.merge(&again).is_empty());
            }
            prop_assert_eq!(value(&two), Some(object.clone()));
            if prune {
                prop_assert!(one.prune(time));
                prop_assert_eq!(value(&one), Some(object.clone()));
            }
            prop_assert_eq!(&Document::decode(&one.encode()).unwrap(), &one);
        }
    }

    #[test]
    fn other_bytes_are_refused(object in object(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut document = Document::default();
        let stamp = Stamp { time: 1, actor: Actor([1; 16]) };
        let delta = document.write(KEY, Some(object.to_string().as_bytes()), stamp).unwrap();
        for bytes in [document.encode(), delta.encode()] {
            let short = &bytes[..cut.index(bytes.len())];
            prop_assert!(Document::decode(short).is_err() && Delta::decode(short).is_err());
            // Damage may read as something else, but never ends the process, and what it reads as can be merged.
            let mut damaged = bytes.clone();
            damaged[at.index(bytes.len())] = byte;
            if let Ok(mut read) = Document::decode(&damaged) {
                read.visible(KEY, None);
                read.prune(1);
            }
            if let Ok(read) = Delta::decode(&damaged) {
                document.clone().merge(&read);
            }
        }
    }
}

#[test]
fn a_number_that_loses_its_last_digit_is_the_same() {
    let mut document = Document::default();
    let object = |number: f64| json!({"metadata": {"uid": "u"}, "x": number, "y": [number]}).to_string();
    let stamp = |time| Stamp { time, actor: Actor([1; 16]) };
    document.write(KEY, Some(object(-9.045_499_238_253_13e-159).as_bytes()), stamp(1)).unwrap();
    let other = object(-9.045_499_238_253_127e-159);
    assert!(document.says(KEY, Some(other.as_bytes())));
    assert_eq!(document.write(KEY, Some(other.as_bytes()), stamp(2)), None);
}

#[test]
fn bytes_that_nest_without_end_are_refused() {
    // A place with one field without a name, over and over.
    let mut bytes = Document::default().encode();
    bytes.pop();
    bytes.extend([1, 1, b'u', 0, 0, 0]);
    bytes.extend([0x20, 1, 0].repeat(100_000));
    assert!(Document::decode(&bytes).is_err());
}
