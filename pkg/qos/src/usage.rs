//! What a group has used and may use, read from the kernel's files of either version.
use super::cgroup::{Cgroups, processes_of};
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
    /// Read from and written to all disks together.
    pub io: Io,
}

/// What reached disks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Io {
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub reads: u64,
    pub writes: u64,
}

impl Io {
    fn of_v1(blkio: &Path) -> Self {
        let sum = |file: &str, operation: &str| sum_v1(&read(&blkio.join(file)), operation);
        let (bytes, count) = ("blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_serviced_recursive");
        Self {
            read_bytes: sum(bytes, "Read"),
            written_bytes: sum(bytes, "Write"),
            reads: sum(count, "Read"),
            writes: sum(count, "Write"),
        }
    }

    fn of_v2(dir: &Path) -> Self {
        let text = read(&dir.join("io.stat"));
        let sum = |key: &str| sum_v2(&text, key);
        Self { read_bytes: sum("rbytes"), written_bytes: sum("wbytes"), reads: sum("rios"), writes: sum("wios") }
    }
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_default()
}

/// Lines of `<major>:<minor> <operation> <count>` (the kernel's `cgroup-v1/blkio-controller`).
fn sum_v1(text: &str, operation: &str) -> u64 {
    let count = |line: &str| -> Option<u64> {
        let mut words = line.split_whitespace().skip(1);
        (words.next()? == operation).then(|| words.next()?.parse().ok()).flatten()
    };
    text.lines().filter_map(count).sum()
}

/// Lines of `<major>:<minor> <key>=<count> ...` (the kernel's `cgroup-v2`, "io.stat").
fn sum_v2(text: &str, key: &str) -> u64 {
    let words = text.split_whitespace().filter_map(|word| word.split_once('='));
    words.filter(|(name, _)| *name == key).filter_map(|(_, count)| count.parse::<u64>().ok()).sum()
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
        processes_of(&self.dir("cpu", path))
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
            io: Io::of_v1(&self.dir("blkio", path)),
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
        io: Io::of_v2(dir),
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
            ("blkio/p/blkio.throttle.io_service_bytes_recursive", "8:0 Read 5\n8:0 Write 7\n8:16 Read 6\nTotal 18\n"),
        ]);
        let usage = Cgroups::at(v1.path()).usage("/p");
        assert_eq!((usage.cpu_ns, usage.cpu_user_ns, usage.cpu_throttled_periods), (3_000_000_000, 2_000_000_000, 2));
        assert_eq!((usage.working_set_bytes, usage.rss_bytes), (900, 600));
        assert_eq!((usage.memory_limit_bytes, usage.cpu_quota_us), (None, None));
        assert_eq!((usage.io.read_bytes, usage.io.written_bytes, usage.io.reads), (11, 7, 0));

        let v2 = tree(&[
            ("cgroup.controllers", "cpu memory"),
            ("p/cpu.stat", "usage_usec 3000\nuser_usec 2000\nsystem_usec 1000\n"),
            ("p/cpu.max", "50000 100000\n"),
            ("p/cpu.weight", "39\n"),
            ("p/memory.current", "1000\n"),
            ("p/memory.max", "max\n"),
            ("p/memory.stat", "anon 600\ninactive_file 100\n"),
            (
                "p/io.stat",
                "8:0 rbytes=5 wbytes=7 rios=1 wios=2 dbytes=0 dios=0\n8:16 rbytes=6 wbytes=0 rios=1 wios=0\n",
            ),
        ]);
        let usage = Cgroups::at(v2.path()).usage("/p");
        assert_eq!((usage.cpu_ns, usage.working_set_bytes, usage.rss_bytes), (3_000_000, 900, 600));
        assert_eq!((usage.memory_limit_bytes, usage.cpu_quota_us, usage.cpu_shares), (None, Some(50_000), 998));
        assert_eq!(usage.io, Io { read_bytes: 11, written_bytes: 7, reads: 2, writes: 2 });
        assert_eq!(Cgroups::at(v2.path()).usage("/none"), Usage::default());
    }
}
