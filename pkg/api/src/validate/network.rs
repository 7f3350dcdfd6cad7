//! Endpoints, EndpointSlices, NetworkPolicies and Ingresses.
use super::field::{Errors, Path, Tree};
use super::{ip, names, pod_port, selector};
use serde_json::Value;
use std::collections::BTreeSet;

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const MAX_ADDRESSES: usize = 100;
const MAX_ENDPOINTS: usize = 1000;
const MAX_PORTS: usize = 20_000;

pub fn endpoints(errors: &mut Errors, object: &Value) {
    let path = Path::field("subsets");
    for (i, subset) in object.list("subsets").iter().enumerate() {
        let at = path.index(i);
        if subset.count("addresses") + subset.count("notReadyAddresses") == 0 {
            errors.required(&at, "must specify `addresses` or `notReadyAddresses`");
        }
        for name in ["addresses", "notReadyAddresses"] {
            let list = at.child(name);
            for (j, address) in subset.list(name).iter().enumerate() {
                ip::sloppy_endpoint(errors, &list.index(j).child("ip"), address.text("ip"));
                let host = address.text("hostname");
                if !host.is_empty() {
                    errors.each(&list.index(j).child("hostname"), host, names::dns_label(host));
                }
            }
        }
        let (ports, several) = (at.child("ports"), subset.count("ports") > 1);
        for (j, port) in subset.list("ports").iter().enumerate() {
            let (at, name) = (ports.index(j), port.text("name"));
            match (several, name) {
                (true, "") => errors.required(&at.child("name"), ""),
                (_, "") => {}
                _ => errors.each(&at.child("name"), name, names::dns_label(name)),
            }
            pod_port::number(errors, &at.child("port"), port.int("port").unwrap_or(0));
            errors.one_of(&at.child("protocol"), port.text("protocol"), PROTOCOLS);
        }
    }
}

pub fn endpoint_slice(errors: &mut Errors, object: &Value) {
    let family = object.text("addressType");
    let families = &["FQDN", "IPv4", "IPv6"];
    errors.one_of(&Path::field("addressType"), family, families);
    let known = families.contains(&family);
    slice_ports(errors, &Path::field("ports"), object);
    let (path, list) = (Path::field("endpoints"), object.list("endpoints"));
    if list.len() > MAX_ENDPOINTS {
        return errors.too_many(&path, list.len(), MAX_ENDPOINTS);
    }
    for (i, endpoint) in list.iter().enumerate() {
        let at = path.index(i);
        if known {
            addresses(errors, &at.child("addresses"), endpoint, family);
        }
        let (node, host) = (endpoint.text("nodeName"), endpoint.text("hostname"));
        if endpoint.has("nodeName") {
            errors.each(&at.child("nodeName"), node, names::dns_subdomain(node));
        }
        if endpoint.has("hostname") {
            errors.each(&at.child("hostname"), host, names::dns_label(host));
        }
    }
}

fn addresses(errors: &mut Errors, path: &Path<'_>, endpoint: &Value, family: &str) {
    match endpoint.count("addresses") {
        0 => errors.required(path, "must contain at least 1 address"),
        count if count > MAX_ADDRESSES => errors.too_many(path, count, MAX_ADDRESSES),
        _ => {}
    }
    for (i, text) in endpoint.texts("addresses").enumerate() {
        let at = path.index(i);
        if family == "FQDN" {
            errors.each(&at, text, names::dns_subdomain(text));
            continue;
        }
        let Some(parsed) = ip::address(errors, &at, text) else { continue };
        if parsed.is_ipv4() != (family == "IPv4") {
            errors.invalid(path, text, format!("must be an {family} address"));
        }
        ip::endpoint(errors, &at, parsed);
    }
}

fn slice_ports(errors: &mut Errors, path: &Path<'_>, object: &Value) {
    let list = object.list("ports");
    if list.len() > MAX_PORTS {
        return errors.too_many(path, list.len(), MAX_PORTS);
    }
    let mut seen = BTreeSet::new();
    for (i, port) in list.iter().enumerate() {
        let (at, name) = (path.index(i), port.text("name"));
        if !name.is_empty() {
            errors.each(&at.child("name"), name, names::dns_label(name));
        }
        if !seen.insert(name) {
            errors.duplicate(&at.child("name"), name);
        }
        errors.one_of(&at.child("protocol"), port.text("protocol"), PROTOCOLS);
        if port.has("appProtocol") {
            let protocol = port.text("appProtocol");
            errors.each(&at.child("appProtocol"), protocol, names::qualified_name(protocol));
        }
    }
}

pub fn network_policy(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    selector::label_selector(errors, &path.child("podSelector"), &spec["podSelector"]);
    for (list, peers) in [("ingress", "from"), ("egress", "to")] {
        let rules = path.child(list);
        for (i, rule) in spec.list(list).iter().enumerate() {
            let at = rules.index(i);
            policy_ports(errors, &at.child("ports"), rule);
            let path = at.child(peers);
            for (j, peer) in rule.list(peers).iter().enumerate() {
                policy_peer(errors, &path.index(j), peer);
            }
        }
    }
    let types = path.child("policyTypes");
    if spec.count("policyTypes") > 2 {
        let text = "may not specify more than two policyTypes";
        return errors.invalid(&types, spec["policyTypes"].clone(), text);
    }
    for (i, ty) in spec.texts("policyTypes").enumerate().filter(|(_, ty)| !["Egress", "Ingress"].contains(ty)) {
        errors.unsupported(&types.index(i), ty, &["Ingress", "Egress"]);
    }
}

fn policy_ports(errors: &mut Errors, path: &Path<'_>, rule: &Value) {
    for (i, port) in rule.list("ports").iter().enumerate() {
        let at = path.index(i);
        errors.maybe_one_of(&at.child("protocol"), port.text("protocol"), PROTOCOLS);
        if port.has("port") {
            pod_port::number_or_name(errors, &at.child("port"), &port["port"]);
        }
        if let Some(end) = port.int("endPort") {
            match &port["port"] {
                Value::Number(first) if first.as_i64().is_some_and(|first| end < first) => {
                    let first = first.as_i64().unwrap_or_default();
                    errors.invalid(&at.child("endPort"), first, "must be greater than or equal to `port`");
                }
                Value::Number(_) => pod_port::number(errors, &at.child("endPort"), end),
                Value::Null => {
                    errors.invalid(&at.child("endPort"), end, "may not be specified when `port` is not specified");
                }
                _ => errors.invalid(&at.child("endPort"), end, "may not be specified when `port` is non-numeric"),
            }
        }
    }
}

fn policy_peer(errors: &mut Errors, at: &Path<'_>, peer: &Value) {
    for name in ["podSelector", "namespaceSelector"] {
        selector::label_selector(errors, &at.child(name), &peer[name]);
    }
    let selects = peer.has("podSelector") || peer.has("namespaceSelector");
    if !peer.has("ipBlock") {
        if !selects {
            errors.required(at, "must specify a peer");
        }
        return;
    }
    let (block, path) = (&peer["ipBlock"], at.child("ipBlock"));
    match block.text("cidr") {
        "" => errors.required(&path.child("cidr"), ""),
        cidr => ip::network(errors, &path.child("cidr"), cidr),
    }
    let list = path.child("except");
    for (i, except) in block.texts("except").enumerate() {
        let at = list.index(i);
        ip::network(errors, &at, except);
        if ip::is_strict_subset(except, block.text("cidr")) == Some(false) {
            errors.invalid(&at, except, "must be a strict subset of `cidr`");
        }
    }
    if selects {
        errors.forbidden(at, "may not specify both ipBlock and another peer");
    }
}

pub fn ingress(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    if spec.count("rules") == 0 && !spec.has("defaultBackend") {
        let text = "either `defaultBackend` or `rules` must be specified";
        errors.invalid(path, spec["rules"].clone(), text);
    }
    if spec.has("defaultBackend") {
        backend(errors, &path.child("defaultBackend"), &spec["defaultBackend"]);
    }
    let class = spec.text("ingressClassName");
    if !class.is_empty() {
        errors.each(&path.child("ingressClassName"), class, names::dns_subdomain(class));
    }
    let rules = path.child("rules");
    for (i, rule) in spec.list("rules").iter().enumerate() {
        let (at, host) = (rules.index(i), rule.text("host"));
        if !host.is_empty() {
            if host.parse::<std::net::IpAddr>().is_ok() {
                errors.invalid(&at.child("host"), host, "must be a DNS name, not an IP address");
            }
            let wrong = if host.contains('*') { names::wildcard_subdomain(host) } else { names::dns_subdomain(host) };
            errors.each(&at.child("host"), host, wrong);
        }
        let http = at.child("http");
        let paths = http.child("paths");
        for (j, entry) in rule["http"].list("paths").iter().enumerate() {
            ingress_path(errors, &paths.index(j), entry);
        }
    }
}

fn ingress_path(errors: &mut Errors, at: &Path<'_>, entry: &Value) {
    let types = &["Exact", "ImplementationSpecific", "Prefix"];
    let (kind, path) = (entry.text("pathType"), entry.text("path"));
    if kind.is_empty() {
        return errors.required(&at.child("pathType"), "pathType must be specified");
    } else if !types.contains(&kind) {
        errors.unsupported(&at.child("pathType"), kind, types);
    }
    if !path.starts_with('/') && (kind != "ImplementationSpecific" || !path.is_empty()) {
        errors.invalid(&at.child("path"), path, "must be an absolute path");
    }
    backend(errors, &at.child("backend"), &entry["backend"]);
}

fn backend(errors: &mut Errors, path: &Path<'_>, of: &Value) {
    match (of.has("resource"), of.has("service")) {
        (true, true) => errors.invalid(path, "", "cannot set both resource and service backends"),
        (false, false) => errors.invalid(path, "", "resource or service backend is required"),
        (true, false) => {}
        (false, true) => {
            let (service, at) = (&of["service"], path.child("service"));
            match service.text("name") {
                "" => errors.required(&at.child("name"), ""),
                name => errors.each(&at.child("name"), name, names::dns_label(name)),
            }
            let (port, at) = (&service["port"], at.child("port"));
            match (port.text("name"), port.int("number").unwrap_or(0)) {
                ("", 0) => errors.required(path, "port name or number is required"),
                ("", number) => pod_port::number(errors, &at.child("number"), number),
                (name, 0) => errors.each(&at.child("name"), name, names::port_name(name)),
                _ => errors.invalid(path, "", "cannot set both port name & port number"),
            }
        }
    }
}

/// An address that a Service holds: its name is the address.
pub fn ip_address(errors: &mut Errors, object: &Value) {
    ip::address(errors, &Path::field("metadata").child("name"), object["metadata"].text("name"));
    let spec = Path::field("spec");
    if !object["spec"].has("parentRef") {
        return errors.required(&spec.child("parentRef"), "");
    }
    for name in ["resource", "name"].iter().filter(|name| object["spec"]["parentRef"].text(name).is_empty()) {
        errors.required(&spec.child("parentRef").child(name), "");
    }
}
