//! What is written into which file: pure, by version.

/// The version of the hierarchy that containers live in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy a controller, under `/sys/fs/cgroup/<controller>`.
    V1,
    /// One hierarchy at `/sys/fs/cgroup`.
    V2,
}

/// What a group may use; what is absent stays as the kernel has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Weight among siblings, in cgroup v1's shares (1024 a core).
    pub cpu_shares: Option<i64>,
    /// Microseconds of CPU time in each [`CPU_PERIOD_US`]; [`NO_LIMIT`] lifts an older limit.
    pub cpu_quota_us: Option<i64>,
    /// [`NO_LIMIT`] lifts an older limit.
    pub memory_bytes: Option<i64>,
    pub pids: Option<i64>,
}

/// As much as there is.
pub const NO_LIMIT: i64 = -1;

/// The period that quotas count in, in microseconds.
pub const CPU_PERIOD_US: i64 = 100_000;

/// Controllers of version 1 that a pod's group is made in; runc makes the container's own in all of them.
pub const V1_CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// The same of version 2, as `cgroup.subtree_control` takes them.
pub const V2_CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

/// One write: `file` in the group's directory; in version 1 of this controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    pub controller: &'static str,
    pub file: &'static str,
    pub value: String,
}

fn write(controller: &'static str, file: &'static str, value: impl ToString) -> Write {
    Write { controller, file, value: value.to_string() }
}

/// The writes that put `limits` in force, in order.
pub fn writes(version: Version, limits: &Limits) -> Vec<Write> {
    match version {
        Version::V1 => v1(limits),
        Version::V2 => v2(limits),
    }
}

fn v1(limits: &Limits) -> Vec<Write> {
    let mut all = Vec::new();
    all.extend(limits.cpu_shares.map(|n| write("cpu", "cpu.shares", n)));
    if let Some(quota) = limits.cpu_quota_us {
        all.push(write("cpu", "cpu.cfs_period_us", CPU_PERIOD_US));
        all.push(write("cpu", "cpu.cfs_quota_us", quota));
    }
    all.extend(limits.memory_bytes.map(|n| write("memory", "memory.limit_in_bytes", n)));
    all.extend(limits.pids.map(|n| write("pids", "pids.max", n)));
    all
}

fn v2(limits: &Limits) -> Vec<Write> {
    let mut all = Vec::new();
    all.extend(limits.cpu_shares.map(|n| write("cpu", "cpu.weight", weight(n))));
    all.extend(limits.cpu_quota_us.map(|n| write("cpu", "cpu.max", format!("{} {CPU_PERIOD_US}", or_max(n)))));
    all.extend(limits.memory_bytes.map(|n| write("memory", "memory.max", or_max(n))));
    all.extend(limits.pids.map(|n| write("pids", "pids.max", n)));
    all
}

fn or_max(limit: i64) -> String {
    if limit == NO_LIMIT { "max".to_owned() } else { limit.to_string() }
}

/// Shares [2, 262144] as a weight [1, 10000] (Kubernetes KEP-2254).
fn weight(shares: i64) -> i64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { cpu_shares: Some(1024), cpu_quota_us: Some(50_000), memory_bytes: Some(1 << 20), pids: None };

    #[test]
    fn both_versions_say_the_same() {
        let text = |version| {
            let all = writes(version, &LIMITS);
            all.iter().map(|w| format!("{}={}", w.file, w.value)).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            text(Version::V1),
            "cpu.shares=1024 cpu.cfs_period_us=100000 cpu.cfs_quota_us=50000 memory.limit_in_bytes=1048576"
        );
        assert_eq!(text(Version::V2), "cpu.weight=39 cpu.max=50000 100000 memory.max=1048576");
        assert_eq!(writes(Version::V2, &Limits::default()), []);
        let lifted = Limits { memory_bytes: Some(NO_LIMIT), ..Limits::default() };
        let value = |version| writes(version, &lifted)[0].value.clone();
        assert_eq!((value(Version::V1).as_str(), value(Version::V2).as_str()), ("-1", "max"));
    }

    #[test]
    fn weights_span_the_range() {
        assert_eq!((weight(0), weight(2), weight(262_144)), (1, 1, 10_000));
    }
}
