//! Taints and tolerations.
use crate::cluster::Cluster;
use crate::framework::{Check, Events, Filter, Fit, Normalize, Score, Scorer};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use k8s_openapi::api::core::v1::{Taint, Toleration};

pub struct TaintToleration;

impl Filter for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn wakes_on(&self) -> Events {
        Events::NODE_ADDED | Events::NODE_TAINTS
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, _: &'a Cluster) -> Check<'a> {
        Check::Nodes(Box::new(|node, reasons| {
            if admits(pod, node) {
                return Fit::Yes;
            }
            reasons.push("node(s) had untolerated taint(s)".into());
            Fit::Never
        }))
    }
}

impl Score for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn weight(&self) -> i64 {
        3
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, _: &'a Cluster) -> Option<Scorer<'a>> {
        let score = |node: &NodeInfo| {
            let discourages = node.taints().iter().filter(|taint| taint.effect == "PreferNoSchedule");
            discourages.filter(|taint| !tolerates(pod, taint)).count() as i64
        };
        Some(Scorer { score: Box::new(score), normalize: Normalize::ByMaxReversed })
    }
}

/// Does the pod tolerate all taints of the node that forbid?
pub(super) fn admits(pod: &PodInfo, node: &NodeInfo) -> bool {
    let forbids = |taint: &&Taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
    node.taints().iter().filter(forbids).all(|taint| tolerates(pod, taint))
}

/// Does one of the pod's tolerations cover the taint?
pub(super) fn tolerates(pod: &PodInfo, taint: &Taint) -> bool {
    let tolerations = pod.spec().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    tolerations.iter().any(|toleration| covers(toleration, taint))
}

fn covers(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let (effect, key) = (text(&toleration.effect), text(&toleration.key));
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "Exists" => true,
        "Equal" | "" => !key.is_empty() && text(&toleration.value) == text(&taint.value),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coverage() {
        let taint = |effect: &str| Taint {
            key: "k".into(),
            value: Some("v".into()),
            effect: effect.into(),
            ..Taint::default()
        };
        let toleration = |key: &str, operator: &str, value: &str, effect: &str| {
            let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            Toleration {
                key: some(key),
                operator: some(operator),
                value: some(value),
                effect: some(effect),
                ..Toleration::default()
            }
        };
        for (t, yes) in [
            (toleration("k", "Equal", "v", "NoSchedule"), true),
            (toleration("k", "", "v", ""), true),
            (toleration("k", "Exists", "", ""), true),
            (toleration("", "Exists", "", ""), true),
            (toleration("k", "Equal", "w", ""), false),
            (toleration("j", "Exists", "", ""), false),
            (toleration("k", "Exists", "", "NoExecute"), false),
        ] {
            assert_eq!(covers(&t, &taint("NoSchedule")), yes, "{t:?}");
        }
    }
}
