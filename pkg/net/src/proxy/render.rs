//! From [`Desired`] to nftables, as a pure function.
//!
//! ```text
//!  prerouting, output ─► services ─► @service-ips ─► svc-H  (policy Cluster) ─┐
//!                                 │               ├► loc-H  (policy Local)  ──┼─► dnat, or ep-H with affinity
//!                                 ├► @node-ports ─┴► ext-H  (from outside)  ──┘
//!                                 └► @host-ports ─► dnat
//!  input, forward ─► what policies say: see [`policy::render`]
//!  input, forward, output ─► @no-endpoints, @no-endpoint-ports ─► reject or drop what found nobody
//!  postrouting ─► masquerade what is marked, meets itself, or leaves the cluster
//! ```
//! H is a hash of the Service port's name. A Service costs a chain and an element; one that changes costs the same
//! in a transaction, however many others there are.
use super::model::{Base, Desired, HostPort, ServicePort};
use crate::policy;
use crate::routes::vtep;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};

/// Packets that get the node's own address on their way out; kube-proxy's bit, so that other programs know it.
const MASQUERADE_MARK: &str = "0x4000";

/// Clients that one endpoint's affinity remembers at most.
const MAX_AFFINE_CLIENTS: u32 = 65_536;

/// nftables' bound for a rule's comment, in bytes.
pub const COMMENT_BYTES: usize = 127;

/// Packets from a pod's link with an address that is not the pod's. Policies go by addresses, and a pod may forge
/// packets (CAP_NET_RAW is in every runtime's default).
const PRETENDER: &str = r#"iifname "veth*" fib saddr . iif oif missing"#;

/// The maps and sets that every table has.
pub const SERVICE_IPS: &str = "service-ips";
pub const NODE_PORTS: &str = "node-ports";
pub const HOST_PORTS: &str = "host-ports";
pub const HOST_IP_PORTS: &str = "host-ip-ports";
pub const NO_ENDPOINTS: &str = "no-endpoints";
pub const NO_ENDPOINT_PORTS: &str = "no-endpoint-ports";
pub const HAIRPIN: &str = "hairpin";
/// Where VXLAN packets may come from; there is one in clusters with VXLAN alone.
pub const VXLAN_NODES: &str = "vxlan-nodes";

/// The variable part of our table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Sets beside those of the base, by name.
    pub sets: BTreeMap<String, Set>,
    /// Chains beside those of the base: name and rules.
    pub chains: BTreeMap<String, Vec<String>>,
    /// Elements of the base's maps and sets: (map, key) and value, which is empty in a set.
    pub elements: BTreeMap<(&'static str, String), String>,
}

/// A set beside those of the base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Its type and options; a set of one name always has the same.
    pub declaration: String,
    /// None in a set that the kernel fills.
    pub members: BTreeSet<String>,
}

/// The fixed part: maps, hooks, and the way between them.
///
/// What still goes to a Service's address after translation names no Service, or no port of it: refused as well.
/// TCP is refused by a reset: a process of this node would overhear an ICMP error, because its socket is still busy
/// with sending, and try again for a second.
///
/// Node ports and host ports answer on 127.0.0.1 too, so packets from there leave the loopback link and the kernel is
/// told to let them ([`crate::host::route_loopback`]). It would then also take such addresses from the wire, which
/// nobody may send: `loopback-guard` drops them before anything else.
pub fn base(base: &Base) -> String {
    let Base { table, cluster_cidr, service_cidr, dns, .. } = base;
    let dns_dnat = dns.map_or_else(String::new, |(_, to)| format!("    meta l4proto {{ tcp, udp }} dnat ip to {to}\n"));
    // The resolver is for this node and its pods, not for neighbours who route to its address. Answers to what the
    // node itself sends from that address must pass. Policies can't name the resolver, which is no pod, so none of
    // them keeps a pod from it.
    let dns_guard = dns.map_or_else(String::new, |(_, to)| {
        let guarded = format!("ip daddr {} th dport {}", to.ip(), to.port());
        format!("    {guarded} fib saddr type != local ip saddr != {cluster_cidr} drop\n    {guarded} accept\n")
    });
    let policies = policy::render::base();
    let Vxlan { set: vxlan_set, input: vxlan_input, forward: vxlan_forward } = vxlan(base);
    let (pretender, masquerade) = pods_links(base);
    format!(
        r#"table inet {table} {{
  map {SERVICE_IPS} {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
  map {NODE_PORTS} {{ type inet_proto . inet_service : verdict; }}
  map {HOST_PORTS} {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
  map {HOST_IP_PORTS} {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
  map {NO_ENDPOINTS} {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
  map {NO_ENDPOINT_PORTS} {{ type inet_proto . inet_service : verdict; }}
  set {HAIRPIN} {{ type ipv4_addr . ipv4_addr; }}
{vxlan_set}{policies}  chain masquerade-mark {{
    meta mark set meta mark or {MASQUERADE_MARK}
  }}
  chain refuse {{
    meta l4proto tcp reject with tcp reset
    reject
  }}
  chain cluster-dns {{
{dns_dnat}  }}
  chain services {{
    ip daddr . meta l4proto . th dport vmap @{SERVICE_IPS}
    fib daddr type local meta l4proto . th dport vmap @{NODE_PORTS}
    fib daddr type local dnat ip to ip daddr . meta l4proto . th dport map @{HOST_IP_PORTS}
    fib daddr type local dnat ip to meta l4proto . th dport map @{HOST_PORTS}
  }}
  chain unserved {{
    ip daddr . meta l4proto . th dport vmap @{NO_ENDPOINTS}
    fib daddr type local meta l4proto . th dport vmap @{NO_ENDPOINT_PORTS}
  }}
  chain loopback-guard {{
    type filter hook prerouting priority raw; policy accept;
    iifname != "lo" ip saddr 127.0.0.0/8 drop
    iifname != "lo" ip daddr 127.0.0.0/8 drop
  }}
  chain nat-prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    jump services
  }}
  chain nat-output {{
    type nat hook output priority -100; policy accept;
    jump services
  }}
  chain nat-postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ct status dnat ip saddr . ip daddr @{HAIRPIN} masquerade fully-random
    meta mark & {MASQUERADE_MARK} != 0 meta mark set meta mark xor {MASQUERADE_MARK} masquerade fully-random
    oifname "lo" return
    ct status dnat ip saddr 127.0.0.0/8 masquerade fully-random
{masquerade}  }}
  chain filter-input {{
    type filter hook input priority -10; policy accept;
{vxlan_input}{dns_guard}    ct state established,related accept
{pretender}    ct state new jump unserved
    jump isolate-egress
  }}
  chain filter-forward {{
    type filter hook forward priority -10; policy accept;
{vxlan_forward}    ct state established,related accept
{pretender}    ct state new jump unserved
    ct state new ip daddr {service_cidr} goto refuse
    ip saddr . ip daddr @{HAIRPIN} accept
    jump isolate-egress
    jump isolate-ingress
  }}
  chain filter-output {{
    type filter hook output priority -90; policy accept;
    ct state new jump unserved
    ct state new ip daddr {service_cidr} goto refuse
  }}
}}
"#
    )
}

/// What keeps others out of the cluster's VXLAN network.
#[derive(Default)]
struct Vxlan {
    set: String,
    input: String,
    forward: String,
}

/// VXLAN packets say nothing about who made them, so addresses must: those of nodes are taken alone, and no pod may send any to
/// a node, where they would come from its own node's address. Other networks' packets on the same port are not ours to judge.
fn vxlan(base: &Base) -> Vxlan {
    let Some(number) = base.vxlan else { return Vxlan::default() };
    // 64 bits of UDP's header, then 32 before the network's number (RFC 7348).
    let ours = format!("udp dport {} @th,96,24 {number}", vtep::PORT);
    Vxlan {
        set: format!("  set {VXLAN_NODES} {{ type ipv4_addr; }}\n"),
        input: format!("    {ours} ip saddr != @{VXLAN_NODES} counter drop\n"),
        forward: format!("    iifname \"veth*\" ip daddr @{VXLAN_NODES} {ours} counter drop\n"),
    }
}

/// The rules that hold where pods' links are ours: against pretenders, and for masquerading what leaves the cluster.
fn pods_links(base: &Base) -> (String, String) {
    if !base.links_pods {
        return (String::new(), String::new());
    }
    let cidr = base.cluster_cidr;
    let leaves = format!("ip saddr {cidr} ip daddr != {{ {cidr}, 224.0.0.0/4 }}");
    (format!("    {PRETENDER} drop\n"), format!("    {leaves} masquerade fully-random\n"))
}

/// The variable part.
pub fn render(base: &Base, desired: &Desired) -> Ruleset {
    let mut ruleset = Ruleset::default();
    if let Some((address, _)) = base.dns {
        for protocol in ["tcp", "udp"] {
            ruleset.element(SERVICE_IPS, format!("{address} . {protocol} . 53"), "goto cluster-dns");
        }
    }
    for service in &desired.services {
        Renderer { base, service, name: hash(&service.name.to_string()) }.render(&mut ruleset);
    }
    for host_port in &desired.host_ports {
        ruleset.host_port(host_port);
    }
    for address in &desired.local_pods {
        ruleset.element(HAIRPIN, format!("{address} . {address}"), "");
    }
    for address in desired.nodes.iter().filter(|_| base.vxlan.is_some()) {
        ruleset.element(VXLAN_NODES, address.to_string(), "");
    }
    policy::render::render(&desired.policies, &mut ruleset);
    ruleset
}

impl Ruleset {
    /// The first to claim a key keeps it: two Services may name the same external address.
    pub fn element(&mut self, map: &'static str, key: String, value: impl Into<String>) {
        self.elements.entry((map, key)).or_insert_with(|| value.into());
    }

    fn host_port(&mut self, HostPort { ip, protocol, port, to }: &HostPort) {
        let value = format!("{} . {}", to.ip(), to.port());
        match ip {
            Some(ip) => self.element(HOST_IP_PORTS, format!("{ip} . {protocol} . {port}"), value),
            None => self.element(HOST_PORTS, format!("{protocol} . {port}"), value),
        }
    }

    /// A chain and its rules.
    pub fn chain(&mut self, name: &str, rules: Vec<String>) {
        self.chains.insert(name.to_owned(), rules);
    }
}

/// The rules of one Service port.
struct Renderer<'a> {
    base: &'a Base,
    service: &'a ServicePort,
    /// The H of the chains' names.
    name: String,
}

impl Renderer<'_> {
    fn render(&self, ruleset: &mut Ruleset) {
        self.internal(ruleset);
        if self.has_external() {
            self.external(ruleset);
        }
        if self.needs_cluster_chain() {
            let rules = self.balance(&self.service.cluster_endpoints);
            ruleset.chain(&format!("svc-{}", self.name), rules);
        }
        if self.needs_local_chain() {
            let rules = self.balance(&self.service.local_endpoints);
            ruleset.chain(&format!("loc-{}", self.name), rules);
        }
        if let Some(seconds) = self.service.affinity_s {
            self.affine_endpoints(ruleset, seconds);
        }
    }

    fn has_external(&self) -> bool {
        let service = self.service;
        service.node_port.is_some() || !service.external_ips.is_empty() || !service.load_balancer_ips.is_empty()
    }

    fn needs_cluster_chain(&self) -> bool {
        let wanted = !self.service.internal_local || self.has_external();
        wanted && !self.service.cluster_endpoints.is_empty()
    }

    fn needs_local_chain(&self) -> bool {
        let wanted = self.service.internal_local || (self.has_external() && self.service.external_local);
        wanted && !self.service.local_endpoints.is_empty()
    }

    /// What becomes of packets that no endpoint takes: refused where there is none at all, dropped where there are
    /// some, but the policy wants them on this node.
    fn unserved(&self) -> &'static str {
        if self.service.has_any_endpoints { "drop" } else { "goto refuse" }
    }

    /// Cluster addresses.
    fn internal(&self, ruleset: &mut Ruleset) {
        let local = self.service.internal_local;
        let endpoints = if local { &self.service.local_endpoints } else { &self.service.cluster_endpoints };
        for address in &self.service.cluster_ips {
            let key = self.key(*address);
            if !endpoints.is_empty() {
                let kind = if local { "loc" } else { "svc" };
                ruleset.element(SERVICE_IPS, key, format!("goto {kind}-{}", self.name));
            } else if self.base.dns.is_none_or(|(dns, _)| dns != *address || self.service.port != 53) {
                ruleset.element(NO_ENDPOINTS, key, self.unserved());
            }
        }
    }

    /// Node ports, external addresses and load balancers.
    fn external(&self, ruleset: &mut Ruleset) {
        let ServicePort { local_endpoints, cluster_endpoints, external_local, .. } = self.service;
        let chain = format!("ext-{}", self.name);
        let reached = if *external_local { local_endpoints } else { cluster_endpoints };
        // Under policy Local the node itself and its pods still reach everybody, so the chain stays.
        if !cluster_endpoints.is_empty() {
            ruleset.chain(&chain, self.external_rules());
            self.external_elements(ruleset, SERVICE_IPS, NODE_PORTS, &format!("goto {chain}"));
        }
        if reached.is_empty() {
            self.external_elements(ruleset, NO_ENDPOINTS, NO_ENDPOINT_PORTS, self.unserved());
        }
    }

    fn external_elements(&self, ruleset: &mut Ruleset, by_ip: &'static str, by_port: &'static str, verdict: &str) {
        let ServicePort { external_ips, load_balancer_ips, node_port, name, .. } = self.service;
        for address in external_ips.iter().chain(load_balancer_ips) {
            ruleset.element(by_ip, self.key(*address), verdict);
        }
        if let Some(port) = node_port {
            ruleset.element(by_port, format!("{} . {port}", name.protocol), verdict);
        }
    }

    fn external_rules(&self) -> Vec<String> {
        let (name, cidr) = (&self.name, self.base.cluster_cidr);
        let mut rules: Vec<_> = self.firewall().into_iter().collect();
        if !self.service.external_local {
            rules.extend(["jump masquerade-mark".to_owned(), format!("goto svc-{name}")]);
            return rules;
        }
        rules.push(format!("ip saddr {cidr} goto svc-{name}"));
        rules.push("fib saddr type local jump masquerade-mark".to_owned());
        rules.push(format!("fib saddr type local goto svc-{name}"));
        if !self.service.local_endpoints.is_empty() {
            rules.push(format!("goto loc-{name}"));
        }
        rules
    }

    /// `loadBalancerSourceRanges` bind the load balancer's addresses only.
    fn firewall(&self) -> Option<String> {
        let ServicePort { source_ranges, load_balancer_ips, .. } = self.service;
        let bound = !source_ranges.is_empty() && !load_balancer_ips.is_empty();
        let (to, from) = (any_of(load_balancer_ips), any_of(source_ranges));
        bound.then(|| format!("ip daddr {to} ip saddr != {from} drop"))
    }

    /// Chooses one of the endpoints.
    fn balance(&self, endpoints: &[SocketAddrV4]) -> Vec<String> {
        let mut rules = self.masquerade_rules();
        if self.service.affinity_s.is_some() {
            rules.extend(endpoints.iter().map(|e| format!("ip saddr @aff-{0} goto ep-{0}", self.endpoint_name(e))));
            let choices = endpoints.iter().enumerate().map(|(i, e)| format!("{i} : goto ep-{}", self.endpoint_name(e)));
            let choices = choices.collect::<Vec<_>>().join(", ");
            rules.push(format!("numgen random mod {} vmap {{ {choices} }}", endpoints.len()));
        } else if let [only] = endpoints {
            rules.push(self.dnat(&only.to_string()));
        } else {
            let choices = endpoints.iter().enumerate().map(|(i, e)| format!("{i} : {} . {}", e.ip(), e.port()));
            let choices = choices.collect::<Vec<_>>().join(", ");
            rules.push(self.dnat(&format!("numgen random mod {} map {{ {choices} }}", endpoints.len())));
        }
        rules
    }

    /// Who is not a pod and comes to a cluster address gets the node's address, so that answers find back.
    fn masquerade_rules(&self) -> Vec<String> {
        let ServicePort { cluster_ips, name, .. } = self.service;
        if cluster_ips.is_empty() {
            return Vec::new();
        }
        let mut comment = name.to_string();
        comment.truncate(COMMENT_BYTES);
        let (from, to) = (self.base.cluster_cidr, any_of(cluster_ips));
        vec![format!("ip daddr {to} ip saddr != {from} jump masquerade-mark comment \"{comment}\"")]
    }

    fn affine_endpoints(&self, ruleset: &mut Ruleset, seconds: u32) {
        let all: BTreeSet<_> = self.service.cluster_endpoints.iter().chain(&self.service.local_endpoints).collect();
        for endpoint in all {
            let name = self.endpoint_name(endpoint);
            let declaration =
                format!("{{ type ipv4_addr; size {MAX_AFFINE_CLIENTS}; flags dynamic,timeout; timeout {seconds}s; }}");
            ruleset.sets.insert(format!("aff-{name}"), Set { declaration, members: BTreeSet::new() });
            let remember = format!("update @aff-{name} {{ ip saddr }}");
            ruleset.chain(&format!("ep-{name}"), vec![remember, self.dnat(&endpoint.to_string())]);
        }
    }

    fn dnat(&self, to: &str) -> String {
        format!("meta l4proto {} dnat ip to {to}", self.service.name.protocol)
    }

    fn endpoint_name(&self, endpoint: &SocketAddrV4) -> String {
        // The timeout is part of the name: a set's timeout can't be changed.
        hash(&format!("{}/{endpoint}/{:?}", self.name, self.service.affinity_s))
    }

    fn key(&self, address: Ipv4Addr) -> String {
        format!("{address} . {} . {}", self.service.name.protocol, self.service.port)
    }
}

/// What matches any of `items`; a set of one would cost the kernel a set.
pub fn any_of<T: ToString>(items: &[T]) -> String {
    match items {
        [only] => only.to_string(),
        _ => format!("{{ {} }}", items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    }
}

/// FNV-1a of 64 bits: names only have to differ, and to stay the same from one start to the next.
pub fn hash(text: &str) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in text.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{hash:016x}")
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
