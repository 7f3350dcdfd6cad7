//! The end of everything that runs in our containerd, for the uninstaller. Nothing else may touch it meanwhile.
use super::Options;
use super::process::Launch;
use procfs::process::{Process, all_processes};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long processes may take to vanish after SIGKILL.
const GONE_TIMEOUT: Duration = Duration::from_secs(10);

/// Mounts lie on mounts: a bounded number of rounds takes them all.
const UNMOUNT_ROUNDS: usize = 10;

/// Ends our containerd, its shims and all containers, unmounts what they mounted and removes the state directory.
/// Images and content stay in the data directory. Does nothing where nothing of ours runs.
///
/// # Errors
/// When processes don't end or mounts can't be undone.
pub fn stop(options: &Options) -> io::Result<()> {
    let launch = Launch {
        program: PathBuf::new(),
        config: options.config_file(),
        log: options.log_file(),
        pid_file: options.pid_file(),
    };
    // containerd first: it would restart or clean up in our way.
    let containerd: BTreeSet<i32> = launch.pid().into_iter().collect();
    kill_all(|| containerd.clone())?;
    let socket = options.socket();
    kill_all(|| shims_and_containers(&socket))?;
    for dir in [options.state_dir(), options.root(), options.pods_dir()] {
        unmount_below(&dir)?;
    }
    match fs::remove_dir_all(options.state_dir()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Others may keep something there.
    let _ = fs::remove_dir(&options.run_dir);
    Ok(())
}

/// Removes the cgroups of an instance's pods, and ends what is still in them: whoever has removed the data directory has also
/// removed what says where the containers are.
///
/// # Errors
/// When processes don't end.
pub fn remove_cgroups(instance: &str) -> io::Result<()> {
    let (cgroups, path) = (qos::Cgroups::detect(), crate::pod::resources::pods_cgroup(instance));
    kill_all(|| cgroups.processes_below(&path))?;
    cgroups.remove(&path).map_err(io::Error::other)
}

/// Kills what `find` finds until it finds nothing more.
fn kill_all(find: impl Fn() -> BTreeSet<i32>) -> io::Result<()> {
    let give_up = Instant::now() + GONE_TIMEOUT;
    loop {
        let alive: Vec<_> = find().into_iter().filter(|pid| is_alive(*pid)).collect();
        if alive.is_empty() {
            return Ok(());
        }
        if Instant::now() > give_up {
            return Err(io::Error::other(format!("processes {alive:?} do not end")));
        }
        for pid in alive.into_iter().filter_map(Pid::from_raw) {
            // It may have ended by itself.
            let _ = kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn is_alive(pid: i32) -> bool {
    Process::new(pid).and_then(|process| process.stat()).is_ok_and(|stat| stat.state != 'Z')
}

/// The shims that serve our containerd, and everything below them.
fn shims_and_containers(socket: &Path) -> BTreeSet<i32> {
    let processes: Vec<Process> = all_processes().into_iter().flatten().flatten().collect();
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for process in &processes {
        if let Ok(stat) = process.stat() {
            children.entry(stat.ppid).or_default().push(stat.pid);
        }
    }
    let shims = processes.iter().filter(|process| is_shim(&process.cmdline().unwrap_or_default(), socket));
    let mut found = BTreeSet::new();
    let mut todo: Vec<i32> = shims.map(|shim| shim.pid).collect();
    while let Some(pid) = todo.pop() {
        if found.insert(pid) {
            todo.extend(children.get(&pid).into_iter().flatten());
        }
    }
    found
}

fn is_shim(line: &[String], socket: &Path) -> bool {
    let program = line.first().and_then(|program| program.rsplit('/').next()).unwrap_or_default();
    let socket = socket.as_os_str();
    program.starts_with("containerd-shim") && line.windows(2).any(|w| w[0] == "-address" && socket == w[1].as_str())
}

fn unmount_below(dir: &Path) -> io::Result<()> {
    for _ in 0..UNMOUNT_ROUNDS {
        let mounts = procfs::process::Process::myself().and_then(|me| me.mountinfo()).map_err(io::Error::other)?;
        let ours: Vec<_> = mounts.into_iter().map(|m| m.mount_point).filter(|point| is_below(point, dir)).collect();
        if ours.is_empty() {
            return Ok(());
        }
        for point in ours.iter().rev() {
            // Tried again in the next round, and told when it stays.
            let _ = unmount(point, UnmountFlags::DETACH);
        }
    }
    Err(io::Error::other(format!("mounts below {} can't be undone", dir.display())))
}

/// The directory itself may be a disk of the user's.
fn is_below(point: &Path, dir: &Path) -> bool {
    point != dir && point.starts_with(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_below() {
        let dir = Path::new("/var/lib/eyot/agent/pods");
        assert!(is_below(&dir.join("uid/volumes/x"), dir));
        assert!(!is_below(dir, dir) && !is_below(Path::new("/var/lib/eyot/agent/pods2/x"), dir));
    }

    #[test]
    fn what_is_left_in_a_pods_group_ends_with_it() {
        let instance = format!("t{}", std::process::id());
        let (cgroups, path) = (qos::Cgroups::detect(), crate::pod::resources::pods_cgroup(&instance));
        let pod = format!("{path}/burstable/pod1");
        if let Err(error) = cgroups.create(&pod, &qos::Limits::default()) {
            return eprintln!("skipped: {error}");
        }
        let mut sleeping = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let roots = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"];
        let joined = roots.map(|root| fs::write(format!("{root}{pod}/cgroup.procs"), sleeping.id().to_string()));
        let found = cgroups.processes_below(&path);
        let removed = remove_cgroups(&instance);
        let _ = sleeping.kill();
        sleeping.wait().unwrap();
        assert!(joined.iter().any(Result::is_ok), "{joined:?}");
        assert_eq!(found, [sleeping.id() as i32].into());
        removed.unwrap();
        assert!(cgroups.children(&path).is_empty());
    }

    #[test]
    fn only_shims_of_our_socket() {
        let line = |address: &str| {
            ["/usr/bin/containerd-shim-runc-v2", "-namespace", "k8s.io", "-id", "x", "-address", address]
                .map(str::to_owned)
                .to_vec()
        };
        let socket = Path::new("/run/eyot/containerd/containerd.sock");
        assert!(is_shim(&line("/run/eyot/containerd/containerd.sock"), socket));
        assert!(!is_shim(&line("/run/containerd/containerd.sock"), socket));
        assert!(!is_shim(&["grep".to_owned(), "-address".to_owned(), socket.display().to_string()], socket));
    }
}
