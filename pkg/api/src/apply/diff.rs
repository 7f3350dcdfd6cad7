//! What differs between two objects, as three sets of fields. Equal subtrees are left at once.
use super::set::Set;
use super::types::{Fields, Items, Shape, Ty, Types};
use serde_json::{Map, Value};
use std::collections::HashMap;

/// No field is in more than one of the sets.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Comparison {
    pub removed: Set,
    pub modified: Set,
    pub added: Set,
}

impl Comparison {
    pub fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.modified.is_empty() && self.added.is_empty()
    }
}

pub(super) fn compare(old: &Value, new: &Value, ty: Ty<'_>, types: &Types<'_>) -> Comparison {
    let mut walk = Walk { types, path: Vec::new(), out: Comparison::default() };
    walk.values(Some(old), Some(new), ty);
    walk.out
}

struct Walk<'a> {
    types: &'a Types<'a>,
    path: Vec<String>,
    out: Comparison,
}

impl<'a> Walk<'a> {
    fn values(&mut self, old: Option<&Value>, new: Option<&Value>, ty: Ty<'a>) {
        if old == new {
            return;
        }
        // A list or map that is there but nil: its elements come and go without it.
        if matches!((old, new), (Some(Value::Null), Some(_)) | (Some(_), Some(Value::Null))) {
            return self.nil(old, new, ty);
        }
        let shape = |value: Option<&Value>| value.map(|value| self.types.shape(ty, value));
        match (shape(old), shape(new)) {
            (Some(Shape::Object(fields)), None | Some(Shape::Object(_))) | (None, Some(Shape::Object(fields))) => {
                self.objects(old, new, fields);
            }
            (Some(Shape::List(items)), None | Some(Shape::List(_))) | (None, Some(Shape::List(items))) => {
                self.lists(old, new, items);
            }
            (Some(Shape::Leaf) | None, Some(Shape::Leaf) | None) => self.leaf(old, new),
            // The kind of value changed: the parts that it had go, those that it has now come.
            _ => {
                self.parts(old, None, ty);
                self.parts(None, new, ty);
                self.out.modified.insert(&self.path);
            }
        }
    }

    fn nil(&mut self, old: Option<&Value>, new: Option<&Value>, ty: Ty<'a>) {
        let present = |value: Option<&'_ Value>| value.is_some_and(|value| !value.is_null());
        let value = if present(old) { old } else { new };
        let empty =
            |value: &Value| value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty);
        let granular = value.is_some_and(|value| !matches!(self.types.shape(ty, value), Shape::Leaf));
        if granular && !value.is_some_and(empty) {
            self.parts(old.filter(|v| !v.is_null()), new.filter(|v| !v.is_null()), ty);
        } else {
            self.out.modified.insert(&self.path);
        }
    }

    fn leaf(&mut self, old: Option<&Value>, new: Option<&Value>) {
        let set = match (old, new) {
            (None, _) => &mut self.out.added,
            (_, None) => &mut self.out.removed,
            _ => &mut self.out.modified,
        };
        set.insert(&self.path);
    }

    fn parts(&mut self, old: Option<&Value>, new: Option<&Value>, ty: Ty<'a>) {
        match old.or(new).map(|value| self.types.shape(ty, value)) {
            Some(Shape::Object(fields)) => self.fields(old, new, fields),
            Some(Shape::List(items)) => self.elements(old, new, items),
            _ => {}
        }
    }

    fn objects(&mut self, old: Option<&Value>, new: Option<&Value>, fields: Fields<'a>) {
        let empty = |value: Option<&Value>| value.and_then(Value::as_object).is_none_or(Map::is_empty);
        if empty(old) && empty(new) {
            return self.leaf(old, new);
        }
        self.fields(old, new, fields);
        self.whole(old, new);
    }

    fn lists(&mut self, old: Option<&Value>, new: Option<&Value>, items: Items<'a>) {
        let empty = |value: Option<&Value>| value.and_then(Value::as_array).is_none_or(Vec::is_empty);
        if empty(old) && empty(new) {
            return self.leaf(old, new);
        }
        self.elements(old, new, items);
        self.whole(old, new);
    }

    /// What came or went as a whole is itself added or removed, besides its parts.
    fn whole(&mut self, old: Option<&Value>, new: Option<&Value>) {
        if old.is_none() || new.is_none() {
            self.leaf(old, new);
        }
    }

    fn fields(&mut self, old: Option<&Value>, new: Option<&Value>, fields: Fields<'a>) {
        let none = Map::new();
        let (was, is) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
        let golang = self.types.schemas.golang;
        let there = |name: &str, value: &Value| !(golang && fields.leaves_out(name, value));
        // Where there is an object at all, some fields of it are always there.
        let absent = |object: Option<&_>, name: &str| object.and_then(|_: &Map<_, _>| fields.absent(name));
        for (name, value) in was.unwrap_or(&none) {
            let new = is.and_then(|is| is.get(name)).filter(|new| there(name, new)).or_else(|| absent(is, name));
            self.field(name, Some(value).filter(|old| there(name, old)), new, fields);
        }
        for (name, value) in is.unwrap_or(&none) {
            if was.is_none_or(|was| !was.contains_key(name)) {
                self.field(name, absent(was, name), Some(value).filter(|new| there(name, new)), fields);
            }
        }
    }

    fn field(&mut self, name: &str, old: Option<&Value>, new: Option<&Value>, fields: Fields<'a>) {
        // Bookkeeping itself is nobody's.
        let bookkeeping = name == "managedFields" && matches!(&self.path[..], [meta] if meta == "f:metadata");
        if old != new && !bookkeeping {
            self.path.push(format!("f:{name}"));
            self.values(old, new, fields.child(name));
            self.path.pop();
        }
    }

    fn elements(&mut self, old: Option<&Value>, new: Option<&Value>, items: Items<'a>) {
        fn list(value: Option<&Value>) -> &[Value] {
            value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
        }
        let (olds, news) = (list(old), list(new));
        match (self.types.elements(items, olds), self.types.elements(items, news)) {
            (Some(old_ids), Some(new_ids)) => {
                let old = by_identity(&old_ids, olds);
                let new = by_identity(&new_ids, news);
                for (id, olds) in &old {
                    self.element(id, olds, new.get(id).map_or(&[], Vec::as_slice), items);
                }
                for (id, news) in new.iter().filter(|(id, _)| !old.contains_key(*id)) {
                    self.element(id, &[], news, items);
                }
            }
            // Elements without identity: nothing finer than the list can be owned.
            _ => self.leaf(old, new),
        }
    }

    /// Elements of one identity; more than one on a side are compared as a whole.
    fn element(&mut self, id: &str, old: &[&Value], new: &[&Value], items: Items<'a>) {
        if old == new {
            return;
        }
        self.path.push(id.to_owned());
        match (old, new) {
            ([] | [_], [] | [_]) => self.values(old.first().copied(), new.first().copied(), items.item()),
            ([_, _, ..], [_, _, ..]) => self.out.modified.insert(&self.path),
            ([_, _, ..], _) => {
                self.out.removed.insert(&self.path);
                if let Some(new) = new.first() {
                    self.values(None, Some(new), items.item());
                }
            }
            (_, _) => {
                if let Some(old) = old.first() {
                    self.values(Some(old), None, items.item());
                }
                self.out.added.insert(&self.path);
            }
        }
        self.path.pop();
    }
}

fn by_identity<'v>(ids: &'v [String], values: &'v [Value]) -> HashMap<&'v str, Vec<&'v Value>> {
    let mut map: HashMap<&str, Vec<&Value>> = HashMap::with_capacity(ids.len());
    for (id, value) in ids.iter().zip(values) {
        map.entry(id).or_default().push(value);
    }
    map
}
