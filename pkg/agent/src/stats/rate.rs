//! CPU in use, from two samples. Pure.
use super::{Container, Pair, PodSample};

/// Thousand-millionths of a core in use between two counts of CPU time.
fn nano_cores(new_ns: u64, old_ns: u64, elapsed_ns: u128) -> Option<u64> {
    let used = u128::from(new_ns.checked_sub(old_ns)?);
    u64::try_from((used * 1_000_000_000).checked_div(elapsed_ns)?).ok()
}

impl Pair {
    fn elapsed_ns(&self) -> u128 {
        self.old.as_ref().map_or(0, |old| self.new.at.saturating_duration_since(old.at).as_nanos())
    }

    pub fn node_nano_cores(&self) -> Option<u64> {
        nano_cores(self.new.node_cpu_ns, self.old.as_ref()?.node_cpu_ns, self.elapsed_ns())
    }

    /// `None`: the pod was not there before.
    pub fn pod_nano_cores(&self, uid: &str, pod: &PodSample) -> Option<u64> {
        let old = self.old.as_ref()?.pods.get(uid)?;
        nano_cores(pod.usage.cpu_ns, old.usage.cpu_ns, self.elapsed_ns())
    }

    /// `None`: this instance of the container was not there before.
    pub fn container_nano_cores(&self, uid: &str, name: &str, container: &Container) -> Option<u64> {
        let old = self.old.as_ref()?.pods.get(uid)?.containers.get(name).filter(|old| old.id == container.id)?;
        nano_cores(container.usage.cpu_ns, old.usage.cpu_ns, self.elapsed_ns())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_core_is_half_the_time() {
        assert_eq!(nano_cores(1_500, 500, 2_000), Some(500_000_000));
        assert_eq!(nano_cores(1, 2, 10), None, "a counter that went back tells nothing");
        assert_eq!(nano_cores(2, 1, 0), None);
    }
}
