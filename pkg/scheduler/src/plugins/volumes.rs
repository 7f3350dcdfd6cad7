//! Where a pod's volumes are, or can be made; and claims that one pod at a time may use.
use crate::cluster::Cluster;
use crate::framework::{Check, Events, Filter, Fit};
use crate::pod::PodInfo;
use crate::storage::claim_names;

pub struct VolumeBinding;

impl Filter for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn wakes_on(&self) -> Events {
        Events::STORAGE | Events::NODE_ADDED | Events::NODE_LABELS
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, cluster: &'a Cluster) -> Check<'a> {
        let wanted = match cluster.storage().wanted(&pod.object) {
            Ok(wanted) if wanted.is_empty() => return Check::Skip,
            Ok(wanted) => wanted,
            Err(why) => return Check::Reject(why.into()),
        };
        Check::Nodes(Box::new(move |node, reasons| match cluster.storage().steps(&wanted, &node.name, node.labels()) {
            Ok(_) => Fit::Yes,
            Err(conflict) => {
                reasons.push(conflict.reason().into());
                Fit::Never
            }
        }))
    }
}

pub struct VolumeRestrictions;

impl Filter for VolumeRestrictions {
    fn name(&self) -> &'static str {
        "VolumeRestrictions"
    }

    fn wakes_on(&self) -> Events {
        Events::STORAGE | Events::POD_REMOVED | Events::NODE_ADDED
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, cluster: &'a Cluster) -> Check<'a> {
        let exclusive = cluster.storage().exclusive(&pod.object);
        if exclusive.is_empty() {
            return Check::Skip;
        }
        let uses = move |other: &PodInfo| {
            other.namespace == pod.namespace && claim_names(&other.object).any(|(name, _)| exclusive.contains(&name))
        };
        // Whoever uses it, wherever: leaving makes the claim free for any node.
        let in_use = cluster.slots().iter().any(|node| node.pods.values().any(|other| uses(other)));
        if !in_use {
            return Check::Skip;
        }
        Check::Nodes(Box::new(move |node, reasons| {
            let reason = "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod";
            reasons.push(reason.into());
            if node.pods.values().any(|other| uses(other)) { Fit::No } else { Fit::Never }
        }))
    }
}
