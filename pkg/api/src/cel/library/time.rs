//! Times and durations. Without a time zone, UTC.
use super::{Entry, failed, wrong};
use crate::cel::{Error, Value, text};
use jiff::Zoned;
use jiff::tz::{Offset, TimeZone};

pub const FUNCTIONS: &[Entry] = &[
    (
        "timestamp(string) google.protobuf.Timestamp; timestamp(int) google.protobuf.Timestamp; \
         timestamp(google.protobuf.Timestamp) google.protobuf.Timestamp",
        timestamp,
    ),
    (
        "duration(string) google.protobuf.Duration; duration(int) google.protobuf.Duration; \
         duration(google.protobuf.Duration) google.protobuf.Duration",
        duration,
    ),
    (".getFullYear(google.protobuf.Timestamp) int; .getFullYear(google.protobuf.Timestamp, string) int", |args| {
        part(args, |at| at.year().into())
    }),
    (".getMonth(google.protobuf.Timestamp) int; .getMonth(google.protobuf.Timestamp, string) int", |args| {
        part(args, |at| i64::from(at.month()) - 1)
    }),
    (".getDate(google.protobuf.Timestamp) int; .getDate(google.protobuf.Timestamp, string) int", |args| {
        part(args, |at| at.day().into())
    }),
    (".getDayOfMonth(google.protobuf.Timestamp) int; .getDayOfMonth(google.protobuf.Timestamp, string) int", |args| {
        part(args, |at| i64::from(at.day()) - 1)
    }),
    (".getDayOfWeek(google.protobuf.Timestamp) int; .getDayOfWeek(google.protobuf.Timestamp, string) int", |args| {
        part(args, |at| at.weekday().to_sunday_zero_offset().into())
    }),
    (".getDayOfYear(google.protobuf.Timestamp) int; .getDayOfYear(google.protobuf.Timestamp, string) int", |args| {
        part(args, |at| i64::from(at.day_of_year()) - 1)
    }),
    (
        ".getHours(google.protobuf.Timestamp) int; .getHours(google.protobuf.Timestamp, string) int; \
         .getHours(google.protobuf.Duration) int",
        |args| either(args, |of| of.as_hours(), |at| at.hour().into()),
    ),
    (
        ".getMinutes(google.protobuf.Timestamp) int; .getMinutes(google.protobuf.Timestamp, string) int; \
         .getMinutes(google.protobuf.Duration) int",
        |args| either(args, |of| of.as_mins(), |at| at.minute().into()),
    ),
    (
        ".getSeconds(google.protobuf.Timestamp) int; .getSeconds(google.protobuf.Timestamp, string) int; \
         .getSeconds(google.protobuf.Duration) int",
        |args| either(args, |of| of.as_secs(), |at| at.second().into()),
    ),
    (
        ".getMilliseconds(google.protobuf.Timestamp) int; .getMilliseconds(google.protobuf.Timestamp, string) int; \
         .getMilliseconds(google.protobuf.Duration) int",
        |args| either(args, |of| of.subsec_millis().into(), |at| at.millisecond().into()),
    ),
];

fn timestamp<'a>(args: &[Value<'a>]) -> Result<Value<'a>, Error> {
    match (&args[0], args[0].as_str()) {
        (of @ Value::Timestamp(_), _) => Ok(of.clone()),
        (Value::Int(of), _) => {
            jiff::Timestamp::from_second(*of).map(Value::Timestamp).map_err(|_| failed("timestamp overflow"))
        }
        (_, Some(of)) => of.parse().map(Value::Timestamp).map_err(|_| failed(format!("invalid timestamp: {of}"))),
        _ => wrong("timestamp"),
    }
}

fn duration<'a>(args: &[Value<'a>]) -> Result<Value<'a>, Error> {
    match (&args[0], args[0].as_str()) {
        (of @ Value::Duration(_), _) => Ok(of.clone()),
        (Value::Int(of), _) => Ok(Value::Duration(jiff::SignedDuration::from_nanos(*of))),
        (_, Some(of)) => {
            text::parse_duration(of).map(Value::Duration).ok_or_else(|| failed(format!("invalid duration: {of}")))
        }
        _ => wrong("duration"),
    }
}

fn zone(name: &str) -> Result<TimeZone, Error> {
    let unknown = || failed(format!("unknown time zone {name}"));
    let Some((hours, minutes)) = name.split_once(':') else { return TimeZone::get(name).map_err(|_| unknown()) };
    let (hours, minutes): (i32, i32) = (hours.parse().map_err(|_| unknown())?, minutes.parse().map_err(|_| unknown())?);
    let minutes = if name.starts_with('-') { -minutes } else { minutes };
    Offset::from_seconds(hours * 3600 + minutes * 60).map(TimeZone::fixed).map_err(|_| unknown())
}

fn part<'a>(args: &[Value<'a>], of: fn(&Zoned) -> i64) -> Result<Value<'a>, Error> {
    let Value::Timestamp(at) = &args[0] else { return wrong("time") };
    let zone = args.get(1).and_then(Value::as_str).map_or(Ok(TimeZone::UTC), zone)?;
    Ok(Value::Int(of(&at.to_zoned(zone))))
}

fn either<'a>(
    args: &[Value<'a>],
    length: fn(&jiff::SignedDuration) -> i64,
    point: fn(&Zoned) -> i64,
) -> Result<Value<'a>, Error> {
    match &args[0] {
        Value::Duration(of) => Ok(Value::Int(length(of))),
        _ => part(args, point),
    }
}
