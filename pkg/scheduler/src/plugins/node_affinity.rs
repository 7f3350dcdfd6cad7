//! Node selectors and node affinity.
use crate::cluster::Cluster;
use crate::framework::{Check, Events, Filter, Fit, Normalize, Score, Scorer};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm};
use std::collections::HashSet;

pub struct NodeAffinity;

impl Filter for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn wakes_on(&self) -> Events {
        Events::NODE_ADDED | Events::NODE_LABELS
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, _: &'a Cluster) -> Check<'a> {
        let selector = pod.spec().and_then(|spec| spec.node_selector.as_ref()).filter(|selector| !selector.is_empty());
        let terms = required(pod);
        if selector.is_none() && terms.is_none() {
            return Check::Skip;
        }
        let test = Box::new(move |node: &NodeInfo, reasons: &mut Vec<_>| {
            if allows(pod, node) {
                return Fit::Yes;
            }
            reasons.push("node(s) didn't match Pod's node affinity/selector".into());
            Fit::Never
        });
        match terms.and_then(named_nodes) {
            Some(names) => Check::Only(names, test),
            None => Check::Nodes(test),
        }
    }
}

/// Does the node meet the pod's selector and required affinity?
pub(super) fn allows(pod: &PodInfo, node: &NodeInfo) -> bool {
    let selector = pod.spec().and_then(|spec| spec.node_selector.as_ref());
    let selected = selector.is_none_or(|s| s.iter().all(|(key, value)| node.labels().get(key) == Some(value)));
    selected && required(pod).is_none_or(|terms| terms.iter().any(|term| matches(term, node)))
}

impl Score for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, _: &'a Cluster) -> Option<Scorer<'a>> {
        let affinity = pod.spec()?.affinity.as_ref()?.node_affinity.as_ref()?;
        let preferred = affinity.preferred_during_scheduling_ignored_during_execution.as_ref()?;
        let score = |node: &NodeInfo| {
            preferred.iter().filter(|p| matches(&p.preference, node)).map(|p| i64::from(p.weight)).sum()
        };
        (!preferred.is_empty()).then_some(Scorer { score: Box::new(score), normalize: Normalize::ByMax })
    }
}

fn required(pod: &PodInfo) -> Option<&[NodeSelectorTerm]> {
    let affinity = pod.spec()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    Some(&required.node_selector_terms)
}

/// The nodes that the terms name, if every term names its nodes (as those of a DaemonSet's pods do).
fn named_nodes(terms: &[NodeSelectorTerm]) -> Option<HashSet<&str>> {
    let mut names = HashSet::new();
    for term in terms {
        let fields = term.match_fields.as_deref().unwrap_or_default();
        let by_name = fields.iter().find(|field| field.key == "metadata.name" && field.operator == "In")?;
        names.extend(by_name.values.iter().flatten().map(String::as_str));
    }
    (!terms.is_empty()).then_some(names)
}

/// A term without any requirement matches nothing.
fn matches(term: &NodeSelectorTerm, node: &NodeInfo) -> bool {
    let labels = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let label = |r: &NodeSelectorRequirement| holds(r, node.labels().get(&r.key).map(String::as_str));
    let field = |r: &NodeSelectorRequirement| r.key == "metadata.name" && holds(r, Some(&node.name));
    !(labels.is_empty() && fields.is_empty()) && labels.iter().all(label) && fields.iter().all(field)
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
    use crate::testing;
    use serde_json::{Value, json};

    fn term_matches(term: Value) -> bool {
        let mut node = NodeInfo::new("n1".into());
        node.set_object(testing::node("n1", json!({"metadata": {"labels": {"zone": "a", "cores": "8"}}})));
        matches(&serde_json::from_value(term).unwrap(), &node)
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
        assert!(!term_matches(label("cores", "Lt", &["4"])));
        assert!(!term_matches(label("zone", "Gt", &["4"])));
        assert!(!term_matches(json!({})));
        let field = |name: &str| json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]});
        assert!(term_matches(field("n1")));
        assert!(!term_matches(field("n2")));
    }
}
