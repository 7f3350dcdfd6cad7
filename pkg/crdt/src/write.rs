//! The edits that make a document say what an object says now: nothing that is equal is touched, so that two
//! servers' edits of different fields never meet.
use crate::document::{OBJECT, Result};
use crate::encode::{self, GAP, ITEMS, ORDER, SET, Shape, escape, unescape};
use crate::view::{Node, children, keys, node, place, seen};
use automerge::transaction::{Transactable, Transaction};
use automerge::{ObjId, ROOT, ReadDoc, ScalarValue};
use serde_json::{Map, Value};

/// Makes the document's object equal to `fields`.
pub(crate) fn root(tx: &mut Transaction<'_>, fields: &Map<String, Value>, shape: Shape<'_>) -> Result<()> {
    let roots = children(tx, &[ROOT], OBJECT);
    match roots.is_empty() {
        true => create(tx, &ROOT, OBJECT, encode::value(&Value::Object(fields.clone()), shape)),
        false => map(tx, &roots, fields, shape),
    }
}

fn create(tx: &mut Transaction<'_>, at: &ObjId, key: &str, value: automerge::hydrate::Value) -> Result<()> {
    match value {
        automerge::hydrate::Value::Scalar(scalar) => tx.put(at, key, scalar)?,
        object => drop(tx.batch_create_object(at, key, &object, false)?),
    }
    Ok(())
}

fn map(tx: &mut Transaction<'_>, nodes: &[ObjId], fields: &Map<String, Value>, shape: Shape<'_>) -> Result<()> {
    for stored in keys(tx, nodes) {
        if unescape(&stored).is_some_and(|key| !fields.contains_key(key)) {
            remove(tx, nodes, &stored)?;
        }
    }
    for (key, new) in fields {
        value(tx, nodes, &escape(key), new, shape.field(key))?;
    }
    Ok(())
}

fn remove(tx: &mut Transaction<'_>, nodes: &[ObjId], key: &str) -> Result<()> {
    for node in nodes {
        if tx.get(node, key)?.is_some() {
            tx.delete(node, key)?;
        }
    }
    Ok(())
}

/// Puts a value into the first of the nodes, in place of what all of them have.
fn replace(tx: &mut Transaction<'_>, nodes: &[ObjId], key: &str, new: automerge::hydrate::Value) -> Result<()> {
    let Some((first, rest)) = nodes.split_first() else { return Ok(()) };
    remove(tx, rest, key)?;
    create(tx, first, key, new)
}

fn value(tx: &mut Transaction<'_>, nodes: &[ObjId], key: &str, new: &Value, shape: Shape<'_>) -> Result<()> {
    let (present, scalar, alone) = {
        let seen = seen(tx, nodes, key);
        let scalar = seen.first().and_then(|winner| winner.value.as_scalar().cloned());
        (node(tx, &seen), scalar, seen.len() == 1)
    };
    match (new, present) {
        (Value::Object(fields), Some(Node { ids, kind: None })) => map(tx, &ids, fields, shape),
        (Value::Array(items), Some(Node { ids, kind: Some(kind) })) => match encode::item_keys(items, &kind) {
            Some(keys) => list(tx, &ids, items, &keys, &kind, shape),
            None => replace(tx, nodes, key, encode::whole(new).into()),
        },
        _ => plain(tx, nodes, key, new, shape, scalar.filter(|_| alone)),
    }
}

/// Writes what is no map now, unless it is there already.
fn plain(
    tx: &mut Transaction<'_>,
    nodes: &[ObjId],
    key: &str,
    new: &Value,
    shape: Shape<'_>,
    old: Option<ScalarValue>,
) -> Result<()> {
    match (&old, new) {
        (Some(ScalarValue::Counter(old)), Value::Number(new)) if new.is_i64() => {
            let by = new.as_i64().unwrap_or_default() - i64::from(old);
            if by != 0
                && let Some(holder) = holder(tx, nodes, key)?
            {
                tx.increment(holder, key, by)?;
            }
            Ok(())
        }
        // A list that is whole stays so: only the object's home may encode it anew.
        (Some(old @ ScalarValue::Bytes(_)), Value::Array(_)) => match *old == encode::whole(new) {
            true => Ok(()),
            false => replace(tx, nodes, key, encode::whole(new).into()),
        },
        (Some(old), new) if *old == encode::scalar(new, shape) => Ok(()),
        _ => replace(tx, nodes, key, encode::value(new, shape)),
    }
}

fn holder<'a>(tx: &Transaction<'_>, nodes: &'a [ObjId], key: &str) -> Result<Option<&'a ObjId>> {
    for node in nodes {
        if tx.get(node, key)?.is_some() {
            return Ok(Some(node));
        }
    }
    Ok(None)
}

fn list(
    tx: &mut Transaction<'_>,
    nodes: &[ObjId],
    items: &[Value],
    item_keys: &[String],
    kind: &str,
    shape: Shape<'_>,
) -> Result<()> {
    let order = children(tx, nodes, ORDER);
    let stored = children(tx, nodes, ITEMS);
    for old in keys(tx, &order).into_iter().chain(keys(tx, &stored)) {
        if !item_keys.contains(&old) {
            remove(tx, &order, &old)?;
            remove(tx, &stored, &old)?;
        }
    }
    let old: Vec<Option<i64>> = item_keys.iter().map(|key| place(tx, &order, key)).collect();
    for ((key, old), new) in item_keys.iter().zip(&old).zip(places(&old)) {
        if *old != Some(new) {
            replace(tx, &order, key, ScalarValue::Int(new).into())?;
        }
    }
    if kind != SET {
        for (key, item) in item_keys.iter().zip(items) {
            value(tx, &stored, key, item, shape.item())?;
        }
    }
    Ok(())
}

/// Rising places for a list's items, most of them where they were.
fn places(old: &[Option<i64>]) -> Vec<i64> {
    let mut last = 0;
    let place = |index: usize| {
        let keeps = old[index].filter(|place| *place > last);
        last = keeps.or_else(|| between(last, &old[index + 1..])).unwrap_or(last + GAP);
        last
    };
    (0..old.len()).map(place).collect()
}

/// A place after `last` and before the next item that can stay where it is; none: no such item, or no room.
fn between(last: i64, rest: &[Option<i64>]) -> Option<i64> {
    let after = rest.iter().flatten().find(|place| **place > last)?;
    (after - last > 1).then(|| last + (after - last) / 2)
}

#[cfg(test)]
mod tests {
    use super::places;

    #[test]
    fn an_insertion_moves_nobody() {
        assert_eq!(places(&[Some(10), None, Some(20)]), [10, 15, 20]);
        assert_eq!(places(&[None, Some(10)]), [5, 10]);
        let swapped = places(&[Some(20), Some(10)]);
        assert!(swapped[0] < swapped[1]);
    }
}
