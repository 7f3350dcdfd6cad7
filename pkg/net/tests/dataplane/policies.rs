//! NetworkPolicies with real packets, in the same world.
use super::{NODE, World};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

const POLICIES: &str = "/apis/networking.k8s.io/v1/networkpolicies";
const PODS: &str = "/api/v1/pods";
/// What policies answer to a connection that none of them allows: nothing.
const DENIED: &str = "timed out";

pub async fn check(world: &World, a: &str, b: &str) {
    world.api.put("/api/v1/namespaces", json!({"metadata": {"name": "default", "labels": {"of": "tests"}}}));
    for (name, ip) in [("a", a), ("b", b)] {
        let ports = json!([{"name": "web", "containerPort": 8080, "hostPort": if name == "a" { 8088 } else { 8089 }}]);
        world.api.put(
            PODS,
            json!({
                "metadata": {"namespace": "default", "name": name, "labels": {"app": name}},
                "spec": {"nodeName": NODE, "containers": [{"name": "c", "ports": ports}]},
                "status": {"phase": "Running", "podIP": ip},
            }),
        );
    }
    world.eventually("b has a host port", |w| w.outside.tcp("192.0.2.1:8089").is_ok()).await;
    ingress(world, a, b).await;
    egress(world, a, b).await;
    every_shape(world).await;
    pretenders(world, a, b);
    thousand_pods(world).await;
}

fn put(world: &World, name: &str, spec: Value) {
    world.api.put(POLICIES, json!({"metadata": {"namespace": "default", "name": name}, "spec": spec}));
}

fn delete(world: &World, names: &[&str]) {
    names.iter().for_each(|name| world.api.delete(POLICIES, name));
}

fn denied<T>(result: Result<T, String>) -> bool {
    result.err().is_some_and(|error| error == DENIED)
}

async fn ingress(world: &World, a: &str, b: &str) {
    let (web, other) = (format!("{a}:8080"), format!("{a}:7000"));
    world.a.echo_tcp(7000);
    let mut open = world.b.connect(&other);
    put(world, "deny", json!({"podSelector": {"matchLabels": {"app": "a"}}, "policyTypes": ["Ingress"]}));
    world.eventually("a is isolated", |w| denied(w.b.tcp(&web))).await;
    assert!(denied(world.b.tcp("10.43.0.7:80")), "through a Service");
    assert!(denied(world.outside.tcp("192.0.2.1:8088")), "through a host port");
    assert!(world.node.tcp(&web).is_ok(), "its own node always reaches it");
    assert!(world.a.tcp("10.43.0.7:80").is_ok(), "and so does it itself");
    assert!(world.a.tcp(&format!("{b}:8080")).is_ok(), "it may speak to others");
    let mut echo = [0; 2];
    open.write_all(b"hi").expect("write");
    open.read_exact(&mut echo).expect("what was open before stays open");

    let from_b = json!([{"podSelector": {"matchLabels": {"app": "b"}}}]);
    let rule = |ports: Value| json!({"podSelector": {"matchLabels": {"app": "a"}}, "ingress": [{"from": from_b, "ports": ports}]});
    put(world, "allow", rule(json!([{"port": "web"}])));
    world.eventually("b may reach a's named port", |w| w.b.tcp(&web).is_ok()).await;
    assert!(denied(world.b.tcp(&other)), "but no other port");
    assert!(denied(world.outside.tcp("192.0.2.1:8088")), "and nobody else");
    assert_eq!(world.b.udp(format!("{a}:5353").parse().expect("address"), b"x".to_vec()), None, "or protocol");

    put(world, "allow", rule(json!([{"port": 6990, "endPort": 7010}, {"port": 5353, "protocol": "UDP"}])));
    world.eventually("a range of ports instead", |w| denied(w.b.tcp(&web))).await;
    world.b.connect(&other);
    assert!(world.b.udp(format!("{a}:5353").parse().expect("address"), b"x".to_vec()).is_some());

    let block = json!({"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.128/25", "192.0.2.64/26"]}});
    put(world, "allow", json!({"podSelector": {}, "ingress": [{"from": [block]}]}));
    world.eventually("the outside", |w| w.outside.tcp("192.0.2.1:8088").is_ok()).await;
    world.outside.command("ip address add 192.0.2.130/24 dev eth0");
    world.outside.command("ip route replace 192.0.2.1/32 dev eth0 src 192.0.2.130");
    assert!(denied(world.outside.tcp("192.0.2.1:8088")), "without the exceptions");
    world.outside.command("ip route delete 192.0.2.1/32");
    world.outside.command("ip address delete 192.0.2.130/24 dev eth0");

    let tests = json!([{"namespaceSelector": {"matchLabels": {"of": "tests"}}}]);
    put(world, "allow", json!({"podSelector": {}, "ingress": [{"from": tests}]}));
    world.eventually("the namespace's pods", |w| w.b.tcp(&web).is_ok()).await;
    world.api.put("/api/v1/namespaces", json!({"metadata": {"name": "default", "labels": {"of": "others"}}}));
    world.eventually("until it has other labels", |w| denied(w.b.tcp(&web))).await;
    delete(world, &["deny", "allow"]);
    world.eventually("nothing is isolated any more", |w| w.b.tcp(&web).is_ok()).await;
}

async fn egress(world: &World, a: &str, b: &str) {
    let web = format!("{a}:8080");
    put(world, "deny", json!({"podSelector": {"matchLabels": {"app": "b"}}, "policyTypes": ["Egress"]}));
    world.eventually("b is isolated", |w| denied(w.b.tcp(&web))).await;
    assert!(denied(world.b.tcp("192.0.2.1:9000")), "from its node too");
    assert!(denied(world.b.tcp("192.0.2.2:9000")), "and from outside");
    assert!(world.a.tcp(&format!("{b}:8080")).is_ok(), "it may be reached");
    world.names(a);
    let block = json!({"ipBlock": {"cidr": "0.0.0.0/0", "except": ["192.0.2.1/32", "10.0.0.0/8"]}});
    let to =
        json!([{"to": [block]}, {"to": [{"podSelector": {"matchLabels": {"app": "a"}}}], "ports": [{"port": "web"}]}]);
    put(world, "allow", json!({"podSelector": {"matchLabels": {"app": "b"}}, "policyTypes": ["Egress"], "egress": to}));
    world.eventually("b may go outside", |w| w.b.tcp("192.0.2.2:9000").is_ok()).await;
    assert!(denied(world.b.tcp("192.0.2.1:9000")), "but not to its node");
    assert!(world.b.tcp(&web).is_ok() && world.b.tcp("10.43.0.7:80").is_ok(), "to a's named port, by Service as well");
    delete(world, &["deny", "allow"]);
    world.eventually("nothing is isolated any more", |w| w.b.tcp("192.0.2.1:9000").is_ok()).await;
}

/// What policies may say and the kernel must understand.
async fn every_shape(world: &World) {
    let ports = json!([
        {"protocol": "SCTP", "port": 7}, {"protocol": "SCTP", "port": "web"}, {"protocol": "UDP"},
        {"port": 1, "endPort": 65535}, {"protocol": "UDP", "port": "none"}, {"port": 80}, {"port": 82},
    ]);
    let peers = json!([
        {"ipBlock": {"cidr": "0.0.0.0/0"}}, {"ipBlock": {"cidr": "10.1.2.3/32"}}, {"ipBlock": {"cidr": "fd00::/8"}},
        {"namespaceSelector": {}, "podSelector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}},
        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.1.2.0/24", "10.2.0.0/15"]}},
    ]);
    let spec = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": peers, "ports": ports}, {"ports": ports}], "egress": [{"to": peers, "ports": ports}, {}]});
    put(world, "every", spec);
    let rules = |w: &World| w.node.command("nft list table inet tnet").matches("default/every").count();
    world.eventually("the kernel took them", |w| rules(w) > 0).await;
    delete(world, &["every"]);
    world.eventually("and forgot them", |w| rules(w) == 0).await;
}

/// A pod under another's address would have the other's rights.
fn pretenders(world: &World, a: &str, b: &str) {
    let to: SocketAddr = format!("{b}:6000").parse().expect("address");
    let listener = world.b.run(move || UdpSocket::bind(to).expect("bind"));
    listener.set_read_timeout(Some(Duration::from_millis(200))).expect("timeout");
    world.a.command("ip address add 10.42.7.99/32 dev eth0");
    let hears = |from: &str| {
        let from = SocketAddr::new(from.parse().expect("address"), 0);
        world.a.run(move || UdpSocket::bind(from).expect("bind").send_to(b"x", to).expect("send"));
        listener.recv(&mut [0; 1]).is_ok()
    };
    assert!(hears(a), "its own address");
    assert!(!hears("10.42.7.99"), "another pod's");
    world.a.command("ip address delete 10.42.7.99/32 dev eth0");
}

/// A thousand pods here that one policy isolates, and then one more.
async fn thousand_pods(world: &World) {
    let pod = |number: usize| {
        let ip = format!("10.42.{}.{}", 200 + number / 250, 1 + number % 250);
        let metadata = json!({"namespace": "default", "name": format!("many-{number}"), "labels": {"many": "yes"}});
        let status = json!({"phase": "Running", "podIP": ip});
        let spec = json!({"nodeName": NODE, "containers": [{"name": "c"}]});
        world.api.put(PODS, json!({"metadata": metadata, "spec": spec, "status": status}));
    };
    (0..1000).for_each(pod);
    let many = json!({"matchLabels": {"many": "yes"}});
    let start = Instant::now();
    put(world, "many", json!({"podSelector": many, "ingress": [{"from": [{"podSelector": many}]}]}));
    let rules = |w: &World, ip: &str| {
        let maps = w.node.command("nft list map inet tnet isolated-ingress");
        maps.contains(&format!("{ip} :"))
    };
    world.eventually("a thousand are isolated", |w| rules(w, "10.42.203.250")).await;
    eprintln!("1,000 pods are isolated after {} ms", start.elapsed().as_millis());
    let start = Instant::now();
    pod(1000);
    world.eventually("one more", |w| rules(w, "10.42.204.1")).await;
    eprintln!("one more after {} ms", start.elapsed().as_millis());
    delete(world, &["many"]);
    (0..=1000).for_each(|number| world.api.delete(PODS, &format!("many-{number}")));
    world.eventually("nobody is isolated any more", |w| !rules(w, "10.42.203.250")).await;
}
