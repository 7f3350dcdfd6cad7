//! The fields of a value as a set, and values without the fields of a set: what pruning is made of.
use super::Error;
use super::set::{Set, has_children, look, mark};
use super::types::{Fields, Items, Shape, Ty, Types};
use serde_json::{Map, Value};

type Node = Map<String, Value>;

/// The set of fields that applying `value` owns.
pub(super) fn field_set<'a>(value: &Value, ty: Ty<'a>, types: &Types<'a>) -> Result<Set, Error> {
    let mut walk = Walk { types, path: Vec::new(), set: Set::default(), strict: true };
    walk.value(value, ty)?;
    Ok(walk.set)
}

/// The same of a live object, whose lists may hold duplicates.
fn live_field_set<'a>(value: &Value, ty: Ty<'a>, types: &Types<'a>) -> Result<Set, Error> {
    let mut walk = Walk { types, path: Vec::new(), set: Set::default(), strict: false };
    walk.value(value, ty)?;
    Ok(walk.set)
}

struct Walk<'a, 'w> {
    types: &'w Types<'a>,
    path: Vec<String>,
    set: Set,
    /// Refuse duplicates.
    strict: bool,
}

impl<'a> Walk<'a, '_> {
    fn value(&mut self, value: &Value, ty: Ty<'a>) -> Result<(), Error> {
        match (value, self.types.shape(ty, value)) {
            (Value::Object(object), Shape::Object(fields)) => self.fields(object, fields),
            (Value::Array(list), Shape::List(items)) => self.elements(list, items),
            _ => {
                self.set.insert(&self.path);
                Ok(())
            }
        }
    }

    fn fields(&mut self, object: &Node, fields: Fields<'a>) -> Result<(), Error> {
        for (name, value) in object {
            self.path.push(format!("f:{name}"));
            self.value(value, fields.child(name))?;
            let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
            if empty || !fields.names(name) {
                self.set.insert(&self.path);
            }
            self.path.pop();
        }
        Ok(())
    }

    fn elements(&mut self, list: &[Value], items: Items<'a>) -> Result<(), Error> {
        let Some(ids) = self.types.elements(items, list) else {
            return if self.strict {
                Err(Error::Malformed(format!("{}: element 0: an element omits all key fields", self.here())))
            } else {
                self.set.insert(&self.path);
                Ok(())
            };
        };
        for (i, (id, value)) in ids.iter().zip(list).enumerate() {
            let duplicate = ids.iter().enumerate().any(|(j, other)| i != j && id == other);
            if duplicate && self.strict {
                let mut one = Set::default();
                one.insert(std::slice::from_ref(id));
                let key = one.paths().pop().unwrap_or_default();
                return Err(Error::Malformed(format!("{}: duplicate entries for key {key}", self.here())));
            }
            self.path.push(id.clone());
            if !duplicate {
                self.value(value, items.item())?;
            }
            self.set.insert(&self.path);
            self.path.pop();
        }
        Ok(())
    }

    fn here(&self) -> String {
        let mut one = Set::default();
        one.insert(&self.path);
        one.paths().pop().unwrap_or_default()
    }
}

/// `merged` without what is in `last`, unless it is `owned` or was not in `last`.
pub(super) fn prune<'a>(merged: Value, last: &Set, owned: &Set, ty: Ty<'a>, types: &Types<'a>) -> Result<Value, Error> {
    let named = |mut set: Set, value: &Value| {
        name_fields(set.root_mut(), Some((value, ty)), types);
        set
    };
    let last = named(last.clone(), &merged);
    let all = named(live_field_set(&merged, ty, types)?, &merged);

    // First without all of it, then with what somebody owns put back.
    let pruned = without(&merged, last.root(), ty, types);
    let mut keep = named(live_field_set(&pruned, ty, types)?, &merged);
    keep.union(&named(owned.clone(), &merged));
    let mut gone = all.clone();
    gone.subtract(&keep);
    let pruned = without(&merged, gone.root(), ty, types);

    // What was dragged along but never was in `last` comes back too.
    let mut gone = all;
    gone.subtract(&named(live_field_set(&pruned, ty, types)?, &merged));
    Ok(without(&merged, gone.intersection(&last).root(), ty, types))
}

/// Makes every struct field that has members below it a member: removing all of its parts removes it.
fn name_fields<'a>(node: &mut Node, at: Option<(&Value, Ty<'a>)>, types: &Types<'a>) {
    let Some((value, ty)) = at else { return };
    match (value, types.shape(ty, value)) {
        (Value::Object(object), Shape::Object(fields)) => {
            for (element, child) in node.iter_mut() {
                let (Some(name), Value::Object(child)) = (element.strip_prefix("f:"), child) else { continue };
                name_fields(child, object.get(name).map(|value| (value, fields.child(name))), types);
                if has_children(child) && fields.names(name) {
                    mark(child, true);
                }
            }
        }
        (Value::Array(list), Shape::List(items)) => {
            for value in list {
                let Some(id) = types.element(items, value) else { continue };
                if let Some(Value::Object(child)) = node.get_mut(&id) {
                    name_fields(child, Some((value, items.item())), types);
                }
            }
        }
        _ => {}
    }
}

/// `value` without the members of the set; what is empty then goes too.
fn without<'a>(value: &Value, set: &Node, ty: Ty<'a>, types: &Types<'a>) -> Value {
    let shape = types.shape(ty, value);
    match (value, shape) {
        (Value::Object(object), Shape::Object(fields)) => {
            let keep = |(name, value): (&String, &Value)| {
                let kept = part(value, look(set, &format!("f:{name}")), fields.child(name), types)?;
                Some((name.clone(), kept))
            };
            Value::Object(object.iter().filter_map(keep).collect())
        }
        (Value::Array(list), Shape::List(items)) => {
            let keep = |value: &Value| {
                let found = types.element(items, value).and_then(|id| look(set, &id));
                part(value, found, items.item(), types)
            };
            Value::Array(list.iter().filter_map(keep).collect())
        }
        _ => value.clone(),
    }
}

/// A part of a value, by what the set says of it: absent, a member, or with members below.
fn part<'a>(value: &Value, found: Option<(&Node, bool)>, ty: Ty<'a>, types: &Types<'a>) -> Option<Value> {
    let Some((below, member)) = found else { return Some(value.clone()) };
    if member {
        return None;
    }
    let granular = !matches!(types.shape(ty, value), Shape::Leaf);
    let rest = without(value, below, ty, types);
    let empty = rest.as_object().is_some_and(Map::is_empty) || rest.as_array().is_some_and(Vec::is_empty);
    (!(granular && empty)).then_some(rest)
}
