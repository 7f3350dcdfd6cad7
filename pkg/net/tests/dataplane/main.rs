//! The network with real packets: nftables, the reference CNI plugins and sockets in network namespaces.
//!
//! ```text
//!  outside 192.0.2.2 ── 192.0.2.1 node ── pod a 10.42.7.x
//!                                    └─── pod b 10.42.7.y
//! ```
mod api;
mod netns;
mod policies;
mod routes;
mod services;
mod tunnel;

use api::Api;
use client::Informers;
use eyot_net::{Backend, Options, Service, cleanup};
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use netns::Netns;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const WAIT: Duration = Duration::from_secs(15);
const INSTANCE: &str = "tnet";
const NODE: &str = "here";
const SERVICES: &str = "/api/v1/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";

/// What would keep this machine from running the test.
fn obstacle() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    let missing =
        [cni_plugin("ptp"), cni_plugin("host-local"), "/usr/sbin/nft".into()].into_iter().find(|p| !p.exists());
    missing.map(|path| format!("{} is not installed", path.display()))
}

fn cni_plugin(name: &str) -> PathBuf {
    let dirs = ["/usr/lib/cni", "/opt/cni/bin"].map(|dir| Path::new(dir).join(name));
    dirs.iter().find(|path| path.exists()).unwrap_or(&dirs[0]).clone()
}

#[test]
fn services_dns_and_the_way_out() {
    if let Some(obstacle) = obstacle() {
        return eprintln!("skipped: {obstacle}");
    }
    // Everything happens in namespaces of this thread, so nothing of the machine is touched.
    let test = std::thread::spawn(|| {
        let node = netns::enter_new();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
        runtime.block_on(World::new(node).run());
    });
    test.join().expect("the test succeeds");
}

struct World {
    node: Netns,
    outside: Netns,
    a: Netns,
    b: Netns,
    dir: tempfile::TempDir,
    api: Api,
}

impl World {
    fn new(node: Netns) -> Self {
        let outside = Netns::new();
        node.command("ip link set lo up");
        node.command(&format!("ip link add uplink type veth peer name eth0 netns {}", outside.path()));
        node.command("ip address add 192.0.2.1/24 dev uplink");
        node.command("ip link set uplink up");
        node.command("ip route add default via 192.0.2.2");
        outside.command("ip link set lo up");
        outside.command("ip address add 192.0.2.2/24 dev eth0");
        outside.command("ip link set eth0 up");
        let dir = tempfile::tempdir().expect("dir");
        Self { node, outside, a: Netns::new(), b: Netns::new(), dir, api: Api::new() }
    }

    async fn run(self) {
        self.api.put("/api/v1/nodes", json!({"metadata": {"name": NODE}, "spec": {"podCIDR": "10.42.7.0/24"}}));
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let informers = Informers::new(self.api.client(), tasks.clone(), shutdown.clone());
        let service = Service::new(Options {
            informers,
            client: self.api.client(),
            node_name: NODE.to_owned(),
            instance: INSTANCE.to_owned(),
            data_dir: self.dir.path().to_owned(),
            node_address: Ipv4Addr::new(192, 0, 2, 1),
            backend: Backend::default(),
            cluster_cidr: "10.42.0.0/16".parse().expect("cidr"),
            service_cidr: "10.43.0.0/16".parse().expect("cidr"),
            cluster_dns: Ipv4Addr::new(10, 43, 0, 10),
            cluster_domain: "cluster.local".to_owned(),
            resolv_conf: "/nonexistent".into(),
            ownership: client::home::alone(),
        });
        let running = tokio::spawn(service.run(shutdown.clone()));

        let (a, b) = self.plug_pods().await;
        self.paths_without_services(&a, &b);
        self.declare(&a, &b);
        self.eventually("the Services are known", |w| w.b.tcp("10.43.0.5:80").is_ok()).await;
        for bridge_nf in ["0", "1"] {
            // Present only where br_netfilter is loaded.
            let _ = std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", bridge_nf);
            self.cluster_addresses(&a, &b);
            self.outside_addresses(&b);
            self.names(&a);
        }
        self.without_a_default_route();
        self.changes(&b).await;
        services::check(&self, &a, &b).await;
        policies::check(&self, &a, &b).await;
        routes::check(&self, &a).await;
        self.thousand_services().await;

        shutdown.cancel();
        running.await.expect("it ends").expect("well");
        tasks.close();
        tasks.wait().await;
        assert!(self.b.tcp("10.43.0.5:80").is_ok(), "rules outlive the process");
        for _ in 0..2 {
            cleanup(INSTANCE, self.dir.path()).await.expect("cleanup");
        }
        assert_eq!(self.node.command("nft list tables").trim(), "");
        assert!(!self.node.command("ip address show dev lo").contains("169.254"));
        assert!(!self.node.command("ip route show").contains("10.43.0.0"));
        assert!(!self.node.command("ip route show").contains("10.42.9.0"), "the way to the other node's pods");
    }

    /// Blocking checks between awaits, so that the component under test goes on meanwhile.
    async fn eventually(&self, what: &str, check: impl Fn(&Self) -> bool) -> Duration {
        let start = Instant::now();
        while !check(self) {
            assert!(start.elapsed() < WAIT, "not in time: {what}\n{}", self.node.command("nft list ruleset"));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        start.elapsed()
    }

    /// Links both pods with the configuration that the node wrote; returns their addresses.
    async fn plug_pods(&self) -> (String, String) {
        let file = self.dir.path().join("agent/etc/cni/net.d/10-tnet.conflist");
        self.eventually("the CNI configuration is written", |_| file.exists()).await;
        let list: Value = serde_json::from_slice(&std::fs::read(file).expect("read")).expect("json");
        let plug = |netns: &Netns, id: &str| {
            let mut plugin = list["plugins"][0].clone();
            plugin["name"] = list["name"].clone();
            plugin["cniVersion"] = list["cniVersion"].clone();
            netns.command("ip link set lo up");
            let result = cni_add(&plugin, netns, id);
            let address = result["ips"][0]["address"].as_str().expect("address");
            address.split('/').next().expect("address").to_owned()
        };
        let (a, b) = (plug(&self.a, "pod-a"), plug(&self.b, "pod-b"));
        self.a.serve_tcp("a", 8080);
        self.a.serve_udp("a", 5353);
        self.b.serve_tcp("b", 8080);
        self.b.serve_udp("b", 5353);
        self.node.serve_tcp("node", 9000);
        self.outside.serve_tcp("outside", 9000);
        (a, b)
    }

    fn paths_without_services(&self, a: &str, b: &str) {
        assert_eq!(self.a.tcp(&format!("{b}:8080")), Ok(format!("b {a}")), "pod to pod, with its own address");
        assert_eq!(self.node.tcp(&format!("{a}:8080")).expect("node to pod").split(' ').next(), Some("a"));
        assert_eq!(self.a.tcp("192.0.2.1:9000"), Ok(format!("node {a}")), "pod to node");
        assert_eq!(self.a.tcp("192.0.2.2:9000"), Ok("outside 192.0.2.1".to_owned()), "masqueraded on its way out");
    }

    fn declare(&self, a: &str, b: &str) {
        let put = |name: &str, mut spec: Value, ips: &[&str], slice_port: Value| {
            spec["clusterIPs"] = json!([spec["clusterIP"]]);
            let metadata = json!({"namespace": "default", "name": name});
            self.api.put(SERVICES, json!({"metadata": metadata, "spec": spec}));
            self.put_slice(name, ips, slice_port);
        };
        let tcp = json!({"port": 8080, "protocol": "TCP", "name": "http"});
        let http = json!([{"port": 80, "protocol": "TCP", "name": "http"}]);
        let node_port = json!([{"port": 80, "protocol": "TCP", "name": "http", "nodePort": 30080}]);
        let spec =
            json!({"clusterIP": "10.43.0.5", "type": "NodePort", "ports": node_port, "externalIPs": ["203.0.113.5"]});
        put("web", spec, &[a, b], tcp.clone());
        let sticky = json!({"clusterIP": "10.43.0.6", "sessionAffinity": "ClientIP", "ports": http});
        put("sticky", sticky, &[a, b], tcp.clone());
        put("self", json!({"clusterIP": "10.43.0.7", "ports": http}), &[a], tcp.clone());
        put("empty", json!({"clusterIP": "10.43.0.8", "ports": http}), &[], tcp);
        let udp = json!({"port": 5353, "protocol": "UDP", "name": "u"});
        let ports = json!([{"port": 53, "protocol": "UDP", "name": "u"}]);
        put("udp", json!({"clusterIP": "10.43.0.9", "ports": ports}), &[a], udp);
        let pod = json!({
            "metadata": {"namespace": "default", "name": "a"},
            "spec": {"nodeName": NODE, "containers": [{"name": "c", "ports": [{"containerPort": 8080, "hostPort": 8088}]}]},
            "status": {"phase": "Running", "podIP": a},
        });
        self.api.put("/api/v1/pods", pod);
    }

    fn put_slice(&self, service: &str, ips: &[&str], port: Value) {
        let endpoints: Vec<_> = ips.iter().map(|ip| json!({"addresses": [ip], "nodeName": NODE})).collect();
        let labels = json!({"kubernetes.io/service-name": service});
        let metadata = json!({"namespace": "default", "name": format!("{service}-1"), "labels": labels});
        let slice = json!({"metadata": metadata, "addressType": "IPv4", "endpoints": endpoints, "ports": [port]});
        self.api.put(SLICES, slice);
    }

    /// Everybody that answers in many tries.
    fn who_answers(&self, from: &Netns, to: &str) -> BTreeSet<String> {
        let answers = (0..24).map(|_| from.tcp(to).unwrap_or_else(|error| error));
        answers.map(|answer| answer.split(' ').next().unwrap_or_default().to_owned()).collect()
    }

    fn cluster_addresses(&self, a: &str, b: &str) {
        let both = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
        assert_eq!(self.who_answers(&self.b, "10.43.0.5:80"), both, "balanced, and a pod may meet itself");
        assert_eq!(self.who_answers(&self.node, "10.43.0.5:80"), both, "from the node");
        assert_eq!(self.b.tcp("10.43.0.7:80"), Ok(format!("a {b}")), "pods keep their address");
        assert!(self.a.tcp("10.43.0.7:80").expect("hairpin").starts_with("a "), "{a} through its own Service");
        assert_eq!(self.who_answers(&self.b, "10.43.0.6:80").len(), 1, "affinity");
        let start = Instant::now();
        assert_eq!(self.b.tcp("10.43.0.8:80"), Err("connection refused".to_owned()), "no endpoints");
        assert_eq!(self.node.tcp("10.43.0.8:80"), Err("connection refused".to_owned()), "no endpoints, from the node");
        assert!(start.elapsed() < Duration::from_secs(1), "at once");
        assert_eq!(self.b.udp("10.43.0.9:53".parse().expect("address"), b"x".to_vec()), Some(b"a".to_vec()));
    }

    fn outside_addresses(&self, b: &str) {
        let both = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
        assert_eq!(self.who_answers(&self.outside, "192.0.2.1:30080"), both, "node port");
        assert_eq!(self.who_answers(&self.node, "192.0.2.1:30080"), both, "node port from the node");
        assert_eq!(self.who_answers(&self.b, "192.0.2.1:30080"), both, "node port from a pod");
        assert_eq!(self.outside.tcp("192.0.2.1:8088"), Ok("a 192.0.2.2".to_owned()), "host port");
        assert_eq!(self.b.tcp("192.0.2.1:8088"), Ok(format!("a {b}")), "host port from a pod");
        assert!(self.a.tcp("192.0.2.1:8088").expect("host port from itself").starts_with("a "));
        assert_eq!(self.who_answers(&self.b, "203.0.113.5:80"), both, "external address");
    }

    fn names(&self, a: &str) {
        for from in [&self.b, &self.node] {
            assert_eq!(
                ask(from, "10.43.0.10", "web.default.svc.cluster.local.", RecordType::A),
                Some(vec!["10.43.0.5".into()])
            );
        }
        let pod = format!("{}.default.pod.cluster.local.", a.replace('.', "-"));
        assert_eq!(ask(&self.b, "10.43.0.10", &pod, RecordType::A), Some(vec![a.to_owned()]));
        let reverse = ask(&self.b, "10.43.0.10", "5.0.43.10.in-addr.arpa.", RecordType::PTR);
        assert_eq!(reverse, Some(vec!["web.default.svc.cluster.local.".into()]));
        let resolver = eyot_net::host::resolver_address(INSTANCE).to_string();
        self.outside.command(&format!("ip route replace {resolver}/32 via 192.0.2.1"));
        assert_eq!(
            ask(&self.outside, &resolver, "web.default.svc.cluster.local.", RecordType::A),
            None,
            "not for neighbours"
        );
    }

    /// An island: the machine itself must reach Services all the same, and unknown ones must not loop.
    fn without_a_default_route(&self) {
        let refused = Err("connection refused".to_owned());
        for (from, who) in [(&self.node, "node"), (&self.b, "pod")] {
            assert_eq!(from.tcp("10.43.0.5:81"), refused, "a port that the Service lacks, from the {who}");
            assert_eq!(from.tcp("10.43.77.77:80"), refused, "no such Service, from the {who}");
        }
        self.node.command("ip route delete default");
        assert!(self.node.tcp("10.43.0.5:80").is_ok());
        assert!(ask(&self.node, "10.43.0.10", "web.default.svc.cluster.local.", RecordType::A).is_some());
        assert_eq!(self.node.tcp("10.43.77.77:80"), refused);
        self.node.command("ip route add default via 192.0.2.2");
    }

    async fn changes(&self, b: &str) {
        let to = "10.43.0.9:53".parse().expect("address");
        self.put_slice("udp", &[b], json!({"port": 5353, "protocol": "UDP", "name": "u"}));
        let took = self.eventually("UDP moves to b", |w| w.a.udp(to, b"x".to_vec()) == Some(b"b".to_vec())).await;
        eprintln!("an endpoint changed after {} ms", took.as_millis());
        let tcp = json!({"port": 8080, "protocol": "TCP", "name": "http"});
        self.put_slice("empty", &[b], tcp.clone());
        self.eventually("the empty Service is served", |w| w.a.tcp("10.43.0.8:80").is_ok()).await;
        self.put_slice("sticky", &[b], tcp.clone());
        self.eventually("affinity to a is forgotten", |w| w.who_answers(&w.b, "10.43.0.6:80").contains("b")).await;
        self.put_slice("empty", &[], tcp);
        let refused = Err("connection refused".to_owned());
        self.eventually("and refused again", |w| w.a.tcp("10.43.0.8:80") == refused).await;
    }

    /// A thousand more, then one change among them.
    async fn thousand_services(&self) {
        let tcp = json!({"port": 8080, "protocol": "TCP", "name": "http"});
        let start = Instant::now();
        for number in 0..1000_u32 {
            let name = format!("many-{number}");
            let ip = format!("10.43.{}.{}", 100 + number / 250, 1 + number % 250);
            let ports = json!([{"port": 80, "protocol": "TCP", "name": "http"}]);
            let spec = json!({"clusterIP": ip, "clusterIPs": [ip], "ports": ports});
            self.api.put(SERVICES, json!({"metadata": {"namespace": "default", "name": name}, "spec": spec}));
            self.put_slice(&name, &["10.42.7.250", "10.42.7.251", "10.42.7.252"], tcp.clone());
        }
        let last = "10.43.103.250 . tcp . 80";
        self.eventually("1,000 Services have rules", |w| {
            w.node.command("nft list map inet tnet service-ips").contains(last)
        })
        .await;
        eprintln!("1,000 Services have rules after {} ms", start.elapsed().as_millis());
        let to = "10.43.0.9:53".parse().expect("address");
        self.put_slice("udp", &[], json!({"port": 5353, "protocol": "UDP", "name": "u"}));
        let took = self.eventually("one change among them", |w| w.a.udp(to, b"x".to_vec()).is_none()).await;
        eprintln!("one change among 1,000 after {} ms", took.as_millis());
        self.node.command("nft list table inet tnet");
    }
}

fn cni_add(plugin: &Value, netns: &Netns, id: &str) -> Value {
    let program = cni_plugin(plugin["type"].as_str().expect("type"));
    let mut command = Command::new(&program);
    command.envs([("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", id), ("CNI_IFNAME", "eth0")]);
    command.env("CNI_NETNS", netns.path()).env("CNI_PATH", program.parent().expect("directory"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("spawn");
    let config = plugin.to_string();
    child.stdin.take().expect("stdin").write_all(config.as_bytes()).expect("write");
    let output = child.wait_with_output().expect("wait");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    serde_json::from_slice(&output.stdout).expect("json")
}

/// The data of the answers.
fn ask(from: &Netns, server: &str, name: &str, kind: RecordType) -> Option<Vec<String>> {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).expect("name"), kind));
    let to = format!("{server}:53").parse().expect("address");
    let packet = from.udp(to, message.to_vec().expect("bytes"))?;
    let answer = Message::from_vec(&packet).expect("message");
    Some(answer.answers.iter().map(|record| record.data.to_string()).collect())
}
