//! What Services promise beyond plain addresses, with real packets in the same world.
use super::{NODE, SERVICES, World};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::UdpSocket;
use std::time::{Duration, Instant};

pub async fn check(world: &World, a: &str, b: &str) {
    world.outside.command("ip route replace 203.0.113.0/24 via 192.0.2.1");
    loopback(world);
    clients_that_keep_their_port(world, a, b).await;
    load_balancer(world, a).await;
    sctp(world, a).await;
    thousand_endpoints(world, a).await;
}

fn put(world: &World, name: &str, mut spec: Value, status: Value) {
    spec["clusterIPs"] = json!([spec["clusterIP"]]);
    let metadata = json!({"namespace": "default", "name": name});
    world.api.put(SERVICES, json!({"metadata": metadata, "spec": spec, "status": status}));
}

/// Node ports and host ports answer on 127.0.0.1, and nobody reaches 127.0.0.1 from outside for that.
fn loopback(world: &World) {
    assert!(world.node.tcp("127.0.0.1:30080").is_ok(), "node port");
    assert_eq!(world.node.tcp("127.0.0.1:8088").expect("host port").split(' ').next(), Some("a"));
    assert_eq!(world.node.tcp("127.0.0.1:9000"), Ok("node 127.0.0.1".into()), "others' ports are left alone");
    let route = |on: &'static str| {
        let write = move || std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", on).expect("sysctl");
        world.outside.run(write);
    };
    route("1");
    world.outside.command("ip link set lo down");
    world.outside.command("ip route replace 127.0.0.1/32 via 192.0.2.1 src 192.0.2.2");
    assert!(world.outside.tcp("127.0.0.1:9000").is_err(), "a neighbour reaches what listens on the node's loopback");
    world.outside.command("ip route delete 127.0.0.1/32");
    world.outside.command("ip link set lo up");
    route("0");
}

/// One socket's question and answer; nobody may answer.
fn ask(socket: &UdpSocket) -> Option<String> {
    socket.send(b"x").ok()?;
    let mut answer = [0; 16];
    let length = socket.recv(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer[..length]).into_owned())
}

/// A UDP client with one socket follows its Service from endpoint to endpoint.
async fn clients_that_keep_their_port(world: &World, a: &str, b: &str) {
    let port = || json!({"port": 5353, "protocol": "UDP", "name": "u"});
    let socket = world.node.run(|| UdpSocket::bind("0.0.0.0:0").expect("bind"));
    socket.set_read_timeout(Some(Duration::from_millis(50))).expect("timeout");
    socket.connect("10.43.0.9:53").expect("connect");
    world.put_slice("udp", &[b], port());
    world.eventually("b answers", |_| ask(&socket).as_deref() == Some("b")).await;
    world.put_slice("udp", &[a], port());
    world.eventually("then a", |_| ask(&socket).as_deref() == Some("a")).await;
    world.put_slice("udp", &[], port());
    world.eventually("then nobody", |_| ask(&socket).is_none()).await;
    world.put_slice("udp", &[b], port());
    world.eventually("then b again", |_| ask(&socket).as_deref() == Some("b")).await;
}

async fn load_balancer(world: &World, a: &str) {
    let spec = json!({
        "type": "LoadBalancer", "clusterIP": "10.43.0.20", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31111,
        "loadBalancerSourceRanges": ["192.0.2.0/25"],
        "ports": [{"port": 80, "protocol": "TCP", "name": "http", "nodePort": 30020}],
    });
    put(world, "balanced", spec, json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.20", "ipMode": "VIP"}]}}));
    let tcp = || json!({"port": 8080, "protocol": "TCP", "name": "http"});
    world.put_slice("balanced", &[a], tcp());
    let status = |w: &World| {
        let mut stream = w.outside.connect("192.0.2.1:31111");
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: node\r\n\r\n").expect("write");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("read");
        text.lines().next().unwrap_or_default().to_owned()
    };
    world.eventually("it is served", |w| w.outside.tcp("203.0.113.20:80") == Ok("a 192.0.2.2".into())).await;
    assert_eq!(status(world), "HTTP/1.1 200 OK");
    world.outside.command("ip address add 192.0.2.130/24 dev eth0");
    world.outside.command("ip route replace 203.0.113.20/32 via 192.0.2.1 src 192.0.2.130");
    assert!(world.outside.tcp("203.0.113.20:80").is_err(), "not within its source ranges");
    world.outside.command("ip route delete 203.0.113.20/32");
    world.outside.command("ip address delete 192.0.2.130/24 dev eth0");
    world.put_slice("balanced", &[], tcp());
    world.eventually("nobody is here", |w| status(w) == "HTTP/1.1 503 Service Unavailable").await;
}

/// The kernel takes the rules; hosts without SCTP can't send a packet.
async fn sctp(world: &World, a: &str) {
    let ports = json!([{"port": 7, "protocol": "SCTP", "name": "s", "nodePort": 30007}]);
    put(world, "sctp", json!({"type": "NodePort", "clusterIP": "10.43.0.21", "ports": ports}), json!({}));
    world.put_slice("sctp", &[a], json!({"port": 7, "protocol": "SCTP", "name": "s"}));
    let pod = json!({
        "metadata": {"namespace": "default", "name": "s"},
        "spec": {"nodeName": NODE, "containers": [{"name": "c", "ports": [
            {"containerPort": 7, "hostPort": 7007, "protocol": "SCTP"}]}]},
        "status": {"phase": "Running", "podIP": "10.42.7.77"},
    });
    world.api.put("/api/v1/pods", pod);
    let maps =
        [("service-ips", "10.43.0.21 . sctp . 7"), ("node-ports", "sctp . 30007"), ("host-ports", "sctp . 7007")];
    for (map, key) in maps {
        let there = |w: &World| w.node.command(&format!("nft list map inet tnet {map}")).contains(key);
        world.eventually(key, there).await;
    }
    world.api.delete("/api/v1/pods", "s");
}

/// One Service with a thousand endpoints, then one of them less.
async fn thousand_endpoints(world: &World, a: &str) {
    let ports = json!([{"port": 80, "protocol": "TCP", "name": "http"}]);
    put(world, "wide", json!({"clusterIP": "10.43.0.22", "ports": ports}), json!({}));
    let slice = |number: usize, count: usize| {
        let ips: Vec<_> = (0..count).map(|n| format!("10.42.{}.{}", 100 + number, n + 1)).collect();
        let endpoints: Vec<_> = ips.iter().map(|ip| json!({"addresses": [ip], "nodeName": "there"})).collect();
        let metadata = json!({"namespace": "default", "name": format!("wide-{number}"),
            "labels": {"kubernetes.io/service-name": "wide"}});
        let port = json!([{"port": 8080, "protocol": "TCP", "name": "http"}]);
        let slice = json!({"metadata": metadata, "addressType": "IPv4", "endpoints": endpoints, "ports": port});
        world.api.put(super::SLICES, slice);
    };
    let start = Instant::now();
    (0..10).for_each(|number| slice(number, 100));
    let rules = |w: &World| w.node.command("nft list table inet tnet").contains("10.42.109.100 . 8080");
    world.eventually("a thousand endpoints", rules).await;
    eprintln!("1,000 endpoints have rules after {} ms", start.elapsed().as_millis());
    let start = Instant::now();
    slice(9, 99);
    world.eventually("one of them less", |w| !rules(w)).await;
    eprintln!("one of 1,000 endpoints is gone after {} ms", start.elapsed().as_millis());
    (0..10).for_each(|number| slice(number, 0));
    world.put_slice("wide", &[a], json!({"port": 8080, "protocol": "TCP", "name": "http"}));
    world.eventually("another one instead", |w| w.b.tcp("10.43.0.22:80").is_ok()).await;
}
