//! What a group has used and may use, read from the kernel's files of either version.
use super::cgroup::Cgroups;
use super::plan::{CPU_PERIOD_US, Version};
use std::fs;
use std::path::Path;

/// Hundredths of a second, which version 1 counts user and system time in (USER_HZ of proc(5)).
const TICK_NS: u64 = 10_000_000;
/// A limit of version 1 above this is none: the kernel rounds "no limit" down to pages.
const V1_NO_LIMIT_BYTES: u64 = 1 << 62;

/// Counters and levels of one group; zero where the kernel does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub cpu_ns: u64,
    pub cpu_user_ns: u64,
    pub cpu_system_ns: u64,
    /// Periods that had work, how many of them ran into the quota, and the time lost so.
    pub cpu_periods: u64,
    pub cpu_throttled_periods: u64,
    pub cpu_throttled_ns: u64,
    pub memory_bytes: u64,
    pub memory_peak_bytes: u64,
    /// Without file pages that nobody asked for lately.
    pub working_set_bytes: u64,
    pub rss_bytes: u64,
    pub cache_bytes: u64,
    pub mapped_file_bytes: u64,
    pub swap_bytes: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
    /// Times that the memory limit was hit.
    pub memory_failures: u64,
    pub pids: u64,
    /// `None`: no limit.
    pub memory_limit_bytes: Option<u64>,
    /// Weight in version 1's shares; 0: unknown.
    pub cpu_shares: u64,
    /// Of each [`CPU_PERIOD_US`]; `None`: no limit.
    pub cpu_quota_us: Option<u64>,
}

impl Cgroups {
    /// What a group has used so far.
    pub fn usage(&self, path: &str) -> Usage {
        match self.version() {
            Version::V1 => self.usage_v1(path),
            Version::V2 => usage_v2(&self.dir("", path)),
        }
    }

    /// The processes of a group, without those of groups below.
    pub fn processes(&self, path: &str) -> Vec<i32> {
        let text = fs::read_to_string(self.dir("cpu", path).join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    fn usage_v1(&self, path: &str) -> Usage {
        let (cpu, memory) = (self.dir("cpu", path), self.dir("memory", path));
        let account = self.dir("cpuacct", path);
        let of = Keyed::read(&memory.join("memory.stat"));
        let ticks = Keyed::read(&account.join("cpuacct.stat"));
        let throttled = Keyed::read(&cpu.join("cpu.stat"));
        let memory_bytes = number(&memory.join("memory.usage_in_bytes"));
        let limit = number(&memory.join("memory.limit_in_bytes"));
        Usage {
            cpu_ns: number(&account.join("cpuacct.usage")),
            cpu_user_ns: ticks.get("user").saturating_mul(TICK_NS),
            cpu_system_ns: ticks.get("system").saturating_mul(TICK_NS),
            cpu_periods: throttled.get("nr_periods"),
            cpu_throttled_periods: throttled.get("nr_throttled"),
            cpu_throttled_ns: throttled.get("throttled_time"),
            memory_bytes,
            memory_peak_bytes: number(&memory.join("memory.max_usage_in_bytes")),
            working_set_bytes: memory_bytes.saturating_sub(of.get("total_inactive_file")),
            rss_bytes: of.get("total_rss"),
            cache_bytes: of.get("total_cache"),
            mapped_file_bytes: of.get("total_mapped_file"),
            swap_bytes: of.get("total_swap"),
            page_faults: of.get("total_pgfault"),
            major_page_faults: of.get("total_pgmajfault"),
            memory_failures: number(&memory.join("memory.failcnt")),
            pids: number(&self.dir("pids", path).join("pids.current")),
            memory_limit_bytes: (1..V1_NO_LIMIT_BYTES).contains(&limit).then_some(limit),
            cpu_shares: number(&cpu.join("cpu.shares")),
            cpu_quota_us: fs::read_to_string(cpu.join("cpu.cfs_quota_us"))
                .ok()
                .and_then(|text| text.trim().parse().ok()),
        }
    }
}

fn usage_v2(dir: &Path) -> Usage {
    let (cpu, of) = (Keyed::read(&dir.join("cpu.stat")), Keyed::read(&dir.join("memory.stat")));
    let memory_bytes = number(&dir.join("memory.current"));
    let quota = fs::read_to_string(dir.join("cpu.max")).unwrap_or_default();
    let mut quota = quota.split_whitespace().map(|word| word.parse::<u64>().ok());
    let (quota, period) = (quota.next().flatten(), quota.next().flatten().unwrap_or(CPU_PERIOD_US.unsigned_abs()));
    Usage {
        cpu_ns: cpu.get("usage_usec").saturating_mul(1000),
        cpu_user_ns: cpu.get("user_usec").saturating_mul(1000),
        cpu_system_ns: cpu.get("system_usec").saturating_mul(1000),
        cpu_periods: cpu.get("nr_periods"),
        cpu_throttled_periods: cpu.get("nr_throttled"),
        cpu_throttled_ns: cpu.get("throttled_usec").saturating_mul(1000),
        memory_bytes,
        memory_peak_bytes: number(&dir.join("memory.peak")),
        working_set_bytes: memory_bytes.saturating_sub(of.get("inactive_file")),
        rss_bytes: of.get("anon"),
        cache_bytes: of.get("file"),
        mapped_file_bytes: of.get("file_mapped"),
        swap_bytes: number(&dir.join("memory.swap.current")),
        page_faults: of.get("pgfault"),
        major_page_faults: of.get("pgmajfault"),
        memory_failures: Keyed::read(&dir.join("memory.events")).get("max"),
        pids: number(&dir.join("pids.current")),
        memory_limit_bytes: fs::read_to_string(dir.join("memory.max")).ok().and_then(|text| text.trim().parse().ok()),
        cpu_shares: match number(&dir.join("cpu.weight")) {
            0 => 0,
            weight => 2 + (weight - 1).saturating_mul(262_142) / 9999,
        },
        cpu_quota_us: quota.map(|quota| quota * CPU_PERIOD_US.unsigned_abs() / period.max(1)),
    }
}

/// A file of `key value` lines.
struct Keyed(String);

impl Keyed {
    fn read(file: &Path) -> Self {
        Self(fs::read_to_string(file).unwrap_or_default())
    }

    fn get(&self, key: &str) -> u64 {
        let line = self.0.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
    }
}

fn number(file: &Path) -> u64 {
    fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("directory");
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("below the root")).expect("directory");
            fs::write(path, text).expect("file");
        }
        dir
    }

    #[test]
    fn both_versions_are_read() {
        let v1 = tree(&[
            ("cpuacct/p/cpuacct.usage", "3000000000\n"),
            ("cpuacct/p/cpuacct.stat", "user 200\nsystem 100\n"),
            ("cpu/p/cpu.stat", "nr_periods 10\nnr_throttled 2\nthrottled_time 5\n"),
            ("cpu/p/cpu.cfs_quota_us", "-1\n"),
            ("memory/p/memory.usage_in_bytes", "1000\n"),
            ("memory/p/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/p/memory.stat", "rss 1\ntotal_rss 600\ntotal_inactive_file 100\n"),
        ]);
        let usage = Cgroups::at(v1.path()).usage("/p");
        assert_eq!((usage.cpu_ns, usage.cpu_user_ns, usage.cpu_throttled_periods), (3_000_000_000, 2_000_000_000, 2));
        assert_eq!((usage.working_set_bytes, usage.rss_bytes), (900, 600));
        assert_eq!((usage.memory_limit_bytes, usage.cpu_quota_us), (None, None));

        let v2 = tree(&[
            ("cgroup.controllers", "cpu memory"),
            ("p/cpu.stat", "usage_usec 3000\nuser_usec 2000\nsystem_usec 1000\n"),
            ("p/cpu.max", "50000 100000\n"),
            ("p/cpu.weight", "39\n"),
            ("p/memory.current", "1000\n"),
            ("p/memory.max", "max\n"),
            ("p/memory.stat", "anon 600\ninactive_file 100\n"),
        ]);
        let usage = Cgroups::at(v2.path()).usage("/p");
        assert_eq!((usage.cpu_ns, usage.working_set_bytes, usage.rss_bytes), (3_000_000, 900, 600));
        assert_eq!((usage.memory_limit_bytes, usage.cpu_quota_us, usage.cpu_shares), (None, Some(50_000), 998));
        assert_eq!(Cgroups::at(v2.path()).usage("/none"), Usage::default());
    }
}
