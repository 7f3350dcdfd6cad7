//! Spreads the pods of one controller over nodes and zones: what PodTopologySpread does by default for pods that
//! ask for nothing.
use crate::cluster::Cluster;
use crate::framework::{Normalize, Score, Scorer};
use crate::node::NodeInfo;
use crate::pod::PodInfo;

/// Scores are whole numbers; this keeps two places of the weights.
const SCALE: f64 = 100.0;

pub struct SiblingSpread;

impl Score for SiblingSpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, cluster: &'a Cluster) -> Option<Scorer<'a>> {
        let asks = pod.spec()?.topology_spread_constraints.as_ref().is_some_and(|constraints| !constraints.is_empty());
        let siblings = cluster.siblings(pod.controller.as_deref().filter(|_| !asks)?)?;
        // The more places there are, the more an uneven one counts.
        let weight = |places: usize| (places as f64 + 2.0).ln() * SCALE;
        let (node_weight, zone_weight) = (weight(cluster.len()), weight(siblings.zones.len()));
        let score = move |node: &NodeInfo| {
            let here = siblings.nodes.get(&node.name).copied().unwrap_or_default();
            let zone = node.zone.as_ref().and_then(|zone| siblings.zones.get(zone)).copied().unwrap_or_default();
            (f64::from(here) * node_weight + f64::from(zone) * zone_weight) as i64
        };
        Some(Scorer { score: Box::new(score), normalize: Normalize::Spread })
    }
}
