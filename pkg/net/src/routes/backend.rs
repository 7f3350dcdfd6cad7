//! How packets get from node to node.
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The ways to other nodes' pods; names are those of k3s's `--flannel-backend`, whose users know them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// A route through the node's address where both are on one link, VXLAN to all others.
    #[default]
    Vxlan,
    /// VXLAN to all: for networks that carry no addresses but the machines' own, as those of clouds.
    VxlanAlways,
    /// Routes alone; a node behind a gateway is not reached.
    HostGw,
    /// The pod network is another program's.
    None,
}

impl Backend {
    const ALL: [(&'static str, Self); 4] =
        [("vxlan", Self::Vxlan), ("vxlan-always", Self::VxlanAlways), ("host-gw", Self::HostGw), ("none", Self::None)];

    /// Whether it uses VXLAN where the kernel has it.
    pub fn tunnels(self) -> bool {
        matches!(self, Self::Vxlan | Self::VxlanAlways)
    }
}

impl FromStr for Backend {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("wireguard") {
            return Err("Eyot makes no WireGuard tunnels: give the nodes one of your own, name their addresses in it \
                        with --node-ip, and use vxlan, which then goes through it"
                .to_owned());
        }
        let found = Self::ALL.iter().find(|(name, _)| *name == text);
        found.map(|(_, backend)| *backend).ok_or_else(|| "use vxlan, vxlan-always, host-gw or none".to_owned())
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(_, backend)| backend == self).map(|(name, _)| *name);
        f.write_str(name.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_same_on_the_command_line_and_between_servers() {
        for (name, backend) in Backend::ALL {
            assert_eq!((name.parse(), backend.to_string()), (Ok(backend), name.to_owned()));
            assert_eq!(serde_json::to_value(backend).expect("json"), name);
        }
        assert!("wireguard-native".parse::<Backend>().unwrap_err().contains("--node-ip"));
        assert!("udp".parse::<Backend>().unwrap_err().contains("host-gw"));
    }
}
