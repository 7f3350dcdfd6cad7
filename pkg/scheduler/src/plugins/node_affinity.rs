//! Node selectors and node affinity.
use crate::cluster::Cluster;
use crate::framework::{Check, Events, Filter, Fit, Normalize, Score, Scorer};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use client::node_selector;
use k8s_openapi::api::core::v1::NodeSelectorTerm;
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
pub(crate) fn allows(pod: &PodInfo, node: &NodeInfo) -> bool {
    let selector = pod.spec().and_then(|spec| spec.node_selector.as_ref());
    let selected = selector.is_none_or(|s| s.iter().all(|(key, value)| node.labels().get(key) == Some(value)));
    selected && required(pod).is_none_or(|terms| node_selector::any_matches(terms, &node.name, node.labels()))
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
            preferred
                .iter()
                .filter(|p| node_selector::matches(&p.preference, &node.name, node.labels()))
                .map(|p| i64::from(p.weight))
                .sum()
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
