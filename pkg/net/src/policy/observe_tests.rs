use super::*;
use serde_json::{Value, json};

fn pod(namespace: &str, name: &str, node: &str, ip: &str, labels: Value) -> Arc<Pod> {
    let pod = json!({
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "spec": {"nodeName": node, "containers": [{"name": "c", "ports": [
            {"name": "web", "containerPort": 8080}, {"name": "web", "containerPort": 53, "protocol": "UDP"}]}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}, {"ip": "fd00::1"}]},
    });
    Arc::new(serde_json::from_value(pod).expect("pod"))
}

fn policy(spec: Value) -> Arc<NetworkPolicy> {
    let policy = json!({"metadata": {"namespace": "x", "name": "p"}, "spec": spec});
    Arc::new(serde_json::from_value(policy).expect("policy"))
}

fn namespaces() -> Vec<Arc<Namespace>> {
    let namespace = |name: &str| {
        let object = json!({"metadata": {"name": name, "labels": {"ns": name}}});
        Arc::new(serde_json::from_value(object).expect("namespace"))
    };
    ["x", "y"].into_iter().map(namespace).collect()
}

/// Two pods here and one there in x, one there in y.
fn pods() -> Vec<Arc<Pod>> {
    vec![
        pod("x", "a", "here", "10.42.0.1", json!({"app": "a"})),
        pod("x", "b", "here", "10.42.0.2", json!({"app": "b"})),
        pod("x", "c", "there", "10.42.1.3", json!({"app": "a"})),
        pod("y", "a", "there", "10.42.1.4", json!({"app": "a"})),
    ]
}

fn read(spec: Value) -> Policies {
    policies(&[policy(spec)], &namespaces(), &pods(), "here")
}

fn isolated(policies: &Policies) -> Vec<String> {
    policies.isolated.keys().map(|(direction, address)| format!("{direction:?} {address}")).collect()
}

/// What the only profile allows.
fn allows(policies: &Policies) -> Vec<Allow> {
    assert_eq!(policies.profiles.len(), 1, "{policies:?}");
    policies.profiles.values().flatten().cloned().collect()
}

fn selected(policies: &Policies) -> Vec<Vec<String>> {
    policies.selections.values().map(|all| all.iter().map(ToString::to_string).collect()).collect()
}

#[test]
fn no_policy_isolates_nobody() {
    assert_eq!(policies(&[], &namespaces(), &pods(), "here"), Policies::default());
}

#[test]
fn default_deny_isolates_the_namespaces_pods_here() {
    let found = read(json!({"podSelector": {}}));
    assert_eq!(isolated(&found), ["Ingress 10.42.0.1", "Ingress 10.42.0.2"]);
    assert_eq!(allows(&found), []);
    let both = read(json!({"podSelector": {"matchLabels": {"app": "b"}}, "policyTypes": ["Ingress", "Egress"]}));
    assert_eq!(isolated(&both), ["Ingress 10.42.0.2", "Egress 10.42.0.2"]);
    let egress = read(json!({"policyTypes": ["Egress"]}));
    assert_eq!(isolated(&egress), ["Egress 10.42.0.1", "Egress 10.42.0.2"]);
}

#[test]
fn policy_types_follow_from_rules_where_none_are_given() {
    assert_eq!(directions(&policy(json!({"podSelector": {}}))), [Direction::Ingress]);
    let with_egress = policy(json!({"podSelector": {}, "egress": [{}]}));
    assert_eq!(directions(&with_egress), [Direction::Ingress, Direction::Egress]);
    assert_eq!(directions(&policy(json!({"podSelector": {}, "egress": []}))), [Direction::Ingress]);
}

#[test]
fn an_empty_rule_allows_everything_and_no_rule_nothing() {
    let found = read(json!({"podSelector": {}, "ingress": [{}]}));
    assert_eq!(allows(&found), [Allow { policy: "x/p".into(), peer: Peer::Anybody, ports: Ports::All }]);
    assert_eq!(allows(&read(json!({"podSelector": {}, "ingress": []}))), []);
}

#[test]
fn peers_by_pod_by_namespace_and_by_both() {
    let from = |peer: Value| selected(&read(json!({"podSelector": {}, "ingress": [{"from": [peer]}]})));
    let app_a = json!({"matchLabels": {"app": "a"}});
    assert_eq!(from(json!({"podSelector": app_a})), [["10.42.0.1", "10.42.1.3"]]);
    let in_y = json!({"matchLabels": {"ns": "y"}});
    assert_eq!(from(json!({"namespaceSelector": in_y})), [["10.42.1.4"]]);
    assert_eq!(from(json!({"namespaceSelector": {}, "podSelector": app_a})), [["10.42.0.1", "10.42.1.3", "10.42.1.4"]]);
    assert_eq!(from(json!({"namespaceSelector": in_y, "podSelector": {"matchLabels": {"app": "b"}}})), [[""; 0]]);
    let not_in = json!({"matchExpressions": [{"key": "ns", "operator": "NotIn", "values": ["x"]}]});
    assert_eq!(from(json!({"namespaceSelector": not_in})), [["10.42.1.4"]]);
}

#[test]
fn who_ended_or_is_the_node_is_no_peer() {
    let mut all = pods();
    let ended = Arc::make_mut(&mut all[2]);
    ended.status.as_mut().expect("status").phase = Some("Succeeded".into());
    Arc::make_mut(&mut all[3]).spec.as_mut().expect("spec").host_network = Some(true);
    let everywhere = policy(json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {}}]}]}));
    let found = policies(&[everywhere], &namespaces(), &all, "here");
    assert_eq!(selected(&found), [["10.42.0.1", "10.42.0.2"]]);
}

#[test]
fn blocks_keep_outer_exceptions_only() {
    let block = json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.2.0/24", "10.1.0.0/16", "10.1.0.0/16", "10.9.0.0/16"]}});
    let found = read(json!({"podSelector": {}, "ingress": [{"from": [block, {"ipBlock": {"cidr": "fd00::/8"}}]}]}));
    let cidr = |text: &str| text.parse::<Ipv4Net>().expect("cidr");
    let except = vec![cidr("10.1.0.0/16"), cidr("10.9.0.0/16")];
    let peers: Vec<_> = allows(&found).into_iter().map(|allow| allow.peer).collect();
    assert_eq!(peers, [Peer::Block { network: cidr("10.0.0.0/8"), except }], "and IPv6 allows nobody of ours");
}

#[test]
fn ports_are_joined_and_named_ones_looked_up() {
    let ports = json!([
        {"port": 80}, {"port": 81, "endPort": 90}, {"port": 85, "endPort": 95}, {"port": 443, "protocol": "TCP"},
        {"protocol": "UDP"}, {"protocol": "UDP", "port": 53}, {"port": "web"},
    ]);
    let found = read(json!({"podSelector": {}, "ingress": [{"ports": ports}]}));
    let [Allow { ports: Ports::Some { numbers, named }, .. }] = &allows(&found)[..] else { panic!("{found:?}") };
    assert_eq!(numbers[&Protocol::Tcp], [80..=95, 443..=443]);
    assert_eq!(numbers[&Protocol::Udp], [0..=u16::MAX]);
    let web = (Protocol::Tcp, "web".to_owned());
    assert!(named.contains(&web));
    let ends: Vec<_> = found.named_ports[&web].iter().map(ToString::to_string).collect();
    assert_eq!(ends, ["10.42.0.1:8080", "10.42.0.2:8080", "10.42.1.3:8080", "10.42.1.4:8080"]);
}

#[test]
fn ports_of_an_unknown_protocol_allow_nothing() {
    let found = read(json!({"podSelector": {}, "ingress": [{"ports": [{"protocol": "X", "port": 1}]}]}));
    let [Allow { ports: Ports::Some { numbers, named }, .. }] = &allows(&found)[..] else { panic!("{found:?}") };
    assert!(numbers.is_empty() && named.is_empty());
}

#[test]
fn pods_of_the_same_policies_share_a_profile() {
    let mut other = (*policy(json!({"podSelector": {"matchLabels": {"app": "b"}}, "ingress": [{}]}))).clone();
    other.metadata.name = Some("q".into());
    let found = policies(&[policy(json!({"podSelector": {}})), Arc::new(other)], &namespaces(), &pods(), "here");
    let profiles: Vec<_> = found.profiles.iter().map(|((_, name), allows)| (name.len(), allows.len())).collect();
    assert_eq!(profiles, [(1, 0), (2, 1)]);
}

#[test]
fn only_what_policies_read_makes_a_difference() {
    let old = pod("x", "a", "here", "10.42.0.1", json!({"app": "a"}));
    let mut new = (*old).clone();
    new.annotations_mut().insert("a".into(), "b".into());
    assert!(!differs(&old, &new));
    new.labels_mut().insert("app".into(), "b".into());
    assert!(differs(&old, &new));
    assert!(differs(&old, &pod("x", "a", "here", "10.42.0.9", json!({"app": "a"}))));
}

proptest::proptest! {
    #[test]
    fn joined_ranges_hold_the_same_ports_apart(ranges in proptest::collection::vec((0u16..200, 0u16..20), 0..12)) {
        let ranges: Vec<_> = ranges.into_iter().map(|(first, more)| first..=first + more).collect();
        let ports: BTreeSet<u16> = ranges.iter().cloned().flatten().collect();
        let joined = joined(ranges);
        proptest::prop_assert_eq!(joined.iter().cloned().flatten().collect::<BTreeSet<u16>>(), ports);
        proptest::prop_assert!(joined.windows(2).all(|pair| pair[0].end() + 1 < *pair[1].start()));
    }
}
