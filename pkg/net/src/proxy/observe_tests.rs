use super::*;
use serde_json::json;

const HERE: Place<'_> = Place { node: "here", zone: "near" };

fn service(spec: serde_json::Value) -> Arc<Service> {
    let service = json!({"metadata": {"namespace": "default", "name": "web"}, "spec": spec});
    Arc::new(serde_json::from_value(service).expect("service"))
}

fn slice(endpoints: serde_json::Value) -> Arc<EndpointSlice> {
    let slice = json!({
        "metadata": {"namespace": "default", "name": "web-1", "labels": {SERVICE_NAME: "web"}},
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    });
    Arc::new(serde_json::from_value(slice).expect("slice"))
}

fn web() -> Arc<Service> {
    service(json!({"clusterIP": "10.43.0.5", "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}))
}

fn endpoint(ip: &str, node: &str, conditions: serde_json::Value) -> serde_json::Value {
    json!({"addresses": [ip], "nodeName": node, "conditions": conditions})
}

fn only(services: &[Arc<Service>], endpoints: serde_json::Value) -> ServicePort {
    let mut ports = desired(services, &[slice(endpoints)], &[], HERE).services;
    assert_eq!(ports.len(), 1, "{ports:?}");
    ports.remove(0)
}

fn ips(endpoints: &[SocketAddrV4]) -> Vec<String> {
    endpoints.iter().map(|endpoint| endpoint.ip().to_string()).collect()
}

#[test]
fn ready_endpoints_and_those_on_this_node() {
    let port = only(
        &[web()],
        json!([
            endpoint("10.42.0.5", "here", json!({"ready": true})),
            endpoint("10.42.1.6", "there", json!({})),
            endpoint("10.42.0.7", "here", json!({"ready": false, "serving": true, "terminating": true})),
            endpoint("10.42.0.8", "here", json!({"ready": false, "serving": false})),
        ]),
    );
    assert_eq!(ips(&port.cluster_endpoints), ["10.42.0.5", "10.42.1.6"]);
    assert_eq!(ips(&port.local_endpoints), ["10.42.0.5"]);
    assert_eq!(port.cluster_endpoints[0].port(), 8080);
}

#[test]
fn without_a_ready_one_those_that_serve_while_terminating() {
    let port = only(
        &[web()],
        json!([
            endpoint("10.42.0.7", "here", json!({"ready": false, "serving": true, "terminating": true})),
            endpoint("10.42.0.8", "here", json!({"ready": false, "serving": false, "terminating": true})),
            endpoint("10.42.0.9", "here", json!({"ready": false, "serving": true, "terminating": false})),
        ]),
    );
    assert_eq!(ips(&port.cluster_endpoints), ["10.42.0.7"]);
}

#[test]
fn headless_external_and_foreign_services_have_no_rules() {
    let ports = json!([{"port": 80}]);
    let mut foreign = (*web()).clone();
    foreign.labels_mut().insert(PROXY_NAME.to_owned(), "other".to_owned());
    let mut labelled = (*web()).clone();
    labelled.labels_mut().insert(HEADLESS.to_owned(), String::new());
    let services = [
        Arc::new(labelled),
        service(json!({"clusterIP": "None", "ports": ports})),
        service(json!({"type": "ExternalName", "externalName": "example.com", "ports": ports})),
        Arc::new(foreign),
    ];
    assert_eq!(desired(&services, &[], &[], HERE).services, []);
}

#[test]
fn a_headless_slice_has_no_endpoints_for_a_proxy() {
    let mut slice = (*slice(json!([endpoint("10.42.0.5", "here", json!({}))]))).clone();
    slice.labels_mut().insert(HEADLESS.to_owned(), String::new());
    let ports = desired(&[web()], &[Arc::new(slice)], &[], HERE).services;
    assert!(!ports[0].has_any_endpoints);
}

#[test]
fn a_port_of_another_name_or_protocol_is_not_its_endpoint() {
    let dns = service(json!({"clusterIP": "10.43.0.5", "ports": [{"name": "http", "port": 80, "protocol": "UDP"}]}));
    assert!(!only(&[dns], json!([endpoint("10.42.0.5", "here", json!({}))])).has_any_endpoints);
}

#[test]
fn affinity_policies_and_addresses_are_read() {
    let spec = json!({
        "type": "LoadBalancer", "clusterIP": "10.43.0.5", "clusterIPs": ["10.43.0.5", "fd00::5"],
        "externalIPs": ["192.0.2.9"], "sessionAffinity": "ClientIP", "internalTrafficPolicy": "Local",
        "externalTrafficPolicy": "Local", "loadBalancerSourceRanges": ["198.51.100.0/24"],
        "ports": [{"name": "http", "port": 80, "nodePort": 30080}],
    });
    let mut service = (*service(spec)).clone();
    let status = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.20"}, {"ip": "192.0.2.21", "ipMode": "Proxy"}]}});
    service.status = Some(serde_json::from_value(status).expect("status"));
    let port = only(&[Arc::new(service)], json!([]));
    assert_eq!(port.cluster_ips, [Ipv4Addr::new(10, 43, 0, 5)]);
    assert_eq!((port.node_port, port.affinity_s), (Some(30080), Some(10_800)));
    assert_eq!(port.load_balancer_ips, [Ipv4Addr::new(192, 0, 2, 20)]);
    assert!(port.internal_local && port.external_local && !port.has_any_endpoints);
}

#[test]
fn host_ports_of_running_pods_here() {
    let pod = |node: &str, phase: &str, host_network: bool| {
        let pod = json!({
            "metadata": {"namespace": "default", "name": "p"},
            "spec": {"nodeName": node, "hostNetwork": host_network, "containers": [{"name": "c", "ports": [
                {"containerPort": 80, "hostPort": 8080}, {"containerPort": 81},
                {"containerPort": 53, "hostPort": 53, "hostIP": "127.0.0.1", "protocol": "UDP"}]}]},
            "status": {"phase": phase, "podIP": "10.42.0.5"},
        });
        Arc::new(serde_json::from_value::<Pod>(pod).expect("pod"))
    };
    let pods = [
        pod("here", "Running", false),
        pod("there", "Running", false),
        pod("here", "Failed", false),
        pod("here", "Running", true),
    ];
    let desired = desired(&[], &[], &pods, HERE);
    let to = |port| SocketAddrV4::new(Ipv4Addr::new(10, 42, 0, 5), port);
    let dns = HostPort { ip: Some(Ipv4Addr::LOCALHOST), protocol: Protocol::Udp, port: 53, to: to(53) };
    assert_eq!(desired.host_ports, [HostPort { ip: None, protocol: Protocol::Tcp, port: 8080, to: to(80) }, dns]);
    assert_eq!(desired.local_pods, [Ipv4Addr::new(10, 42, 0, 5)]);
}

#[test]
fn hints_count_where_all_have_them_and_some_are_for_us() {
    let with = |ip: &str, nodes: &[&str], zones: &[&str]| {
        let named = |names: &[&str]| names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>();
        json!({"addresses": [ip], "hints": {"forNodes": named(nodes), "forZones": named(zones)}})
    };
    let chosen = |endpoints: serde_json::Value| ips(&only(&[web()], endpoints).cluster_endpoints);
    let (near, far) = (with("10.42.0.5", &[], &["near"]), with("10.42.1.6", &[], &["far", "farther"]));
    assert_eq!(chosen(json!([near, far])), ["10.42.0.5"]);
    assert_eq!(chosen(json!([far])), ["10.42.1.6"], "none is for us");
    let unhinted = json!({"addresses": ["10.42.1.7"]});
    assert_eq!(chosen(json!([near, far, unhinted])), ["10.42.0.5", "10.42.1.6", "10.42.1.7"], "one has no hint");
    let (here, there) = (with("10.42.0.8", &["here"], &["near"]), with("10.42.0.9", &["there"], &["near"]));
    assert_eq!(chosen(json!([here, there])), ["10.42.0.8"], "the node before the zone");
    assert_eq!(chosen(json!([there, far])), ["10.42.0.9"], "the zone where no node is hinted for us");
    let mut leaving = near.clone();
    leaving["conditions"] = json!({"ready": false, "serving": true, "terminating": true});
    assert_eq!(chosen(json!([leaving, far])), ["10.42.1.6"], "who is not ready has no say");
}

#[test]
fn load_balancers_of_policy_local_are_told_how_many_are_here() {
    let spec = |policy: &str| {
        let ports = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
        json!({"type": "LoadBalancer", "clusterIP": "10.43.0.5", "externalTrafficPolicy": policy,
            "healthCheckNodePort": 31000, "ports": ports})
    };
    let endpoints = || {
        slice(json!([
            endpoint("10.42.0.5", "here", json!({"ready": true})),
            endpoint("10.42.0.6", "here", json!({"ready": false, "serving": true, "terminating": true})),
            endpoint("10.42.1.7", "there", json!({"ready": true})),
        ]))
    };
    let checks = desired(&[service(spec("Local"))], &[endpoints()], &[], HERE).health_checks;
    let check = HealthCheck { namespace: "default".into(), service: "web".into(), local_endpoints: 1 };
    assert_eq!(checks, BTreeMap::from([(31000, check)]));
    assert_eq!(desired(&[service(spec("Cluster"))], &[endpoints()], &[], HERE).health_checks, BTreeMap::new());
}

#[test]
fn of_two_with_one_external_address_and_port_the_older_has_it_alone() {
    let balanced = |name: &str, second: u32, port: u16| {
        let created = format!("2026-01-01T00:00:{second:02}Z");
        let service = json!({
            "metadata": {"namespace": "default", "name": name, "creationTimestamp": created},
            "spec": {"type": "LoadBalancer", "clusterIP": format!("10.43.0.{second}"), "externalIPs": ["198.51.100.7"],
                     "ports": [{"port": port, "protocol": "TCP"}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.20"}, {"ip": format!("192.0.2.{second}")}]}},
        });
        Arc::new(serde_json::from_value::<Service>(service).expect("service"))
    };
    let services = [balanced("a", 9, 80), balanced("b", 8, 80), balanced("c", 9, 81)];
    let found = desired(&services, &[], &[], HERE).services;
    let of = |name: &str| {
        let port = found.iter().find(|port| port.name.service == name).expect("each keeps its cluster address");
        let all = port.external_ips.iter().chain(&port.load_balancer_ips);
        all.map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(of("b"), ["198.51.100.7", "192.0.2.8", "192.0.2.20"]);
    assert_eq!(of("a"), ["192.0.2.9"], "younger, whatever its name");
    assert_eq!(of("c"), ["198.51.100.7", "192.0.2.9", "192.0.2.20"], "another port");
}
