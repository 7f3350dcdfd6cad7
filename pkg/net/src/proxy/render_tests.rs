use super::*;
use crate::proxy::model::{PortName, Protocol};
use crate::proxy::transaction;

fn base_of_tests() -> Base {
    Base {
        table: "eyot".into(),
        cluster_cidr: "10.42.0.0/16".parse().expect("cidr"),
        service_cidr: "10.43.0.0/16".parse().expect("cidr"),
        dns: Some((Ipv4Addr::new(10, 43, 0, 10), SocketAddrV4::new(Ipv4Addr::new(169, 254, 20, 1), 53))),
        vxlan: Some(666_112),
        links_pods: true,
    }
}

fn endpoint(last: u8) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 42, 0, last), 8080)
}

fn web(endpoints: &[SocketAddrV4]) -> ServicePort {
    let name =
        PortName { namespace: "default".into(), service: "web".into(), port: "http".into(), protocol: Protocol::Tcp };
    ServicePort {
        cluster_ips: vec![Ipv4Addr::new(10, 43, 0, 5)],
        port: 80,
        cluster_endpoints: endpoints.to_vec(),
        has_any_endpoints: !endpoints.is_empty(),
        ..ServicePort::empty(name)
    }
}

fn of(service: ServicePort) -> Ruleset {
    render(&base_of_tests(), &Desired { services: vec![service], ..Desired::default() })
}

/// Our chains and elements as text, without those of DNS.
fn show(ruleset: &Ruleset) -> String {
    let chains = ruleset.chains.iter().map(|(name, rules)| format!("{name}: {}\n", rules.join("; ")));
    let elements = ruleset.elements.iter().filter(|((_, key), _)| !key.ends_with(". 53"));
    let elements = elements.map(|((map, key), value)| format!("{map} {key} = {value}\n"));
    chains.chain(elements).collect()
}

const H: &str = "9f51a4c52dc3bb1a";

fn expect(ruleset: &Ruleset, golden: &str) {
    let h = hash(&web(&[]).name.to_string());
    assert_eq!(show(ruleset), golden.replace(H, &h));
}

#[test]
fn a_cluster_address_with_two_endpoints() {
    let golden = "svc-9f51a4c52dc3bb1a: ip daddr 10.43.0.5 ip saddr != 10.42.0.0/16 jump masquerade-mark comment \"default/web:http/tcp\"; \
meta l4proto tcp dnat ip to numgen random mod 2 map { 0 : 10.42.0.5 . 8080, 1 : 10.42.0.6 . 8080 }
service-ips 10.43.0.5 . tcp . 80 = goto svc-9f51a4c52dc3bb1a
";
    expect(&of(web(&[endpoint(5), endpoint(6)])), golden);
}

#[test]
fn without_endpoints_it_is_refused() {
    let mut service = web(&[]);
    service.node_port = Some(30080);
    expect(
        &of(service),
        "no-endpoint-ports tcp . 30080 = goto refuse\nno-endpoints 10.43.0.5 . tcp . 80 = goto refuse\n",
    );
}

#[test]
fn a_node_port_is_masqueraded_on_its_way() {
    let mut service = web(&[endpoint(5)]);
    service.node_port = Some(30080);
    service.external_ips = vec![Ipv4Addr::new(192, 0, 2, 9)];
    let golden = "ext-9f51a4c52dc3bb1a: jump masquerade-mark; goto svc-9f51a4c52dc3bb1a
svc-9f51a4c52dc3bb1a: ip daddr 10.43.0.5 ip saddr != 10.42.0.0/16 jump masquerade-mark comment \"default/web:http/tcp\"; \
meta l4proto tcp dnat ip to 10.42.0.5:8080
node-ports tcp . 30080 = goto ext-9f51a4c52dc3bb1a
service-ips 10.43.0.5 . tcp . 80 = goto svc-9f51a4c52dc3bb1a
service-ips 192.0.2.9 . tcp . 80 = goto ext-9f51a4c52dc3bb1a
";
    expect(&of(service), golden);
}

#[test]
fn local_policy_from_outside_drops_without_local_endpoints_but_serves_the_node_and_pods() {
    let mut service = web(&[endpoint(5)]);
    service.node_port = Some(30080);
    service.external_local = true;
    let ruleset = of(service);
    let h = hash(&web(&[]).name.to_string());
    assert_eq!(ruleset.elements[&(NO_ENDPOINT_PORTS, "tcp . 30080".to_owned())], "drop");
    let rules = &ruleset.chains[&format!("ext-{h}")];
    assert_eq!(rules[0], format!("ip saddr 10.42.0.0/16 goto svc-{h}"));
    assert!(!rules.iter().any(|rule| rule.contains("loc-")), "{rules:?}");
}

#[test]
fn internal_local_policy_uses_local_endpoints_only() {
    let mut service = web(&[endpoint(5), endpoint(6)]);
    service.internal_local = true;
    service.local_endpoints = vec![endpoint(6)];
    let golden = "loc-9f51a4c52dc3bb1a: ip daddr 10.43.0.5 ip saddr != 10.42.0.0/16 jump masquerade-mark comment \"default/web:http/tcp\"; \
meta l4proto tcp dnat ip to 10.42.0.6:8080
service-ips 10.43.0.5 . tcp . 80 = goto loc-9f51a4c52dc3bb1a
";
    expect(&of(service.clone()), golden);
    service.local_endpoints.clear();
    expect(&of(service), "no-endpoints 10.43.0.5 . tcp . 80 = drop\n");
}

#[test]
fn affinity_remembers_clients_for_each_endpoint() {
    let mut service = web(&[endpoint(5), endpoint(6)]);
    service.affinity_s = Some(60);
    let ruleset = of(service.clone());
    assert_eq!(ruleset.sets.len(), 2);
    assert!(
        ruleset.sets.values().all(|set| set.declaration.contains("timeout 60s") && set.declaration.contains("size "))
    );
    let name = ruleset.chains.keys().find(|name| name.starts_with("svc-")).expect("chain");
    let rules = &ruleset.chains[name];
    assert!(rules[1].starts_with("ip saddr @aff-") && rules[3].starts_with("numgen random mod 2 vmap"), "{rules:?}");
    service.affinity_s = Some(90);
    assert!(ruleset.sets.keys().all(|name| !of(service.clone()).sets.contains_key(name)), "a timeout is for ever");
}

#[test]
fn source_ranges_bind_the_load_balancer() {
    let mut service = web(&[endpoint(5)]);
    service.load_balancer_ips = vec![Ipv4Addr::new(192, 0, 2, 20)];
    service.source_ranges = vec!["198.51.100.0/24".parse().expect("cidr")];
    let ruleset = of(service);
    let (_, rules) = ruleset.chains.iter().find(|(name, _)| name.starts_with("ext-")).expect("chain");
    assert_eq!(rules[0], "ip daddr 192.0.2.20 ip saddr != 198.51.100.0/24 drop");
}

#[test]
fn the_dns_address_is_answered_here_whatever_its_service_says() {
    let mut dns = web(&[]);
    dns.cluster_ips = vec![Ipv4Addr::new(10, 43, 0, 10)];
    dns.port = 53;
    let ruleset = of(dns);
    assert_eq!(ruleset.elements[&(SERVICE_IPS, "10.43.0.10 . tcp . 53".to_owned())], "goto cluster-dns");
    assert_eq!(ruleset.elements.keys().filter(|(map, _)| *map == NO_ENDPOINTS).count(), 0);
}

#[test]
fn host_ports_with_and_without_an_address() {
    let host_port = |ip| HostPort { ip, protocol: Protocol::Tcp, port: 8080, to: endpoint(5) };
    let host_ports = vec![host_port(None), host_port(Some(Ipv4Addr::LOCALHOST))];
    let desired = Desired { host_ports, local_pods: vec![*endpoint(5).ip()], ..Desired::default() };
    let golden = "hairpin 10.42.0.5 . 10.42.0.5 = \nhost-ip-ports 127.0.0.1 . tcp . 8080 = 10.42.0.5 . 8080\nhost-ports tcp . 8080 = 10.42.0.5 . 8080\n";
    assert_eq!(show(&render(&base_of_tests(), &desired)), golden);
}

#[test]
fn the_first_service_keeps_an_address_that_two_claim() {
    let (mut first, mut second) = (web(&[endpoint(5)]), web(&[endpoint(6)]));
    first.external_ips = vec![Ipv4Addr::new(192, 0, 2, 9)];
    second.external_ips = first.external_ips.clone();
    second.name.service = "other".into();
    let chain = format!("goto ext-{}", hash(&first.name.to_string()));
    let desired = Desired { services: vec![first, second], ..Desired::default() };
    let ruleset = render(&base_of_tests(), &desired);
    assert_eq!(ruleset.elements[&(SERVICE_IPS, "192.0.2.9 . tcp . 80".to_owned())], chain);
}

#[test]
fn a_change_of_one_service_is_a_change_of_its_rules_only() {
    let other = |number: u8| {
        let mut service = web(&[endpoint(number)]);
        service.name.service = format!("other-{number}");
        service.cluster_ips = vec![Ipv4Addr::new(10, 43, 1, number)];
        service
    };
    let with = |web: ServicePort| {
        let services = (0..50).map(other).chain([web]).collect();
        render(&base_of_tests(), &Desired { services, ..Desired::default() })
    };
    let (old, new) = (with(web(&[endpoint(5)])), with(web(&[endpoint(5), endpoint(6)])));
    let script = transaction::update(&base_of_tests(), &old, &new);
    let verbs: Vec<_> = script.lines().map(|line| line.split(" inet").next().expect("verb")).collect();
    assert_eq!(verbs, ["flush chain", "add rule", "add rule"], "{script}");
    assert_eq!(transaction::update(&base_of_tests(), &new, &new), "");
    let gone = transaction::update(&base_of_tests(), &new, &with(web(&[])));
    let verbs: Vec<_> = gone.lines().map(|line| line.split(" inet").next().expect("verb")).collect();
    assert_eq!(verbs, ["delete element", "add element", "flush chain", "delete chain"], "{gone}");
}

#[test]
fn vxlan_packets_are_taken_from_nodes_alone() {
    let nodes = [Ipv4Addr::new(198, 51, 100, 9)].into();
    let ruleset = render(&base_of_tests(), &Desired { nodes, ..Desired::default() });
    assert_eq!(show(&ruleset), "vxlan-nodes 198.51.100.9 = \n");
    let text = base(&base_of_tests());
    assert!(text.contains("udp dport 8472 @th,96,24 666112 ip saddr != @vxlan-nodes counter drop"), "{text}");
    assert!(text.contains("iifname \"veth*\" ip daddr @vxlan-nodes udp dport 8472"), "{text}");
    let text = base(&Base { vxlan: None, ..base_of_tests() });
    assert!(!text.contains("vxlan") && !text.contains("8472"), "{text}");
}

#[test]
fn anothers_pod_network_is_left_alone() {
    let ours = base(&base_of_tests());
    let theirs = base(&Base { vxlan: None, links_pods: false, ..base_of_tests() });
    for rule in ["224.0.0.0/4", PRETENDER] {
        assert!(ours.contains(rule) && !theirs.contains(rule), "{rule}");
    }
    assert!(theirs.contains("jump isolate-ingress"), "policies hold");
}
