//! Cordoned nodes take no pods, unless the pod tolerates the taint that says so.
use super::taint_toleration::tolerates;
use crate::cluster::Cluster;
use crate::framework::{Check, Events, Filter, Fit};
use crate::pod::PodInfo;
use k8s_openapi::api::core::v1::Taint;

pub struct NodeUnschedulable;

impl Filter for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn wakes_on(&self) -> Events {
        Events::NODE_ADDED | Events::NODE_TAINTS
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, _: &'a Cluster) -> Check<'a> {
        let taint =
            Taint { key: "node.kubernetes.io/unschedulable".into(), effect: "NoSchedule".into(), ..Taint::default() };
        if tolerates(pod, &taint) {
            return Check::Skip;
        }
        Check::Nodes(Box::new(|node, reasons| {
            if !node.is_unschedulable() {
                return Fit::Yes;
            }
            reasons.push("node(s) were unschedulable".into());
            Fit::Never
        }))
    }
}
