//! Three nodes, two of them on one link and the third behind a router, each with a pod, in namespaces of their own.
//!
//! ```text
//!  here 192.0.2.1 ──┐
//!                   ├── 192.0.2.254 router 198.51.100.254 ── 198.51.100.1 there
//!  near 192.0.2.7 ──┘
//! ```
use super::api::Api;
use super::netns::Netns;
use super::{SERVICES, SLICES, WAIT, cni_add, obstacle};
use client::Informers;
use eyot_net::{Backend, Options, Service, cleanup};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const NODES: &str = "/api/v1/nodes";
const PODS: &str = "/api/v1/pods";
/// A Service whose only endpoint is there.
const FAR: &str = "10.43.0.5:80";
/// What is sent through in one piece.
const LARGE: usize = 1 << 20;

#[test]
fn pods_reach_each_other_across_a_router() {
    let missing = obstacle().or_else(|| (!has_vxlan()).then(|| "the kernel has no vxlan".to_owned()));
    if let Some(obstacle) = missing {
        return eprintln!("skipped: {obstacle}");
    }
    let mut world = World::new();
    world.links();
    world.paths();
    world.services();
    world.policies();
    world.strangers();
    world.changes();
    world.restarts();
    world.cleanups();
}

fn has_vxlan() -> bool {
    let add = ["link", "add", "probe", "type", "vxlan", "id", "1", "dstport", "8472"];
    Netns::new().run(move || std::process::Command::new("ip").args(add).status().is_ok_and(|status| status.success()))
}

/// A node and its pod.
struct Host {
    name: &'static str,
    address: Ipv4Addr,
    /// The third number of its pods' addresses.
    number: u8,
    net: Netns,
    pod: Netns,
    pod_ip: String,
    dir: tempfile::TempDir,
    running: Option<(CancellationToken, std::thread::JoinHandle<()>)>,
}

impl Host {
    fn new(name: &'static str, address: Ipv4Addr, number: u8) -> Self {
        let (net, pod, dir) = (Netns::new(), Netns::new(), tempfile::tempdir().expect("dir"));
        net.command("ip link set lo up");
        // The strictest that a distribution sets.
        net.set("ipv4/conf/all/rp_filter", "1");
        net.set("ipv4/conf/default/rp_filter", "1");
        Self { name, address, number, net, pod, pod_ip: String::new(), dir, running: None }
    }

    /// `<name>-vx`.
    fn device(&self) -> String {
        format!("{}-vx", self.name)
    }

    fn start(&mut self, api: &Api, backend: Backend) {
        let shutdown = CancellationToken::new();
        let (api, token, name, node_address) = (api.clone(), shutdown.clone(), self.name, self.address);
        let data_dir = self.dir.path().to_owned();
        let run = move || async move {
            let tasks = TaskTracker::new();
            let service = Service::new(Options {
                informers: Informers::new(api.client(), tasks.clone(), token.clone()),
                client: api.client(),
                node_name: name.to_owned(),
                node_address,
                instance: name.to_owned(),
                data_dir,
                cluster_cidr: "10.42.0.0/16".parse().expect("cidr"),
                service_cidr: "10.43.0.0/16".parse().expect("cidr"),
                backend,
                cluster_dns: Ipv4Addr::new(10, 43, 0, 10),
                cluster_domain: "cluster.local".to_owned(),
                resolv_conf: "/nonexistent".into(),
                ownership: client::home::alone(),
            });
            Box::pin(service.run(token)).await.expect("it ends well");
            tasks.close();
            tasks.wait().await;
        };
        let thread = self.net.spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            runtime.worker_threads(1).enable_all().build().expect("runtime").block_on(run());
        });
        self.running = Some((shutdown, thread));
    }

    fn stop(&mut self) {
        let (shutdown, thread) = self.running.take().expect("it runs");
        shutdown.cancel();
        thread.join().expect("it ends");
    }

    /// Links the pod as soon as the node says how.
    fn plug(&mut self) {
        let file = self.dir.path().join(format!("agent/etc/cni/net.d/10-{}.conflist", self.name));
        eventually("the CNI configuration is written", || file.exists());
        let list: Value = serde_json::from_slice(&std::fs::read(file).expect("read")).expect("json");
        let mut plugin = list["plugins"][0].clone();
        (plugin["name"], plugin["cniVersion"]) = (list["name"].clone(), list["cniVersion"].clone());
        self.pod.command("ip link set lo up");
        let (pod, name) = (self.pod.clone(), self.name);
        let result = self.net.run(move || cni_add(&plugin, &pod, name));
        let address = result["ips"][0]["address"].as_str().expect("address");
        self.pod_ip = address.split('/').next().expect("address").to_owned();
        self.pod.serve_tcp(self.name, 8080);
        self.pod.serve_udp(self.name, 5353);
        self.pod.echo_tcp(7000);
    }

    fn web(&self) -> String {
        format!("{}:8080", self.pod_ip)
    }

    /// The ways to other nodes' pods.
    fn ways(&self) -> String {
        self.net.command("ip route show proto 143")
    }

    fn declare(&self, api: &Api, address: Ipv4Addr) {
        let cidr = format!("10.42.{}.0/24", self.number);
        api.put(
            NODES,
            json!({
                "metadata": {"name": self.name, "creationTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"podCIDR": cidr, "podCIDRs": [cidr]},
                "status": {"addresses": [{"type": "InternalIP", "address": address}]},
            }),
        );
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some((shutdown, _)) = &self.running {
            shutdown.cancel();
        }
    }
}

struct World {
    router: Netns,
    here: Host,
    near: Host,
    there: Host,
    api: Api,
}

fn eventually(what: &str, check: impl Fn() -> bool) {
    let start = Instant::now();
    while !check() {
        assert!(start.elapsed() < WAIT, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl World {
    fn new() -> Self {
        let router = Netns::new();
        router.command("ip link set lo up");
        router.set("ipv4/ip_forward", "1");
        router.command("ip link add lan type bridge");
        router.command("ip address add 192.0.2.254/24 dev lan");
        router.command("ip link set lan up");
        let here = Host::new("here", Ipv4Addr::new(192, 0, 2, 1), 1);
        let near = Host::new("near", Ipv4Addr::new(192, 0, 2, 7), 2);
        let there = Host::new("there", Ipv4Addr::new(198, 51, 100, 1), 3);
        for (host, gateway) in [(&here, "192.0.2.254"), (&near, "192.0.2.254"), (&there, "198.51.100.254")] {
            let (name, path) = (host.name, host.net.path());
            router.command(&format!("ip link add {name} type veth peer name eth0 netns {path}"));
            router.command(&format!("ip link set {name} up"));
            host.net.command(&format!("ip address add {}/24 dev eth0", host.address));
            host.net.command("ip link set eth0 up");
            host.net.command(&format!("ip route add default via {gateway}"));
        }
        router.command("ip link set here master lan");
        router.command("ip link set near master lan");
        router.command("ip address add 198.51.100.254/24 dev there");
        let mut world = Self { router, here, near, there, api: Api::new() };
        world.api.put("/api/v1/namespaces", json!({"metadata": {"name": "default"}}));
        // What an earlier run with other settings left.
        world.here.net.command("ip link add here-vx type vxlan id 7 dstport 4789");
        for host in [&mut world.here, &mut world.near, &mut world.there] {
            host.declare(&world.api, host.address);
            host.start(&world.api, Backend::Vxlan);
        }
        for host in [&mut world.here, &mut world.near, &mut world.there] {
            host.plug();
        }
        world
    }

    /// What the kernel was told.
    fn links(&self) {
        let far = "10.42.3.0/24 via 10.42.3.0 dev here-vx onlink";
        eventually("here has both ways", || {
            let ways = self.here.ways();
            ways.contains(far) && ways.contains("10.42.2.0/24 via 192.0.2.7 dev eth0")
        });
        eventually("there has two tunnels", || self.there.ways().matches("dev there-vx onlink").count() == 2);
        let device = self.here.net.command("ip -d link show here-vx");
        for fact in ["id 666112", "local 192.0.2.1", "dstport 8472", "nolearning", "mtu 1450", "0e:79:0a:2a:01:00"] {
            assert!(device.contains(fact), "{fact}: {device}");
        }
        let neighbours = self.here.net.command("ip neighbour show dev here-vx");
        assert!(neighbours.contains("10.42.3.0 lladdr 0e:79:0a:2a:03:00 PERMANENT"), "{neighbours}");
        let forwarding = self.here.net.command("bridge fdb show dev here-vx");
        assert!(forwarding.contains("0e:79:0a:2a:03:00 dst 198.51.100.1 self permanent"), "{forwarding}");
        assert!(self.here.pod.command("ip link show eth0").contains("mtu 1450"));
    }

    /// Pods and nodes, each way, small and large.
    fn paths(&self) {
        let Self { here, near, there, .. } = self;
        for (from, to) in [(here, there), (there, here), (near, there), (there, near), (here, near), (near, here)] {
            let path = format!("{} to {}", from.name, to.name);
            assert_eq!(from.pod.tcp(&to.web()), Ok(format!("{} {}", to.name, from.pod_ip)), "{path}");
            let udp: SocketAddrV4 = format!("{}:5353", to.pod_ip).parse().expect("address");
            for size in [1, 1422, 1423, 1500, 4000] {
                assert_eq!(from.pod.udp(udp, vec![0; size]), Some(to.name.into()), "{size} bytes, {path}");
            }
            large(&from.pod, &format!("{}:7000", to.pod_ip));
            large(&from.net, &format!("{}:7000", to.pod_ip));
        }
        let end = format!("there 10.42.{}.0", here.number);
        assert_eq!(here.net.tcp(&there.web()), Ok(end), "a node comes from its end of the tunnel");
        // A pod that is older than VXLAN sends what is too large, and is told.
        here.pod.command("ip link set eth0 mtu 1500");
        large(&here.pod, &format!("{}:7000", there.pod_ip));
        here.pod.command("ip link set eth0 mtu 1450");
    }

    fn services(&self) {
        let ports = json!([{"port": 80, "protocol": "TCP", "name": "http", "nodePort": 30080}]);
        let spec = json!({"clusterIP": "10.43.0.5", "clusterIPs": ["10.43.0.5"], "type": "NodePort", "ports": ports});
        self.api.put(SERVICES, json!({"metadata": {"namespace": "default", "name": "far"}, "spec": spec}));
        let labels = json!({"kubernetes.io/service-name": "far"});
        self.api.put(
            SLICES,
            json!({
                "metadata": {"namespace": "default", "name": "far-1", "labels": labels}, "addressType": "IPv4",
                "endpoints": [{"addresses": [self.there.pod_ip], "nodeName": "there"}],
                "ports": [{"port": 8080, "protocol": "TCP", "name": "http"}],
            }),
        );
        let pod = Ok(format!("there {}", self.here.pod_ip));
        eventually("a Service with an endpoint there", || self.here.pod.tcp(FAR) == pod);
        assert!(self.here.net.tcp(FAR).expect("from the node").starts_with("there "));
        for port in ["192.0.2.1:30080", "192.0.2.7:30080", "198.51.100.1:30080"] {
            eventually(port, || self.router.tcp(port).is_ok());
        }
        assert!(self.here.net.tcp("127.0.0.1:30080").expect("from the node itself").starts_with("there "));
    }

    fn policies(&self) {
        for host in [&self.here, &self.near, &self.there] {
            self.api.put(
                PODS,
                json!({
                    "metadata": {"namespace": "default", "name": host.name, "labels": {"app": host.name}},
                    "spec": {"nodeName": host.name, "containers": [{"name": "c"}]},
                    "status": {"phase": "Running", "podIP": host.pod_ip},
                }),
            );
        }
        let from = json!([{"podSelector": {"matchLabels": {"app": "near"}}}]);
        let spec = json!({"podSelector": {"matchLabels": {"app": "there"}}, "ingress": [{"from": from}]});
        let policies = "/apis/networking.k8s.io/v1/networkpolicies";
        self.api.put(policies, json!({"metadata": {"namespace": "default", "name": "near-only"}, "spec": spec}));
        eventually("here is kept out", || self.here.pod.tcp(&self.there.web()).is_err());
        assert!(self.here.pod.tcp(FAR).is_err(), "by a Service too");
        assert!(self.near.pod.tcp(&self.there.web()).is_ok(), "near is not");
        self.api.delete(policies, "near-only");
        eventually("all are let in again", || self.here.pod.tcp(&self.there.web()).is_ok());
    }

    /// Who is no node sends into no pod, be it under another's inner address.
    fn strangers(&self) {
        let ip: Ipv4Addr = self.there.pod_ip.parse().expect("address");
        let listener = self.there.pod.run(move || UdpSocket::bind((ip, 6000)).expect("bind"));
        listener.set_read_timeout(Some(Duration::from_millis(300))).expect("timeout");
        let packet = forged(self.there.number, self.here.pod_ip.parse().expect("address"), ip);
        let to = SocketAddr::new(self.there.address.into(), 8472);
        let hears = |from: &Netns| {
            let packet = packet.clone();
            from.run(move || UdpSocket::bind("0.0.0.0:0").expect("bind").send_to(&packet, to).expect("send"));
            listener.recv(&mut [0; 16]).is_ok()
        };
        assert!(hears(&self.here.net), "a node's packets are taken");
        assert!(!hears(&self.router), "a stranger's are not");
        assert!(!hears(&self.here.pod), "nor a pod's, which would come from its node");
        let drops = |host: &Host, chain: &str| {
            let rules = host.net.command(&format!("nft list chain inet {} {chain}", host.name));
            rules.lines().find(|line| line.contains("8472")).expect("the rule").contains("packets 1 ")
        };
        assert!(drops(&self.there, "filter-input") && drops(&self.here, "filter-forward"));
    }

    fn changes(&self) {
        let Self { here, near, there, api, .. } = self;
        near.declare(api, Ipv4Addr::new(203, 0, 113, 7));
        eventually("a node that moved behind the router", || here.ways().contains("10.42.2.0/24 via 10.42.2.0 dev"));
        near.declare(api, near.address);
        eventually("and back", || here.ways().contains("10.42.2.0/24 via 192.0.2.7 dev eth0"));
        let known = |of: &str| here.net.command("bridge fdb show dev here-vx").contains(of);
        eventually("its tunnel is forgotten", || !known("0e:79:0a:2a:02:00"));
        there.declare(api, Ipv4Addr::new(198, 51, 100, 99));
        eventually("a node with another address", || known("0e:79:0a:2a:03:00 dst 198.51.100.99"));
        api.delete(NODES, "there");
        eventually("a node that left", || !here.ways().contains("10.42.3.0") && !known("0e:79:0a:2a:03:00"));
        assert!(!here.net.command("ip neighbour show dev here-vx").contains("10.42.3.0"));
        here.net.command("ip link delete here-vx");
        there.declare(api, there.address);
        eventually("it is back, and so is the device", || here.pod.tcp(&there.web()).is_ok());
    }

    fn restarts(&mut self) {
        let Self { here, there, api, .. } = self;
        let before = (here.net.command("ip -o link show here-vx"), here.ways());
        here.stop();
        assert!(here.pod.tcp(&there.web()).is_ok(), "ways outlive the process");
        here.start(api, Backend::Vxlan);
        api.put(
            NODES,
            json!({"metadata": {"name": "new"}, "spec": {"podCIDR": "10.42.9.0/24"},
            "status": {"addresses": [{"type": "InternalIP", "address": "198.51.100.77"}]}}),
        );
        eventually("a new node is seen", || here.ways().contains("10.42.9.0/24"));
        api.delete(NODES, "new");
        eventually("and seen to leave", || !here.ways().contains("10.42.9.0/24"));
        assert_eq!((here.net.command("ip -o link show here-vx"), here.ways()), before, "nothing else has changed");

        here.stop();
        here.start(api, Backend::HostGw);
        eventually("direct routes alone", || !here.ways().contains("10.42.3.0/24"));
        assert!(here.ways().contains("10.42.2.0/24 via 192.0.2.7 dev eth0"));
        assert!(!here.net.command("ip link").contains("here-vx"));
        here.stop();
        let conf = here.dir.path().join("agent/etc/cni/net.d/10-here.conflist");
        assert!(conf.exists());
        here.start(api, Backend::None);
        eventually("another program's pod network", || here.ways().is_empty() && !conf.exists());
        here.stop();
        // As on a kernel without VXLAN: it can't be had, here because another link has the number.
        here.net.command("ip link add other type vxlan id 666112 dstport 8472");
        here.start(api, Backend::Vxlan);
        eventually("direct routes alone, again", || here.ways().contains("10.42.2.0/24 via 192.0.2.7 dev eth0"));
        assert!(!here.ways().contains("10.42.3.0/24"));
        eventually("with whole packets", || std::fs::read_to_string(&conf).is_ok_and(|conf| conf.contains("1500")));
        here.stop();
        here.net.command("ip link delete other");
        here.start(api, Backend::VxlanAlways);
        eventually("tunnels alone", || here.ways().matches("dev here-vx onlink").count() == 2);
        assert!(here.pod.tcp(&there.web()).is_ok());
    }

    fn cleanups(&mut self) {
        for host in [&mut self.here, &mut self.near, &mut self.there] {
            host.stop();
            let (name, dir) = (host.name, host.dir.path().to_owned());
            host.net.run(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
                for _ in 0..2 {
                    runtime.block_on(cleanup(name, &dir)).expect("cleanup");
                }
            });
            assert_eq!(host.ways(), "");
            assert!(!host.net.command("ip link").contains(&host.device()));
            assert_eq!(host.net.command("nft list tables").trim(), "");
        }
    }
}

/// Sends much to an echo and reads all of it back.
fn large(from: &Netns, to: &str) {
    let mut stream = from.connect(to);
    stream.set_read_timeout(Some(WAIT)).expect("timeout");
    let mut out = stream.try_clone().expect("clone");
    let writer = std::thread::spawn(move || out.write_all(&vec![7; LARGE]).expect("write"));
    let mut back = vec![0; LARGE];
    stream.read_exact(&mut back).expect("all of it comes back");
    writer.join().expect("written");
    assert!(back.iter().all(|byte| *byte == 7));
}

/// VXLAN of the cluster's network to the node with pods `10.42.number.0/24`: a datagram from one pod to port 6000 of another.
fn forged(number: u8, from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let mut packet = vec![8, 0, 0, 0, 0x0a, 0x2a, 0, 0];
    packet.extend([0x0e, 0x79, 10, 42, number, 0, 0x0e, 0x79, 10, 42, 1, 0, 8, 0]);
    let mut ip = vec![0x45, 0, 0, 20 + 8 + 1, 0, 0, 0, 0, 64, 17, 0, 0];
    ip.extend(from.octets());
    ip.extend(to.octets());
    let sum: u32 = ip.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let check = !u16::try_from((folded & 0xffff) + (folded >> 16)).expect("16 bits");
    ip[10..12].copy_from_slice(&check.to_be_bytes());
    packet.extend(ip);
    packet.extend([0x1f, 0x40, 0x17, 0x70, 0, 9, 0, 0, b'x']);
    packet
}
