//! containerd's configuration file (version 2, understood by containerd 1.6 and by 2.x), as a pure function.
use std::path::Path;

/// Longest line of a container's log before containerd splits it, in bytes; containerd's own default.
const LOG_LINE_BYTES: u32 = 16 * 1024;

/// Plugins that a Kubernetes node on overlayfs never asks for; each costs memory and time at start.
/// (`runtime.v1.linux` isn't asked for either, but 1.6's task service does not load without it.)
const DISABLED: [&str; 9] = [
    "io.containerd.internal.v1.opt",
    "io.containerd.internal.v1.restart",
    "io.containerd.internal.v1.tracing",
    "io.containerd.monitor.v1.cgroups",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.tracing.processor.v1.otlp",
];

/// What the configuration depends on.
pub struct Config<'a> {
    pub root: &'a Path,
    pub state: &'a Path,
    pub socket: &'a Path,
    pub sandbox_image: &'a str,
    pub cni_bin_dir: &'a Path,
    pub cni_conf_dir: &'a Path,
    /// Directory of `<registry>/hosts.toml` files.
    pub registry_dir: &'a Path,
    pub snapshotter: &'a str,
    /// Where oom_score_adj can't be lowered, containerd has to keep its own value for containers that ask for less.
    pub restrict_oom_score_adj: bool,
}

/// The text of `config.toml`.
pub fn render(config: &Config<'_>) -> String {
    let disabled: Vec<_> = DISABLED.iter().map(|plugin| format!("  {},\n", quote(plugin))).collect();
    let cri = "plugins.\"io.containerd.grpc.v1.cri\"";
    format!(
        r#"# Written by eyot at every start; changes are lost.
version = 2
root = {root}
state = {state}
disabled_plugins = [
{disabled}]

[grpc]
  address = {socket}

[{cri}]
  sandbox_image = {sandbox}
  max_container_log_line_size = {LOG_LINE_BYTES}
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  netns_mounts_under_state_dir = true
  restrict_oom_score_adj = {restrict}
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true

[{cri}.cni]
  bin_dir = {cni_bin}
  conf_dir = {cni_conf}

[{cri}.containerd]
  snapshotter = {snapshotter}
  default_runtime_name = "runc"

[{cri}.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[{cri}.containerd.runtimes.runc.options]
  SystemdCgroup = false

[{cri}.registry]
  config_path = {registry}
"#,
        root = path(config.root),
        state = path(config.state),
        socket = path(config.socket),
        disabled = disabled.concat(),
        sandbox = quote(config.sandbox_image),
        restrict = config.restrict_oom_score_adj,
        cni_bin = path(config.cni_bin_dir),
        cni_conf = path(config.cni_conf_dir),
        snapshotter = quote(config.snapshotter),
        registry = path(config.registry_dir),
    )
}

fn path(path: &Path) -> String {
    quote(&path.display().to_string())
}

/// A TOML basic string (toml.io v1.0, "String").
fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(root: &str) -> String {
        render(&Config {
            root: Path::new(root),
            state: Path::new("/run/eyot/containerd"),
            socket: Path::new("/run/eyot/containerd/containerd.sock"),
            sandbox_image: "eyot.dev/pause:1",
            cni_bin_dir: Path::new("/usr/lib/cni"),
            cni_conf_dir: Path::new("/var/lib/eyot/agent/etc/cni/net.d"),
            registry_dir: Path::new("/var/lib/eyot/agent/etc/containerd/certs.d"),
            snapshotter: "overlayfs",
            restrict_oom_score_adj: true,
        })
    }

    #[test]
    fn says_where_everything_is() {
        let text = example("/var/lib/eyot/agent/containerd");
        for line in [
            "root = \"/var/lib/eyot/agent/containerd\"",
            "  address = \"/run/eyot/containerd/containerd.sock\"",
            "  sandbox_image = \"eyot.dev/pause:1\"",
            "  restrict_oom_score_adj = true",
            "  bin_dir = \"/usr/lib/cni\"",
        ] {
            assert!(text.lines().any(|l| l == line), "no line {line:?} in\n{text}");
        }
    }

    #[test]
    fn a_path_with_quotes_stays_one_string() {
        assert!(example("/odd \"dir\"\\x").contains(r#"root = "/odd \"dir\"\\x""#));
    }
}
