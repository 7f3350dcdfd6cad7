//! The tools of every check: a path that costs nothing until it is printed, a list that errors are put on, and
//! a reader of JSON trees to which what is absent looks like Go's zero value.
use super::shown::shown;
use super::{FieldError, Reason};
use serde_json::{Map, Value};
use std::fmt;

/// Where a check stands: a step and the way to it. Lives on the stack.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Root,
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    pub const fn root() -> Path<'static> {
        Path { parent: None, step: Step::Root }
    }

    pub const fn field(name: &'a str) -> Self {
        Self { parent: None, step: Step::Field(name) }
    }

    pub fn child<'b>(&'b self, name: &'b str) -> Path<'b> {
        Path { parent: Some(self), step: Step::Field(name) }
    }

    pub fn index(&self, at: usize) -> Path<'_> {
        Path { parent: Some(self), step: Step::Index(at) }
    }

    /// `limits[cpu]`
    pub fn key<'b>(&'b self, key: &'b str) -> Path<'b> {
        Path { parent: Some(self), step: Step::Key(key) }
    }

    fn is_root(&self) -> bool {
        matches!(self.step, Step::Root)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parent = self.parent.filter(|parent| !parent.is_root());
        if let Some(parent) = parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Field(name) if parent.is_some() => write!(f, ".{name}"),
            Step::Field(name) => f.write_str(name),
            Step::Index(at) => write!(f, "[{at}]"),
            Step::Key(key) => write!(f, "[{key}]"),
        }
    }
}

/// Upstream's text of a field that may not change.
pub const IMMUTABLE: &str = "field is immutable";
/// Upstream's text of a negative number.
pub const NOT_NEGATIVE: &str = "must be greater than or equal to 0";

/// The errors found so far.
#[derive(Debug, Default)]
pub struct Errors(pub Vec<FieldError>);

impl Errors {
    fn push(&mut self, path: &Path<'_>, reason: Reason, value: Option<Value>, detail: impl Into<String>) {
        self.0.push(FieldError { field: path.to_string(), reason, value, detail: detail.into() });
    }

    pub fn required(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.push(path, Reason::Required, None, detail);
    }

    pub fn invalid(&mut self, path: &Path<'_>, value: impl Into<Value>, detail: impl Into<String>) {
        self.push(path, Reason::Invalid, Some(value.into()), detail);
    }

    /// The same of a value that is shown as upstream's internal type has it ([`super::shown`]).
    pub fn invalid_as(&mut self, path: &Path<'_>, ty: &str, value: &Value, detail: &str) {
        self.push(path, Reason::Invalid, None, format!("{}: {detail}", shown(ty, value)));
    }

    /// An error about a whole that upstream shows nothing of.
    pub fn invalid_whole(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.push(path, Reason::Invalid, None, detail);
    }

    /// One error a message of a format check.
    pub fn each(&mut self, path: &Path<'_>, value: &str, messages: Vec<String>) {
        for message in messages {
            self.invalid(path, value, message);
        }
    }

    pub fn type_invalid(&mut self, path: &Path<'_>, value: impl Into<Value>, detail: impl Into<String>) {
        self.push(path, Reason::TypeInvalid, Some(value.into()), detail);
    }

    pub fn duplicate(&mut self, path: &Path<'_>, value: impl Into<Value>) {
        self.push(path, Reason::Duplicate, Some(value.into()), "");
    }

    pub fn duplicate_because(&mut self, path: &Path<'_>, value: impl Into<Value>, detail: &str) {
        self.push(path, Reason::Duplicate, Some(value.into()), detail);
    }

    pub fn duplicate_as(&mut self, path: &Path<'_>, ty: &str, value: &Value, detail: &str) {
        self.push(path, Reason::Duplicate, None, format!("{}: {detail}", shown(ty, value)));
    }

    pub fn not_found(&mut self, path: &Path<'_>, value: impl Into<Value>) {
        self.push(path, Reason::NotFound, Some(value.into()), "");
    }

    pub fn forbidden(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.push(path, Reason::Forbidden, None, detail);
    }

    pub fn too_long(&mut self, path: &Path<'_>, limit_bytes: usize) {
        let unit = if limit_bytes == 1 { "byte" } else { "bytes" };
        self.push(path, Reason::TooLong, None, format!("may not be more than {limit_bytes} {unit}"));
    }

    pub fn too_many(&mut self, path: &Path<'_>, count: usize, limit: usize) {
        let unit = if limit == 1 { "item" } else { "items" };
        self.push(path, Reason::TooMany, Some(count.into()), format!("must have at most {limit} {unit}"));
    }

    pub fn unsupported(&mut self, path: &Path<'_>, value: impl Into<Value>, supported: &[&str]) {
        self.push(path, Reason::NotSupported, Some(value.into()), one_of_these(supported));
    }

    pub fn unsupported_as(&mut self, path: &Path<'_>, ty: &str, value: &Value, supported: &[&str]) {
        let detail = format!("{}: {}", shown(ty, value), one_of_these(supported));
        self.push(path, Reason::NotSupported, None, detail);
    }

    /// A text that must be there and be one of these; upstream sorts them.
    pub fn one_of(&mut self, path: &Path<'_>, value: &str, supported: &[&str]) {
        if value.is_empty() {
            self.required(path, "");
        } else if !supported.contains(&value) {
            self.unsupported(path, value, supported);
        }
    }

    /// The same for a text that may be absent.
    pub fn maybe_one_of(&mut self, path: &Path<'_>, value: &str, supported: &[&str]) {
        if !value.is_empty() {
            self.one_of(path, value, supported);
        }
    }

    pub fn not_negative(&mut self, path: &Path<'_>, value: Option<i64>) {
        if let Some(value) = value.filter(|value| *value < 0) {
            self.invalid(path, value, NOT_NEGATIVE);
        }
    }

    /// These fields of an object may not be negative.
    pub fn none_negative(&mut self, path: &Path<'_>, of: &Value, names: &[&str]) {
        for name in names {
            self.not_negative(&path.child(name), of.int(name));
        }
    }

    pub fn in_range(&mut self, path: &Path<'_>, value: i64, low: i64, high: i64) {
        if !(low..=high).contains(&value) {
            self.invalid(path, value, format!("must be between {low} and {high}, inclusive"));
        }
    }

    pub fn immutable(&mut self, path: &Path<'_>, new: &Value, old: &Value) {
        if !same(new, old) {
            self.invalid(path, new.clone(), IMMUTABLE);
        }
    }

    /// These fields of an object may not change.
    pub fn all_immutable(&mut self, path: &Path<'_>, new: &Value, old: &Value, names: &[&str]) {
        for name in names {
            self.immutable(&path.child(name), &new[*name], &old[*name]);
        }
    }
}

fn one_of_these(supported: &[&str]) -> String {
    let quoted: Vec<String> = supported.iter().map(|value| format!("{value:?}")).collect();
    format!("supported values: {}", quoted.join(", "))
}

/// Whether two values say the same: an empty map or list is like none at all (Go's `Semantic.DeepEqual`).
pub fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
            keys.into_iter().all(|key| same(a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null)))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        _ => a == b || (is_empty(a) && is_empty(b)),
    }
}

/// Gives an object the value that `old` has in a field, or takes the field away.
pub fn put_back(object: &mut Map<String, Value>, old: &Value, name: &str) {
    match old.get(name) {
        Some(value) => drop(object.insert(name.to_owned(), value.clone())),
        None => drop(object.remove(name)),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// Reads fields of a decoded object: types are right, but anything may be absent.
pub trait Tree {
    /// Empty where absent.
    fn text(&self, name: &str) -> &str;
    fn int(&self, name: &str) -> Option<i64>;
    /// False where absent.
    fn flag(&self, name: &str) -> bool;
    /// Empty where absent.
    fn list(&self, name: &str) -> &[Value];
    /// Empty where absent.
    fn texts<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str>;
    /// The entries of a map, none where absent.
    fn entries<'a>(&'a self, name: &str) -> impl Iterator<Item = (&'a str, &'a Value)>;
    /// Whether it is there at all.
    fn has(&self, name: &str) -> bool;
    /// How many items or entries.
    fn count(&self, name: &str) -> usize;
}

impl Tree for Value {
    fn text(&self, name: &str) -> &str {
        self.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    fn int(&self, name: &str) -> Option<i64> {
        self.get(name)?.as_i64()
    }

    fn flag(&self, name: &str) -> bool {
        self.get(name).and_then(Value::as_bool).unwrap_or_default()
    }

    fn list(&self, name: &str) -> &[Value] {
        self.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
    }

    fn texts<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.list(name).iter().filter_map(Value::as_str)
    }

    fn entries<'a>(&'a self, name: &str) -> impl Iterator<Item = (&'a str, &'a Value)> {
        let map: Option<&'a Map<String, Value>> = self.get(name).and_then(Value::as_object);
        map.into_iter().flatten().map(|(key, value)| (key.as_str(), value))
    }

    fn has(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| !value.is_null())
    }

    fn count(&self, name: &str) -> usize {
        match self.get(name) {
            Some(Value::Array(items)) => items.len(),
            Some(Value::Object(map)) => map.len(),
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_print_as_upstream_does() {
        let spec = Path::field("spec");
        let containers = spec.child("containers");
        let at = containers.index(2);
        assert_eq!(at.child("name").to_string(), "spec.containers[2].name");
        assert_eq!(
            at.child("resources").child("limits").key("cpu").to_string(),
            "spec.containers[2].resources.limits[cpu]"
        );
        assert_eq!(Path::root().child("data").key("a").to_string(), "data[a]");
    }

    #[test]
    fn empty_is_like_absent() {
        assert!(same(&json!({"a": {}, "b": 1}), &json!({"b": 1, "c": []})));
        assert!(!same(&json!({"a": 0}), &json!({})));
    }
}
