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

    /// By the rules of the documentation's "Quality of Service classes"; resources of the whole pod count first.
    pub fn of(spec: &PodSpec) -> Self {
        let whole = whole(spec);
        if ["cpu", "memory"].iter().any(|name| amount(&whole, name, true).or(amount(&whole, name, false)).is_some()) {
            let same = |name: &&str| {
                let limit = amount(&whole, name, true);
                limit.is_some_and(|n| n > 0) && amount(&whole, name, false).or(limit) == limit
            };
            return if ["cpu", "memory"].iter().all(same) { Self::Guaranteed } else { Self::Burstable };
        }
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

/// Resources of the whole pod (KEP-2837), as if they were a container's.
fn whole(spec: &PodSpec) -> Container {
    Container { resources: spec.resources.clone(), ..Container::default() }
}

/// What running the pod costs beyond its containers (`spec.overhead`).
fn overhead(spec: &PodSpec, name: &str) -> i64 {
    let quantity = spec.overhead.as_ref().and_then(|all| Quantity::parse(&all.get(name)?.0).ok());
    quantity.map_or(0, |quantity| if name == "cpu" { quantity.milli_value() } else { quantity.value() })
}

/// What a pod needs at most at any one time: containers and sidecars together, or an init container beside the
/// sidecars that started before it (KEP-753). `None` counts as nothing.
fn at_once(spec: &PodSpec, of: impl Fn(&Container) -> Option<i64>) -> i64 {
    let of = |container: &Container| of(container).unwrap_or(0);
    let (mut sidecars, mut peak) = (0, 0);
    for container in spec.init_containers.iter().flatten() {
        if super::step::is_sidecar_spec(container) {
            sidecars += of(container);
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars + of(container));
        }
    }
    let main: i64 = spec.containers.iter().map(of).sum();
    peak.max(main + sidecars)
}

/// What a pod asks of its node, in thousandths (cpu) or bytes.
pub fn pod_request(spec: &PodSpec, name: &str) -> i64 {
    let request = |c: &Container| amount(c, name, false).or_else(|| amount(c, name, true));
    request(&whole(spec)).unwrap_or_else(|| at_once(spec, request)) + overhead(spec, name)
}

/// What a pod may use; `None`: a container of it has no limit.
fn pod_limit(spec: &PodSpec, name: &str) -> Option<i64> {
    let limit = |c: &Container| amount(c, name, true).filter(|n| *n > 0);
    let of_containers = || {
        let mut all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        all.all(|c| limit(c).is_some()).then(|| at_once(spec, limit)).filter(|_| !spec.containers.is_empty())
    };
    Some(limit(&whole(spec)).or_else(of_containers)? + overhead(spec, name))
}

/// What a pod may hold of the local disk: the limits of those containers that have one.
pub fn ephemeral_limit(spec: &PodSpec) -> Option<i64> {
    let limit = |c: &Container| amount(c, "ephemeral-storage", true).filter(|n| *n > 0);
    Some(at_once(spec, limit)).filter(|limit| *limit > 0)
}

/// The limits of the pod's own group.
pub fn pod_limits(spec: &PodSpec) -> qos::Limits {
    let quota = |milli: i64| (milli * CPU_PERIOD_US / 1000).max(MIN_QUOTA_US);
    qos::Limits {
        cpu_shares: Some(shares(pod_request(spec, "cpu"))),
        cpu_quota_us: pod_limit(spec, "cpu").map(quota),
        memory_bytes: pod_limit(spec, "memory"),
        pids: None,
    }
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

/// The same for a container that runs: what has no limit any more is told so, as zero would mean "as it is".
pub fn update(spec: &Container, qos: Qos, node_memory_bytes: i64, oom_floor: i64) -> LinuxContainerResources {
    let mut resources = container(spec, qos, node_memory_bytes, oom_floor);
    if resources.cpu_quota == 0 {
        resources.cpu_quota = -1;
    }
    // The score of a process that runs is not changed (KEP-1287).
    resources.oom_score_adj = 0;
    resources
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
    fn a_pods_group_covers_all_that_may_run_at_once() {
        let spec: PodSpec = serde_json::from_value(json!({
            "overhead": {"cpu": "10m", "memory": "1Mi"},
            "initContainers": [
                {"name": "s", "restartPolicy": "Always", "resources": {"limits": {"cpu": "100m", "memory": "10Mi"}}},
                {"name": "i", "resources": {"limits": {"cpu": "500m", "memory": "10Mi"}}}],
            "containers": [{"name": "a", "resources": {"limits": {"cpu": "300m", "memory": "50Mi"}}}]}))
        .unwrap();
        assert_eq!((pod_request(&spec, "cpu"), pod_request(&spec, "memory")), (610, 61 << 20));
        let limits = pod_limits(&spec);
        assert_eq!((limits.cpu_quota_us, limits.memory_bytes), (Some(61_000), Some(61 << 20)));
        let open = super::tests::spec(json!({"requests": {"cpu": "1"}}));
        assert_eq!((pod_limits(&open).cpu_quota_us, pod_limits(&open).cpu_shares), (None, Some(1024)));
    }

    #[test]
    fn resources_of_the_whole_pod_count_first() {
        let of = |whole: serde_json::Value| -> PodSpec {
            serde_json::from_value(json!({"resources": whole, "containers": [{"name": "a"}]})).unwrap()
        };
        let all = json!({"cpu": "1", "memory": "1Gi"});
        let guaranteed = of(json!({"limits": all, "requests": all}));
        assert_eq!((Qos::of(&guaranteed), pod_limits(&guaranteed).cpu_quota_us), (Qos::Guaranteed, Some(100_000)));
        assert_eq!(Qos::of(&of(json!({"requests": {"cpu": "1"}}))), Qos::Burstable);
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
