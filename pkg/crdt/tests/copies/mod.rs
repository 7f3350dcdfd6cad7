//! Two servers that know one object, write it apart and meet.
#![allow(dead_code, reason = "each test program uses some of it")]
use eyot_crdt::{Actor, Conflict, Delta, Document, Stamp};
use serde_json::Value;

pub fn stamp(actor: u8, time: u64) -> Stamp {
    Stamp { time, actor: Actor([actor; 16]) }
}

/// One server's copy of one key.
#[derive(Clone)]
pub struct Copy {
    pub key: Vec<u8>,
    actor: u8,
    pub document: Document,
}

impl Copy {
    pub fn new(key: &[u8], actor: u8) -> Self {
        Self { key: key.to_vec(), actor, document: Document::default() }
    }

    pub fn write(&mut self, value: &Value, time: u64) -> Delta {
        self.put(Some(value), time)
    }

    pub fn put(&mut self, value: Option<&Value>, time: u64) -> Delta {
        let bytes = value.map(|value| serde_json::to_vec(value).unwrap());
        let delta =
            self.document.write(&self.key, bytes.as_deref(), stamp(self.actor, time)).expect("something differs");
        assert!(self.document.says(&self.key, bytes.as_deref()), "{}", self.value());
        delta
    }

    pub fn edit(&mut self, time: u64, edit: impl FnOnce(&mut Value)) -> Delta {
        let mut value = self.value();
        edit(&mut value);
        self.write(&value, time)
    }

    pub fn value(&self) -> Value {
        let value = self.document.visible(&self.key, None).value;
        value.map_or(Value::Null, |bytes| serde_json::from_slice(&bytes).unwrap())
    }
}

/// Two servers that know the same object.
pub fn pair_at(key: &[u8], object: &Value) -> (Copy, Copy) {
    let (mut one, mut two) = (Copy::new(key, 1), Copy::new(key, 2));
    let first = one.write(object, 10);
    assert!(two.document.merge(&first).is_empty());
    (one, two)
}

/// Each learns what the other wrote. Returns what both then say, and what the first and the second lost.
pub fn exchange(
    one: &mut Copy,
    two: &mut Copy,
    from_one: &[Delta],
    from_two: &[Delta],
) -> (Value, Vec<Conflict>, Vec<Conflict>) {
    let at_one = from_two.iter().flat_map(|delta| one.document.merge(delta)).collect();
    let at_two = from_one.iter().flat_map(|delta| two.document.merge(delta)).collect();
    assert_eq!(one.document.visible(&one.key, None), two.document.visible(&two.key, None));
    (one.value(), at_one, at_two)
}

/// Two concurrent edits of an object, and what comes of them.
pub fn meet_at(
    key: &[u8],
    object: &Value,
    a: impl FnOnce(&mut Value),
    b: impl FnOnce(&mut Value),
) -> (Value, Vec<Conflict>) {
    let (mut one, mut two) = pair_at(key, object);
    let (a, b) = (one.edit(20, a), two.edit(21, b));
    let (value, at_one, at_two) = exchange(&mut one, &mut two, &[a], &[b]);
    assert_eq!(at_one.len(), at_two.len(), "{at_one:?} {at_two:?}");
    (value, at_one)
}

pub fn remove(value: &mut Value, field: &str) {
    value.as_object_mut().unwrap().remove(field).expect("it is there");
}
