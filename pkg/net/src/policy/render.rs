//! From [`Policies`] to nftables, as a pure function.
//!
//! ```text
//!  forward, input ─► isolate-egress ─► @isolated-egress ─► out-P ─► return what is allowed, drop the rest
//!  forward ────────► isolate-ingress ─► @isolated-ingress ─► in-P ─► the same
//! ```
//! P is a hash of the profile's name. What the node itself sends to its pods is never asked about: no policy may cut
//! a pod off from its own node (NetworkPolicy API documentation).
use super::model::{Allow, Direction, Peer, Policies, Ports};
use crate::proxy::model::Protocol;
use crate::proxy::render::{COMMENT_BYTES, Ruleset, Set, any_of, hash};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

/// The maps that every table has.
pub const ISOLATED_INGRESS: &str = "isolated-ingress";
pub const ISOLATED_EGRESS: &str = "isolated-egress";

/// The fixed part: maps, and the chains that ask them. A pod reaches itself whatever policies say.
pub fn base() -> String {
    format!(
        "  map {ISOLATED_INGRESS} {{ type ipv4_addr : verdict; }}
  map {ISOLATED_EGRESS} {{ type ipv4_addr : verdict; }}
  chain isolate-egress {{
    ip saddr vmap @{ISOLATED_EGRESS}
  }}
  chain isolate-ingress {{
    ip daddr vmap @{ISOLATED_INGRESS}
  }}
"
    )
}

/// Adds what the policies say.
pub fn render(policies: &Policies, ruleset: &mut Ruleset) {
    for ((direction, address), profile) in &policies.isolated {
        let map = match direction {
            Direction::Ingress => ISOLATED_INGRESS,
            Direction::Egress => ISOLATED_EGRESS,
        };
        ruleset.element(map, address.to_string(), format!("goto {}", chain_of(*direction, profile)));
    }
    for ((direction, profile), allows) in &policies.profiles {
        let mut rules: Vec<String> = allows.iter().flat_map(|allow| allowed(allow, *direction)).collect();
        rules.push("counter drop".to_owned());
        ruleset.chain(&chain_of(*direction, profile), rules);
    }
    for (selector, addresses) in &policies.selections {
        ruleset.sets.insert(selection_set(selector), addresses_set(addresses));
    }
    for ((protocol, name), ends) in &policies.named_ports {
        let members = ends.iter().map(|end| format!("{} . {}", end.ip(), end.port())).collect();
        let declaration = "{ type ipv4_addr . inet_service; }".to_owned();
        ruleset.sets.insert(named_set(*protocol, name), Set { declaration, members });
    }
}

fn chain_of(direction: Direction, profile: &BTreeSet<String>) -> String {
    let prefix = match direction {
        Direction::Ingress => "in",
        Direction::Egress => "out",
    };
    format!("{prefix}-{}", hash(&profile.iter().map(String::as_str).collect::<Vec<_>>().join(",")))
}

fn selection_set(selector: &str) -> String {
    format!("pods-{}", hash(selector))
}

fn named_set(protocol: Protocol, name: &str) -> String {
    format!("ports-{}", hash(&format!("{protocol}/{name}")))
}

fn addresses_set(addresses: &BTreeSet<Ipv4Addr>) -> Set {
    let members = addresses.iter().map(ToString::to_string).collect();
    Set { declaration: "{ type ipv4_addr; }".to_owned(), members }
}

/// The rules of one allowance: peer and port must match in one of them.
fn allowed(allow: &Allow, direction: Direction) -> Vec<String> {
    let mut comment = allow.policy.clone();
    comment.truncate(COMMENT_BYTES);
    let from = peer(&allow.peer, direction);
    let rule = |port: String| {
        let matches: Vec<_> = [from.as_str(), port.as_str()].into_iter().filter(|text| !text.is_empty()).collect();
        let space = if matches.is_empty() { "" } else { " " };
        format!("{}{space}return comment \"{comment}\"", matches.join(" "))
    };
    ports(&allow.ports).into_iter().map(rule).collect()
}

fn peer(peer: &Peer, direction: Direction) -> String {
    let end = match direction {
        Direction::Ingress => "ip saddr",
        Direction::Egress => "ip daddr",
    };
    match peer {
        Peer::Anybody => String::new(),
        Peer::Selected(selector) => format!("{end} @{}", selection_set(selector)),
        Peer::Block { network, except } => {
            // IPv4 altogether needs no question, but something has to be said for the exceptions.
            let within =
                if network.prefix_len() == 0 { "meta nfproto ipv4".to_owned() } else { format!("{end} {network}") };
            if except.is_empty() { within } else { format!("{within} {end} != {}", any_of(except)) }
        }
    }
}

/// What matches the ports; each is a rule of its own.
fn ports(ports: &Ports) -> Vec<String> {
    match ports {
        Ports::All => vec![String::new()],
        Ports::Some { numbers, named } => {
            let named = named
                .iter()
                .map(|(protocol, name)| format!("ip daddr . {protocol} dport @{}", named_set(*protocol, name)));
            numbered(numbers).chain(named).collect()
        }
    }
}

fn numbered(numbers: &BTreeMap<Protocol, Vec<RangeInclusive<u16>>>) -> impl Iterator<Item = String> {
    numbers.iter().filter(|(_, ranges)| !ranges.is_empty()).map(|(protocol, ranges)| {
        if ranges[0] == (0..=u16::MAX) {
            return format!("meta l4proto {protocol}");
        }
        let texts: Vec<_> = ranges.iter().map(range).collect();
        format!("{protocol} dport {}", any_of(&texts))
    })
}

fn range(range: &RangeInclusive<u16>) -> String {
    let (first, last) = (range.start(), range.end());
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
