//! Lists (`k8s.io/apiserver/pkg/cel/library/lists.go` and `cel-go/ext/lists.go`).
use super::operators::shared;
use super::{Entry, failed, strings, wrong};
use crate::cel::{Error, Value};
use std::cmp::Ordering;

/// `lists.range` and `flatten` make no longer list, and unpack no deeper.
const MAX_ITEMS: i64 = 1_000_000;
const MAX_DEPTH: i64 = 64;

pub const FUNCTIONS: &[Entry] = &[
    (".isSorted(list<A>) bool", |args| {
        let items: Vec<Value<'_>> = args[0].items().collect();
        let fits = |pair: &[Value<'_>]| pair[0].compare(&pair[1]).map(|order| order != Ordering::Greater);
        items
            .windows(2)
            .try_fold(true, |sorted, pair| fits(pair).map(|fits| sorted && fits))
            .map_or_else(|| wrong("isSorted"), |sorted| Ok(Value::Bool(sorted)))
    }),
    (".sum(list<A>) A", sum),
    (".min(list<A>) A", |args| extreme(args, "min", Ordering::Less)),
    (".max(list<A>) A", |args| extreme(args, "max", Ordering::Greater)),
    (".indexOf(list<A>, A) int; .indexOf(string, string) int; .indexOf(string, string, int) int", |args| {
        if !args[0].is_list() {
            return strings::index_of(args, false);
        }
        Ok(Value::Int(args[0].items().position(|item| item == args[1]).map_or(-1, |at| at as i64)))
    }),
    (".lastIndexOf(list<A>, A) int; .lastIndexOf(string, string) int; .lastIndexOf(string, string, int) int", |args| {
        if !args[0].is_list() {
            return strings::index_of(args, true);
        }
        let items: Vec<Value<'_>> = args[0].items().collect();
        Ok(Value::Int(items.iter().rposition(|item| *item == args[1]).map_or(-1, |at| at as i64)))
    }),
    (".slice(list<A>, int, int) list<A>", slice),
    (".flatten(list<list<A>>) list<A>; .flatten(list<dyn>, int) list<dyn>", |args| {
        let depth = args.get(1).map_or(Some(1), Value::as_int).unwrap_or(0);
        if depth < 0 {
            return Err(failed("level must be non-negative"));
        }
        let mut out = Vec::new();
        flatten(&args[0], depth.min(MAX_DEPTH), &mut out);
        Ok(Value::list(out))
    }),
    (".distinct(list<A>) list<A>", |args| {
        let mut out: Vec<Value<'_>> = Vec::new();
        for item in args[0].items() {
            if !out.contains(&item) {
                out.push(item);
            }
        }
        Ok(Value::list(out))
    }),
    (".reverse(list<A>) list<A>", |args| {
        let mut items: Vec<Value<'_>> = args[0].items().collect();
        items.reverse();
        Ok(Value::list(items))
    }),
    (".sort(list<A>) list<A>", |args| {
        let mut items: Vec<Value<'_>> = args[0].items().collect();
        if items.windows(2).any(|pair| pair[0].compare(&pair[1]).is_none()) {
            return wrong("sort");
        }
        items.sort_by(|a, b| a.compare(b).unwrap_or(Ordering::Equal));
        Ok(Value::list(items))
    }),
    ("lists.range(int) list<int>", |args| match args[0].as_int() {
        Some(count) if count <= MAX_ITEMS => Ok(shared((0..count).map(Value::Int))),
        Some(_) => Err(failed("range is too long")),
        None => wrong("lists.range"),
    }),
];

fn sum<'a>(args: &[Value<'a>]) -> Result<Value<'a>, Error> {
    let mut items = args[0].items();
    let Some(first) = items.next() else { return Ok(Value::Int(0)) };
    let overflow = || failed("integer overflow");
    items.try_fold(first, |sum, item| match (sum, item) {
        (Value::Int(a), Value::Int(b)) => a.checked_add(b).map(Value::Int).ok_or_else(overflow),
        (Value::Uint(a), Value::Uint(b)) => a.checked_add(b).map(Value::Uint).ok_or_else(overflow),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a + b)),
        (Value::Duration(a), Value::Duration(b)) => a.checked_add(b).map(Value::Duration).ok_or_else(overflow),
        _ => wrong("sum"),
    })
}

fn extreme<'a>(args: &[Value<'a>], name: &str, wanted: Ordering) -> Result<Value<'a>, Error> {
    let mut items = args[0].items();
    let first = items.next().ok_or_else(|| failed(format!("{name} called on empty list")))?;
    items.try_fold(first, |best, item| match item.compare(&best) {
        Some(order) => Ok(if order == wanted { item } else { best }),
        None => wrong(name),
    })
}

fn slice<'a>(args: &[Value<'a>]) -> Result<Value<'a>, Error> {
    let (Some(start), Some(end)) = (args[1].as_int(), args[2].as_int()) else { return wrong("slice") };
    let size = args[0].size().unwrap_or(0) as i64;
    if start < 0 || end < 0 {
        return Err(failed(format!("cannot slice({start}, {end}), negative indexes not supported")));
    }
    if start > end {
        return Err(failed(format!(
            "cannot slice({start}, {end}), start index must be less than or equal to end index"
        )));
    }
    if end > size {
        return Err(failed(format!("cannot slice({start}, {end}), list is length {size}")));
    }
    Ok(shared((start..end).filter_map(|at| args[0].item(at as usize))))
}

fn flatten<'a>(list: &Value<'a>, depth: i64, out: &mut Vec<Value<'a>>) {
    for item in list.items() {
        match item.is_list() && depth > 0 {
            true => flatten(&item, depth - 1, out),
            false => out.push(item),
        }
    }
}
