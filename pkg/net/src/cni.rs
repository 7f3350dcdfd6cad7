//! The pod network's CNI configuration: a point-to-point link for each pod, addresses from the node's pod CIDR.
//!
//! Every packet between pods passes the host's IP layer, so Service rules and connection tracking see both
//! directions whether or not `bridge-nf-call-iptables` is set, and a pod that meets itself needs no hairpin port.
use ipnet::Ipv4Net;
use serde_json::json;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The protocol version that containerd's CNI library and the plugins of all supported distributions speak.
const CNI_VERSION: &str = "0.4.0";

/// Where libcni keeps results, shared by all networks of the machine.
const RESULTS_DIR: &str = "/var/lib/cni/results";

/// What the configuration depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// The network's name: the instance.
    pub name: String,
    pub pod_cidr: Ipv4Net,
    pub mtu: u32,
    /// Where host-local remembers addresses.
    pub state_dir: PathBuf,
}

/// The network configuration list (CNI spec 0.4.0).
pub fn render(network: &Network) -> String {
    let list = json!({
        "cniVersion": CNI_VERSION,
        "name": network.name,
        "plugins": [{
            "type": "ptp",
            "ipMasq": false,
            "mtu": network.mtu,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": network.pod_cidr.to_string()}]],
                "routes": [{"dst": "0.0.0.0/0"}],
                "dataDir": network.state_dir,
            },
        }],
    });
    format!("{list:#}\n")
}

fn file(conf_dir: &Path, name: &str) -> PathBuf {
    conf_dir.join(format!("10-{name}.conflist"))
}

/// Writes the configuration if it is not there already; containerd notices. Says whether it wrote.
pub fn write(conf_dir: &Path, network: &Network) -> io::Result<bool> {
    let file = file(conf_dir, &network.name);
    let text = render(network);
    if fs::read_to_string(&file).is_ok_and(|old| old == text) {
        return Ok(false);
    }
    fs::create_dir_all(conf_dir)?;
    // Its ending keeps containerd from reading a half-written one.
    let new = file.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(new, file)?;
    Ok(true)
}

/// Takes the configuration away, so that another program's holds. Not there is as good.
pub fn remove(conf_dir: &Path, name: &str) -> io::Result<()> {
    match fs::remove_file(file(conf_dir, name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Forgets what libcni and host-local remember of the network.
pub fn forget(name: &str, state_dir: &Path) -> io::Result<()> {
    forget_results(Path::new(RESULTS_DIR), name)?;
    match fs::remove_dir_all(state_dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Results are called `<network>-<sandbox>-<link>`. containerd's loopback network is everybody's: only the sandboxes
/// of our network are ours there.
fn forget_results(dir: &Path, name: &str) -> io::Result<()> {
    let Ok(results) = fs::read_dir(dir) else { return Ok(()) };
    let files: Vec<String> = results.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let sandbox = |file: &'_ String| -> Option<String> {
        let (sandbox, _link) = file.strip_prefix(name)?.strip_prefix('-')?.rsplit_once('-')?;
        (!sandbox.contains('-')).then(|| sandbox.to_owned())
    };
    for sandbox in files.iter().filter_map(sandbox) {
        let (ours, loopback) = (format!("{name}-{sandbox}-"), format!("cni-loopback-{sandbox}-"));
        for file in files.iter().filter(|file| file.starts_with(&ours) || file.starts_with(&loopback)) {
            fs::remove_file(dir.join(file))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(pod_cidr: &str) -> Network {
        let pod_cidr = pod_cidr.parse().expect("cidr");
        Network { name: "eyot".into(), pod_cidr, mtu: 1400, state_dir: "/var/lib/eyot/agent/cni".into() }
    }

    #[test]
    fn written_once_for_each_change() {
        let dir = tempfile::tempdir().expect("dir");
        let conf_dir = dir.path().join("net.d");
        assert!(write(&conf_dir, &network("10.42.0.0/24")).expect("write"));
        assert!(!write(&conf_dir, &network("10.42.0.0/24")).expect("write"), "the same");
        assert!(write(&conf_dir, &network("10.42.1.0/24")).expect("write"));
        let text = fs::read_to_string(conf_dir.join("10-eyot.conflist")).expect("read");
        let list: serde_json::Value = serde_json::from_str(&text).expect("json");
        assert_eq!(list["plugins"][0]["ipam"]["ranges"][0][0]["subnet"], "10.42.1.0/24");
        assert_eq!(list["plugins"][0]["mtu"], 1400);
        assert_eq!(fs::read_dir(&conf_dir).expect("dir").count(), 1, "nothing else lies there");
        remove(&conf_dir, "eyot").expect("remove");
        remove(&conf_dir, "eyot").expect("again");
        assert_eq!(fs::read_dir(conf_dir).expect("dir").count(), 0);
    }

    #[test]
    fn forgets_results_of_its_own_sandboxes_only() {
        let dir = tempfile::tempdir().expect("dir");
        let files =
            ["eyot-ab12-eth0", "cni-loopback-ab12-lo", "eyot-2-cd34-eth0", "cni-loopback-cd34-lo", "other-ef56-eth0"];
        for file in files {
            fs::write(dir.path().join(file), "{}").expect("write");
        }
        forget_results(dir.path(), "eyot").expect("forget");
        let left = files.map(|file| dir.path().join(file).exists());
        assert_eq!(left, [false, false, true, true, true]);
        forget_results(&dir.path().join("none"), "eyot").expect("nothing to forget");
    }
}
