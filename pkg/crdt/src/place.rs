//! A place in an object: what was last written there, when, and what lies inside.
use crate::{Stamp, Vector};
use serde_json::{Map, Value};
use std::cmp::Ordering;

/// A field's name, or an item's key: escaped, so that neither is taken for the other.
pub(crate) type Name = Box<str>;

/// Stands in front of an item's key. No field's name begins with exactly one.
const ITEM: char = '\0';

/// What was written in a place itself. What lies inside is in its fields.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum What {
    /// Removed, with all inside that the remover knew, and hiding what it did not.
    Absent,
    Scalar(Value),
    /// Of concurrent values the smallest stays, and none is taken back.
    Least(Value),
    /// An object or a list that is replaced whole: canonical JSON.
    Whole(Box<str>),
    /// The sum of what each actor added, one dot an actor.
    Counter,
    /// An object with fields that belong together: removing it hides concurrent edits inside.
    Struct,
    /// An object as a collection of values: it is there as long as any of them is.
    Map,
    /// A list of objects, told apart by the values of these fields, joined by commas. A `?` in front: the fields may
    /// be missing.
    Keyed(Box<str>),
    /// A list of scalars without order of importance: what one adds, nobody removes who has not seen it.
    Set,
}

impl What {
    pub fn is_collection(&self) -> bool {
        matches!(self, Self::Struct | Self::Map | Self::Keyed(_) | Self::Set)
    }

    /// Whether removing it removes the items one by one, and leaves those that the remover did not know.
    pub fn is_soft(&self) -> bool {
        matches!(self, Self::Map | Self::Keyed(_) | Self::Set)
    }

    /// Whether writing it takes the place of all inside.
    pub fn clears(&self) -> bool {
        !self.is_collection() && *self != Self::Counter
    }

    fn family(&self) -> u8 {
        match self {
            Self::Struct | Self::Map => 1,
            Self::Keyed(_) => 2,
            Self::Set => 3,
            Self::Counter => 4,
            Self::Least(_) => 5,
            Self::Absent | Self::Scalar(_) | Self::Whole(_) => 0,
        }
    }

    /// Whether both stay when written concurrently.
    pub fn joins(&self, other: &Self) -> bool {
        self == other || (self.family() == other.family() && self.family() != 0)
    }
}

/// The winner of all writes to one place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Own {
    pub stamp: Stamp,
    pub what: What,
    /// Of a soft collection: it was removed, and is there only if anything in it still is.
    pub hollow: bool,
}

impl Own {
    /// A total order: the greater stays. One stamp writes a place once, but what is seen and superseded may turn into
    /// [`What::Absent`] where it stands.
    pub fn order(&self, other: &Self) -> Ordering {
        let least = match (&self.what, &other.what) {
            (What::Least(mine), What::Least(theirs)) => compare(theirs, mine),
            (What::Least(_), _) => Ordering::Greater,
            (_, What::Least(_)) => Ordering::Less,
            _ => Ordering::Equal,
        };
        let absent = |own: &Self| own.what == What::Absent;
        least.then(self.stamp.cmp(&other.stamp)).then(absent(self).cmp(&absent(other)))
    }
}

/// Whether two values are the same. Numbers with a fraction may lose their last digits on the way through text.
pub(crate) fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(a), Value::Number(b)) if a.is_f64() && b.is_f64() => {
            let (a, b) = (a.as_f64().unwrap_or_default(), b.as_f64().unwrap_or_default());
            (a - b).abs() <= 4.0 * f64::EPSILON * a.abs().max(b.abs())
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| same(a, b)))
        }
        _ => one == other,
    }
}

fn compare(one: &Value, other: &Value) -> Ordering {
    match (one.as_i64(), other.as_i64()) {
        (Some(one), Some(other)) => one.cmp(&other),
        _ => one.to_string().cmp(&other.to_string()),
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Place {
    pub own: Option<Own>,
    /// The last stamp at which something took the place of all inside: nothing inside is as old.
    pub cleared: Stamp,
    /// Of a list's item: when it was put where.
    pub order: Option<(Stamp, i64)>,
    /// Of a set's item: who added it, one entry an actor. Of a counter: who added how much in all.
    pub dots: Vec<(Stamp, i64)>,
    pub fields: Fields,
}

impl Place {
    pub fn is_empty(&self) -> bool {
        self.own.is_none()
            && self.order.is_none()
            && self.dots.is_empty()
            && self.fields.is_empty()
            && self.cleared == Stamp::default()
    }

    /// What is there, if it was not removed, and not before `since`.
    pub fn alive(&self, since: Stamp) -> Option<&Own> {
        self.own.as_ref().filter(|own| own.what != What::Absent && own.stamp >= since)
    }

    /// The collection that is there.
    pub fn collection(&self, since: Stamp) -> Option<&Own> {
        self.alive(since).filter(|own| own.what.is_collection())
    }

    pub fn is_visible(&self, since: Stamp) -> bool {
        match self.alive(since) {
            Some(own) if own.hollow => {
                self.fields.iter().any(|(_, inner)| inner.is_visible(since) || inner.is_added(since))
            }
            Some(_) => true,
            None => false,
        }
    }

    /// Whether it is an item of its set.
    pub fn is_added(&self, since: Stamp) -> bool {
        self.own.is_none() && self.dots.iter().any(|(stamp, _)| *stamp >= since)
    }

    pub fn sum(&self, since: Stamp) -> i64 {
        self.dots.iter().filter(|(stamp, _)| *stamp >= since).fold(0, |sum, (_, by)| sum.wrapping_add(*by))
    }

    /// The value that is to be seen; none: nothing.
    pub fn value(&self, since: Stamp) -> Option<Value> {
        let own = self.alive(since)?;
        let value = match &own.what {
            What::Absent => return None,
            What::Scalar(value) | What::Least(value) => value.clone(),
            What::Whole(text) => serde_json::from_str(text).unwrap_or_default(),
            What::Counter => self.sum(since).into(),
            What::Struct | What::Map => Value::Object(self.object(since)),
            What::Keyed(_) => Value::Array(self.items(|_, item| item.value(since))),
            What::Set => {
                let parse = |key: &str| serde_json::from_str(key).ok();
                Value::Array(self.items(|key, item| parse(key).filter(|_| item.is_added(since))))
            }
        };
        let empty = match &value {
            Value::Object(fields) => fields.is_empty(),
            Value::Array(items) => items.is_empty(),
            _ => false,
        };
        (!own.hollow || !empty).then_some(value)
    }

    /// The fields of the object that it is.
    pub fn object(&self, since: Stamp) -> Map<String, Value> {
        let field = |(name, inner): &(Name, Self)| Some((field_of(name)?.to_owned(), inner.value(since)?));
        self.fields.iter().filter_map(field).collect()
    }

    /// The places of the items of a list by key, in order.
    pub fn ordered(&self, since: Stamp) -> Vec<&Self> {
        let there = |item: &&(Name, Self)| item_of(&item.0).is_some() && item.1.is_visible(since);
        let mut items: Vec<_> = self.fields.iter().filter(there).collect();
        items.sort_by_key(|(name, item)| (item.position(), item_of(name)));
        items.into_iter().map(|(_, item)| item).collect()
    }

    /// When what is to be seen there was last written.
    pub fn written(&self, since: Stamp) -> Option<Stamp> {
        if self.is_added(since) {
            return self.dots.iter().map(|(stamp, _)| *stamp).max();
        }
        let own = self.alive(since)?.stamp;
        Some(own).max(self.fields.iter().filter_map(|(_, inner)| inner.written(since)).max())
    }

    fn items(&self, value: impl Fn(&str, &Self) -> Option<Value>) -> Vec<Value> {
        let mut items: Vec<(i64, &str, Value)> = Vec::new();
        for (name, item) in self.fields.iter() {
            let Some(key) = item_of(name) else { continue };
            items.extend(value(key, item).map(|value| (item.position(), key, value)));
        }
        items.sort_by(|one, other| (one.0, one.1).cmp(&(other.0, other.1)));
        items.into_iter().map(|(_, _, value)| value).collect()
    }

    pub fn position(&self) -> i64 {
        self.order.map_or(0, |(_, position)| position)
    }

    /// Drops all inside that is not after `by`.
    pub fn clear_inside(&mut self, by: Stamp) {
        self.dots.retain(|(stamp, _)| *stamp > by);
        self.fields.retain(|inner| {
            inner.clear(by);
            !inner.is_empty()
        });
    }

    fn clear(&mut self, by: Stamp) {
        self.own.take_if(|own| own.stamp <= by);
        self.order.take_if(|(stamp, _)| *stamp <= by);
        if self.cleared <= by {
            self.cleared = Stamp::default();
        }
        self.clear_inside(by);
    }

    /// Removes all inside that somebody had seen who then made the place anew. What is written there with an earlier
    /// stamp by somebody else must not come up, so the stamps stay.
    pub fn forget_inside(&mut self, seen: &Vector) {
        self.fields.retain(|inner| {
            if let Some(own) = inner.own.as_mut().filter(|own| seen.covers(own.stamp)) {
                (own.what, own.hollow) = (What::Absent, false);
            }
            inner.dots.retain(|(stamp, _)| !seen.covers(*stamp));
            inner.forget_inside(seen);
            !inner.is_empty()
        });
    }

    /// Forgets what only guards against news up to `stable`. `since`: of an object that is there; none: it is not.
    pub fn prune_root(&mut self, stable: u64, since: Option<Stamp>) {
        self.fields.retain(|inner| {
            inner.prune(stable, since);
            !inner.is_empty()
        });
        if self.cleared.time <= stable {
            // Never raised: what was made absent by one who had not seen all inside did not clear it.
            self.cleared = self.cleared.min(self.implied());
        }
    }

    /// When it was last cleared by what it is itself.
    pub fn implied(&self) -> Stamp {
        self.own.as_ref().filter(|own| own.what.clears()).map_or(Stamp::default(), |own| own.stamp)
    }

    fn prune(&mut self, stable: u64, since: Option<Stamp>) {
        let there = since.filter(|since| self.collection(*since).is_some());
        self.prune_root(stable, there);
        let old = |stamp: Stamp| stamp.time <= stable;
        let alive = since.is_some_and(|since| self.alive(since).is_some());
        let nothing = self.fields.is_empty();
        let removed = self.own.is_some() && !alive;
        self.dots.retain(|(stamp, _)| !old(*stamp) || since.is_some_and(|since| *stamp >= since && !removed));
        self.own.take_if(|own| old(own.stamp) && (!alive || (own.hollow && nothing)));
        if self.cleared.time <= stable {
            // Never raised: what was made absent by one who had not seen all inside did not clear it.
            self.cleared = self.cleared.min(self.implied());
        }
        if self.own.is_none() && self.dots.is_empty() {
            self.order.take_if(|(stamp, _)| old(*stamp));
        }
    }

    /// Whether anything in it is later than a time.
    pub fn is_newer(&self, time: u64) -> bool {
        self.own.as_ref().is_some_and(|own| own.stamp.time > time)
            || self.dots.iter().any(|(stamp, _)| stamp.time > time)
            || self.fields.iter().any(|(_, inner)| inner.is_newer(time))
    }

    /// Notes one actor's dot.
    pub fn mark(&mut self, stamp: Stamp, amount: i64) {
        match self.dots.iter_mut().find(|(dot, _)| dot.actor == stamp.actor) {
            Some(dot) if dot.0 < stamp => *dot = (stamp, amount),
            Some(_) => {}
            None => {
                self.dots.push((stamp, amount));
                self.dots.sort_by_key(|(stamp, _)| stamp.actor);
            }
        }
    }

    /// The latest stamp in it that `seen` does not cover.
    pub fn unseen(&self, seen: &Vector) -> Option<Stamp> {
        let own = self.own.as_ref().map(|own| own.stamp);
        let stamps = own.into_iter().chain(self.dots.iter().map(|(stamp, _)| *stamp));
        let own = stamps.filter(|stamp| !seen.covers(*stamp)).max();
        own.max(self.fields.iter().filter_map(|(_, inner)| inner.unseen(seen)).max())
    }
}

/// Places by name, in order. A sorted vector: most are read and written whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Fields(Vec<(Name, Place)>);

impl Fields {
    /// Names must rise; says whether they do.
    pub fn push(&mut self, name: Name, place: Place) -> bool {
        let rises = self.0.last().is_none_or(|(last, _)| *last < name);
        self.0.push((name, place));
        rises
    }

    pub fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &(Name, Place)> {
        self.0.iter()
    }

    pub fn get(&self, name: &str) -> Option<&Place> {
        self.find(name).ok().map(|at| &self.0[at].1)
    }

    pub fn remove(&mut self, name: &str) -> Option<Place> {
        self.find(name).ok().map(|at| self.0.remove(at).1)
    }

    /// Changes the place of a name, which is made for it and goes if it is empty afterwards.
    pub fn change<T>(&mut self, name: &str, change: impl FnOnce(&mut Place) -> T) -> T {
        let at = match self.find(name) {
            Ok(at) => at,
            Err(at) => {
                self.0.insert(at, (name.into(), Place::default()));
                at
            }
        };
        let result = change(&mut self.0[at].1);
        if self.0[at].1.is_empty() {
            self.0.remove(at);
        }
        result
    }

    pub fn retain(&mut self, mut keep: impl FnMut(&mut Place) -> bool) {
        self.0.retain_mut(|(_, place)| keep(place));
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| (**known).cmp(name))
    }
}

impl IntoIterator for Fields {
    type Item = (Name, Place);
    type IntoIter = std::vec::IntoIter<(Name, Place)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// The name under which a field stands.
pub(crate) fn field_name(field: &str) -> std::borrow::Cow<'_, str> {
    match field.starts_with(ITEM) {
        true => format!("{ITEM}{field}").into(),
        false => field.into(),
    }
}

/// The name under which an item stands.
pub(crate) fn item_name(key: &str) -> Name {
    format!("{ITEM}{key}").into()
}

/// The field that stands under a name; none: it is an item.
pub(crate) fn field_of(name: &str) -> Option<&str> {
    match name.strip_prefix(ITEM) {
        None => Some(name),
        Some(rest) => rest.starts_with(ITEM).then_some(rest),
    }
}

/// The key of the item that stands under a name; none: it is a field.
pub(crate) fn item_of(name: &str) -> Option<&str> {
    name.strip_prefix(ITEM).filter(|rest| !rest.starts_with(ITEM))
}

/// A name as people read it.
pub(crate) fn spoken(name: &str) -> String {
    let Some(key) = item_of(name) else { return field_of(name).unwrap_or_default().to_owned() };
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match serde_json::from_str::<Value>(key) {
        Ok(Value::Array(parts)) => parts.iter().map(plain).collect::<Vec<_>>().join(","),
        Ok(value) => plain(&value),
        Err(_) => key.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Actor;

    /// Somebody who had seen a list made what it is in anew; what others added to it earlier by their clocks, and that one
    /// had not seen, may still be on its way.
    #[test]
    fn forgetting_clears_nothing_that_was_not_cleared() {
        let stamp = |time, actor| Stamp { time, actor: Actor([actor; 16]) };
        let mut parent = Place::default();
        let own = Own { stamp: stamp(50, 1), what: What::Keyed("type".into()), hollow: false };
        parent.fields.change("conditions", |list| list.own = Some(own));
        parent.forget_inside(&[stamp(50, 1)].into_iter().collect());
        parent.prune_root(0, None);
        let list = parent.fields.get("conditions").unwrap();
        assert_eq!(list.own.as_ref().map(|own| &own.what), Some(&What::Absent));
        assert_eq!(list.cleared, Stamp::default(), "an item stamped 20 must still get in");
    }
}
