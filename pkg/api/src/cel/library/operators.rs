//! Arithmetic, comparison, membership, optionals and sets.
use super::{Entry, failed, wrong};
use crate::cel::{Error, Value};
use std::cmp::Ordering;
use std::sync::Arc;

/// No list or text that an expression makes grows beyond this many items or bytes.
const MAX_SIZE: usize = 16 << 20;

pub const FUNCTIONS: &[Entry] = &[
    ("_==_(A, A) bool", |args| Ok(Value::Bool(args[0] == args[1]))),
    ("_!=_(A, A) bool", |args| Ok(Value::Bool(args[0] != args[1]))),
    (LESS, |args| ordered(args, |o| o == Ordering::Less)),
    (LESS_EQUALS, |args| ordered(args, |o| o != Ordering::Greater)),
    (GREATER, |args| ordered(args, |o| o == Ordering::Greater)),
    (GREATER_EQUALS, |args| ordered(args, |o| o != Ordering::Less)),
    (ADD, add),
    (
        "_-_(int, int) int; _-_(uint, uint) uint; _-_(double, double) double; \
         _-_(google.protobuf.Duration, google.protobuf.Duration) google.protobuf.Duration; \
         _-_(google.protobuf.Timestamp, google.protobuf.Duration) google.protobuf.Timestamp; \
         _-_(google.protobuf.Timestamp, google.protobuf.Timestamp) google.protobuf.Duration",
        subtract,
    ),
    ("_*_(int, int) int; _*_(uint, uint) uint; _*_(double, double) double", |args| {
        arithmetic(args, i64::checked_mul, u64::checked_mul, |a, b| a * b)
    }),
    ("_/_(int, int) int; _/_(uint, uint) uint; _/_(double, double) double", |args| {
        nonzero(args, "division by zero")?;
        arithmetic(args, i64::checked_div, u64::checked_div, |a, b| a / b)
    }),
    ("_%_(int, int) int; _%_(uint, uint) uint", |args| {
        nonzero(args, "modulus by zero")?;
        arithmetic(args, i64::checked_rem, u64::checked_rem, |a, b| a % b)
    }),
    ("-_(int) int; -_(double) double", negate),
    ("!_(bool) bool", |args| args[0].as_bool().map_or_else(|| wrong("!_"), |of| Ok(Value::Bool(!of)))),
    ("@in(A, list<A>) bool; @in(A, map<A, B>) bool", is_in),
    ("optional.of(A) optional<A>", |args| Ok(Value::some(args[0].clone()))),
    ("optional.none() optional<A>", |_| Ok(Value::Optional(None))),
    ("optional.ofNonZeroValue(A) optional<A>", |args| match is_zero(&args[0]) {
        true => Ok(Value::Optional(None)),
        false => Ok(Value::some(args[0].clone())),
    }),
    (".hasValue(optional<A>) bool", |args| match &args[0] {
        Value::Optional(of) => Ok(Value::Bool(of.is_some())),
        _ => wrong("hasValue"),
    }),
    (".value(optional<A>) A", |args| match &args[0] {
        Value::Optional(Some(of)) => Ok((**of).clone()),
        Value::Optional(None) => Err(failed("optional.none() dereference")),
        _ => wrong("value"),
    }),
    // Evaluated lazily, in `eval`; only the declarations are used.
    (".or(optional<A>, optional<A>) optional<A>; .orValue(optional<A>, A) A", |_| wrong("or")),
    ("sets.contains(list<A>, list<A>) bool", |args| Ok(Value::Bool(contains_all(&args[0], &args[1])))),
    ("sets.equivalent(list<A>, list<A>) bool", |args| {
        Ok(Value::Bool(contains_all(&args[0], &args[1]) && contains_all(&args[1], &args[0])))
    }),
    ("sets.intersects(list<A>, list<A>) bool", |args| {
        Ok(Value::Bool(args[0].items().any(|item| args[1].items().any(|other| other == item))))
    }),
];

macro_rules! comparison {
    ($op:literal) => {
        concat!(
            $op,
            "(bool, bool) bool; ",
            $op,
            "(int, int) bool; ",
            $op,
            "(int, uint) bool; ",
            $op,
            "(int, double) bool; ",
            $op,
            "(uint, uint) bool; ",
            $op,
            "(uint, int) bool; ",
            $op,
            "(uint, double) bool; ",
            $op,
            "(double, double) bool; ",
            $op,
            "(double, int) bool; ",
            $op,
            "(double, uint) bool; ",
            $op,
            "(string, string) bool; ",
            $op,
            "(bytes, bytes) bool; ",
            $op,
            "(google.protobuf.Duration, google.protobuf.Duration) bool; ",
            $op,
            "(google.protobuf.Timestamp, google.protobuf.Timestamp) bool"
        )
    };
}
const LESS: &str = comparison!("_<_");
const LESS_EQUALS: &str = comparison!("_<=_");
const GREATER: &str = comparison!("_>_");
const GREATER_EQUALS: &str = comparison!("_>=_");
const ADD: &str = "_+_(int, int) int; _+_(uint, uint) uint; _+_(double, double) double; \
    _+_(string, string) string; _+_(bytes, bytes) bytes; _+_(list<A>, list<A>) list<A>; \
    _+_(google.protobuf.Duration, google.protobuf.Duration) google.protobuf.Duration; \
    _+_(google.protobuf.Timestamp, google.protobuf.Duration) google.protobuf.Timestamp; \
    _+_(google.protobuf.Duration, google.protobuf.Timestamp) google.protobuf.Timestamp";

fn ordered<'a>(args: &[Value<'a>], holds: fn(Ordering) -> bool) -> Result<Value<'a>, Error> {
    match args[0].compare(&args[1]) {
        Some(order) => Ok(Value::Bool(holds(order))),
        // NaN compares with nothing.
        None if args[0].as_double().is_some() && args[1].as_double().is_some() => Ok(Value::Bool(false)),
        None => wrong("comparison"),
    }
}

fn overflow<'a>(kind: &str) -> Result<Value<'a>, Error> {
    Err(failed(format!("{kind} overflow")))
}

fn arithmetic<'a>(
    args: &[Value<'a>],
    int: fn(i64, i64) -> Option<i64>,
    uint: fn(u64, u64) -> Option<u64>,
    double: fn(f64, f64) -> f64,
) -> Result<Value<'a>, Error> {
    match (&args[0], &args[1]) {
        (Value::Int(a), Value::Int(b)) => int(*a, *b).map_or_else(|| overflow("integer"), |of| Ok(Value::Int(of))),
        (Value::Uint(a), Value::Uint(b)) => {
            uint(*a, *b).map_or_else(|| overflow("unsigned integer"), |of| Ok(Value::Uint(of)))
        }
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(double(*a, *b))),
        _ => wrong("arithmetic"),
    }
}

fn nonzero(args: &[Value<'_>], message: &str) -> Result<(), Error> {
    match args[1] {
        Value::Int(0) | Value::Uint(0) => Err(failed(message)),
        _ => Ok(()),
    }
}

fn add<'a>(args: &[Value<'a>]) -> Result<Value<'a>, Error> {
    let too_large = |size: usize| if size > MAX_SIZE { Err(failed("result is too large")) } else { Ok(()) };
    match (&args[0], &args[1]) {
        (Value::Duration(a), Value::Duration(b)) => {
            a.checked_add(*b).map_or_else(|| overflow("duration"), |of| Ok(Value::Duration(of)))
        }
        (Value::Timestamp(a), Value::Duration(b)) | (Value::Duration(b), Value::Timestamp(a)) => {
            a.checked_add(*b).map_or_else(|_| overflow("timestamp"), |of| Ok(Value::Timestamp(of)))
        }
        (Value::Bytes(a), Value::Bytes(b)) => {
            too_large(a.len() + b.len())?;
            Ok(Value::Bytes([&a[..], &b[..]].concat().into()))
        }
        (a, b) if a.is_list() && b.is_list() => {
            too_large(a.size().unwrap_or(0) + b.size().unwrap_or(0))?;
            Ok(Value::list(a.items().chain(b.items()).collect()))
        }
        (a, b) => match (a.as_str(), b.as_str()) {
            (Some(a), Some(b)) => {
                too_large(a.len() + b.len())?;
                Ok(Value::string([a, b].concat()))
            }
            _ => arithmetic(args, i64::checked_add, u64::checked_add, |a, b| a + b),
        },
    }
}

fn subtract<'a>(args: &[Value<'a>]) -> Result<Value<'a>, Error> {
    match (&args[0], &args[1]) {
        (Value::Duration(a), Value::Duration(b)) => {
            a.checked_sub(*b).map_or_else(|| overflow("duration"), |of| Ok(Value::Duration(of)))
        }
        (Value::Timestamp(a), Value::Duration(b)) => {
            a.checked_sub(*b).map_or_else(|_| overflow("timestamp"), |of| Ok(Value::Timestamp(of)))
        }
        (Value::Timestamp(a), Value::Timestamp(b)) => Ok(Value::Duration(a.duration_since(*b))),
        _ => arithmetic(args, i64::checked_sub, u64::checked_sub, |a, b| a - b),
    }
}

fn negate<'a>(args: &[Value<'a>]) -> Result<Value<'a>, Error> {
    match args[0] {
        Value::Int(of) => of.checked_neg().map_or_else(|| overflow("integer"), |of| Ok(Value::Int(of))),
        Value::Double(of) => Ok(Value::Double(-of)),
        _ => wrong("-_"),
    }
}

fn is_in<'a>(args: &[Value<'a>]) -> Result<Value<'a>, Error> {
    if args[1].is_list() {
        return Ok(Value::Bool(args[1].items().any(|item| item == args[0])));
    }
    if args[1].is_map() {
        return Ok(Value::Bool(args[1].index(&args[0])?.is_some()));
    }
    wrong("@in")
}

fn is_zero(of: &Value<'_>) -> bool {
    match of {
        Value::Null => true,
        Value::Bool(of) => !of,
        Value::Optional(of) => of.is_none(),
        Value::Duration(of) => of.is_zero(),
        other => other.as_double() == Some(0.0) || other.size() == Some(0),
    }
}

fn contains_all(list: &Value<'_>, wanted: &Value<'_>) -> bool {
    wanted.items().all(|item| list.items().any(|other| other == item))
}

/// Shares a list between values.
pub(super) fn shared<'a>(items: impl IntoIterator<Item = Value<'a>>) -> Value<'a> {
    Value::List(Arc::new(items.into_iter().collect()))
}
