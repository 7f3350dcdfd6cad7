//! The filters and scores of a default scheduler, each named as its counterpart upstream.

mod image_locality;
mod inter_pod_affinity;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources;
mod node_unschedulable;
mod pod_topology_spread;
mod preemption;
mod sibling_spread;
mod site;
mod taint_toleration;
mod volumes;

use crate::framework::{Filter, Framework, Score};
pub(crate) use node_affinity::allows as selects;
pub use preemption::DefaultPreemption;

/// The default profile.
pub fn default() -> Framework {
    let filters: Vec<Box<dyn Filter>> = vec![
        Box::new(site::Site),
        Box::new(node_unschedulable::NodeUnschedulable),
        Box::new(node_name::NodeName),
        Box::new(taint_toleration::TaintToleration),
        Box::new(node_affinity::NodeAffinity),
        Box::new(node_ports::NodePorts),
        Box::new(node_resources::Fit),
        Box::new(volumes::VolumeRestrictions),
        Box::new(volumes::VolumeBinding),
        Box::new(pod_topology_spread::PodTopologySpread),
        Box::new(inter_pod_affinity::InterPodAffinity),
    ];
    let scores: Vec<Box<dyn Score>> = vec![
        Box::new(node_resources::LeastAllocated),
        Box::new(node_resources::BalancedAllocation),
        Box::new(node_affinity::NodeAffinity),
        Box::new(taint_toleration::TaintToleration),
        Box::new(sibling_spread::SiblingSpread),
        Box::new(pod_topology_spread::PodTopologySpread),
        Box::new(inter_pod_affinity::InterPodAffinity),
        Box::new(image_locality::ImageLocality),
    ];
    Framework { filters, scores, post_filter: Box::new(DefaultPreemption) }
}
