//! Requests and limits as the kernel wants them, and QoS (`k8s.io/kubernetes/pkg/kubelet/cm`, `qos`).
use crate::cri::LinuxContainerResources;
use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use std::collections::BTreeMap;

const CPU_PERIOD_US: i64 = 100_000;
/// The least shares and quota that the kernel takes.
const MIN_SHARES: i64 = 2;
const MIN_QUOTA_US: i64 = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    pub fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }

    /// By the rules of the documentation's "Quality of Service classes".
    pub fn of(spec: &PodSpec) -> Self {
        let all = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let named =
            |container: &Container, name: &str, limit: bool| amount(container, name, limit).is_some_and(|n| n > 0);
        let any = all().any(|c| ["cpu", "memory"].iter().any(|name| named(c, name, true) || named(c, name, false)));
        if !any {
            return Self::BestEffort;
        }
        let guaranteed = all().all(|container| {
            ["cpu", "memory"].iter().all(|name| {
                let limit = amount(container, name, true);
                limit.is_some_and(|n| n > 0) && amount(container, name, false).or(limit) == limit
            })
        });
        if guaranteed { Self::Guaranteed } else { Self::Burstable }
    }
}

/// A request or limit in thousandths (cpu) or bytes.
pub fn amount(container: &Container, name: &str, limit: bool) -> Option<i64> {
    let resources = container.resources.as_ref()?;
    let map: &BTreeMap<String, Text> = if limit { resources.limits.as_ref()? } else { resources.requests.as_ref()? };
    let quantity = Quantity::parse(&map.get(name)?.0).ok()?;
    Some(if name == "cpu" { quantity.milli_value() } else { quantity.value() })
}

pub fn shares(milli: i64) -> i64 {
    (milli * 1024 / 1000).clamp(MIN_SHARES, 262_144)
}

/// One container's values for the runtime. `node_memory_bytes` weighs the OOM score of burstable ones;
/// `oom_floor` is the lowest score that this machine lets us set.
pub fn container(container: &Container, qos: Qos, node_memory_bytes: i64, oom_floor: i64) -> LinuxContainerResources {
    let request = amount(container, "cpu", false).or_else(|| amount(container, "cpu", true)).unwrap_or(0);
    let quota = amount(container, "cpu", true).filter(|milli| *milli > 0);
    LinuxContainerResources {
        cpu_period: CPU_PERIOD_US,
        cpu_quota: quota.map_or(0, |milli| (milli * CPU_PERIOD_US / 1000).max(MIN_QUOTA_US)),
        cpu_shares: shares(request),
        memory_limit_in_bytes: amount(container, "memory", true).unwrap_or(0),
        oom_score_adj: oom_score(container, qos, node_memory_bytes).max(oom_floor),
        ..Default::default()
    }
}

fn oom_score(container: &Container, qos: Qos, node_memory_bytes: i64) -> i64 {
    match qos {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let request = amount(container, "memory", false).unwrap_or(0);
            (1000 - 1000 * request / node_memory_bytes.max(1)).clamp(3, 999)
        }
    }
}

/// The pod's place among cgroups: `/<instance>pods/burstable/pod<uid>`.
pub fn cgroup_parent(instance: &str, pod: &Pod, qos: Qos) -> String {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let class = match qos {
        Qos::Guaranteed => "",
        Qos::Burstable => "/burstable",
        Qos::BestEffort => "/besteffort",
    };
    format!("{}{class}/pod{uid}", pods_cgroup(instance))
}

/// The parent of all pods' cgroups.
pub fn pods_cgroup(instance: &str) -> String {
    format!("/{instance}pods")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(resources: serde_json::Value) -> PodSpec {
        serde_json::from_value(json!({"containers": [{"name": "a", "resources": resources}]})).unwrap()
    }

    #[test]
    fn classes() {
        assert_eq!(Qos::of(&spec(json!({}))), Qos::BestEffort);
        assert_eq!(Qos::of(&spec(json!({"requests": {"cpu": "1"}}))), Qos::Burstable);
        let all = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(Qos::of(&spec(json!({"limits": all}))), Qos::Guaranteed);
        assert_eq!(Qos::of(&spec(json!({"limits": all, "requests": {"cpu": "500m"}}))), Qos::Burstable);
    }

    #[test]
    fn values_for_the_kernel() {
        let spec =
            spec(json!({"limits": {"cpu": "1500m", "memory": "64Mi"}, "requests": {"cpu": "250m", "memory": "64Mi"}}));
        let got = container(&spec.containers[0], Qos::Burstable, 64 << 30, 0);
        assert_eq!((got.cpu_shares, got.cpu_quota, got.memory_limit_in_bytes), (256, 150_000, 64 << 20));
        assert_eq!(got.oom_score_adj, 999);
        assert_eq!(
            container(&spec.containers[0], Qos::Guaranteed, 1, 0).oom_score_adj,
            0,
            "the machine's floor counts"
        );
    }
}
