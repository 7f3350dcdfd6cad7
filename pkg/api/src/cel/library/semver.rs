//! Semantic versions (`k8s.io/apiserver/pkg/cel/library/semverlib.go`).
use super::{Entry, Methods, failed, opaque, wrong};
use crate::cel::{Error, Opaque, Value};
use semver::Version;
use std::any::Any;
use std::cmp::Ordering;

pub const FUNCTIONS: &[Entry] = &[
    ("semver(string) kubernetes.Semver; semver(string, bool) kubernetes.Semver", |args| {
        parse(args)?.map(|of| opaque(Semver(of))).map_err(failed)
    }),
    ("isSemver(string) bool; isSemver(string, bool) bool", |args| Ok(Value::Bool(parse(args)?.is_ok()))),
];

pub const METHODS: Methods = ".isGreaterThan(kubernetes.Semver, kubernetes.Semver) bool; \
    .isLessThan(kubernetes.Semver, kubernetes.Semver) bool; .compareTo(kubernetes.Semver, kubernetes.Semver) int; \
    .major(kubernetes.Semver) int; .minor(kubernetes.Semver) int; .patch(kubernetes.Semver) int";

#[derive(Debug)]
struct Semver(Version);

fn parse(args: &[Value<'_>]) -> Result<Result<Version, String>, Error> {
    let of = args[0].as_str().ok_or_else(|| Error::no_overload("semver"))?;
    let lenient = args.get(1).and_then(Value::as_bool).unwrap_or(false);
    let text = if lenient { normalized(of) } else { of.into() };
    Ok(Version::parse(&text).map_err(|why| why.to_string()))
}

/// Without a leading `v` and leading zeros, with the parts that are missing.
fn normalized(of: &str) -> String {
    let of = of.strip_prefix('v').unwrap_or(of);
    let end = of.find(['-', '+']).unwrap_or(of.len());
    let mut parts: Vec<&str> = of[..end].split('.').map(|part| part.trim_start_matches('0')).collect();
    parts.resize(parts.len().max(3), "0");
    let parts: Vec<&str> = parts.into_iter().map(|part| if part.is_empty() { "0" } else { part }).collect();
    parts.join(".") + &of[end..]
}

impl Opaque for Semver {
    fn type_name(&self) -> &'static str {
        "kubernetes.Semver"
    }

    fn call(&self, function: &str, arguments: &[Value<'_>]) -> Result<Value<'static>, Error> {
        let other = match arguments.first() {
            Some(Value::Opaque(of)) => of.as_any().downcast_ref::<Self>(),
            _ => None,
        };
        let order = other.map(|other| self.0.cmp_precedence(&other.0));
        Ok(match (function, order) {
            ("isGreaterThan", Some(order)) => Value::Bool(order == Ordering::Greater),
            ("isLessThan", Some(order)) => Value::Bool(order == Ordering::Less),
            ("compareTo", Some(order)) => Value::Int(order as i64),
            ("major", _) => Value::Int(self.0.major as i64),
            ("minor", _) => Value::Int(self.0.minor as i64),
            ("patch", _) => Value::Int(self.0.patch as i64),
            _ => return wrong(function),
        })
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref::<Self>().is_some_and(|other| other.0.cmp_precedence(&self.0) == Ordering::Equal)
    }

    fn text(&self) -> Option<String> {
        Some(self.0.to_string())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
