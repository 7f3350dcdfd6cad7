//! Quantities (`k8s.io/apiserver/pkg/cel/library/quantity.go`).
use super::{Entry, failed, wrong};
use crate::cel::{Error, Value};
use crate::quantity::{Format, Quantity};
use std::cmp::Ordering;
use std::sync::Arc;

pub const FUNCTIONS: &[Entry] = &[
    ("quantity(string) kubernetes.Quantity", |args| {
        let Some(of) = args[0].as_str() else { return wrong("quantity") };
        Quantity::parse(of).map(value).map_err(|why| failed(why.to_string()))
    }),
    ("isQuantity(string) bool", |args| {
        args[0].as_str().map_or_else(|| wrong("isQuantity"), |of| Ok(Value::Bool(Quantity::parse(of).is_ok())))
    }),
    (".sign(kubernetes.Quantity) int", |args| {
        let of = given(&args[0])?;
        Ok(Value::Int(if of.is_zero() { 0 } else { 1 - 2 * i64::from(of.is_negative()) }))
    }),
    (".isInteger(kubernetes.Quantity) bool", |args| Ok(Value::Bool(whole(given(&args[0])?).is_some()))),
    (".asInteger(kubernetes.Quantity) int", |args| {
        whole(given(&args[0])?).map(Value::Int).ok_or_else(|| failed("cannot convert value to integer"))
    }),
    (".asApproximateFloat(kubernetes.Quantity) double", |args| Ok(Value::Double(given(&args[0])?.to_f64()))),
    (
        ".add(kubernetes.Quantity, kubernetes.Quantity) kubernetes.Quantity; .add(kubernetes.Quantity, int) kubernetes.Quantity",
        |args| Ok(value(given(&args[0])?.add(&operand(&args[1])?))),
    ),
    (
        ".sub(kubernetes.Quantity, kubernetes.Quantity) kubernetes.Quantity; .sub(kubernetes.Quantity, int) kubernetes.Quantity",
        |args| Ok(value(given(&args[0])?.sub(&operand(&args[1])?))),
    ),
    (".isGreaterThan(kubernetes.Quantity, kubernetes.Quantity) bool", |args| {
        Ok(Value::Bool(order(args)? == Ordering::Greater))
    }),
    (".isLessThan(kubernetes.Quantity, kubernetes.Quantity) bool", |args| {
        Ok(Value::Bool(order(args)? == Ordering::Less))
    }),
    (".compareTo(kubernetes.Quantity, kubernetes.Quantity) int", |args| Ok(Value::Int(order(args)? as i64))),
];

fn value<'a>(of: Quantity) -> Value<'a> {
    Value::Quantity(Arc::new(of))
}

fn given<'v>(value: &'v Value<'_>) -> Result<&'v Quantity, Error> {
    if let Value::Quantity(of) = value { Ok(of) } else { Err(Error::no_overload("quantity")) }
}

fn operand(value: &Value<'_>) -> Result<Quantity, Error> {
    match value {
        Value::Int(of) => Ok(Quantity::new(*of, Format::DecimalSi)),
        other => given(other).cloned(),
    }
}

fn order(args: &[Value<'_>]) -> Result<Ordering, Error> {
    Ok(given(&args[0])?.cmp(given(&args[1])?))
}

/// As an integer, if it is one.
fn whole(of: &Quantity) -> Option<i64> {
    let rounded = of.value();
    (Quantity::new(rounded, of.format()) == *of).then_some(rounded)
}
