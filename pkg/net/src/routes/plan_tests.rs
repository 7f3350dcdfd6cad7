use super::*;
use proptest::prelude::*;
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

fn ip(text: &str) -> Ipv4Addr {
    text.parse().expect("an address")
}

const OLD: &str = "2026-01-01T00:00:00Z";
const NEW: &str = "2026-02-01T00:00:00Z";

/// 192.0.2.1 is this machine's, with its neighbours on one link; 203.0.113.0/24 is the other end of a tunnel.
fn reach(address: Ipv4Addr) -> Reach {
    match address.octets() {
        [192, 0, 2, 1] => Reach::Own,
        [192, 0, 2, _] => Reach::Link,
        [203, 0, 113, _] => Reach::Point,
        [198, 51, 100, _] => Reach::Gateway,
        _ => Reach::Nowhere,
    }
}

fn of(backend: Backend, tunnel: bool, nodes: &[Arc<Node>]) -> Plan {
    let reach = nodes.iter().filter_map(|node| internal_ip(node)).map(|address| (address, reach(address))).collect();
    let here = Here { node: "here", cluster_cidr: net("10.42.0.0/16"), backend, tunnel, reach: &reach };
    plan(&here, nodes).expect("it has a pod network")
}

fn four() -> Vec<Arc<Node>> {
    vec![
        node("far", OLD, "10.42.2.0/24", "198.51.100.9"),
        node("near", OLD, "10.42.1.0/24", "192.0.2.7"),
        node("vpn", OLD, "10.42.3.0/24", "203.0.113.3"),
        node("lost", OLD, "10.42.4.0/24", "233.252.0.4"),
        node("here", OLD, "10.42.0.0/24", "192.0.2.1"),
    ]
}

const NEAR: &str = "192.0.2.7";

#[test]
fn neighbours_have_routes_and_all_others_tunnels() {
    let got = of(Backend::Vxlan, true, &four());
    let tunnel = |text| Hop::Tunnel(ip(text));
    let routes = [
        (net("10.42.1.0/24"), Hop::Link(ip(NEAR))),
        (net("10.42.2.0/24"), tunnel("10.42.2.0")),
        (net("10.42.3.0/24"), tunnel("10.42.3.0")),
        (net("10.42.4.0/24"), tunnel("10.42.4.0")),
    ];
    assert_eq!(got.routes, routes.into());
    let got = got.tunnel.expect("a tunnel");
    assert_eq!(got.own, Vtep::of(net("10.42.0.0/24")));
    let far = Vtep::of(net("10.42.2.0/24"));
    assert_eq!(got.peers.neighbours[&ip("10.42.2.0")], far.mac);
    assert_eq!(got.peers.forwarding[&far.mac], ip("198.51.100.9"));
    assert_eq!((got.peers.neighbours.len(), got.peers.forwarding.len()), (3, 3));
    let always = of(Backend::VxlanAlways, true, &four());
    assert!(always.routes.values().all(|hop| matches!(hop, Hop::Tunnel(_))), "{always:?}");
}

#[test]
fn without_vxlan_there_are_direct_routes_alone() {
    let near: Routes =
        [(net("10.42.1.0/24"), Hop::Link(ip(NEAR))), (net("10.42.3.0/24"), Hop::Link(ip("203.0.113.3")))].into();
    for (backend, tunnel) in
        [(Backend::Vxlan, false), (Backend::VxlanAlways, false), (Backend::HostGw, true), (Backend::HostGw, false)]
    {
        let got = of(backend, tunnel, &four());
        assert_eq!((&got.routes, &got.tunnel), (&near, &None), "{backend}");
        assert_eq!(got.beyond.len(), 2, "{:?}", got.beyond);
    }
    assert_eq!(of(Backend::None, true, &four()), Plan::default(), "nothing of ours, and nobody is missed");
}

#[test]
fn a_node_without_pods_of_its_own_changes_nothing() {
    let here = Here {
        node: "nobody",
        cluster_cidr: net("10.42.0.0/16"),
        backend: Backend::Vxlan,
        tunnel: true,
        reach: &BTreeMap::new(),
    };
    assert_eq!(plan(&here, &four()), None);
}

#[test]
fn nobody_takes_what_is_anothers() {
    let here = node("here", NEW, "10.42.0.0/24", "192.0.2.1");
    let thief = node("thief", OLD, "10.42.0.0/16", "192.0.2.8");
    let outsider = node("outsider", OLD, "0.0.0.0/0", "198.51.100.9");
    let same_machine = node("second", OLD, "10.42.3.0/24", "192.0.2.1");
    let got = of(Backend::Vxlan, true, &[here.clone(), thief, outsider, same_machine]);
    assert_eq!((got.routes.len(), got.beyond.len()), (0, 0), "{got:?}");
    assert_eq!(got.tunnel.expect("a tunnel").peers, Peers::default());
    let first = node("z", OLD, "10.42.1.0/24", "198.51.100.7");
    let later = node("a", NEW, "10.42.1.0/25", "198.51.100.8");
    let got = of(Backend::Vxlan, true, &[here, later, first]).tunnel.expect("a tunnel");
    assert_eq!(got.peers.forwarding.into_values().collect::<Vec<_>>(), [ip("198.51.100.7")]);
}

#[test]
fn only_what_differs_is_done() {
    let hop = |last| Hop::Link(Ipv4Addr::new(192, 0, 2, last));
    let now: Routes =
        [(net("10.42.1.0/24"), hop(1)), (net("10.42.2.0/24"), hop(2)), (net("10.42.3.0/24"), hop(3))].into();
    let tunnel = Hop::Tunnel(ip("10.42.2.0"));
    let wanted: Routes =
        [(net("10.42.1.0/24"), hop(1)), (net("10.42.2.0/24"), tunnel), (net("10.42.4.0/24"), hop(4))].into();
    let (set, gone) = difference(&now, &wanted);
    assert_eq!(set, [(net("10.42.2.0/24"), tunnel), (net("10.42.4.0/24"), hop(4))]);
    assert_eq!(gone, [net("10.42.3.0/24")]);
}

fn some_node() -> impl Strategy<Value = Arc<Node>> {
    let addresses = prop::sample::select(vec!["192.0.2.1", "192.0.2.7", "198.51.100.9", "203.0.113.3", "233.252.0.4"]);
    let created = prop::sample::select(vec![OLD, NEW]);
    (0_u8..12, created, 0_u8..6, 20_u8..=26, addresses).prop_map(|(name, created, third, length, address)| {
        node(&format!("n{name}"), created, &format!("10.42.{third}.0/{length}"), address)
    })
}

proptest! {
    /// Whatever nodes say, and in whatever order they come.
    #[test]
    fn each_network_has_one_way_that_is_whole(
        mut nodes in prop::collection::vec(some_node(), 0..12), seed: u64, backend in 0..4_usize, tunnel: bool,
    ) {
        nodes.sort_by_key(|node| node.name_any());
        nodes.dedup_by_key(|node| node.name_any());
        nodes.push(node("here", OLD, "10.42.0.0/24", "192.0.2.1"));
        let backend = ["vxlan", "vxlan-always", "host-gw", "none"][backend].parse().expect("a backend");
        let got = of(backend, tunnel, &nodes);
        let by = usize::try_from(seed % nodes.len() as u64).expect("small");
        nodes.rotate_left(by);
        prop_assert_eq!(&got, &of(backend, tunnel, &nodes));
        let all: Vec<&Ipv4Net> = got.routes.keys().collect();
        for pair in all.windows(2) {
            prop_assert!(!pair[0].contains(pair[1]) && !pair[1].contains(pair[0]), "{pair:?}");
        }
        prop_assert!(all.iter().all(|cidr| !cidr.contains(&net("10.42.0.0/24"))), "its own stays its own");
        let peers = got.tunnel.map(|tunnel| tunnel.peers).unwrap_or_default();
        let ends: Vec<_> = got.routes.values().filter_map(|hop| match hop {
            Hop::Tunnel(end) => Some(*end),
            Hop::Link(_) => None,
        }).collect();
        prop_assert_eq!(peers.neighbours.len(), peers.forwarding.len());
        for end in &ends {
            let mac = peers.neighbours[end];
            prop_assert!(peers.forwarding.contains_key(&mac), "a tunnel without a node");
        }
        prop_assert!(peers.neighbours.keys().all(|end| ends.contains(end)), "a node without a route");
    }
}
