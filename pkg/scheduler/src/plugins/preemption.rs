//! What happens when nothing fits. Pods of lower priority are not evicted; the message says what upstream's says
//! when there are none.
use crate::cluster::Cluster;
use crate::framework::{Diagnosis, PostFilter};
use crate::pod::PodInfo;

pub struct NoPreemption;

impl PostFilter for NoPreemption {
    fn run(&self, pod: &PodInfo, _: &Cluster, diagnosis: &Diagnosis) -> String {
        if pod.spec().and_then(|spec| spec.preemption_policy.as_deref()) == Some("Never") {
            return "preemption: not eligible due to preemptionPolicy=Never.".into();
        }
        let candidates = diagnosis.candidates.len();
        let mut reasons = Vec::new();
        for (count, reason) in [
            (candidates, "No preemption victims found for incoming pod"),
            (diagnosis.nodes.saturating_sub(candidates), "Preemption is not helpful for scheduling"),
        ] {
            if count > 0 {
                reasons.push(format!("{count} {reason}"));
            }
        }
        reasons.sort();
        format!("preemption: 0/{} nodes are available: {}.", diagnosis.nodes, reasons.join(", "))
    }
}
