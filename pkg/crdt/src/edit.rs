//! What one write changes: the difference between what a document says and what it shall say.
use crate::place::{Name, Own, Place, What, field_name, field_of, item_name, same};
use crate::shape::Shape;
use crate::{Actor, Stamp};
use serde_json::{Map, Value};
use std::collections::HashSet;

/// Between the positions of neighbours, so that an insertion need not move others.
const GAP: i64 = 64;

/// One write's changes in one place and inside it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Edit {
    pub what: Option<What>,
    /// See [`crate::place::Own::hollow`].
    pub hollow: bool,
    /// The place was made anew: what its maker saw inside is gone.
    pub fresh: bool,
    /// An item's new position.
    pub order: Option<i64>,
    pub dot: Option<Dot>,
    pub fields: Vec<(Name, Edit)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dot {
    /// An item of a set is there.
    Add,
    /// Everybody's additions of it that the writer has seen are undone.
    Remove,
    /// All that the writer has added to a counter so far.
    Count(i64),
}

impl Edit {
    fn of(what: What) -> Self {
        Self { what: Some(what), ..Self::default() }
    }

    fn dot(dot: Dot) -> Self {
        Self { dot: Some(dot), ..Self::default() }
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it says that something is there: the collection around it then is there, too.
    fn asserts(&self) -> bool {
        let there = self.what.as_ref().is_some_and(|what| *what != What::Absent && !self.hollow);
        there || self.dot == Some(Dot::Add)
    }

    /// The values that it writes, as JSON; none: it removes. `name` is its place's.
    pub fn value(&self, name: &str) -> Option<Value> {
        match (&self.what, self.dot) {
            (_, Some(Dot::Add)) => crate::place::item_of(name).and_then(|key| serde_json::from_str(key).ok()),
            (_, Some(Dot::Count(amount))) => Some(amount.into()),
            (_, Some(Dot::Remove)) | (Some(What::Absent), _) => None,
            (Some(What::Scalar(value) | What::Least(value)), _) => Some(value.clone()),
            (Some(What::Whole(text)), _) => serde_json::from_str(text).ok(),
            (Some(What::Keyed(_) | What::Set), _) => {
                Some(self.fields.iter().filter_map(|(name, item)| item.value(name)).collect())
            }
            (None | Some(What::Struct | What::Map | What::Counter), None) => {
                let field = |(name, inner): &(Name, Self)| Some((crate::place::spoken(name), inner.value(name)?));
                Some(Value::Object(self.fields.iter().filter_map(field).collect()))
            }
        }
    }
}

/// Compares what is there with what shall be.
#[derive(Clone, Copy)]
pub(crate) struct Differ {
    /// What is older is not there.
    pub since: Stamp,
    pub actor: Actor,
}

impl Differ {
    /// The changes that make an object's root say `new`; none: it does.
    pub fn root(&self, root: &Place, new: &Map<String, Value>, shape: Shape<'_>) -> Option<Edit> {
        let edit = Edit { fields: self.fields(root, new, shape), ..Edit::default() };
        (!edit.is_empty()).then_some(edit)
    }

    fn edit(&self, place: &Place, new: &Value, shape: Shape<'_>) -> Option<Edit> {
        let Some(own) = place.alive(self.since) else { return Some(self.create(new, shape)) };
        match (new, &own.what) {
            (Value::Object(fields), What::Struct | What::Map) => {
                let edits = self.fields(place, fields, shape);
                self.collection(own.hollow && fields.is_empty(), &own.what, edits)
            }
            (Value::Array(items), What::Keyed(_) | What::Set) => match keys(items, &own.what) {
                Some(keys) => {
                    let edits = self.items(place, items, &keys, shape);
                    self.collection(own.hollow && items.is_empty(), &own.what, edits)
                }
                None => Some(whole(new)),
            },
            (Value::Object(_), What::Whole(text)) if text.starts_with('{') => changed(text, new),
            (Value::Array(_), What::Whole(text)) if text.starts_with('[') => changed(text, new),
            (Value::Number(number), What::Counter) if number.is_i64() => self.count(place, number.as_i64()?),
            (_, What::Scalar(old) | What::Least(old)) if same(old, new) => None,
            _ => Some(self.create(new, shape)),
        }
    }

    fn collection(&self, appears: bool, what: &What, fields: Vec<(Name, Edit)>) -> Option<Edit> {
        let asserts = appears || (what.is_soft() && fields.iter().any(|(_, inner)| inner.asserts()));
        let what = asserts.then(|| what.clone());
        (asserts || !fields.is_empty()).then(|| Edit { what, fields, ..Edit::default() })
    }

    fn fields(&self, place: &Place, new: &Map<String, Value>, shape: Shape<'_>) -> Vec<(Name, Edit)> {
        let mut edits = Vec::new();
        for (name, inner) in place.fields.iter() {
            if field_of(name).is_none_or(|field| !new.contains_key(field)) {
                edits.extend(self.remove(inner).map(|edit| (name.clone(), edit)));
            }
        }
        for (field, value) in new {
            let name = field_name(field);
            let edit = match place.fields.get(&name) {
                Some(inner) => self.edit(inner, value, shape.field(field)),
                None => Some(self.create(value, shape.field(field))),
            };
            edits.extend(edit.map(|edit| (name.into(), edit)));
        }
        edits
    }

    fn items(&self, place: &Place, items: &[Value], names: &[Name], shape: Shape<'_>) -> Vec<(Name, Edit)> {
        let mut edits = Vec::new();
        let kept: HashSet<&Name> = names.iter().collect();
        for (name, inner) in place.fields.iter() {
            if !kept.contains(name) {
                edits.extend(self.remove(inner).map(|edit| (name.clone(), edit)));
            }
        }
        let there = |item: &&Place| item.is_visible(self.since) || item.is_added(self.since);
        let old: Vec<Option<&Place>> = names.iter().map(|name| place.fields.get(name).filter(there)).collect();
        let positions: Vec<Option<i64>> = old.iter().map(|item| item.map(Place::position)).collect();
        let set = matches!(place.own.as_ref().map(|own| &own.what), Some(What::Set));
        for (n, new) in positions_of(&positions).into_iter().enumerate() {
            let edit = match old[n] {
                Some(_) if set => None,
                None if set => Some(Edit::dot(Dot::Add)),
                Some(item) => self.edit(item, &items[n], shape.item()),
                None => Some(self.create(&items[n], shape.item())),
            };
            let moved = (positions[n] != Some(new)).then_some(new);
            if edit.is_some() || moved.is_some() {
                edits.push((names[n].clone(), Edit { order: moved, ..edit.unwrap_or_default() }));
            }
        }
        edits
    }

    fn count(&self, place: &Place, new: i64) -> Option<Edit> {
        let by = new.wrapping_sub(place.sum(self.since));
        let mine = place.dots.iter().filter(|(stamp, _)| *stamp >= self.since && stamp.actor == self.actor);
        let mine = mine.map(|(_, amount)| *amount).next().unwrap_or(0);
        (by != 0).then(|| Edit { dot: Some(Dot::Count(mine.wrapping_add(by))), ..Edit::of(What::Counter) })
    }

    /// What removes a place; none: it is not there.
    fn remove(&self, place: &Place) -> Option<Edit> {
        if place.is_added(self.since) {
            return Some(Edit::dot(Dot::Remove));
        }
        let own = place.alive(self.since)?;
        if !own.what.is_soft() {
            return Some(Edit::of(What::Absent));
        }
        let inner = place.fields.iter().filter_map(|(name, inner)| Some((name.clone(), self.remove(inner)?)));
        let fields: Vec<_> = inner.collect();
        let nothing = own.hollow && fields.is_empty();
        (!nothing).then(|| Edit { hollow: true, fields, ..Edit::of(own.what.clone()) })
    }

    /// A value where none was, or one of another sort.
    fn create(&self, new: &Value, shape: Shape<'_>) -> Edit {
        match new {
            Value::Object(fields) => match shape.object() {
                Some(what) => self.made(what, self.fields(&Place::default(), fields, shape)),
                None => whole(new),
            },
            Value::Array(items) => match shape.list().and_then(|what| Some((keys(items, &what)?, what))) {
                Some((keys, what)) => {
                    let own = Own { stamp: self.since, what: what.clone(), hollow: false };
                    let place = Place { own: Some(own), ..Place::default() };
                    self.made(what, self.items(&place, items, &keys, shape))
                }
                None => whole(new),
            },
            Value::Number(number) if shape.is_counter() && number.is_i64() => {
                let amount = number.as_i64().unwrap_or_default();
                Edit { dot: Some(Dot::Count(amount)), fresh: true, ..Edit::of(What::Counter) }
            }
            scalar if shape.is_least() => Edit::of(What::Least(scalar.clone())),
            scalar => Edit::of(What::Scalar(scalar.clone())),
        }
    }

    fn made(&self, what: What, fields: Vec<(Name, Edit)>) -> Edit {
        Edit { fresh: true, fields, ..Edit::of(what) }
    }
}

fn whole(value: &Value) -> Edit {
    Edit::of(What::Whole(value.to_string().into()))
}

fn changed(old: &str, new: &Value) -> Option<Edit> {
    let text = new.to_string();
    let says = *old == *text || serde_json::from_str(old).is_ok_and(|old| same(&old, new));
    (!says).then(|| Edit::of(What::Whole(text.into())))
}

/// The names of a list's items under an encoding; none when one lacks a key or two share one.
fn keys(items: &[Value], what: &What) -> Option<Vec<Name>> {
    let key = |item: &Value| match what {
        What::Keyed(keys) => item_key(item, keys),
        _ => (!item.is_object() && !item.is_array()).then(|| item.to_string()),
    };
    let names: Vec<Name> = items.iter().map(|item| Some(item_name(&key(item)?))).collect::<Option<_>>()?;
    let distinct: HashSet<&Name> = names.iter().collect();
    (distinct.len() == names.len()).then_some(names)
}

fn item_key(item: &Value, keys: &str) -> Option<String> {
    let item = item.as_object()?;
    let (keys, lenient) = keys.strip_prefix('?').map_or((keys, false), |keys| (keys, true));
    let part = |key: &str| match item.get(key) {
        Some(Value::Object(_) | Value::Array(_)) => None,
        Some(value) => Some(value.clone()),
        None => lenient.then_some(Value::Null),
    };
    match keys.contains(',') {
        false => Some(part(keys)?.to_string()),
        true => Some(Value::Array(keys.split(',').map(part).collect::<Option<_>>()?).to_string()),
    }
}

/// Rising positions for a list's items, most of them where they were.
fn positions_of(old: &[Option<i64>]) -> Vec<i64> {
    let mut last = 0;
    let end = old.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
    let position = |index: usize| {
        let keeps = old[index].filter(|place| *place > last);
        let rest = old.get(index + 1..end).unwrap_or_default();
        last = keeps.or_else(|| between(last, rest)).unwrap_or(last + GAP);
        last
    };
    (0..old.len()).map(position).collect()
}

/// A position after `last` and before the next item that can stay where it is; none: no such item, or no room.
fn between(last: i64, rest: &[Option<i64>]) -> Option<i64> {
    let after = rest.iter().flatten().find(|place| **place > last)?;
    (after - last > 1).then(|| last + (after - last) / 2)
}

#[cfg(test)]
mod tests {
    use super::positions_of;

    #[test]
    fn an_insertion_moves_nobody() {
        assert_eq!(positions_of(&[Some(10), None, Some(20)]), [10, 15, 20]);
        assert_eq!(positions_of(&[None, Some(10)]), [5, 10]);
        let swapped = positions_of(&[Some(20), Some(10)]);
        assert!(swapped[0] < swapped[1]);
    }
}
