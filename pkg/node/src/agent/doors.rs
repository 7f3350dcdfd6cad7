//! What servers reach over this node's links: its own port, and what its pods listen on. Nothing else of the network that the
//! node stands in.
use client::Reflector;
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Pod;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The places that a link leads to.
pub struct Doors {
    /// This node's port, as its Node object has it.
    pub kubelet: SocketAddr,
    pub node: String,
    /// Whatever a pod's status says, its own addresses lie in here.
    pub cluster_cidr: Ipv4Net,
    pub pods: Reflector<Pod>,
}

impl Doors {
    /// Where a connection goes that is asked for; none: nowhere.
    pub fn find(&self, wanted: SocketAddr) -> Option<SocketAddr> {
        if wanted == self.kubelet {
            // The port listens on all addresses; this one needs no way through the network.
            return Some((Ipv4Addr::LOCALHOST, wanted.port()).into());
        }
        let listens =
            |pod: &Pod| is_here(pod, &self.node) && listens(pod, wanted, self.kubelet.ip(), self.cluster_cidr);
        self.pods.list().iter().any(|pod| listens(pod)).then_some(wanted)
    }
}

/// Whether a pod runs on the node.
fn is_here(pod: &Pod, node: &str) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let ended = matches!(phase, Some("Succeeded" | "Failed"));
    !ended && pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node)
}

/// Whether a pod may be meant by an address: any port of its own, and of the node's those that it names.
fn listens(pod: &Pod, wanted: SocketAddr, node_ip: IpAddr, cluster_cidr: Ipv4Net) -> bool {
    let Some(spec) = &pod.spec else { return false };
    if spec.host_network == Some(true) {
        let ports = spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
        let mut tcp = ports.filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"));
        return wanted.ip() == node_ip && tcp.any(|port| port.container_port == i32::from(wanted.port()));
    }
    let IpAddr::V4(ip) = wanted.ip() else { return false };
    let status = pod.status.as_ref();
    let is = |text: &str| text.parse() == Ok(ip);
    cluster_cidr.contains(&ip) && status.and_then(|status| status.pod_ip.as_deref()).is_some_and(is)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value, ip: &str) -> Pod {
        let status = json!({"podIP": ip, "phase": "Running"});
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec, "status": status})).unwrap()
    }

    fn reaches(pod: &Pod, wanted: &str) -> bool {
        let (node_ip, cidr) = ("192.0.2.7".parse().unwrap(), "10.42.0.0/16".parse().unwrap());
        is_here(pod, "n") && listens(pod, wanted.parse().unwrap(), node_ip, cidr)
    }

    #[test]
    fn a_pod_is_reached_at_its_own_address() {
        let plain = |node: &str, ip: &str| pod(json!({"nodeName": node, "containers": []}), ip);
        assert!(reaches(&plain("n", "10.42.1.2"), "10.42.1.2:8080"));
        assert!(!reaches(&plain("n", "10.42.1.2"), "10.42.1.3:8080"));
        assert!(!reaches(&plain("other", "10.42.1.2"), "10.42.1.2:8080"), "it runs elsewhere");
        for lie in ["169.254.169.254", "192.0.2.1", "127.0.0.1"] {
            assert!(!reaches(&plain("n", lie), &format!("{lie}:80")), "no pod has that address");
        }
        let mut ended = plain("n", "10.42.1.2");
        ended.status.as_mut().unwrap().phase = Some("Succeeded".into());
        assert!(!reaches(&ended, "10.42.1.2:8080"), "its address may be another's");
    }

    #[test]
    fn a_pod_on_the_nodes_network_is_reached_at_the_ports_that_it_names() {
        let ports = json!([{"containerPort": 9443}, {"containerPort": 53, "protocol": "UDP"}]);
        let spec = json!({"nodeName": "n", "hostNetwork": true, "containers": [{"name": "c", "ports": ports}]});
        let host = pod(spec, "192.0.2.7");
        assert!(reaches(&host, "192.0.2.7:9443"));
        for elsewhere in ["192.0.2.7:22", "192.0.2.7:53", "192.0.2.8:9443", "10.42.0.1:9443"] {
            assert!(!reaches(&host, elsewhere), "{elsewhere}");
        }
    }
}
