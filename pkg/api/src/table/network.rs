//! Services and what stands behind and before them.
use super::text::{age, int, joined, labels, list, name, selector, some_of, str_of, str_or};
use serde_json::Value;
use std::collections::BTreeSet;

pub(super) fn service(o: &Value, now: i64) -> Vec<Value> {
    let spec = &o["spec"];
    let ports: Vec<String> = list(&spec["ports"]).iter().map(port).collect();
    vec![
        name(o),
        spec["type"].clone(),
        str_or(&spec["clusterIPs"][0], "<none>").into(),
        external_ip(o).into(),
        if ports.is_empty() { "<none>".into() } else { ports.join(",").into() },
        age(o, now),
        labels(&spec["selector"]).into(),
    ]
}

fn port(port: &Value) -> String {
    let (number, protocol) = (int(&port["port"]), str_of(&port["protocol"]));
    match int(&port["nodePort"]) {
        0 => format!("{number}/{protocol}"),
        node_port => format!("{number}:{node_port}/{protocol}"),
    }
}

fn external_ip(o: &Value) -> String {
    let external = joined(&o["spec"]["externalIPs"], ",");
    let or = |text: String, absent: &str| if text.is_empty() { absent.to_owned() } else { text };
    match str_of(&o["spec"]["type"]) {
        "ClusterIP" | "NodePort" => or(external, "<none>"),
        "LoadBalancer" => {
            let balancers = ingress_points(&o["status"]["loadBalancer"]);
            let all: Vec<String> = [balancers, external].into_iter().filter(|text| !text.is_empty()).collect();
            or(all.join(","), "<pending>")
        }
        "ExternalName" => str_of(&o["spec"]["externalName"]).into(),
        _ => "<unknown>".into(),
    }
}

/// Addresses of a load balancer, sorted.
fn ingress_points(status: &Value) -> String {
    let point = |i: &Value| str_or(&i["ip"], str_of(&i["hostname"])).to_owned();
    let points: BTreeSet<String> = list(&status["ingress"]).iter().map(point).filter(|p| !p.is_empty()).collect();
    points.into_iter().collect::<Vec<_>>().join(",")
}

pub(super) fn endpoints(o: &Value, now: i64) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in list(&o["subsets"]) {
        let addresses = || list(&subset["addresses"]).iter().map(|a| str_of(&a["ip"]));
        if list(&subset["ports"]).is_empty() {
            all.extend(addresses().map(str::to_owned));
        }
        for port in list(&subset["ports"]) {
            all.extend(addresses().map(|ip| host_port(ip, int(&port["port"]))));
        }
    }
    let absent = if list(&o["subsets"]).is_empty() { "<none>" } else { "" };
    vec![name(o), some_of(&all, 3, absent).into(), age(o, now)]
}

fn host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

pub(super) fn endpoint_slice(o: &Value, now: i64) -> Vec<Value> {
    let port = |p: &Value| match p["port"].as_i64() {
        Some(number) => number.to_string(),
        None => p["name"].as_str().unwrap_or("*").to_owned(),
    };
    let ports: Vec<String> = list(&o["ports"]).iter().map(port).collect();
    let addresses = list(&o["endpoints"]).iter().flat_map(|e| list(&e["addresses"]));
    let addresses: Vec<String> = addresses.map(|a| str_of(a).to_owned()).collect();
    vec![
        name(o),
        o["addressType"].clone(),
        some_of(&ports, 3, "<unset>").into(),
        some_of(&addresses, 3, "<unset>").into(),
        age(o, now),
    ]
}

pub(super) fn ingress(o: &Value, now: i64) -> Vec<Value> {
    let spec = &o["spec"];
    vec![
        name(o),
        str_or(&spec["ingressClassName"], "<none>").into(),
        hosts(list(&spec["rules"])).into(),
        ingress_points(&o["status"]["loadBalancer"]).into(),
        if list(&spec["tls"]).is_empty() { "80".into() } else { "80, 443".into() },
        age(o, now),
    ]
}

fn hosts(rules: &[Value]) -> String {
    const MAX: usize = 3;
    let named = rules.iter().map(|rule| str_of(&rule["host"])).filter(|host| !host.is_empty());
    let hosts: Vec<&str> = named.collect();
    if hosts.is_empty() {
        return "*".into();
    }
    let shown = hosts[..hosts.len().min(MAX)].join(",");
    // As upstream counts: rules, not hosts.
    if rules.len() > MAX && hosts.len() >= MAX { format!("{shown} + {} more...", rules.len() - MAX) } else { shown }
}

pub(super) fn ingress_class(o: &Value, now: i64) -> Vec<Value> {
    let default = &o["metadata"]["annotations"]["ingressclass.kubernetes.io/is-default-class"] == "true";
    let shown = if default { format!("{} (default)", str_of(&name(o))).into() } else { name(o) };
    let parameters = &o["spec"]["parameters"];
    let text = if parameters.is_null() {
        "<none>".to_owned()
    } else {
        let group = parameters["apiGroup"].as_str().map(|group| format!(".{group}")).unwrap_or_default();
        format!("{}{group}/{}", str_of(&parameters["kind"]), str_of(&parameters["name"]))
    };
    vec![shown, str_of(&o["spec"]["controller"]).into(), text.into(), age(o, now)]
}

pub(super) fn network_policy(o: &Value, now: i64) -> Vec<Value> {
    let empty = Value::Object(serde_json::Map::new());
    let pods = o["spec"].get("podSelector").unwrap_or(&empty);
    vec![name(o), selector(pods).into(), age(o, now)]
}

pub(super) fn service_cidr(o: &Value, now: i64) -> Vec<Value> {
    vec![name(o), joined(&o["spec"]["cidrs"], ",").into(), age(o, now)]
}

/// Upstream's row has an age that its columns do not name.
pub(super) fn ip_address(o: &Value, now: i64) -> Vec<Value> {
    let parent = &o["spec"]["parentRef"];
    let text = if parent.is_null() {
        "<none>".to_owned()
    } else {
        let group = str_of(&parent["group"]);
        let mut text = str_of(&parent["resource"]).to_lowercase();
        if !group.is_empty() {
            text = format!("{text}.{}", group.to_lowercase());
        }
        for part in [str_of(&parent["namespace"]), str_of(&parent["name"])] {
            if !part.is_empty() {
                text = format!("{text}/{part}");
            }
        }
        text
    };
    vec![name(o), text.into(), age(o, now)]
}
