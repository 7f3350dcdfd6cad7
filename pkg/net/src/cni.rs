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

/// MTU where no default route tells one.
const DEFAULT_MTU: u32 = 1500;

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

/// Writes the configuration if it is not there already; containerd notices. Says whether it wrote.
pub fn write(conf_dir: &Path, network: &Network) -> io::Result<bool> {
    let file = conf_dir.join(format!("10-{}.conflist", network.name));
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

/// The MTU of the link that the default route uses.
pub fn default_mtu() -> u32 {
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let mtu = default_link(&routes).and_then(|link| fs::read_to_string(format!("/sys/class/net/{link}/mtu")).ok());
    mtu.and_then(|text| text.trim().parse().ok()).unwrap_or(DEFAULT_MTU)
}

/// The link of the default route with the least metric, from /proc/net/route (proc_net(5)).
fn default_link(routes: &str) -> Option<&str> {
    let default = |line: &'_ str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let is_default = fields.len() > 7 && fields[1] == "00000000" && fields[7] == "00000000";
        is_default.then(|| fields[6].parse::<u32>().ok()).flatten()
    };
    let lines = routes.lines().filter_map(|line| Some((default(line)?, line.split_whitespace().next()?)));
    lines.min().map(|(_, link)| link)
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
        assert_eq!(fs::read_dir(conf_dir).expect("dir").count(), 1, "nothing else lies there");
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

    #[test]
    fn the_default_route_with_the_least_metric() {
        let routes = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
wlan0\t00000000\t010200C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth1\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(default_link(routes), Some("eth0"));
        assert_eq!(default_link("Iface\tDestination\n"), None);
    }
}
