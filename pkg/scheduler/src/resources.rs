//! What pods ask for and nodes have, as numbers (`k8s.io/component-helpers/resource`).
use api::quantity::Quantity as Exact;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

/// What a container without a CPU request counts as in scores, so that such pods spread too.
const DEFAULT_CPU_MILLI: i64 = 100;
/// The same for memory.
const DEFAULT_MEMORY_BYTES: i64 = 200 << 20;

type ResourceList = BTreeMap<String, Quantity>;

/// Amounts a resource: CPU in thousandths of a core, memory and storage in bytes, others in units.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub cpu_milli: i64,
    pub memory_bytes: i64,
    pub ephemeral_bytes: i64,
    /// Extended resources and huge pages, by name; few, so a sorted list.
    pub scalars: Vec<(Box<str>, i64)>,
}

impl Resources {
    pub fn of(list: Option<&ResourceList>) -> Self {
        let mut out = Self::default();
        for (name, quantity) in list.into_iter().flatten() {
            out.add_quantity(name, quantity);
        }
        out
    }

    fn add_quantity(&mut self, name: &str, quantity: &Quantity) {
        // The server has checked quantities; one that can't be read asks for nothing.
        let exact = Exact::parse(&quantity.0).unwrap_or_default();
        match name {
            "cpu" => self.cpu_milli += exact.milli_value(),
            "memory" => self.memory_bytes += exact.value(),
            "ephemeral-storage" => self.ephemeral_bytes += exact.value(),
            // Counted by the node as a number of pods.
            "pods" => {}
            name => *self.scalar_mut(name) += exact.value(),
        }
    }

    pub fn scalar(&self, name: &str) -> i64 {
        self.scalars.binary_search_by(|(n, _)| (**n).cmp(name)).map_or(0, |at| self.scalars[at].1)
    }

    fn scalar_mut(&mut self, name: &str) -> &mut i64 {
        let at = match self.scalars.binary_search_by(|(n, _)| (**n).cmp(name)) {
            Ok(at) => at,
            Err(at) => {
                self.scalars.insert(at, (name.into(), 0));
                at
            }
        };
        &mut self.scalars[at].1
    }

    pub fn add(&mut self, other: &Self) {
        self.combine(other, |a, b| a + b);
    }

    pub fn subtract(&mut self, other: &Self) {
        self.combine(other, |a, b| a - b);
    }

    fn max(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Self, f: impl Fn(i64, i64) -> i64) {
        self.cpu_milli = f(self.cpu_milli, other.cpu_milli);
        self.memory_bytes = f(self.memory_bytes, other.memory_bytes);
        self.ephemeral_bytes = f(self.ephemeral_bytes, other.ephemeral_bytes);
        for (name, amount) in &other.scalars {
            let mine = self.scalar_mut(name);
            *mine = f(*mine, *amount);
        }
    }

    pub fn is_zero(&self) -> bool {
        self.cpu_milli == 0
            && self.memory_bytes == 0
            && self.ephemeral_bytes == 0
            && self.scalars.iter().all(|(_, amount)| *amount == 0)
    }
}

/// What a pod takes from its node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    pub exact: Resources,
    /// CPU and memory for scores: containers without a request count as something.
    pub scored_cpu_milli: i64,
    pub scored_memory_bytes: i64,
}

impl Request {
    pub fn of(pod: &Pod) -> Self {
        let exact = total(pod, |resources| resources);
        let scored = total(pod, |mut resources| {
            if resources.cpu_milli == 0 {
                resources.cpu_milli = DEFAULT_CPU_MILLI;
            }
            if resources.memory_bytes == 0 {
                resources.memory_bytes = DEFAULT_MEMORY_BYTES;
            }
            resources
        });
        Self { exact, scored_cpu_milli: scored.cpu_milli, scored_memory_bytes: scored.memory_bytes }
    }
}

/// The larger of what runs together (containers and sidecars) and what each init container needs beside the
/// sidecars that started before it; then what the pod as a whole says, and its overhead.
fn total(pod: &Pod, each: impl Fn(Resources) -> Resources) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let status = |name: &str, init: bool| container_status(pod, name, init);
    let mut running = Resources::default();
    for container in &spec.containers {
        running.add(&each(effective(container, status(&container.name, false))));
    }
    let mut sidecars = Resources::default();
    let mut starting = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        if container.restart_policy.as_deref() == Some("Always") {
            let own = each(effective(container, status(&container.name, true)));
            running.add(&own);
            sidecars.add(&own);
            starting.max(&sidecars);
        } else {
            let mut own = each(Resources::of(requests(container.resources.as_ref())));
            own.add(&sidecars);
            starting.max(&own);
        }
    }
    running.max(&starting);
    whole_pod(&mut running, requests(spec.resources.as_ref()));
    running.add(&Resources::of(spec.overhead.as_ref()));
    running
}

/// Requests of the pod as a whole replace the sum of its containers'.
fn whole_pod(total: &mut Resources, requests: Option<&ResourceList>) {
    let whole = Resources::of(requests);
    for name in requests.into_iter().flatten().map(|(name, _)| name.as_str()) {
        match name {
            "cpu" => total.cpu_milli = whole.cpu_milli,
            "memory" => total.memory_bytes = whole.memory_bytes,
            name if name.starts_with("hugepages-") => *total.scalar_mut(name) = whole.scalar(name),
            _ => {}
        }
    }
}

/// A container that is being resized holds the larger of what it has and what it shall have.
fn effective(container: &Container, status: Option<&ContainerStatus>) -> Resources {
    let mut wanted = Resources::of(requests(container.resources.as_ref()));
    if let Some(status) = status.filter(|status| status.resources.is_some()) {
        wanted.max(&Resources::of(requests(status.resources.as_ref())));
        wanted.max(&Resources::of(status.allocated_resources.as_ref()));
    }
    wanted
}

fn requests(resources: Option<&ResourceRequirements>) -> Option<&ResourceList> {
    resources?.requests.as_ref()
}

fn container_status<'p>(pod: &'p Pod, name: &str, init: bool) -> Option<&'p ContainerStatus> {
    let status = pod.status.as_ref()?;
    let all = if init { &status.init_container_statuses } else { &status.container_statuses };
    all.as_ref()?.iter().find(|status| status.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn request(spec: Value) -> Request {
        Request::of(&serde_json::from_value(json!({"spec": spec})).unwrap())
    }

    fn asks(cpu: &str, memory: &str) -> Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}})
    }

    #[test]
    fn containers_add_up() {
        let r = request(json!({"containers": [asks("100m", "1Mi"), asks("0.2", "2Mi")], "overhead": {"cpu": "5m"}}));
        assert_eq!((r.exact.cpu_milli, r.exact.memory_bytes), (305, 3 << 20));
    }

    #[test]
    fn init_containers_are_a_maximum_over_sidecars() {
        let mut sidecar = asks("300m", "1Mi");
        sidecar["restartPolicy"] = json!("Always");
        let r = request(json!({"containers": [asks("100m", "8Mi")],
            "initContainers": [asks("350m", "1Mi"), sidecar, asks("200m", "1Mi")]}));
        // Running: 100 + 300; starting: 350, then 300 + 200.
        assert_eq!((r.exact.cpu_milli, r.exact.memory_bytes), (500, 9 << 20));
    }

    #[test]
    fn a_pod_without_requests_counts_in_scores() {
        let r = request(json!({"containers": [{"name": "a"}, {"name": "b"}]}));
        assert!(r.exact.is_zero());
        assert_eq!((r.scored_cpu_milli, r.scored_memory_bytes), (200, 400 << 20));
    }

    #[test]
    fn pod_level_requests_replace_sums() {
        let r = request(json!({"containers": [asks("100m", "1Mi")], "resources": {"requests": {"cpu": "1"}}}));
        assert_eq!((r.exact.cpu_milli, r.exact.memory_bytes), (1000, 1 << 20));
    }

    #[test]
    fn extended_resources() {
        let r = request(
            json!({"containers": [{"name": "a", "resources": {"requests": {"x.io/gpu": "2", "hugepages-2Mi": "4Mi"}}}]}),
        );
        assert_eq!(r.exact.scalar("x.io/gpu"), 2);
        assert_eq!(r.exact.scalar("hugepages-2Mi"), 4 << 20);
        assert_eq!(r.exact.scalar("y.io/gpu"), 0);
    }

    #[test]
    fn a_resize_holds_the_larger() {
        let pod = json!({"spec": {"containers": [asks("100m", "1Mi")]}, "status": {"containerStatuses": [
            {"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0,
             "resources": {"requests": {"cpu": "300m"}}, "allocatedResources": {"memory": "5Mi"}}]}});
        let r = Request::of(&serde_json::from_value(pod).unwrap());
        assert_eq!((r.exact.cpu_milli, r.exact.memory_bytes), (300, 5 << 20));
    }
}
