//! Which routes lead to the pods of other nodes. Pure.
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Pod networks of other nodes with the address of the node that has them.
pub type Routes = BTreeMap<Ipv4Net, Ipv4Addr>;

/// What this node knows of itself.
pub struct Here<'a> {
    pub node: &'a str,
    pub cluster_cidr: Ipv4Net,
    /// The machine's own addresses with the networks that they are in.
    pub addresses: &'a [Ipv4Net],
}

/// The routes to have, and the nodes that no link of this machine leads to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub routes: Routes,
    /// `(name, address)`.
    pub beyond: Vec<(String, Ipv4Addr)>,
}

/// The first of all nodes that claims a network has it: the oldest, so that a mistaken newcomer takes nothing away.
pub fn plan(here: &Here<'_>, nodes: &[Arc<Node>]) -> Plan {
    let mut nodes: Vec<&Arc<Node>> = nodes.iter().collect();
    nodes.sort_by_key(|node| (node.metadata.creation_timestamp.clone(), node.name_any()));
    let own: Vec<Ipv4Net> = nodes.iter().filter(|node| node.name_any() == here.node).flat_map(|n| cidrs(n)).collect();
    let mut plan = Plan::default();
    for node in nodes.into_iter().filter(|node| node.name_any() != here.node) {
        let Some(address) = internal_ip(node) else { continue };
        // Several nodes may run on one machine; their pods' links are this machine's.
        if here.addresses.iter().any(|net| net.addr() == address) {
            continue;
        }
        let wanted: Vec<Ipv4Net> = cidrs(node).filter(|cidr| is_free(here, &own, &plan.routes, cidr)).collect();
        if wanted.is_empty() {
            continue;
        }
        if here.addresses.iter().any(|net| net.contains(&address)) {
            plan.routes.extend(wanted.into_iter().map(|cidr| (cidr, address)));
        } else {
            plan.beyond.push((node.name_any(), address));
        }
    }
    plan
}

fn is_free(here: &Here<'_>, own: &[Ipv4Net], taken: &Routes, cidr: &Ipv4Net) -> bool {
    let overlaps = |other: &Ipv4Net| other.contains(cidr) || cidr.contains(other);
    here.cluster_cidr.contains(cidr) && !own.iter().any(overlaps) && !taken.keys().any(overlaps)
}

/// A node's pod networks.
pub fn cidrs(node: &Node) -> impl Iterator<Item = Ipv4Net> {
    let spec = node.spec.iter();
    let all = spec.flat_map(|spec| spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr));
    all.filter_map(|cidr| Some(cidr.parse::<Ipv4Net>().ok()?.trunc()))
}

fn internal_ip(node: &Node) -> Option<Ipv4Addr> {
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    addresses.filter(|address| address.type_ == "InternalIP").find_map(|address| address.address.parse().ok())
}

/// What must be done so that `now` becomes `wanted`: routes to set, and networks whose route goes.
pub fn difference(now: &Routes, wanted: &Routes) -> (Routes, Vec<Ipv4Net>) {
    let set = wanted.iter().filter(|(cidr, gateway)| now.get(cidr) != Some(gateway));
    let gone = now.keys().filter(|cidr| !wanted.contains_key(cidr));
    (set.map(|(cidr, gateway)| (*cidr, *gateway)).collect(), gone.copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(name: &str, created: &str, cidr: &str, address: &str) -> Arc<Node> {
        let node = json!({"metadata": {"name": name, "creationTimestamp": created},
            "spec": {"podCIDR": cidr, "podCIDRs": [cidr]},
            "status": {"addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": address}]}});
        Arc::new(serde_json::from_value(node).expect("a node"))
    }

    fn net(text: &str) -> Ipv4Net {
        text.parse().expect("a network")
    }

    const OLD: &str = "2026-01-01T00:00:00Z";
    const NEW: &str = "2026-02-01T00:00:00Z";

    fn of(nodes: &[Arc<Node>]) -> Plan {
        let addresses = [net("127.0.0.1/8"), net("192.0.2.1/24")];
        plan(&Here { node: "here", cluster_cidr: net("10.42.0.0/16"), addresses: &addresses }, nodes)
    }

    #[test]
    fn neighbours_on_one_link_have_routes() {
        let here = node("here", OLD, "10.42.0.0/24", "192.0.2.1");
        let near = node("near", OLD, "10.42.1.0/24", "192.0.2.7");
        let far = node("far", OLD, "10.42.2.0/24", "198.51.100.9");
        let got = of(&[far, near, here]);
        assert_eq!(got.routes, [(net("10.42.1.0/24"), Ipv4Addr::new(192, 0, 2, 7))].into());
        assert_eq!(got.beyond, [("far".to_owned(), Ipv4Addr::new(198, 51, 100, 9))]);
    }

    #[test]
    fn nobody_takes_what_is_anothers() {
        let here = node("here", NEW, "10.42.0.0/24", "192.0.2.1");
        let thief = node("thief", OLD, "10.42.0.0/16", "192.0.2.8");
        let outsider = node("outsider", OLD, "0.0.0.0/0", "192.0.2.9");
        let same_machine = node("second", OLD, "10.42.3.0/24", "192.0.2.1");
        assert_eq!(of(&[here.clone(), thief, outsider, same_machine]), Plan::default());
        let first = node("z", OLD, "10.42.1.0/24", "192.0.2.7");
        let later = node("a", NEW, "10.42.1.0/25", "192.0.2.8");
        assert_eq!(of(&[here, later, first]).routes, [(net("10.42.1.0/24"), Ipv4Addr::new(192, 0, 2, 7))].into());
    }

    #[test]
    fn only_what_differs_is_done() {
        let at = |last| Ipv4Addr::new(192, 0, 2, last);
        let now: Routes =
            [(net("10.42.1.0/24"), at(1)), (net("10.42.2.0/24"), at(2)), (net("10.42.3.0/24"), at(3))].into();
        let wanted: Routes =
            [(net("10.42.1.0/24"), at(1)), (net("10.42.2.0/24"), at(9)), (net("10.42.4.0/24"), at(4))].into();
        let (set, gone) = difference(&now, &wanted);
        assert_eq!(set, [(net("10.42.2.0/24"), at(9)), (net("10.42.4.0/24"), at(4))].into());
        assert_eq!(gone, [net("10.42.3.0/24")]);
    }
}
