//! Durations, times and numbers as text.
use super::Value;
use jiff::{SignedDuration, Timestamp};

/// Units of Go's duration notation, in nanoseconds.
const UNITS: &[(&str, f64)] =
    &[("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("ms", 1e6), ("h", 3.6e12), ("m", 6e10), ("s", 1e9)];
/// From here on, Go writes doubles with an exponent.
const EXPONENT_FROM: f64 = 1e21;

/// Go's notation: `1h30m`, `-1.5s`, `0`.
pub fn parse_duration(text: &str) -> Option<SignedDuration> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(SignedDuration::ZERO);
    }
    let mut nanos = 0_f64;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let count: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let (unit, factor) = UNITS.iter().filter(|(unit, _)| rest.starts_with(unit)).max_by_key(|(u, _)| u.len())?;
        nanos += count * factor;
        rest = &rest[unit.len()..];
    }
    let nanos = if negative { -nanos } else { nanos };
    let given = !text.trim_start_matches(['-', '+']).is_empty();
    (given && nanos.abs() < i64::MAX as f64).then(|| SignedDuration::from_nanos(nanos.round() as i64))
}

/// Seconds, as the language's `string()` writes a duration.
pub fn duration(of: SignedDuration) -> String {
    let nanos = of.as_nanos();
    let (whole, part) = (nanos / 1_000_000_000, (nanos % 1_000_000_000).unsigned_abs());
    if part == 0 {
        return format!("{whole}s");
    }
    let sign = if nanos < 0 && whole == 0 { "-" } else { "" };
    format!("{sign}{whole}.{}s", format!("{part:09}").trim_end_matches('0'))
}

/// RFC 3339, or a date alone.
pub fn parse_timestamp(text: &str) -> Option<Timestamp> {
    text.parse().ok().or_else(|| {
        let day: jiff::civil::Date = text.parse().ok()?;
        Some(day.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
    })
}

/// The shortest text that reads back as the same double.
pub fn double(of: f64) -> String {
    if of.is_nan() {
        return "NaN".into();
    }
    if of.is_infinite() {
        return if of > 0.0 { "+Inf" } else { "-Inf" }.into();
    }
    if of != 0.0 && (of.abs() >= EXPONENT_FROM || of.abs() < 1e-4) {
        let text = format!("{of:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = exponent.strip_prefix('-').map_or(("+", exponent), |rest| ("-", rest));
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    of.to_string()
}

/// A scalar as text; what is none, as JSON.
pub fn of(value: &Value<'_>) -> String {
    match value {
        Value::Double(of) => double(*of),
        Value::Bytes(of) => String::from_utf8_lossy(of).into_owned(),
        _ => match value.to_json() {
            serde_json::Value::String(of) => of,
            other => other.to_string(),
        },
    }
}
