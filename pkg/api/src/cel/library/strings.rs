//! Strings (`cel-go/ext/strings.go`, version 2).
use super::operators::shared;
use super::{Entry, failed, wrong};
use crate::cel::{Error, Value, text};

pub const FUNCTIONS: &[Entry] = &[
    (".contains(string, string) bool", |args| test(args, |a, b| a.contains(b))),
    (".startsWith(string, string) bool", |args| test(args, |a, b| a.starts_with(b))),
    (".endsWith(string, string) bool", |args| test(args, |a, b| a.ends_with(b))),
    (".lowerAscii(string) string", |args| mapped(args, str::to_ascii_lowercase)),
    (".upperAscii(string) string", |args| mapped(args, str::to_ascii_uppercase)),
    (".trim(string) string", |args| mapped(args, |of| of.trim().into())),
    (".charAt(string, int) string", char_at),
    (".join(list<string>) string; .join(list<string>, string) string", join),
    (".split(string, string) list<string>; .split(string, string, int) list<string>", split),
    (".replace(string, string, string) string; .replace(string, string, string, int) string", replace),
    (".substring(string, int) string; .substring(string, int, int) string", substring),
    (".format(string, list<dyn>) string", format),
    ("strings.quote(string) string", |args| mapped(args, quote)),
    ("jsonpatch.escapeKey(string) string", |args| mapped(args, |of| of.replace('~', "~0").replace('/', "~1"))),
];

/// Decimal places of `%f` and `%e` when none are given.
const DEFAULT_PRECISION: usize = 6;

fn texts<'v>(args: &'v [Value<'_>], name: &str) -> Result<Vec<&'v str>, Error> {
    args.iter().map(|arg| arg.as_str().ok_or_else(|| Error::no_overload(name))).collect()
}

fn test<'a>(args: &[Value<'a>], holds: fn(&str, &str) -> bool) -> Result<Value<'a>, Error> {
    let texts = texts(args, "string test")?;
    Ok(Value::Bool(holds(texts[0], texts[1])))
}

fn mapped<'a>(args: &[Value<'a>], map: fn(&str) -> String) -> Result<Value<'a>, Error> {
    Ok(Value::string(map(texts(args, "string")?[0])))
}

fn char_at<'a>(args: &[Value<'a>]) -> Result<Value<'a>, Error> {
    let (Some(of), Some(at)) = (args[0].as_str(), args[1].as_int()) else { return wrong("charAt") };
    let size = of.chars().count() as i64;
    if at < 0 || at > size {
        return Err(failed(format!("index out of range: {at}")));
    }
    Ok(Value::string(of.chars().skip(at as usize).take(1).collect::<String>()))
}

/// Where a text or an item stands, from `start` on; the last such place if `last`.
pub(super) fn index_of<'a>(args: &[Value<'a>], last: bool) -> Result<Value<'a>, Error> {
    let (Some(of), Some(what)) = (args[0].as_str(), args[1].as_str()) else { return wrong("indexOf") };
    let (of, what): (Vec<char>, Vec<char>) = (of.chars().collect(), what.chars().collect());
    let given = args.get(2).and_then(Value::as_int);
    if given.is_some_and(|at| at < 0 || at > of.len() as i64) {
        return Err(failed(format!("index out of range: {}", given.unwrap_or_default())));
    }
    let fits = |at: &usize| of[*at..].starts_with(&what);
    let given = given.map(|at| at as usize);
    let found = match last {
        true => (0..=given.unwrap_or(of.len())).rev().find(fits),
        false => (given.unwrap_or(0)..=of.len()).find(fits),
    };
    Ok(Value::Int(found.map_or(-1, |at| at as i64)))
}

fn join<'a>(args: &[Value<'a>]) -> Result<Value<'a>, Error> {
    let between = args.get(1).map_or(Some(""), Value::as_str).ok_or_else(|| Error::no_overload("join"))?;
    let items: Vec<Value<'_>> = args[0].items().collect();
    Ok(Value::string(texts(&items, "join")?.join(between)))
}

fn split<'a>(args: &[Value<'a>]) -> Result<Value<'a>, Error> {
    let of = texts(&args[..2], "split")?;
    let most = args.get(2).and_then(Value::as_int).unwrap_or(-1);
    let parts: Vec<String> = match (usize::try_from(most), of[1].is_empty()) {
        (Ok(0), _) => Vec::new(),
        (Ok(most), true) => characters(of[0], most),
        (Ok(most), false) => of[0].splitn(most, of[1]).map(Into::into).collect(),
        (Err(_), true) => of[0].chars().map(String::from).collect(),
        (Err(_), false) => of[0].split(of[1]).map(Into::into).collect(),
    };
    Ok(shared(parts.into_iter().map(Value::string)))
}

/// One part a character, the rest in the last.
fn characters(of: &str, most: usize) -> Vec<String> {
    let mut parts: Vec<String> = of.chars().take(most - 1).map(String::from).collect();
    let rest: String = of.chars().skip(most - 1).collect();
    parts.extend((!rest.is_empty()).then_some(rest));
    parts
}

fn replace<'a>(args: &[Value<'a>]) -> Result<Value<'a>, Error> {
    let of = texts(&args[..3], "replace")?;
    let most = args.get(3).and_then(Value::as_int).unwrap_or(-1);
    Ok(Value::string(match usize::try_from(most) {
        Ok(most) => of[0].replacen(of[1], of[2], most),
        Err(_) => of[0].replace(of[1], of[2]),
    }))
}

fn substring<'a>(args: &[Value<'a>]) -> Result<Value<'a>, Error> {
    let (Some(of), Some(start)) = (args[0].as_str(), args[1].as_int()) else { return wrong("substring") };
    let size = of.chars().count() as i64;
    let end = args.get(2).and_then(Value::as_int).unwrap_or(size);
    if start < 0 || start > size {
        return Err(failed(format!("index out of range: {start}")));
    }
    if end < 0 || end > size {
        return Err(failed(format!("index out of range: {end}")));
    }
    if start > end {
        return Err(failed(format!("invalid substring range. start: {start}, end: {end}")));
    }
    Ok(Value::string(of.chars().skip(start as usize).take((end - start) as usize).collect::<String>()))
}

fn quote(of: &str) -> String {
    serde_json::Value::from(of).to_string()
}

fn format<'a>(args: &[Value<'a>]) -> Result<Value<'a>, Error> {
    let Some(template) = args[0].as_str() else { return wrong("format") };
    let (mut out, mut values) = (String::new(), args[1].items());
    let mut rest = template;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            (out, rest) = (out + "%", after);
            continue;
        }
        let (precision, verb, after) = clause(rest)?;
        let value = values.next().ok_or_else(|| failed("index out of range for format arguments"))?;
        out += &formatted(&value, verb, precision)?;
        rest = after;
    }
    Ok(Value::string(out + rest))
}

/// The precision and the verb behind a percent sign, and what follows.
fn clause(rest: &str) -> Result<(Option<usize>, char, &str), Error> {
    let incomplete = || failed("could not parse formatting clause: unexpected end of string");
    let (precision, rest) = match rest.strip_prefix('.') {
        None => (None, rest),
        Some(digits) => {
            let end = digits.find(|c: char| !c.is_ascii_digit()).ok_or_else(incomplete)?;
            let precision = digits[..end].parse().map_err(|_| failed("error while parsing precision"))?;
            (Some(precision), &digits[end..])
        }
    };
    let verb = rest.chars().next().ok_or_else(incomplete)?;
    Ok((precision, verb, &rest[verb.len_utf8()..]))
}

fn formatted(value: &Value<'_>, verb: char, precision: Option<usize>) -> Result<String, Error> {
    let places = precision.unwrap_or(DEFAULT_PRECISION);
    let wrong = || failed(format!("error during formatting: %{verb} of a {}", value.type_name()));
    match (verb, value) {
        ('s', _) => Ok(shown(value)),
        ('d', Value::Int(_) | Value::Uint(_)) => Ok(text::of(value)),
        ('f', _) => value.as_double().map(|of| format!("{of:.places$}")).ok_or_else(wrong),
        ('e', _) => value.as_double().map(|of| exponent(of, places)).ok_or_else(wrong),
        ('b', Value::Int(of)) => Ok(signed(*of, |of| format!("{of:b}"))),
        ('b', Value::Uint(of)) => Ok(format!("{of:b}")),
        ('b', Value::Bool(of)) => Ok(u8::from(*of).to_string()),
        ('o', Value::Int(of)) => Ok(signed(*of, |of| format!("{of:o}"))),
        ('o', Value::Uint(of)) => Ok(format!("{of:o}")),
        ('x' | 'X', _) => hexadecimal(value, verb == 'X').ok_or_else(wrong),
        ('d' | 'b' | 'o', _) => Err(wrong()),
        _ => Err(failed(format!("could not parse formatting clause: unrecognized formatting clause \"{verb}\""))),
    }
}

fn signed(of: i64, digits: fn(u64) -> String) -> String {
    format!("{}{}", if of < 0 { "-" } else { "" }, digits(of.unsigned_abs()))
}

fn exponent(of: f64, places: usize) -> String {
    let text = format!("{of:.places$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(("+", exponent), |rest| ("-", rest));
    format!("{digits}e{sign}{exponent:0>2}")
}

fn hexadecimal(value: &Value<'_>, upper: bool) -> Option<String> {
    let bytes = |of: &[u8]| of.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let text = match value {
        Value::Int(of) => signed(*of, |of| format!("{of:x}")),
        Value::Uint(of) => format!("{of:x}"),
        Value::Bytes(of) => bytes(of),
        other => bytes(other.as_str()?.as_bytes()),
    };
    Some(if upper { text.to_uppercase() } else { text })
}

/// As `%s` writes it: lists and maps with their parts so written.
fn shown(value: &Value<'_>) -> String {
    if value.is_list() {
        return format!("[{}]", value.items().map(|item| shown(&item)).collect::<Vec<_>>().join(", "));
    }
    if value.is_map() {
        let entry = |(key, value): (Value<'_>, Value<'_>)| format!("{}: {}", shown(&key), shown(&value));
        return format!("{{{}}}", value.entries().into_iter().map(entry).collect::<Vec<_>>().join(", "));
    }
    text::of(value)
}
