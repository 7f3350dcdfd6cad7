//! What this machine has and allows.
use procfs::{Current, CurrentSI};
use std::fs;
use std::path::Path;

/// Facts that do not change while the agent runs.
#[derive(Debug, Clone)]
pub struct Machine {
    pub cpus: u32,
    pub memory_bytes: i64,
    pub host_name: String,
    pub machine_id: String,
    pub boot_id: String,
    pub kernel: String,
    pub os_image: String,
    /// When the kernel started.
    pub booted: jiff::Timestamp,
    /// Processes that the kernel may have at once.
    pub pid_limit: u64,
    /// The lowest `oom_score_adj` that this process may give to others.
    pub oom_floor: i64,
    /// The kernel enforces AppArmor's profiles.
    pub apparmor: bool,
}

impl Machine {
    pub fn look() -> Self {
        let uname = rustix::system::uname();
        Self {
            cpus: std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1)),
            memory_bytes: i64::try_from(Self::memory().total_bytes).unwrap_or(i64::MAX),
            host_name: uname.nodename().to_string_lossy().into_owned(),
            machine_id: first_line("/etc/machine-id"),
            boot_id: first_line("/proc/sys/kernel/random/boot_id"),
            kernel: uname.release().to_string_lossy().into_owned(),
            os_image: os_image(&fs::read_to_string("/etc/os-release").unwrap_or_default()),
            booted: booted(),
            pid_limit: first_line("/proc/sys/kernel/pid_max").parse().unwrap_or(0),
            oom_floor: oom_floor(),
            apparmor: first_line("/sys/module/apparmor/parameters/enabled") == "Y",
        }
    }

    /// Size, free and available bytes of the file system of `path`, and its free inodes.
    pub fn disk(path: &Path) -> Disk {
        let Ok(stat) = rustix::fs::statvfs(path) else { return Disk::default() };
        Disk {
            size_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
            available_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            inodes: stat.f_files,
            inodes_free: stat.f_ffree,
        }
    }

    /// What memory there is now.
    pub fn memory() -> Memory {
        let Ok(now) = procfs::Meminfo::current() else { return Memory::default() };
        Memory { total_bytes: now.mem_total, available_bytes: now.mem_available.unwrap_or(0) }
    }

    /// Seconds of CPU time used since boot.
    pub fn cpu_seconds() -> f64 {
        let Ok(stat) = procfs::KernelStats::current() else { return 0.0 };
        let total = stat.total;
        let ticks = total.user + total.nice + total.system + total.irq.unwrap_or(0) + total.softirq.unwrap_or(0);
        ticks as f64 / procfs::ticks_per_second() as f64
    }
}

/// The kernel's memory.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    pub total_bytes: u64,
    /// Could be given out without swapping.
    pub available_bytes: u64,
}

/// A file system's room.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk {
    pub size_bytes: u64,
    pub available_bytes: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

/// Changes of a disk's size below this do not matter.
const DISK_GRAIN_BYTES: u64 = 64 << 20;

/// A disk's size in whole grains, as the Node shows it.
pub fn capacity_bytes(size_bytes: u64) -> u64 {
    size_bytes / DISK_GRAIN_BYTES * DISK_GRAIN_BYTES
}

/// What pods may ask for of a disk of that size: the kubelet keeps a tenth (its threshold `nodefs.available<10%`).
pub fn allocatable_bytes(size_bytes: u64) -> u64 {
    capacity_bytes(size_bytes) / 10 * 9
}

fn first_line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn booted() -> jiff::Timestamp {
    let seconds = procfs::KernelStats::current().map_or(0, |stat| i64::try_from(stat.btime).unwrap_or(0));
    jiff::Timestamp::from_second(seconds).unwrap_or_default()
}

fn os_image(os_release: &str) -> String {
    let name = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or("Linux", |name| name.trim_matches('"')).to_owned()
}

/// Lowering needs CAP_SYS_RESOURCE (proc(5), "/proc/pid/oom_score_adj"): without it our own score is the floor.
fn oom_floor() -> i64 {
    let own: i64 = first_line("/proc/self/oom_score_adj").parse().unwrap_or(0);
    let lowered = fs::write("/proc/self/oom_score_adj", (own - 1).max(-1000).to_string()).is_ok();
    if !lowered {
        return own;
    }
    let _ = fs::write("/proc/self/oom_score_adj", own.to_string());
    -1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_memory_and_a_name() {
        let machine = Machine::look();
        assert!(machine.cpus > 0 && machine.memory_bytes > 0 && !machine.kernel.is_empty(), "{machine:?}");
        assert!(Machine::disk(Path::new("/")).size_bytes > 0);
        assert_eq!(os_image("ID=x\nPRETTY_NAME=\"Debian 12\"\n"), "Debian 12");
        assert_eq!(os_image(""), "Linux");
    }
}
