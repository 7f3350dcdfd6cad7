//! Conversions between types.
use super::{Entry, failed, wrong};
use crate::cel::{Error, Value, text};

pub const FUNCTIONS: &[Entry] = &[
    ("size(string) int; size(bytes) int; size(list<A>) int; size(map<A, B>) int", size),
    (".size(string) int; .size(bytes) int; .size(list<A>) int; .size(map<A, B>) int", size),
    (
        "int(int) int; int(uint) int; int(double) int; int(string) int; int(google.protobuf.Timestamp) int; \
         int(google.protobuf.Duration) int",
        int,
    ),
    ("uint(uint) uint; uint(int) uint; uint(double) uint; uint(string) uint", uint),
    ("double(double) double; double(int) double; double(uint) double; double(string) double", double),
    (
        "string(string) string; string(int) string; string(uint) string; string(double) string; string(bool) string; \
         string(bytes) string; string(google.protobuf.Timestamp) string; string(google.protobuf.Duration) string; \
         string(net.IP) string; string(net.CIDR) string",
        string,
    ),
    ("bytes(bytes) bytes; bytes(string) bytes", |args| match (&args[0], args[0].as_str()) {
        (_, Some(of)) => Ok(Value::Bytes(of.as_bytes().into())),
        (of @ Value::Bytes(_), _) => Ok(of.clone()),
        _ => wrong("bytes"),
    }),
    ("bool(bool) bool; bool(string) bool", boolean),
    ("dyn(A) dyn", |args| Ok(args[0].clone())),
    ("type(A) type", |args| Ok(Value::Type(args[0].type_name().into()))),
];

fn size<'a>(args: &[Value<'a>]) -> Result<Value<'a>, Error> {
    args[0].size().map_or_else(|| wrong("size"), |of| Ok(Value::Int(of as i64)))
}

fn int<'a>(args: &[Value<'a>]) -> Result<Value<'a>, Error> {
    let overflow = || failed("integer overflow");
    Ok(Value::Int(match &args[0] {
        Value::Int(of) => *of,
        Value::Uint(of) => i64::try_from(*of).map_err(|_| overflow())?,
        Value::Double(of) if of.is_finite() && of.abs() < i64::MAX as f64 => *of as i64,
        Value::Double(_) => return Err(overflow()),
        Value::Timestamp(of) => of.as_second(),
        Value::Duration(of) => i64::try_from(of.as_nanos()).map_err(|_| overflow())?,
        other => match other.as_str() {
            Some(of) => of.parse().map_err(|_| failed(format!("type conversion error from '{of}' to int")))?,
            None => return wrong("int"),
        },
    }))
}

fn uint<'a>(args: &[Value<'a>]) -> Result<Value<'a>, Error> {
    let overflow = || failed("unsigned integer overflow");
    Ok(Value::Uint(match &args[0] {
        Value::Uint(of) => *of,
        Value::Int(of) => u64::try_from(*of).map_err(|_| overflow())?,
        Value::Double(of) if *of >= 0.0 && *of < u64::MAX as f64 => *of as u64,
        Value::Double(_) => return Err(overflow()),
        other => match other.as_str() {
            Some(of) => of.parse().map_err(|_| failed(format!("type conversion error from '{of}' to uint")))?,
            None => return wrong("uint"),
        },
    }))
}

fn double<'a>(args: &[Value<'a>]) -> Result<Value<'a>, Error> {
    match (args[0].as_double(), args[0].as_str()) {
        (Some(of), _) => Ok(Value::Double(of)),
        (_, Some(of)) => {
            of.parse().map(Value::Double).map_err(|_| failed(format!("type conversion error from '{of}' to double")))
        }
        _ => wrong("double"),
    }
}

fn string<'a>(args: &[Value<'a>]) -> Result<Value<'a>, Error> {
    match &args[0] {
        of if of.as_str().is_some() => Ok(of.clone()),
        Value::Bytes(of) => {
            std::str::from_utf8(of).map(Value::string).map_err(|_| failed("invalid UTF-8 in bytes, cannot convert"))
        }
        Value::Opaque(of) => of.text().map_or_else(|| wrong("string"), |text| Ok(Value::string(text))),
        of if of.is_list() || of.is_map() || matches!(of, Value::Null | Value::Optional(_)) => wrong("string"),
        of => Ok(Value::string(text::of(of))),
    }
}

fn boolean<'a>(args: &[Value<'a>]) -> Result<Value<'a>, Error> {
    match (args[0].as_bool(), args[0].as_str()) {
        (Some(of), _) => Ok(Value::Bool(of)),
        (_, Some("1" | "t" | "T" | "true" | "TRUE" | "True")) => Ok(Value::Bool(true)),
        (_, Some("0" | "f" | "F" | "false" | "FALSE" | "False")) => Ok(Value::Bool(false)),
        (_, Some(of)) => Err(failed(format!("type conversion error from '{of}' to bool"))),
        _ => wrong("bool"),
    }
}
