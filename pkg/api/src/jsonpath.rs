//! JSONPath as Kubernetes' columns and selectable fields use it (`k8s.io/client-go/util/jsonpath`, without
//! templates): fields, quoted fields, indices, slices, wildcards, recursive descent and simple filters.
use serde_json::Value;
use std::cmp::Ordering;

/// Steps of one path; a longer one is refused.
const MAX_STEPS: usize = 64;

/// A path that can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unrecognized path {0:?}")]
pub struct Error(String);

#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath {
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    /// Negative counts from the end.
    Index(i64),
    Slice {
        from: Option<i64>,
        to: Option<i64>,
        by: usize,
    },
    Each,
    /// The value and all that is below it.
    Descend,
    Filter {
        left: JsonPath,
        test: Option<(Compare, Operand)>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Debug, PartialEq)]
enum Operand {
    Value(Value),
    Path(JsonPath),
}

impl JsonPath {
    /// Reads `.spec.containers[0].name`, with or without surrounding braces.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let inner = text.trim();
        let inner = inner.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(inner);
        let failed = || Error(text.to_owned());
        let steps = Parser { rest: inner.strip_prefix(['$', '@']).unwrap_or(inner) }.steps().ok_or_else(failed)?;
        if steps.len() > MAX_STEPS {
            return Err(failed());
        }
        Ok(Self { steps })
    }

    /// All values that the path leads to; none where something on the way is missing.
    pub fn find<'v>(&self, root: &'v Value) -> Vec<&'v Value> {
        self.steps
            .iter()
            .fold(vec![root], |found, step| found.into_iter().flat_map(|value| step.follow(value)).collect())
    }
}

impl Step {
    fn follow<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        match self {
            Self::Field(name) => value.get(name).into_iter().collect(),
            Self::Index(index) => {
                let items = items(value);
                let at = if *index < 0 { *index + items.len() as i64 } else { *index };
                usize::try_from(at).ok().and_then(|at| items.get(at)).into_iter().collect()
            }
            Self::Slice { from, to, by } => {
                let items = items(value);
                let len = items.len() as i64;
                let clamp = |at: i64| (if at < 0 { at + len } else { at }).clamp(0, len) as usize;
                let (from, to) = (clamp(from.unwrap_or(0)), clamp(to.unwrap_or(len)));
                items.get(from..to).unwrap_or_default().iter().step_by(*by).collect()
            }
            Self::Each => children(value),
            Self::Descend => {
                let mut all = vec![value];
                let mut at = 0;
                while at < all.len() {
                    all.extend(children(all[at]));
                    at += 1;
                }
                all
            }
            Self::Filter { left, test } => {
                items(value).iter().filter(|item| holds(item, left, test.as_ref())).collect()
            }
        }
    }
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(fields) => fields.values().collect(),
        _ => Vec::new(),
    }
}

fn holds(item: &Value, left: &JsonPath, test: Option<&(Compare, Operand)>) -> bool {
    let found = left.find(item);
    let Some((compare, right)) = test else { return !found.is_empty() };
    let right = match right {
        Operand::Value(value) => Some(value),
        Operand::Path(path) => path.find(item).into_iter().next(),
    };
    let (Some(left), Some(right)) = (found.first(), right) else { return false };
    match compare {
        Compare::Equal => *left == right,
        Compare::NotEqual => *left != right,
        compare => order(left, right).is_some_and(|order| match compare {
            Compare::Less => order == Ordering::Less,
            Compare::LessOrEqual => order != Ordering::Greater,
            Compare::Greater => order == Ordering::Greater,
            _ => order != Ordering::Less,
        }),
    }
}

fn order(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        _ => left.as_f64()?.partial_cmp(&right.as_f64()?),
    }
}

struct Parser<'t> {
    rest: &'t str,
}

impl<'t> Parser<'t> {
    fn steps(mut self) -> Option<Vec<Step>> {
        let mut steps = Vec::new();
        while !self.rest.is_empty() {
            if self.eat("..") {
                steps.push(Step::Descend);
                if !self.rest.starts_with('[') {
                    steps.push(self.name()?);
                }
            } else if self.eat(".") {
                // A trailing dot is the value itself.
                if !self.rest.is_empty() && !self.rest.starts_with('[') {
                    steps.push(self.name()?);
                }
            } else if self.rest.starts_with('[') {
                let inner = self.bracket()?;
                steps.push(bracket_step(inner)?);
            } else if steps.is_empty() {
                steps.push(self.name()?);
            } else {
                return None;
            }
        }
        Some(steps)
    }

    fn eat(&mut self, prefix: &str) -> bool {
        let rest = self.rest.strip_prefix(prefix);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// A field's name; a backslash takes the next character literally.
    fn name(&mut self) -> Option<Step> {
        let mut name = String::new();
        let mut chars = self.rest.char_indices();
        let mut end = self.rest.len();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => name.push(chars.next()?.1),
                '.' | '[' => {
                    end = at;
                    break;
                }
                ' ' | ']' | '(' | ')' | '{' | '}' | '=' | '<' | '>' => return None,
                c => name.push(c),
            }
        }
        self.rest = &self.rest[end..];
        match name.as_str() {
            "" => None,
            "*" => Some(Step::Each),
            _ => Some(Step::Field(name)),
        }
    }

    /// What stands between `[` and its `]`; quotes and nested brackets are skipped over.
    fn bracket(&mut self) -> Option<&'t str> {
        let text = self.rest;
        let (mut depth, mut quote) = (0, None);
        let mut escaped = false;
        for (at, c) in text.char_indices() {
            match (quote, c) {
                _ if escaped => escaped = false,
                (_, '\\') => escaped = true,
                (Some(open), c) if c == open => quote = None,
                (Some(_), _) => {}
                (None, '\'' | '"') => quote = Some(c),
                (None, '[') => depth += 1,
                (None, ']') => {
                    depth -= 1;
                    if depth == 0 {
                        self.rest = &text[at + 1..];
                        return Some(&text[1..at]);
                    }
                }
                _ => {}
            }
        }
        None
    }
}

fn bracket_step(inner: &str) -> Option<Step> {
    let inner = inner.trim();
    if inner == "*" {
        return Some(Step::Each);
    }
    if let Some(name) = quoted(inner) {
        return Some(Step::Field(name));
    }
    if let Some(filter) = inner.strip_prefix("?(").and_then(|f| f.strip_suffix(')')) {
        return filter_step(filter);
    }
    if inner.contains(':') {
        return slice_step(inner);
    }
    inner.parse().ok().map(Step::Index)
}

fn slice_step(inner: &str) -> Option<Step> {
    let mut parts = inner.split(':').map(|part| match part.trim() {
        "" => Some(None),
        number => number.parse::<i64>().ok().map(Some),
    });
    let (from, to) = (parts.next()??, parts.next()??);
    let by = match parts.next() {
        Some(by) => usize::try_from(by?.unwrap_or(1)).ok().filter(|by| *by > 0)?,
        None => 1,
    };
    parts.next().is_none().then_some(Step::Slice { from, to, by })
}

fn filter_step(text: &str) -> Option<Step> {
    const OPERATORS: [(&str, Compare); 6] = [
        ("==", Compare::Equal),
        ("!=", Compare::NotEqual),
        ("<=", Compare::LessOrEqual),
        (">=", Compare::GreaterOrEqual),
        ("<", Compare::Less),
        (">", Compare::Greater),
    ];
    let found = OPERATORS.iter().find_map(|(text_of, compare)| Some((text.split_once(text_of)?, *compare)));
    let Some(((left, right), compare)) = found else {
        return Some(Step::Filter { left: JsonPath::parse(text).ok()?, test: None });
    };
    Some(Step::Filter { left: JsonPath::parse(left.trim()).ok()?, test: Some((compare, operand(right.trim())?)) })
}

fn operand(text: &str) -> Option<Operand> {
    if let Some(string) = quoted(text) {
        return Some(Operand::Value(string.into()));
    }
    if text.starts_with(['@', '$', '.']) {
        return JsonPath::parse(text).ok().map(Operand::Path);
    }
    serde_json::from_str(text).ok().map(Operand::Value)
}

/// The content of a quoted text, its escapes resolved.
fn quoted(text: &str) -> Option<String> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let inner = text.strip_prefix(quote)?.strip_suffix(quote)?;
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next()? } else { c });
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn find(path: &str) -> Vec<Value> {
        let object = json!({"a": {"b": [{"t": "x", "n": 1}, {"t": "y", "n": 2}, {"n": 3}], "c.d/e": 4}, "n": 9});
        JsonPath::parse(path).unwrap().find(&object).into_iter().cloned().collect()
    }

    #[test]
    fn paths() {
        assert_eq!(find(".a.b[0].t"), [json!("x")]);
        assert_eq!(find("{.a.b[-1].n}"), [json!(3)]);
        assert_eq!(find("$.a.b[*].n"), [json!(1), json!(2), json!(3)]);
        assert_eq!(find(".a['c.d/e']"), [json!(4)]);
        assert_eq!(find(r".a.c\.d/e"), [json!(4)]);
        assert_eq!(find(".a.b[0:2].n"), [json!(1), json!(2)]);
        assert_eq!(find(".a.b[::2].n"), [json!(1), json!(3)]);
        assert_eq!(find(".a.b[?(@.t==\"y\")].n"), [json!(2)]);
        assert_eq!(find(".a.b[?(@.t!='y')].n"), [json!(1)]);
        assert_eq!(find(".a.b[?(@.n >= 2)].n"), [json!(2), json!(3)]);
        assert_eq!(find(".a.b[?(@.t)].n"), [json!(1), json!(2)]);
        assert_eq!(find("..n"), [json!(9), json!(1), json!(2), json!(3)]);
        assert!(find(".x.y").is_empty());
        assert!(find(".a.b[7]").is_empty());
    }

    #[test]
    fn malformed() {
        for bad in [".a[", ".a[x]", ".a b", ".a[?(@.b=)]", ".a[1:2:3:4]", ".a[::0]", ".a]"] {
            assert!(JsonPath::parse(bad).is_err(), "{bad}");
        }
    }
}
