//! A document as one JSON object. Where edits met in one place, the later wins, by the hybrid clock of the change
//! and then by actor; automerge's own choice would favour whoever wrote more often.
use crate::Actor;
use crate::document::{DEAD, OBJECT};
use crate::encode::{ITEMS, KIND, ORDER, SET, unescape};
use automerge::{Automerge, ChangeHash, ObjId, ObjType, ReadDoc, ScalarValue, Value as Stored};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// When and by whom something was written; later is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// A reading of the hybrid clock.
    pub time: u64,
    pub actor: Actor,
}

/// Values that were written to one field by servers that did not know of each other.
#[derive(Clone, Debug, PartialEq)]
pub struct Conflict {
    /// Field names and item keys from the object's root, joined by dots.
    pub path: String,
    pub winner: (Stamp, Value),
    /// Latest first.
    pub losers: Vec<(Stamp, Value)>,
}

/// What all edits together say.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// The object, or its last state when it is dead; none before its first edit arrived.
    pub value: Option<Value>,
    /// A delete beats every edit of the same life.
    pub dead: bool,
    pub conflicts: Vec<Conflict>,
}

/// A document, or a transaction on one, that knows which change made an operation.
pub(crate) trait History: ReadDoc {
    fn change_of(&self, id: &ObjId) -> Option<ChangeHash>;
}

impl History for Automerge {
    fn change_of(&self, id: &ObjId) -> Option<ChangeHash> {
        self.hash_for_opid(id)
    }
}

impl History for automerge::transaction::Transaction<'_> {
    fn change_of(&self, id: &ObjId) -> Option<ChangeHash> {
        self.hash_for_opid(id)
    }
}

/// One of the values that are visible in a place.
pub(crate) struct Seen<'a> {
    pub value: Stored<'a>,
    pub id: ObjId,
    pub stamp: Stamp,
    /// Tells apart two writes of one change.
    operation: u64,
}

impl Seen<'_> {
    fn is_map(&self) -> bool {
        matches!(self.value, Stored::Object(ObjType::Map))
    }
}

/// The maps that are visible in one place, all of one sort: together they are one map.
pub(crate) struct Node {
    pub ids: Vec<ObjId>,
    /// How it encodes a list; none: it is an object.
    pub kind: Option<String>,
}

/// Every value at `key` of a map that is made of `nodes`, the winner first.
pub(crate) fn seen<'a>(doc: &'a impl History, nodes: &[ObjId], key: &str) -> Vec<Seen<'a>> {
    let all = nodes.iter().flat_map(|node| doc.get_all(node, key).unwrap_or_default());
    let mut all: Vec<(Stored<'a>, ObjId)> = all.collect();
    let alone = all.len() == 1;
    let mut all: Vec<Seen<'a>> = all
        .drain(..)
        .map(|(value, id)| {
            let stamp = if alone { Stamp { time: 0, actor: Actor([0; 16]) } } else { stamp(doc, &id) };
            let operation = if let ObjId::Id(operation, ..) = &id { *operation } else { 0 };
            Seen { value, id, stamp, operation }
        })
        .collect();
    all.sort_by_key(|seen| std::cmp::Reverse((seen.stamp, seen.operation)));
    all
}

/// Who wrote an operation, and when. What is being written in this very transaction is the latest.
fn stamp(doc: &impl History, id: &ObjId) -> Stamp {
    let change = doc.change_of(id).and_then(|hash| doc.get_change_by_hash(&hash));
    let time = change.map_or(u64::MAX, |change| change.timestamp() as u64);
    let mut actor = [0; 16];
    if let ObjId::Id(_, id, _) = id {
        let bytes = id.to_bytes();
        let length = bytes.len().min(actor.len());
        actor[..length].copy_from_slice(&bytes[..length]);
    }
    Stamp { time, actor: Actor(actor) }
}

/// The map that wins a place, out of all maps of its sort there; none when a plain value wins.
pub(crate) fn node(doc: &impl History, seen: &[Seen<'_>]) -> Option<Node> {
    let winner = seen.first().filter(|winner| winner.is_map())?;
    let kind = kind(doc, &winner.id);
    let same = seen.iter().filter(|other| other.is_map() && self::kind(doc, &other.id).is_some() == kind.is_some());
    Some(Node { ids: same.map(|other| other.id.clone()).collect(), kind })
}

fn kind(doc: &impl History, id: &ObjId) -> Option<String> {
    let (kind, _) = doc.get(id, KIND).ok()??;
    Some(kind.as_str()?.to_owned())
}

/// Keys of a map that is made of `nodes`, in order.
pub(crate) fn keys(doc: &impl History, nodes: &[ObjId]) -> BTreeSet<String> {
    nodes.iter().flat_map(|node| doc.keys(node)).collect()
}

/// The place of an item in its list.
pub(crate) fn place(doc: &impl History, order: &[ObjId], key: &str) -> Option<i64> {
    seen(doc, order, key).first()?.value.as_i64()
}

pub(crate) fn view(doc: &Automerge) -> View {
    let mut viewer = Viewer { doc, path: Vec::new(), conflicts: Vec::new() };
    let value = viewer.value(&[automerge::ROOT], OBJECT);
    let dead = matches!(doc.get(automerge::ROOT, DEAD), Ok(Some(_)));
    View { value, dead, conflicts: viewer.conflicts }
}

struct Viewer<'a> {
    doc: &'a Automerge,
    path: Vec<String>,
    conflicts: Vec<Conflict>,
}

impl Viewer<'_> {
    fn value(&mut self, nodes: &[ObjId], key: &str) -> Option<Value> {
        let seen = seen(self.doc, nodes, key);
        let winner = seen.first()?;
        let node = node(self.doc, &seen);
        let value = match &node {
            Some(node) => self.map(node),
            None => plain(&winner.value),
        };
        if seen.len() > 1 {
            let merged = |other: &&Seen<'_>| !node.as_ref().is_some_and(|node| node.ids.contains(&other.id));
            let losers = seen[1..].iter().filter(merged).map(|loser| (loser.stamp, self.alone(loser)));
            let losers: Vec<_> = losers.filter(|(_, lost)| *lost != value).collect();
            self.report(winner.stamp, &value, losers);
        }
        Some(value)
    }

    fn report(&mut self, stamp: Stamp, value: &Value, losers: Vec<(Stamp, Value)>) {
        if !losers.is_empty() {
            let winner = (stamp, value.clone());
            self.conflicts.push(Conflict { path: self.path.join("."), winner, losers });
        }
    }

    /// A value that lost, for the report.
    fn alone(&self, loser: &Seen<'_>) -> Value {
        if !loser.is_map() {
            return plain(&loser.value);
        }
        let node = Node { ids: vec![loser.id.clone()], kind: kind(self.doc, &loser.id) };
        Viewer { doc: self.doc, path: Vec::new(), conflicts: Vec::new() }.map(&node)
    }

    fn map(&mut self, node: &Node) -> Value {
        match &node.kind {
            None => Value::Object(self.fields(&node.ids)),
            Some(kind) => Value::Array(self.list(&node.ids, kind)),
        }
    }

    fn fields(&mut self, nodes: &[ObjId]) -> Map<String, Value> {
        let keys = keys(self.doc, nodes);
        let mut fields = Map::new();
        for stored in &keys {
            let Some(key) = unescape(stored) else { continue };
            self.path.push(key.to_owned());
            if let Some(value) = self.value(nodes, stored) {
                fields.insert(key.to_owned(), value);
            }
            self.path.pop();
        }
        fields
    }

    fn list(&mut self, nodes: &[ObjId], kind: &str) -> Vec<Value> {
        let order = children(self.doc, nodes, ORDER);
        let mut placed: Vec<(i64, String)> = if kind == SET {
            let keys = keys(self.doc, &order);
            keys.into_iter().map(|key| (place(self.doc, &order, &key).unwrap_or_default(), key)).collect()
        } else {
            // An item without a place was removed by one server and edited by another: the removal stands for
            // the place only, so it goes to the end.
            let keys = keys(self.doc, &children(self.doc, nodes, ITEMS));
            keys.into_iter().map(|key| (place(self.doc, &order, &key).unwrap_or(i64::MAX), key)).collect()
        };
        placed.sort();
        if kind == SET {
            return placed.into_iter().filter_map(|(_, key)| serde_json::from_str(&key).ok()).collect();
        }
        let items = children(self.doc, nodes, ITEMS);
        let mut list = Vec::new();
        for (_, key) in placed {
            self.path.push(key.clone());
            list.extend(self.value(&items, &key));
            self.path.pop();
        }
        list
    }
}

/// All maps under one key of a map that is made of `nodes`.
pub(crate) fn children(doc: &impl History, nodes: &[ObjId], key: &str) -> Vec<ObjId> {
    let all = nodes.iter().flat_map(|node| doc.get_all(node, key).unwrap_or_default());
    let mut ids: Vec<_> = all.filter(|(value, _)| value.is_object()).map(|(_, id)| id).collect();
    ids.sort();
    ids
}

fn plain(value: &Stored<'_>) -> Value {
    let Some(scalar) = value.as_scalar() else { return Value::Null };
    match scalar {
        ScalarValue::Boolean(yes) => Value::Bool(*yes),
        ScalarValue::Str(text) => Value::String(text.to_string()),
        ScalarValue::Int(n) => (*n).into(),
        ScalarValue::Uint(n) => (*n).into(),
        ScalarValue::Counter(n) => i64::from(n).into(),
        ScalarValue::F64(n) => serde_json::Number::from_f64(*n).map_or(Value::Null, Value::Number),
        ScalarValue::Bytes(json) => serde_json::from_slice(json).unwrap_or(Value::Null),
        _ => Value::Null,
    }
}
