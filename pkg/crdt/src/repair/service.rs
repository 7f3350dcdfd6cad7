//! A Service's fields depend on its type.
use super::Node;
use crate::Stamp;
use serde_json::Value;
use std::collections::BTreeMap;

/// What a Service without an address of its own does not have.
const ADDRESSES: [&str; 5] = ["clusterIP", "clusterIPs", "internalTrafficPolicy", "ipFamilies", "ipFamilyPolicy"];
/// What only Services have that are reached from outside.
const OUTSIDE: [&str; 4] =
    ["allocateLoadBalancerNodePorts", "healthCheckNodePort", "loadBalancerClass", "loadBalancerIP"];

pub(super) fn repair(mut node: Node<'_>) {
    match node.text("type") {
        "ExternalName" => {
            ADDRESSES.iter().chain(&OUTSIDE).for_each(|field| drop(node.object.remove(*field)));
            without_node_ports(&mut node);
        }
        "ClusterIP" | "" => {
            OUTSIDE.iter().for_each(|field| drop(node.object.remove(*field)));
            without_node_ports(&mut node);
            cluster_ips(&mut node);
        }
        _ => {
            one_port_each(&mut node);
            cluster_ips(&mut node);
        }
    }
}

fn without_node_ports(node: &mut Node<'_>) {
    for (port, _) in node.items("ports") {
        port.remove("nodePort");
    }
}

/// `clusterIP` is the first of `clusterIPs`, which whoever changes either writes.
fn cluster_ips(node: &mut Node<'_>) {
    if node.written("clusterIP") < node.written("clusterIPs")
        && let Some(first) = node.object.get("clusterIPs").and_then(|all| all.get(0)).cloned()
    {
        node.object.insert("clusterIP".to_owned(), first);
    }
}

/// A node port is one port's of each protocol: whoever was given it first has it.
fn one_port_each(node: &mut Node<'_>) {
    let since = node.since;
    let mut owners: BTreeMap<(i64, String), (Option<Stamp>, usize)> = BTreeMap::new();
    let mut losers: Vec<usize> = Vec::new();
    for (at, (port, place)) in node.items("ports").into_iter().enumerate() {
        let Some(number) = port.get("nodePort").and_then(Value::as_i64) else { continue };
        let protocol = port.get("protocol").and_then(Value::as_str).unwrap_or("TCP").to_owned();
        let written = place.fields.get("nodePort").and_then(|place| place.written(since));
        match owners.get_mut(&(number, protocol.clone())) {
            Some(owner) if owner.0 <= written => losers.push(at),
            Some(owner) => losers.push(std::mem::replace(owner, (written, at)).1),
            None => drop(owners.insert((number, protocol), (written, at))),
        }
    }
    for (at, (port, _)) in node.items("ports").into_iter().enumerate() {
        if losers.contains(&at) {
            port.remove("nodePort");
        }
    }
}
