//! Label selectors: what they require and how they match.
use super::{Error, parse, syntax};
use crate::summary::Summary;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Anything that has labels.
pub trait Labels {
    fn label(&self, key: &str) -> Option<&str>;
}

impl Labels for Summary {
    fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(k, _)| &**k == key).map(|(_, v)| &**v)
    }
}

impl Labels for BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl Labels for Map<String, Value> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }
}

/// The value of `metadata.labels`; null has none.
impl Labels for Value {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }
}

impl<L: Labels> Labels for Option<L> {
    fn label(&self, key: &str) -> Option<&str> {
        self.as_ref()?.label(key)
    }
}

impl<L: Labels + ?Sized> Labels for &L {
    fn label(&self, key: &str) -> Option<&str> {
        (**self).label(key)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    In,
    NotIn,
    Equals,
    DoubleEquals,
    NotEquals,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    key: String,
    operator: Operator,
    /// Sorted, without duplicates.
    values: Vec<String>,
}

impl Requirement {
    /// Checks key, number and form of the values as upstream's `NewRequirement`.
    pub fn new(key: &str, operator: Operator, mut values: Vec<String>) -> Result<Self, Error> {
        let mut errors = Vec::new();
        if let Some(error) = key_error("key", key) {
            errors.push(error);
        }
        errors.extend(arity_errors(operator, &values));
        for (i, value) in values.iter().enumerate() {
            let wrong = syntax::value_errors(value);
            if !wrong.is_empty() {
                errors.push(format!("values[{i}][{key}]: Invalid value: {value:?}: {}", wrong.join("; ")));
            }
        }
        match &errors[..] {
            [] => {
                values.sort();
                values.dedup();
                Ok(Self { key: key.into(), operator, values })
            }
            [one] => Err(Error(one.clone())),
            many => Err(Error(format!("[{}]", many.join(", ")))),
        }
    }

    pub fn key(&self) -> &str {
        &self.key
    }

    pub fn operator(&self) -> Operator {
        self.operator
    }

    pub fn values(&self) -> &[String] {
        &self.values
    }

    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        let found = labels.label(&self.key);
        let has = |value: &str| self.values.iter().any(|v| v == value);
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => found.is_some_and(has),
            Operator::NotIn | Operator::NotEquals => !found.is_some_and(has),
            Operator::Exists => found.is_some(),
            Operator::DoesNotExist => found.is_none(),
            Operator::GreaterThan => self.compare(found, |label, bound| label > bound),
            Operator::LessThan => self.compare(found, |label, bound| label < bound),
        }
    }

    fn compare(&self, found: Option<&str>, holds: fn(i64, i64) -> bool) -> bool {
        let (Some(label), [bound]) = (found, &self.values[..]) else { return false };
        matches!((label.parse(), bound.parse()), (Ok(label), Ok(bound)) if holds(label, bound))
    }
}

/// The error of a key that can't be one, at upstream's path.
pub(super) fn key_error(path: &str, key: &str) -> Option<String> {
    let wrong = syntax::key_errors(key);
    (!wrong.is_empty()).then(|| format!("{path}: Invalid value: {key:?}: {}", wrong.join("; ")))
}

fn arity_errors(operator: Operator, values: &[String]) -> Vec<String> {
    let shown = || Value::from(values).to_string();
    let wrong = |why: &str| vec![format!("values: Invalid value: {}: {why}", shown())];
    match operator {
        Operator::In | Operator::NotIn if values.is_empty() => {
            wrong("for 'in', 'notin' operators, values set can't be empty")
        }
        Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
            wrong("exact-match compatibility requires one single value")
        }
        Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
            wrong("values set must be empty for exists and does not exist")
        }
        Operator::GreaterThan | Operator::LessThan => bound_errors(values, wrong),
        _ => Vec::new(),
    }
}

fn bound_errors(values: &[String], wrong: impl Fn(&str) -> Vec<String>) -> Vec<String> {
    if values.len() != 1 {
        return wrong("for 'Gt', 'Lt' operators, exactly one value is required");
    }
    let not_a_number = values.iter().enumerate().filter(|(_, v)| v.parse::<i64>().is_err());
    not_a_number
        .map(|(i, v)| {
            format!("values[{i}]: Invalid value: {v:?}: for 'Gt', 'Lt' operators, the value must be an integer")
        })
        .collect()
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(","));
        match self.operator {
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
        }
    }
}

/// All requirements must hold. The default has none and matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl LabelSelector {
    /// Matches everything.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Matches nothing: what an absent `LabelSelector` field means in most kinds.
    pub fn nothing() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }

    /// Reads the text of a `labelSelector` parameter: `a=b,c!=d,e in (f,g),h,!i,j>3`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        Ok(Self::of(parse::requirements(text)?))
    }

    /// Reads a `metav1.LabelSelector`. Null selects nothing, `{}` everything.
    pub fn from_json(selector: &Value) -> Result<Self, Error> {
        if selector.is_null() {
            return Ok(Self::nothing());
        }
        let labels = selector["matchLabels"].as_object().into_iter().flatten();
        let expressions = selector["matchExpressions"].as_array().into_iter().flatten();
        Self::from_parts(
            labels.map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default())),
            expressions.map(|e| {
                let values = e["values"].as_array().into_iter().flatten();
                let values = values.filter_map(Value::as_str).map(str::to_owned).collect();
                (e["key"].as_str().unwrap_or_default(), e["operator"].as_str().unwrap_or_default(), values)
            }),
        )
    }

    /// From `matchLabels` and `matchExpressions` (key, operator, values), for callers that hold typed objects.
    pub fn from_parts<'a>(
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
        expressions: impl IntoIterator<Item = (&'a str, &'a str, Vec<String>)>,
    ) -> Result<Self, Error> {
        let mut requirements = Vec::new();
        for (key, value) in labels {
            requirements.push(Requirement::new(key, Operator::Equals, vec![value.into()])?);
        }
        for (key, operator, values) in expressions {
            let operator = match operator {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(Error(format!("{other:?} is not a valid label selector operator"))),
            };
            requirements.push(Requirement::new(key, operator, values)?);
        }
        Ok(Self::of(requirements))
    }

    /// Exactly these labels, unchecked: a Service's or ReplicationController's selector.
    pub fn from_set<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let equals = |(key, value): (&str, &str)| Requirement {
            key: key.into(),
            operator: Operator::Equals,
            values: vec![value.into()],
        };
        Self::of(labels.into_iter().map(equals).collect())
    }

    fn of(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self { requirements, nothing: false }
    }

    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(labels))
    }

    /// Is there nothing that it filters out?
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }
}

impl FromStr for LabelSelector {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

/// The canonical text, as `scale.status.selector` and errors show it.
impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn selects(text: &str, labels: Value) -> bool {
        LabelSelector::parse(text).unwrap().matches(&labels)
    }

    #[test]
    fn equality_and_sets() {
        let labels = || json!({"app": "web", "tier": "front", "n": "5"});
        for yes in [
            "",
            "app=web",
            "app==web",
            "app!=db",
            "x!=y",
            "app in (web,db)",
            "tier notin (back)",
            "x notin (y)",
            "app",
            "!x",
            "n>4",
            "n<6",
            "app=web,tier=front,!y",
            " app = web , tier in ( front ) ",
        ] {
            assert!(selects(yes, labels()), "{yes}");
        }
        for no in ["app=db", "app!=web", "x=y", "x in (y)", "app notin (web)", "x", "!app", "n>5", "n<5", "app>1", "x="]
        {
            assert!(!selects(no, labels()), "{no}");
        }
    }

    #[test]
    fn keywords_are_values_where_a_value_stands() {
        assert!(selects("in in (in,notin)", json!({"in": "notin"})));
        assert!(selects("x in (a,,b)", json!({"x": ""})));
        assert!(selects("x=", json!({"x": ""})));
        assert!(selects("x in ()", json!({"x": ""})));
    }

    #[test]
    fn errors_as_upstream() {
        let error = |text: &str| LabelSelector::parse(text).unwrap_err().to_string();
        assert_eq!(error("a in (x"), "unable to parse requirement: found '', expected: ',' or ')'");
        assert!(
            error("a/b/c").starts_with("unable to parse requirement: <nil>: Invalid value: \"a/b/c\": a valid label")
        );
        assert!(
            error("a=b/c").starts_with("unable to parse requirement: values[0][a]: Invalid value: \"b/c\": a valid")
        );
        assert_eq!(error("a=b,"), "found '', expected: identifier after ','");
        assert_eq!(error("=b"), "found '=', expected: !, identifier, or 'end of string'");
        assert_eq!(error("a b"), "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt");
        assert_eq!(error("a=b c"), "found 'c', expected: ',' or 'end of string'");
        assert_eq!(
            error("a>x"),
            "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer"
        );
    }

    #[test]
    fn json_selectors() {
        let selector = json!({"matchLabels": {"app": "web"}, "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["front", "edge"]}, {"key": "gone", "operator": "DoesNotExist"}]});
        let selector = LabelSelector::from_json(&selector).unwrap();
        assert_eq!(selector.to_string(), "app=web,!gone,tier in (edge,front)");
        assert!(selector.matches(&json!({"app": "web", "tier": "edge"})));
        assert!(!selector.matches(&json!({"app": "web", "tier": "edge", "gone": ""})));
        assert!(!LabelSelector::from_json(&Value::Null).unwrap().matches(&json!({})));
        assert!(LabelSelector::from_json(&json!({})).unwrap().is_everything());
        let bad = json!({"matchExpressions": [{"key": "a", "operator": "Like"}]});
        assert_eq!(
            LabelSelector::from_json(&bad).unwrap_err().to_string(),
            "\"Like\" is not a valid label selector operator"
        );
    }

    #[test]
    fn text_reads_back() {
        for text in ["a=b,c!=d,e in (f,g),h notin (i),!j,k,l>3,m<4", "a=="] {
            let once = LabelSelector::parse(text).unwrap();
            assert_eq!(LabelSelector::parse(&once.to_string()).unwrap(), once);
        }
    }

    #[test]
    fn summaries_match() {
        let summary = Summary { labels: Box::new([("app".into(), "web".into())]), ..Summary::default() };
        assert!(LabelSelector::parse("app=web").unwrap().matches(&summary));
    }
}
