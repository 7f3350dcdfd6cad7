//! Everything at birth but roles: namespaces, priority classes, the API's and the DNS's Services, and what
//! extension servers read.
use super::{Object, Update};
use crate::options::{Cluster, FrontProxy};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddrV4};

/// What the objects say of this cluster.
pub struct Wanted {
    pub cluster_id: uuid::Uuid,
    pub api_service_ip: Ipv4Addr,
    pub dns_ip: Ipv4Addr,
    /// Where Services get their addresses from, as `10.43.0.0/16`.
    pub service_cidr: String,
    pub advertise: SocketAddrV4,
    /// PEM of who signs client certificates.
    pub client_ca_pem: String,
    /// PEM of who signs the certificate of requests that are handed on to extension API servers.
    pub front_proxy_ca_pem: String,
    /// The common name of that certificate.
    pub front_proxy_name: String,
}

impl Wanted {
    pub fn new(cluster: &Cluster, client_ca_pem: String, front_proxy: &FrontProxy) -> Self {
        Self {
            cluster_id: cluster.id,
            api_service_ip: cluster.api_service_ip,
            dns_ip: cluster.dns_ip,
            service_cidr: cluster.service_cidr.clone(),
            advertise: cluster.advertise,
            client_ca_pem,
            front_proxy_ca_pem: front_proxy.ca_pem.clone(),
            front_proxy_name: front_proxy.name.clone(),
        }
    }

    #[cfg(test)]
    pub fn example() -> Self {
        Self {
            cluster_id: uuid::Uuid::from_u128(1),
            api_service_ip: [10, 43, 0, 1].into(),
            dns_ip: [10, 43, 0, 10].into(),
            advertise: "192.0.2.1:6443".parse().expect("an address"),
            service_cidr: "10.43.0.0/16".into(),
            client_ca_pem: "PEM".into(),
            front_proxy_ca_pem: "PEM".into(),
            front_proxy_name: "front".into(),
        }
    }
}

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

pub fn all(wanted: &Wanted) -> Vec<Object> {
    let mut objects: Vec<Object> = NAMESPACES.iter().map(|name| namespace(name)).collect();
    objects.extend(priority_classes());
    objects.extend([
        api_service(wanted),
        api_endpoint_slice(wanted),
        api_endpoints(wanted),
        dns_service(wanted),
        extension_authentication(wanted),
        service_cidr(wanted),
        address(wanted.api_service_ip, "default", "kubernetes"),
        address(wanted.dns_ip, "kube-system", "kube-dns"),
    ]);
    objects
}

fn namespace(name: &str) -> Object {
    let value = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
        "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
    });
    Object { key: format!("/registry/namespaces/{name}"), value, update: Update::Never }
}

/// `pkg/apis/scheduling`'s two, whose values are above all that users may give.
fn priority_classes() -> [Object; 2] {
    const CLUSTER: &str = "Used for system critical pods that must run in the cluster, but can be moved to another \
        node if necessary.";
    const NODE: &str = "Used for system critical pods that must not be moved from their current node.";
    [("system-cluster-critical", 2_000_000_000, CLUSTER), ("system-node-critical", 2_000_001_000, NODE)].map(
        |(name, priority, description)| {
            let value = json!({
                "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
                "metadata": {"name": name, "generation": 1},
                "value": priority, "description": description, "preemptionPolicy": "PreemptLowerPriority",
            });
            Object { key: format!("/registry/priorityclasses/{name}"), value, update: Update::Never }
        },
    )
}

fn service(namespace: &str, name: &str, labels: Value, ip: Ipv4Addr, selector: Option<Value>, ports: Value) -> Object {
    let mut value = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster", "sessionAffinity": "None",
            "ports": ports,
        },
        "status": {"loadBalancer": {}},
    });
    if let Some(selector) = selector {
        value["spec"]["selector"] = selector;
    }
    Object { key: format!("/registry/services/specs/{namespace}/{name}"), value, update: Update::Set(&["spec"]) }
}

fn api_service(wanted: &Wanted) -> Object {
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let ports = json!([{"name": "https", "port": 443, "protocol": "TCP", "targetPort": wanted.advertise.port()}]);
    service("default", "kubernetes", labels, wanted.api_service_ip, None, ports)
}

fn api_endpoint_slice(wanted: &Wanted) -> Object {
    let value = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "namespace": "default", "generation": 1,
            "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [wanted.advertise.ip()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": wanted.advertise.port(), "protocol": "TCP"}],
    });
    let update = Update::Set(&["endpoints", "ports"]);
    Object { key: "/registry/endpointslices/default/kubernetes".into(), value, update }
}

fn api_endpoints(wanted: &Wanted) -> Object {
    let value = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "kubernetes", "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": [{"ip": wanted.advertise.ip()}],
            "ports": [{"name": "https", "port": wanted.advertise.port(), "protocol": "TCP"}]}],
    });
    Object { key: "/registry/services/endpoints/default/kubernetes".into(), value, update: Update::Set(&["subsets"]) }
}

/// Every node's network component answers at this address; there are no endpoints to choose from.
fn dns_service(wanted: &Wanted) -> Object {
    let labels =
        json!({"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"});
    let ports = json!([
        {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
    ]);
    service("kube-system", "kube-dns", labels, wanted.dns_ip, None, ports)
}

fn address(ip: Ipv4Addr, namespace: &str, name: &str) -> Object {
    let (key, value) = crate::alloc::book::content(ip.into(), namespace, name);
    Object { key, value, update: Update::Never }
}

/// The range of the command line (`pkg/controlplane/controller/defaultservicecidr`).
fn service_cidr(wanted: &Wanted) -> Object {
    let value = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes", "finalizers": ["networking.k8s.io/service-cidr-finalizer"]},
        "spec": {"cidrs": [wanted.service_cidr]},
        "status": {"conditions": [
            {"type": "Ready", "status": "True", "reason": "", "message": "Kubernetes Service CIDR is ready"},
        ]},
    });
    Object { key: "/registry/servicecidrs/kubernetes".into(), value, update: Update::Set(&["spec"]) }
}

/// Where extension API servers learn whose client certificates hold
/// (`pkg/controlplane/controller/clusterauthenticationtrust`).
fn extension_authentication(wanted: &Wanted) -> Object {
    let value = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": {
            "client-ca-file": wanted.client_ca_pem,
            "requestheader-client-ca-file": wanted.front_proxy_ca_pem,
            "requestheader-allowed-names": json!([wanted.front_proxy_name]).to_string(),
            "requestheader-username-headers": json!(["X-Remote-User"]).to_string(),
            "requestheader-uid-headers": json!(["X-Remote-Uid"]).to_string(),
            "requestheader-group-headers": json!(["X-Remote-Group"]).to_string(),
            "requestheader-extra-headers-prefix": json!(["X-Remote-Extra-"]).to_string(),
        },
    });
    let key = "/registry/configmaps/kube-system/extension-apiserver-authentication".into();
    Object { key, value, update: Update::Set(&["data"]) }
}
