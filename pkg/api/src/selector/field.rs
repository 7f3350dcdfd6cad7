//! Field selectors: `metadata.name=a,spec.nodeName!=b`.
use super::Error;
use crate::summary::Summary;
use std::fmt;

/// One comparison of one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    pub field: String,
    pub value: String,
    /// `=` or `==`, against `!=`.
    pub equal: bool,
}

/// All terms must hold. The default has none and matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<Term>,
}

impl FieldSelector {
    pub fn everything() -> Self {
        Self::default()
    }

    /// Reads the text of a `fieldSelector` parameter. `supported` says which fields can be selected by; its
    /// error becomes the answer (`field label not supported: a`).
    pub fn parse(text: &str, supported: impl Fn(&str) -> Result<(), String>) -> Result<Self, Error> {
        let mut terms = Vec::new();
        for part in split_terms(text) {
            let term = parse_term(text, part)?;
            supported(&term.field).map_err(Error)?;
            terms.push(term);
        }
        terms.sort_by(|a, b| a.field.cmp(&b.field));
        Ok(Self { terms })
    }

    /// The same selector with fields under other names; none: the name stays.
    #[must_use]
    pub fn renamed(mut self, name: impl Fn(&str) -> Option<String>) -> Self {
        for term in &mut self.terms {
            if let Some(name) = name(&term.field) {
                term.field = name;
            }
        }
        self
    }

    /// Matches against a lookup; a field that is absent reads as the empty string.
    pub fn matches<'a>(&self, lookup: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.terms.iter().all(|t| (lookup(&t.field).unwrap_or_default() == t.value) == t.equal)
    }

    /// Matches an object by its name, namespace and summary.
    pub fn matches_summary(&self, namespace: &str, name: &str, summary: &Summary) -> bool {
        self.terms.iter().all(|term| {
            let found = match term.field.as_str() {
                "metadata.name" => name,
                "metadata.namespace" => namespace,
                field => summary.fields.get(field).map_or("", |value| &**value),
            };
            (found == term.value) == term.equal
        })
    }

    /// The one value that a field must have, if the selector says so: lets a list by name become a get.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|t| t.equal && t.field == field).map(|t| t.value.as_str())
    }

    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    pub fn terms(&self) -> &[Term] {
        &self.terms
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, term) in self.terms.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let operator = if term.equal { "=" } else { "!=" };
            let value = term.value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            write!(f, "{comma}{}{operator}{value}", term.field)?;
        }
        Ok(())
    }
}

/// Splits at commas that no backslash escapes; empty terms count for nothing.
fn split_terms(text: &str) -> impl Iterator<Item = &str> {
    let mut escaped = false;
    text.split(move |c| {
        let splits = c == ',' && !escaped;
        escaped = c == '\\' && !escaped;
        splits
    })
    .filter(|term| !term.is_empty())
}

fn parse_term(selector: &str, term: &str) -> Result<Term, Error> {
    let misread = || Error(format!("invalid selector: '{selector}'; can't understand '{term}'"));
    let at = operator_at(term).ok_or_else(misread)?;
    let (field, rest) = term.split_at(at);
    let (equal, value) = match rest.strip_prefix("!=") {
        Some(value) => (false, value),
        None => (true, rest.strip_prefix("==").unwrap_or(&rest[1..])),
    };
    Ok(Term { field: field.into(), value: unescape(value)?, equal })
}

/// Where the first operator begins.
fn operator_at(term: &str) -> Option<usize> {
    let equals = term.find('=')?;
    Some(if equals > 0 && term.as_bytes()[equals - 1] == b'!' { equals - 1 } else { equals })
}

fn unescape(value: &str) -> Result<String, Error> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                other => {
                    let sequence: String = ['\\'].into_iter().chain(other).collect();
                    return Err(Error(format!("invalid field selector: invalid escape sequence: {sequence}")));
                }
            },
            // Upstream prints the character's number.
            ',' | '=' => {
                return Err(Error(format!("invalid field selector: unescaped character in value: {}", u32::from(c))));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<FieldSelector, Error> {
        FieldSelector::parse(text, |_| Ok(()))
    }

    #[test]
    fn terms_match() {
        let selector = parse("a=1,b!=2,c==").unwrap();
        let lookup = |values: [(&'static str, &'static str); 3]| {
            selector.matches(|field| values.iter().find(|(k, _)| *k == field).map(|(_, v)| *v))
        };
        assert!(lookup([("a", "1"), ("b", "3"), ("c", "")]));
        assert!(lookup([("a", "1"), ("x", ""), ("y", "")]));
        assert!(!lookup([("a", "1"), ("b", "2"), ("c", "")]));
        assert!(!lookup([("a", "1"), ("b", "3"), ("c", "4")]));
        assert_eq!(selector.exact("a"), Some("1"));
        assert_eq!(selector.exact("b"), None);
        assert!(parse("").unwrap().is_everything());
    }

    #[test]
    fn escapes() {
        let selector = parse(r"a=x\,y\=z\\").unwrap();
        assert_eq!(selector.terms()[0].value, r"x,y=z\");
        assert_eq!(selector.to_string(), r"a=x\,y\=z\\");
    }

    #[test]
    fn errors_as_upstream() {
        let error = |text: &str| parse(text).unwrap_err().to_string();
        assert_eq!(error("ab"), "invalid selector: 'ab'; can't understand 'ab'");
        assert_eq!(error("a=b=c"), "invalid field selector: unescaped character in value: 61");
        assert_eq!(error(r"a=\x"), r"invalid field selector: invalid escape sequence: \x");
        let unknown = FieldSelector::parse("a=b", |f| Err(format!("field label not supported: {f}")));
        assert_eq!(unknown.unwrap_err().to_string(), "field label not supported: a");
    }

    #[test]
    fn summaries_match() {
        let mut summary = Summary::default();
        summary.fields.insert("spec.nodeName".into(), "n1".into());
        let selector = parse("spec.nodeName=n1,metadata.namespace=default").unwrap();
        assert!(selector.matches_summary("default", "p", &summary));
        assert!(!selector.matches_summary("other", "p", &summary));
    }
}
