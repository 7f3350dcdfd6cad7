//! Only nodes of the site that is being looked at: this one, but for a pod that is about to be handed over.
use crate::cluster::Cluster;
use crate::framework::{Check, Events, Filter, Fit};
use crate::node::NodeInfo;
use crate::pod::PodInfo;

pub struct Site;

impl Filter for Site {
    fn name(&self) -> &'static str {
        "Site"
    }

    /// Room that appears elsewhere is a reason to try again too: the pod may be handed there.
    fn wakes_on(&self) -> Events {
        Events::NODE_ADDED | Events::NODE_ALLOCATABLE | Events::NODE_TAINTS | Events::NODE_LABELS | Events::POD_REMOVED
    }

    fn prepare<'a>(&self, _: &'a PodInfo, cluster: &'a Cluster) -> Check<'a> {
        let Some(only) = cluster.only_site() else { return Check::Skip };
        Check::Nodes(Box::new(move |node: &NodeInfo, reasons: &mut Vec<_>| {
            if only.holds(node) {
                return Fit::Yes;
            }
            reasons.push("node(s) belonged to another site".into());
            Fit::Never
        }))
    }
}
