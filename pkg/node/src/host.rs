//! What the machine says about itself.
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// How long systemd may take to say how it is.
const SYSTEMD: Duration = Duration::from_secs(5);

/// The address by which the default route leaves; nothing is sent. Without a default route: that of the first
/// route that leads anywhere, and loopback on a machine that has no network at all.
pub fn primary_address() -> IpAddr {
    const TRIED: [Ipv4Addr; 3] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(10, 255, 255, 1), Ipv4Addr::LOCALHOST];
    TRIED.into_iter().find_map(source_towards).unwrap_or(Ipv4Addr::LOCALHOST.into())
}

fn source_towards(target: Ipv4Addr) -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((target, 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|address| !address.is_unspecified())
}

/// The host's name as a node's: lower case, without what DNS-1123 forbids.
pub fn node_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let clean: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    let clean = clean.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned();
    if clean.is_empty() { "node".into() } else { clean }
}

/// Whether the machine is shutting down, as systemd sees it; without systemd nobody tells.
pub async fn is_going_down() -> bool {
    if !Path::new("/run/systemd/system").exists() {
        return false;
    }
    let ask = Command::new("systemctl").arg("is-system-running").stdin(Stdio::null()).kill_on_drop(true).output();
    match tokio::time::timeout(SYSTEMD, ask).await {
        Ok(Ok(answer)) => answer.stdout.trim_ascii() == b"stopping",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_machine_has_an_address_and_a_name() {
        assert!(!super::primary_address().is_unspecified());
        assert!(!super::node_name().is_empty());
    }
}
