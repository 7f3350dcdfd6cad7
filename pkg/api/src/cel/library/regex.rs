//! Regular expressions (`k8s.io/apiserver/pkg/cel/library/regex.go`). Patterns are bounded in size by the engine,
//! which runs in time linear in the text.
use super::operators::shared;
use super::{Entry, failed, wrong};
use crate::cel::{Error, Value};
use parking_lot::Mutex;
use regex::Regex;
use std::collections::HashMap;
use std::sync::LazyLock;

/// Compiled patterns kept for reuse; beyond it all are forgotten.
const CACHED_PATTERNS: usize = 256;

static CACHE: LazyLock<Mutex<HashMap<String, Regex>>> = LazyLock::new(Mutex::default);

pub const FUNCTIONS: &[Entry] = &[
    (".matches(string, string) bool", matches),
    ("matches(string, string) bool", matches),
    (".find(string, string) string", |args| {
        let (of, pattern) = given(args)?;
        Ok(Value::string(pattern.find(of).map_or("", |found| found.as_str())))
    }),
    (".findAll(string, string) list<string>; .findAll(string, string, int) list<string>", |args| {
        let (of, pattern) = given(args)?;
        let most = args.get(2).and_then(Value::as_int).and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
        Ok(shared(pattern.find_iter(of).take(most).map(|found| Value::string(found.as_str()))))
    }),
];

/// A compiled pattern.
///
/// # Errors
/// When it is no regular expression, or one too large.
pub fn compiled(pattern: &str) -> Result<Regex, Error> {
    if let Some(known) = CACHE.lock().get(pattern) {
        return Ok(known.clone());
    }
    let made = Regex::new(pattern).map_err(|why| {
        let why = why.to_string();
        failed(format!(
            "error parsing regexp: {}",
            why.lines().last().unwrap_or_default().trim_start_matches("error: ")
        ))
    })?;
    let mut cache = CACHE.lock();
    if cache.len() >= CACHED_PATTERNS {
        cache.clear();
    }
    cache.insert(pattern.into(), made.clone());
    Ok(made)
}

fn given<'v>(args: &'v [Value<'_>]) -> Result<(&'v str, Regex), Error> {
    let (Some(of), Some(pattern)) = (args[0].as_str(), args[1].as_str()) else {
        return Err(Error::no_overload("matches"));
    };
    Ok((of, compiled(pattern)?))
}

fn matches<'a>(args: &[Value<'a>]) -> Result<Value<'a>, Error> {
    if args[0].as_str().is_none() {
        return wrong("matches");
    }
    let (of, pattern) = given(args)?;
    Ok(Value::Bool(pattern.is_match(of)))
}
