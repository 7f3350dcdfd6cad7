//! Services.
use super::field::{Errors, IMMUTABLE, Path, Tree};
use super::pod_port;
use super::{ip, meta, names};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::IpAddr;

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const DISTRIBUTIONS: &[&str] = &["PreferClose", "PreferSameZone", "PreferSameNode"];
const MAX_AFFINITY_SECONDS: i64 = 86_400;

fn is_headless(spec: &Value) -> bool {
    spec.texts("clusterIPs").eq(["None"]) || spec.text("clusterIP") == "None"
}

fn is_external(spec: &Value) -> bool {
    let ty = spec.text("type");
    ty == "LoadBalancer" || ty == "NodePort" || (ty == "ClusterIP" && spec.count("externalIPs") > 0)
}

pub fn service(errors: &mut Errors, object: &Value) {
    let (path, spec) = (Path::field("spec"), &object["spec"]);
    let ty = spec.text("type");
    if spec.count("ports") == 0 && !is_headless(spec) && ty != "ExternalName" {
        errors.required(&path.child("ports"), "");
    }
    of_type(errors, &path, spec);
    ports(errors, &path.child("ports"), spec);
    meta::labels(errors, &path.child("selector"), spec, "selector");
    affinity(errors, &path, spec);
    if ty != "ExternalName" {
        cluster_ips(errors, &path, spec);
    }
    for (i, text) in spec.texts("externalIPs").enumerate() {
        let list = path.child("externalIPs");
        let at = list.index(i);
        if let Some(parsed) = ip::address(errors, &at, text) {
            ip::endpoint(errors, &at, parsed);
        }
    }
    errors.one_of(&path.child("type"), ty, TYPES);
    node_ports(errors, &path.child("ports"), spec);
    load_balancer(errors, &path, spec);
    traffic(errors, &path, spec);
}

fn of_type(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    match spec.text("type") {
        ty @ ("LoadBalancer" | "NodePort") if is_headless(spec) => {
            let text = format!("may not be set to 'None' for {ty} services");
            errors.invalid(&path.child("clusterIPs").index(0), "None", text);
        }
        "ExternalName" => {
            for name in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                if spec.count(name) > 0 || !spec.text(name).is_empty() {
                    errors.forbidden(&path.child(name), "may not be set for ExternalName services");
                }
            }
            let name = spec.text("externalName");
            match name.strip_suffix('.').unwrap_or(name) {
                "" => errors.required(&path.child("externalName"), ""),
                name => errors.each(&path.child("externalName"), name, names::dns_subdomain(name)),
            }
        }
        _ => {}
    }
}

fn ports(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    let (mut seen_names, mut seen_ports) = (BTreeSet::new(), BTreeSet::new());
    let several = spec.count("ports") > 1;
    let mut twice = Vec::new();
    for (i, port) in spec.list("ports").iter().enumerate() {
        let (at, name, protocol) = (path.index(i), port.text("name"), port.text("protocol"));
        let number = port.int("port").unwrap_or(0);
        if name.is_empty() {
            if several {
                errors.required(&at.child("name"), "");
            }
        } else {
            errors.each(&at.child("name"), name, names::dns_label(name));
            if !seen_names.insert(name) {
                errors.duplicate(&at.child("name"), name);
            }
        }
        pod_port::number(errors, &at.child("port"), number);
        errors.one_of(&at.child("protocol"), protocol, PROTOCOLS);
        pod_port::number_or_name(errors, &at.child("targetPort"), &port["targetPort"]);
        let app = port.text("appProtocol");
        if port.has("appProtocol") {
            errors.each(&at.child("appProtocol"), app, names::qualified_name(app));
        }
        if !seen_ports.insert((protocol, number)) {
            twice.push((i, protocol, number));
        }
    }
    for (i, protocol, number) in twice {
        // Upstream prints its internal type here: all fields, the unset ones empty.
        let value = json!({"Name": "", "Protocol": protocol, "AppProtocol": null, "Port": number, "TargetPort": 0, "NodePort": 0});
        errors.duplicate(&path.index(i), value);
    }
}

fn node_ports(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    let mut seen = BTreeSet::new();
    let mut twice = Vec::new();
    for (i, port) in spec.list("ports").iter().enumerate() {
        let Some(number) = port.int("nodePort").filter(|number| *number != 0) else { continue };
        let at = path.index(i);
        if spec.text("type") == "ClusterIP" {
            errors.forbidden(&at.child("nodePort"), "may not be used when `type` is 'ClusterIP'");
        }
        if !seen.insert((port.text("protocol"), number)) {
            twice.push((i, number));
        }
    }
    for (i, number) in twice {
        errors.duplicate(&path.index(i).child("nodePort"), number);
    }
}

fn affinity(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    let (at, config) = (path.child("sessionAffinityConfig"), &spec["sessionAffinityConfig"]);
    errors.one_of(&path.child("sessionAffinity"), spec.text("sessionAffinity"), &["ClientIP", "None"]);
    match spec.text("sessionAffinity") {
        "None" if spec.has("sessionAffinityConfig") => {
            errors.forbidden(&at, "must not be set when session affinity is None");
        }
        "ClientIP" => {
            let client = at.child("clientIP");
            let seconds = client.child("timeoutSeconds");
            match config["clientIP"].int("timeoutSeconds") {
                None => errors.required(&at, "when session affinity type is ClientIP"),
                Some(value) if !(1..=MAX_AFFINITY_SECONDS).contains(&value) => {
                    let text = format!("must be greater than 0 and less than {MAX_AFFINITY_SECONDS}");
                    errors.invalid(&seconds, value, text);
                }
                Some(_) => {}
            }
        }
        _ => {}
    }
}

fn cluster_ips(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    let (at, all) = (path.child("clusterIPs"), &spec["clusterIPs"]);
    let first = spec.texts("clusterIPs").next();
    match (spec.text("clusterIP"), first) {
        ("", Some(_)) => errors.invalid(&at, all.clone(), "must be empty when `clusterIP` is not specified"),
        ("", None) => {}
        (_, None) => errors.required(&at, ""),
        (one, Some(first)) if one != first => {
            errors.invalid(&at, all.clone(), "first value must match `clusterIP`");
        }
        _ => {}
    }
    families(errors, path, spec);
    let mut parsed = Vec::new();
    for (i, text) in spec.texts("clusterIPs").enumerate() {
        if i == 0 && text == "None" {
            if spec.count("clusterIPs") > 1 {
                errors.invalid(&at, all.clone(), "'None' must be the first and only value");
                return;
            }
            continue;
        }
        parsed.extend(ip::address(errors, &at.index(i), text));
    }
    if spec.count("clusterIPs") > 2 {
        errors.invalid(&at, all.clone(), "may only hold up to 2 values");
    }
    if let [a, b, ..] = parsed[..]
        && a.is_ipv4() == b.is_ipv4()
    {
        errors.invalid(&at, all.clone(), "may specify no more than one IP for each IP family");
    }
    for (i, (ip, family)) in parsed.iter().zip(spec.texts("ipFamilies")).enumerate() {
        match (family, ip) {
            ("IPv4", IpAddr::V6(_)) | ("IPv6", IpAddr::V4(_)) => {
                let article = format!("expected an {family} value as indicated by `ipFamilies[{i}]`");
                errors.invalid(&at.index(i), ip.to_string(), article);
            }
            _ => {}
        }
    }
}

fn families(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    let at = path.child("ipFamilies");
    let mut seen = BTreeSet::new();
    for (i, family) in spec.texts("ipFamilies").enumerate() {
        if !["IPv4", "IPv6"].contains(&family) {
            errors.unsupported(&at.index(i), family, &["IPv4", "IPv6"]);
        }
        if !seen.insert(family) {
            errors.duplicate(&at.index(i), family);
        }
    }
    let policies = &["PreferDualStack", "RequireDualStack", "SingleStack"];
    errors.maybe_one_of(&path.child("ipFamilyPolicy"), spec.text("ipFamilyPolicy"), policies);
}

fn load_balancer(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    let only = "may only be used when `type` is 'LoadBalancer'";
    let is_balancer = spec.text("type") == "LoadBalancer";
    // Upstream's path begins with a capital here.
    let ranges = path.child("LoadBalancerSourceRanges");
    if spec.count("loadBalancerSourceRanges") > 0 && !is_balancer {
        errors.forbidden(&ranges, only);
    }
    for (i, range) in spec.texts("loadBalancerSourceRanges").enumerate() {
        ip::network(errors, &ranges.index(i), range.trim());
    }
    for name in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
        if spec.has(name) && !is_balancer {
            errors.forbidden(&path.child(name), only);
        }
    }
}

fn traffic(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    let (at, external) = (path.child("externalTrafficPolicy"), spec.text("externalTrafficPolicy"));
    match (is_external(spec), external) {
        (false, "") => {}
        (false, _) => errors.invalid(&at, external, "may only be set for externally-accessible services"),
        (true, _) => errors.one_of(&at, external, &["Cluster", "Local"]),
    }
    let port = spec.int("healthCheckNodePort").unwrap_or(0);
    if port != 0 {
        let at = path.child("healthCheckNodePort");
        if spec.text("type") == "LoadBalancer" && external == "Local" {
            pod_port::number(errors, &at, port);
        } else {
            let text = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            errors.invalid(&at, port, text);
        }
    }
    let (at, internal) = (path.child("internalTrafficPolicy"), spec.text("internalTrafficPolicy"));
    if spec.text("type") != "ExternalName" || !internal.is_empty() {
        errors.one_of(&at, internal, &["Cluster", "Local"]);
    }
    if spec.has("trafficDistribution") {
        let at = path.child("trafficDistribution");
        let value = spec.text("trafficDistribution");
        if !DISTRIBUTIONS.contains(&value) {
            errors.unsupported(&at, value, DISTRIBUTIONS);
        }
    }
}

/// Addresses stay; only a change of type gives them back. The class of a load balancer stays too.
/// What the status may say of a load balancer.
pub fn status(errors: &mut Errors, object: &Value) {
    let ingress = object["status"]["loadBalancer"].count("ingress");
    if object["spec"].text("type") != "LoadBalancer" && ingress > 0 {
        let status = Path::field("status");
        let at = status.child("loadBalancer");
        errors.forbidden(&at.child("ingress"), "may only be used when `spec.type` is 'LoadBalancer'");
    }
}

pub fn update(errors: &mut Errors, new: &Value, old: &Value) {
    let (path, new, old) = (Path::field("spec"), &new["spec"], &old["spec"]);
    let external = |spec: &Value| spec.text("type") == "ExternalName";
    if !external(new) && !external(old) {
        let lists = (new.list("clusterIPs"), old.list("clusterIPs"));
        if let (Some(new), Some(old)) = (lists.0.first(), lists.1.first())
            && new != old
        {
            let all = Value::from(lists.0.to_vec());
            errors.invalid(&path.child("clusterIPs").index(0), all, "may not change once set");
        } else if lists.0.is_empty() && !lists.1.is_empty() {
            let all = new["clusterIPs"].clone();
            errors.invalid(&path.child("clusterIPs").index(0), all, "primary clusterIP can not be unset");
        }
    }
    let balancer = |spec: &Value| spec.text("type") == "LoadBalancer";
    if balancer(new) && balancer(old) && new["loadBalancerClass"] != old["loadBalancerClass"] {
        errors.invalid(&path.child("loadBalancerClass"), new["loadBalancerClass"].clone(), "may not change once set");
    }
    let checked = |spec: &Value| balancer(spec) && spec.text("externalTrafficPolicy") == "Local";
    if checked(new) && checked(old) && new["healthCheckNodePort"] != old["healthCheckNodePort"] {
        errors.forbidden(&path.child("healthCheckNodePort"), IMMUTABLE);
    }
}
