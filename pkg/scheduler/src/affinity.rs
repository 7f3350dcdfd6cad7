//! What a pod wants of the pods around it, compiled once.
use crate::cluster::Cluster;
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use api::selector::LabelSelector;
use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm, WeightedPodAffinityTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as Written;
use std::collections::{BTreeMap, HashMap};

/// Pods that are meant, and the label of nodes within whose values they count as near.
#[derive(Clone, Debug)]
pub struct Term {
    pub topology_key: Box<str>,
    selector: LabelSelector,
    /// By name, besides those that the selector chooses.
    namespaces: Vec<Box<str>>,
    namespace_selector: LabelSelector,
}

impl Term {
    /// Is this pod one of those that the term means?
    pub fn means(&self, pod: &PodInfo, cluster: &Cluster) -> bool {
        self.covers(&pod.namespace, cluster) && self.selector.matches(pod.labels())
    }

    fn covers(&self, namespace: &str, cluster: &Cluster) -> bool {
        self.namespaces.iter().any(|name| &**name == namespace)
            || self.namespace_selector.is_everything()
            || cluster.namespace_labels(namespace).is_some_and(|labels| self.namespace_selector.matches(labels))
    }

    /// The place of a node in the term's topology.
    pub fn place<'n>(&self, node: &'n NodeInfo) -> Option<&'n str> {
        node.labels().get(&*self.topology_key).map(String::as_str)
    }
}

/// All terms of a pod; weights are negative for what it would rather avoid.
#[derive(Clone, Debug, Default)]
pub struct Affinity {
    pub required: Vec<Term>,
    pub forbidden: Vec<Term>,
    pub preferred: Vec<(i64, Term)>,
}

impl Affinity {
    /// None for a pod without any term.
    pub fn of(pod: &Pod) -> Option<Self> {
        let affinity = pod.spec.as_ref()?.affinity.as_ref()?;
        let each = |terms: Option<&[PodAffinityTerm]>| -> Vec<Term> {
            terms.unwrap_or_default().iter().map(|term| compile(term, pod)).collect()
        };
        let weigh = |terms: Option<&[WeightedPodAffinityTerm]>, sign: i64| -> Vec<(i64, Term)> {
            let terms = terms.unwrap_or_default().iter();
            terms.map(|t| (sign * i64::from(t.weight), compile(&t.pod_affinity_term, pod))).collect()
        };
        let (near, far) = (affinity.pod_affinity.as_ref(), affinity.pod_anti_affinity.as_ref());
        let mut preferred =
            weigh(near.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref()), 1);
        preferred
            .extend(weigh(far.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref()), -1));
        let all = Self {
            required: each(near.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref())),
            forbidden: each(far.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref())),
            preferred,
        };
        let empty = all.required.is_empty() && all.forbidden.is_empty() && all.preferred.is_empty();
        (!empty).then_some(all)
    }
}

fn compile(term: &PodAffinityTerm, pod: &Pod) -> Term {
    let names = term.namespaces.iter().flatten().map(|name| name.as_str().into());
    let mut namespaces: Vec<Box<str>> = names.collect();
    if namespaces.is_empty() && term.namespace_selector.is_none() {
        namespaces.push(pod.metadata.namespace.as_deref().unwrap_or_default().into());
    }
    Term {
        topology_key: term.topology_key.as_str().into(),
        selector: selector(
            term.label_selector.as_ref(),
            pod,
            term.match_label_keys.as_deref(),
            term.mismatch_label_keys.as_deref(),
        ),
        namespaces,
        namespace_selector: selector(term.namespace_selector.as_ref(), pod, None, None),
    }
}

/// A selector with the pod's own values of some labels added: wanted, or not. Absent selects nothing; so does one
/// that can't be read, which the server does not let in.
pub fn selector(
    written: Option<&Written>,
    pod: &Pod,
    match_keys: Option<&[String]>,
    mismatch_keys: Option<&[String]>,
) -> LabelSelector {
    let Some(written) = written else { return LabelSelector::nothing() };
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    let own = pod.metadata.labels.as_ref().unwrap_or(&NONE);
    let labels = written.match_labels.iter().flatten().map(|(key, value)| (key.as_str(), value.as_str()));
    let expressions = written.match_expressions.iter().flatten();
    let expressions = expressions.map(|e| (e.key.as_str(), e.operator.as_str(), e.values.clone().unwrap_or_default()));
    let more = |keys: Option<&'_ [String]>, operator: &'static str| -> Vec<(String, &'static str, Vec<String>)> {
        let keys = keys.unwrap_or_default().iter();
        keys.filter_map(|key| Some((key.clone(), operator, vec![own.get(key)?.clone()]))).collect()
    };
    let more = [more(match_keys, "In"), more(mismatch_keys, "NotIn")].concat();
    let more = more.iter().map(|(key, operator, values)| (key.as_str(), *operator, values.clone()));
    LabelSelector::from_parts(labels, expressions.chain(more)).unwrap_or_else(|_| LabelSelector::nothing())
}

/// A selector as it is written; one that can't be read selects nothing.
pub fn plain_selector(written: &Written) -> LabelSelector {
    selector(Some(written), &Pod::default(), None, None)
}

/// Counts by topology: `label of nodes -> value -> count`.
pub type Counts<'a> = BTreeMap<&'a str, HashMap<&'a str, i64>>;

/// Counts pods at their places: `terms` says of a pod by which terms it counts, and as how much.
pub fn tally<'a>(counts: &mut Counts<'a>, cluster: &'a Cluster, terms: impl Fn(&'a PodInfo) -> Vec<(i64, &'a Term)>) {
    let mut by_class = vec![Vec::new(); cluster.classes().map(|(number, _)| number + 1).max().unwrap_or_default()];
    for (number, pod) in cluster.classes() {
        by_class[number] = terms(pod);
    }
    if by_class.iter().all(Vec::is_empty) {
        return;
    }
    for node in cluster.slots() {
        for (class, pods) in &node.classes {
            for (weight, term) in &by_class[*class] {
                if let Some(place) = term.place(node) {
                    let count = counts.entry(&term.topology_key).or_default().entry(place).or_default();
                    *count += weight * i64::from(*pods);
                }
            }
        }
    }
}

/// The count at a node's place.
pub fn at(counts: &Counts<'_>, key: &str, node: &NodeInfo) -> i64 {
    let place = node.labels().get(key).and_then(|place| counts.get(key)?.get(place.as_str()));
    place.copied().unwrap_or_default()
}
