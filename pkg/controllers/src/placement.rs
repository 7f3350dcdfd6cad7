//! Whether a pod may be on a node: the node selector, required node affinity and taints, by the rules of `core/v1`.
use crate::taints;
use client::node_selector;
use k8s_openapi::api::core::v1::{Node, PodSpec, Taint, Toleration};
use kube::ResourceExt;

/// By node selector and required node affinity.
pub fn selects(spec: &PodSpec, node: &Node) -> bool {
    let labels = node.labels();
    let wanted = spec.node_selector.iter().flatten();
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    wanted.into_iter().all(|(key, value)| labels.get(key) == Some(value))
        && required
            .is_none_or(|required| node_selector::any_matches(&required.node_selector_terms, &node.name_any(), labels))
        && spec.node_name.as_deref().is_none_or(|name| name.is_empty() || name == node.name_any())
}

/// Whether every taint with one of these effects is tolerated.
pub fn tolerated(tolerations: &[Toleration], node: &Node, effects: &[&str]) -> bool {
    let taints: &[Taint] = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let counting = taints.iter().filter(|taint| effects.contains(&&*taint.effect));
    counting.into_iter().all(|taint| tolerations.iter().any(|toleration| taints::tolerates(toleration, taint)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn affinity_terms_are_alternatives_of_requirements() {
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": "a", "labels": {"disk": "ssd", "cpus": "8"}}})).unwrap();
        let fits = |terms: Value| {
            let required = json!({"nodeSelectorTerms": terms});
            let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}});
            let spec: PodSpec = serde_json::from_value(json!({"containers": [], "affinity": affinity})).unwrap();
            selects(&spec, &node)
        };
        let ssd = json!({"key": "disk", "operator": "In", "values": ["ssd"]});
        let many = json!({"key": "cpus", "operator": "Gt", "values": ["8"]});
        assert!(fits(json!([{"matchExpressions": [ssd]}])));
        assert!(!fits(json!([{"matchExpressions": [ssd, many]}])));
        assert!(fits(json!([{"matchExpressions": [many]}, {"matchExpressions": [ssd]}])));
        assert!(!fits(json!([{}])), "an empty term selects nothing");
        assert!(fits(json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}])));
    }
}
