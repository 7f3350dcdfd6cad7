//! Node selector terms (`core/v1`, NodeSelectorTerm), as node affinity and the affinity of volumes use them.
use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm};
use std::collections::BTreeMap;

/// Terms are alternatives.
pub fn any_matches(terms: &[NodeSelectorTerm], name: &str, labels: &BTreeMap<String, String>) -> bool {
    terms.iter().any(|term| matches(term, name, labels))
}

/// A term without any requirement matches nothing.
pub fn matches(term: &NodeSelectorTerm, name: &str, labels: &BTreeMap<String, String>) -> bool {
    let wanted = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let label = |r: &NodeSelectorRequirement| holds(r, labels.get(&r.key).map(String::as_str));
    let field = |r: &NodeSelectorRequirement| r.key == "metadata.name" && holds(r, Some(name));
    !(wanted.is_empty() && fields.is_empty()) && wanted.iter().all(label) && fields.iter().all(field)
}

fn holds(requirement: &NodeSelectorRequirement, found: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = |value: &str| values.iter().any(|v| v == value);
    let compare = |than: fn(i64, i64) -> bool| {
        let bound = values.first().and_then(|value| value.parse().ok());
        let value = found.and_then(|value| value.parse().ok());
        matches!((value, bound), (Some(value), Some(bound)) if than(value, bound))
    };
    match requirement.operator.as_str() {
        "In" => found.is_some_and(listed),
        "NotIn" => !found.is_some_and(listed),
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        "Gt" => compare(|value, bound| value > bound),
        "Lt" => compare(|value, bound| value < bound),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn term_matches(term: Value) -> bool {
        let labels = [("zone", "a"), ("cores", "8")].map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        matches(&serde_json::from_value(term).unwrap(), "n1", &labels)
    }

    #[test]
    fn terms() {
        let label = |key: &str, operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        assert!(term_matches(label("zone", "In", &["a", "b"])));
        assert!(!term_matches(label("zone", "NotIn", &["a"])));
        assert!(term_matches(label("x", "NotIn", &["a"])));
        assert!(term_matches(label("zone", "Exists", &[])));
        assert!(term_matches(label("x", "DoesNotExist", &[])));
        assert!(term_matches(label("cores", "Gt", &["4"])));
        assert!(!term_matches(label("cores", "Lt", &["8"])));
        assert!(!term_matches(label("zone", "Gt", &["4"])));
        assert!(!term_matches(json!({})));
        let name = |name: &str| json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]});
        assert!(term_matches(name("n1")));
        assert!(!term_matches(name("n2")));
    }
}
