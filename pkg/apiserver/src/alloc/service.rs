//! What a Service's address fields become (`pkg/registry/core/service/storage`), on one address family.
use super::pools::{Claims, Error, Pools};
use crate::registry::strategy::{child, restore};
use api::validate::{FieldError, Reason};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Randomness for one allocation.
pub type Random<'a> = &'a mut dyn FnMut() -> u64;

/// What the Service `object` holds.
pub fn claims(object: &Value) -> Claims {
    let spec = &object["spec"];
    let listed = spec["clusterIPs"].as_array().into_iter().flatten().chain(std::iter::once(&spec["clusterIP"]));
    let ips = listed.filter_map(|ip| ip.as_str()?.parse().ok()).collect();
    let ports = spec["ports"].as_array().into_iter().flatten().map(|p| &p["nodePort"]);
    let all = ports.chain(std::iter::once(&spec["healthCheckNodePort"]));
    Claims { ips, ports: all.filter_map(|p| u16::try_from(p.as_u64()?).ok()).filter(|&p| p > 0).collect() }
}

fn text<'v>(spec: &'v Value, field: &str) -> &'v str {
    spec[field].as_str().unwrap_or_default()
}

/// The ports as they are; looking for them makes none.
fn ports_mut(service: &mut Value) -> impl Iterator<Item = &mut Value> {
    let ports = service.get_mut("spec").and_then(|spec| spec.get_mut("ports")).and_then(Value::as_array_mut);
    ports.into_iter().flatten()
}

fn needs_ip(spec: &Value) -> bool {
    matches!(text(spec, "type"), "" | "ClusterIP" | "NodePort" | "LoadBalancer")
}

fn needs_node_port(spec: &Value) -> bool {
    match text(spec, "type") {
        "NodePort" => true,
        "LoadBalancer" => spec["allocateLoadBalancerNodePorts"] != false,
        _ => false,
    }
}

fn keeps_node_port(spec: &Value) -> bool {
    matches!(text(spec, "type"), "NodePort" | "LoadBalancer")
}

fn needs_health_port(spec: &Value) -> bool {
    text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local"
}

/// Before validation: `clusterIP` and `clusterIPs` say the same, an update keeps what it does not mention, and
/// a change of type drops what the new type has no use for.
pub fn normalize(new: &mut Value, old: Option<&Value>) {
    same_ips(new, old);
    let Some(old) = old else { return };
    drop_unused(new, old);
    keep_allocated(new, old);
}

/// `normalizeClusterIPs`.
fn same_ips(new: &mut Value, old: Option<&Value>) {
    let (ip, listed) = (text(&new["spec"], "clusterIP").to_owned(), new["spec"]["clusterIPs"].as_array().cloned());
    let first = listed.as_ref().and_then(|l| l.first()).and_then(Value::as_str).unwrap_or_default().to_owned();
    let spec = child(new, "spec");
    let Some(old) = old else {
        if !ip.is_empty() && listed.is_none_or(|l| l.is_empty()) {
            spec.insert("clusterIPs".into(), json!([ip]));
        } else if ip.is_empty() && !first.is_empty() {
            spec.insert("clusterIP".into(), first.into());
        }
        return;
    };
    let before = text(&old["spec"], "clusterIP");
    if ip == before || ip == first {
        if ip == before && !first.is_empty() && first != ip {
            spec.insert("clusterIP".into(), first.into());
        }
    } else if ip.is_empty() {
        // Only the single field was cleared: old clients mean the list too.
        if old["spec"]["clusterIPs"].as_array() == listed.as_ref() {
            spec.remove("clusterIPs");
        }
    } else if listed.as_ref() == old["spec"]["clusterIPs"].as_array() || listed.is_none() {
        spec.insert("clusterIPs".into(), json!([ip]));
    }
}

/// `dropTypeDependentFields`.
fn drop_unused(new: &mut Value, old: &Value) {
    let (before, after) = (old["spec"].clone(), new["spec"].clone());
    let same = |field: &str| before.get(field) == after.get(field);
    let spec = child(new, "spec");
    if needs_ip(&before) && !needs_ip(&after) {
        if same("clusterIPs") || !after["clusterIPs"].is_array() {
            spec.remove("clusterIP");
            spec.remove("clusterIPs");
        }
        for field in ["ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
            if same(field) {
                spec.remove(field);
            }
        }
    }
    let ports = |spec: &Value| -> Vec<Value> {
        spec["ports"].as_array().into_iter().flatten().map(|p| p["nodePort"].clone()).collect()
    };
    if keeps_node_port(&before) && !keeps_node_port(&after) && ports(&before) == ports(&after) {
        for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            port.as_object_mut().and_then(|p| p.remove("nodePort"));
        }
    }
    if needs_health_port(&before) && !needs_health_port(&after) && same("healthCheckNodePort") {
        spec.remove("healthCheckNodePort");
    }
    if text(&before, "type") == "LoadBalancer" && text(&after, "type") != "LoadBalancer" {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if same(field) {
                spec.remove(field);
            }
        }
    }
    if keeps_node_port(&before) && !keeps_node_port(&after) && same("externalTrafficPolicy") {
        spec.remove("externalTrafficPolicy");
    }
}

/// `patchAllocatedValues`: a PUT of a manifest does not lose what was allocated.
fn keep_allocated(new: &mut Value, old: &Value) {
    let before = &old["spec"];
    if needs_ip(before) && needs_ip(&new["spec"]) {
        for field in ["clusterIP", "clusterIPs"] {
            let given = &new["spec"][field];
            let empty = given.is_null() || given == "" || given.as_array().is_some_and(Vec::is_empty);
            if empty {
                restore(&mut new["spec"], before, field);
            }
        }
    }
    if keeps_node_port(before) && keeps_node_port(&new["spec"]) {
        keep_node_ports(new, before);
    }
    if needs_health_port(before)
        && needs_health_port(&new["spec"])
        && new["spec"]["healthCheckNodePort"].as_u64().unwrap_or(0) == 0
    {
        restore(&mut new["spec"], before, "healthCheckNodePort");
    }
}

fn keep_node_ports(new: &mut Value, before: &Value) {
    let ports = |spec: &Value| spec["ports"].as_array().cloned().unwrap_or_default();
    let number = |port: &Value| port["nodePort"].as_u64().unwrap_or(0);
    let by_name: BTreeMap<String, u64> =
        ports(before).iter().map(|p| (text(p, "name").to_owned(), number(p))).collect();
    let old: BTreeSet<u64> = by_name.values().copied().collect();
    let used: BTreeSet<u64> = ports(&new["spec"]).iter().map(number).filter(|n| old.contains(n)).collect();
    for port in ports_mut(new).filter(|p| number(p) == 0) {
        if let Some(known) = by_name.get(text(port, "name")).filter(|n| **n != 0 && !used.contains(n)) {
            port["nodePort"] = (*known).into();
        }
    }
}

/// Annotation of an update: these addresses and ports, with commas, are given up, and others come in their place. It is
/// taken away at once.
pub const RENUMBER: &str = "eyot.dev/renumber";

fn give_up(service: &mut Value) {
    let annotations = service.get_mut("metadata").and_then(|meta| meta.get_mut("annotations"));
    let Some(annotations) = annotations.and_then(Value::as_object_mut) else { return };
    let Some(Value::String(numbers)) = annotations.remove(RENUMBER) else { return };
    if annotations.is_empty() {
        child(service, "metadata").remove("annotations");
    }
    let goes = |number: &str| numbers.split(',').any(|other| other == number);
    if goes(text(&service["spec"], "clusterIP")) {
        let spec = child(service, "spec");
        spec.remove("clusterIP");
        spec.remove("clusterIPs");
    }
    for port in ports_mut(service).filter_map(Value::as_object_mut) {
        if port.get("nodePort").is_some_and(|number| goes(&number.to_string())) {
            port.remove("nodePort");
        }
    }
}

/// Families, addresses and ports of a Service that is about to be stored.
///
/// # Errors
/// The fields that ask for what can't be had.
pub fn allocate(
    new: &mut Value,
    old: Option<&Value>,
    owner: &str,
    pools: &Pools,
    random: Random<'_>,
) -> Result<Claims, Vec<FieldError>> {
    give_up(new);
    let ips = text(&new["spec"], "type") != "ExternalName";
    if ips {
        families(new, old, pools)?;
        address(new, owner, pools, random)?;
    }
    node_ports(new, owner, pools, random)?;
    health_port(new, owner, pools, random)?;
    Ok(claims(new))
}

fn wrong(field: &str, value: Value, detail: impl Into<String>) -> Vec<FieldError> {
    vec![FieldError { field: field.into(), reason: Reason::Invalid, value: Some(value), detail: detail.into() }]
}

/// `initIPFamilyFields`.
fn families(new: &mut Value, old: Option<&Value>, pools: &Pools) -> Result<(), Vec<FieldError>> {
    let ours = pools.cidr.family();
    let headless = text(&new["spec"], "clusterIP") == "None";
    let selects = new["spec"]["selector"].as_object().is_some_and(|s| !s.is_empty());
    let spec = child(new, "spec");
    if spec.get("ipFamilyPolicy").is_none_or(Value::is_null) {
        let inherited = old.and_then(|o| o["spec"].get("ipFamilyPolicy")).cloned();
        let policy =
            inherited.unwrap_or_else(|| if headless && !selects { "RequireDualStack" } else { "SingleStack" }.into());
        spec.insert("ipFamilyPolicy".into(), policy);
    }
    let policy = spec["ipFamilyPolicy"].as_str().unwrap_or_default().to_owned();
    let mut families: Vec<String> = spec
        .get("ipFamilies")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|f| f.as_str().map(Into::into))
        .collect();
    if families.is_empty() {
        families.push(ours.into());
    }
    if headless && !selects {
        if families.len() < 2 && policy != "SingleStack" {
            families.push(if families[0] == "IPv4" { "IPv6" } else { "IPv4" }.into());
        }
        spec.insert("ipFamilies".into(), json!(families));
        return Ok(());
    }
    if policy == "RequireDualStack" {
        let detail = "this cluster is not configured for dual-stack services";
        return Err(wrong("spec.ipFamilyPolicy", policy.into(), detail));
    }
    if let Some((i, family)) = families.iter().enumerate().find(|(_, f)| *f != ours) {
        return Err(wrong(&format!("spec.ipFamilies[{i}]"), family.clone().into(), "not configured on this cluster"));
    }
    spec.insert("ipFamilies".into(), json!(families));
    Ok(())
}

fn address(new: &mut Value, owner: &str, pools: &Pools, random: Random<'_>) -> Result<(), Vec<FieldError>> {
    let asked = text(&new["spec"], "clusterIP").to_owned();
    if asked == "None" {
        return Ok(());
    }
    let failed = |listed: Value, error: &Error| {
        wrong(
            "spec.clusterIPs",
            listed,
            format!(
                "failed to allocate IP{}{error}",
                if asked.is_empty() { ": ".into() } else { format!(" {asked}: ") }
            ),
        )
    };
    let ip = match asked.parse() {
        Ok(ip) => pools.check_ip(owner, ip).map(|()| ip).map_err(|e| failed(json!([asked]), &e))?,
        Err(_) if asked.is_empty() => pools.free_ip(random()).map_err(|e| failed(json!([]), &e))?,
        Err(_) => {
            return Err(wrong(
                "spec.clusterIPs[0]",
                asked.into(),
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ));
        }
    };
    let spec = child(new, "spec");
    spec.insert("clusterIP".into(), ip.to_string().into());
    spec.insert("clusterIPs".into(), json!([ip.to_string()]));
    Ok(())
}

/// `initNodePorts`: ports that differ in protocol only may share a number.
fn node_ports(new: &mut Value, owner: &str, pools: &Pools, random: Random<'_>) -> Result<(), Vec<FieldError>> {
    let allocates = needs_node_port(&new["spec"]);
    let asked: BTreeSet<u16> = claims(new).ports;
    let mut given: BTreeMap<u16, BTreeSet<String>> = BTreeMap::new();
    let mut by_port: BTreeMap<u64, u16> = BTreeMap::new();
    for (i, port) in ports_mut(new).enumerate() {
        let number = port["nodePort"].as_u64().unwrap_or(0);
        let protocol = text(port, "protocol").to_owned();
        let service_port = port["port"].as_u64().unwrap_or(0);
        let field = format!("spec.ports[{i}].nodePort");
        let node_port = if number > 0 {
            let node_port = u16::try_from(number).unwrap_or(u16::MAX);
            pools.check_port(owner, node_port).map_err(|e| wrong(&field, number.into(), e.to_string()))?;
            node_port
        } else if allocates {
            let shared =
                by_port.get(&service_port).copied().filter(|p| !given.get(p).is_some_and(|g| g.contains(&protocol)));
            let avoid: BTreeSet<u16> = asked.iter().chain(given.keys()).copied().collect();
            shared
                .map_or_else(|| pools.free_port(random(), &avoid), Ok)
                .map_err(|e| wrong(&field, 0.into(), format!("failed to allocate a nodePort: {e}")))?
        } else {
            continue;
        };
        if !given.entry(node_port).or_default().insert(protocol) {
            return Err(wrong(&field, node_port.into(), "provided port is already allocated"));
        }
        by_port.insert(service_port, node_port);
        port["nodePort"] = node_port.into();
    }
    Ok(())
}

fn health_port(new: &mut Value, owner: &str, pools: &Pools, random: Random<'_>) -> Result<(), Vec<FieldError>> {
    if !needs_health_port(&new["spec"]) {
        return Ok(());
    }
    let failed = |detail: String| {
        wrong(
            "spec.healthCheckNodePort",
            Value::Null,
            format!("failed to allocate requested HealthCheck NodePort: {detail}"),
        )
    };
    let asked = new["spec"]["healthCheckNodePort"].as_u64().unwrap_or(0);
    let port = if asked > 0 {
        let port = u16::try_from(asked).unwrap_or(u16::MAX);
        pools.check_port(owner, port).map_err(|e| failed(e.to_string()))?;
        port
    } else {
        pools.free_port(random(), &claims(new).ports).map_err(|e| failed(e.to_string()))?
    };
    new["spec"]["healthCheckNodePort"] = port.into();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::pools::Cidr;
    use super::*;

    fn pools() -> Pools {
        Pools::new(Cidr::parse("10.43.0.0/16").unwrap(), 30_000..=32_767)
    }

    fn made(mut spec: Value) -> Value {
        spec["ports"] =
            if spec["ports"].is_null() { json!([{"port": 80, "protocol": "TCP"}]) } else { spec["ports"].clone() };
        let mut service = json!({"spec": spec});
        normalize(&mut service, None);
        allocate(&mut service, None, "a/b", &pools(), &mut || 1).unwrap();
        service
    }

    #[test]
    fn a_plain_service_gets_an_address() {
        let spec = &made(json!({"type": "ClusterIP", "selector": {"a": "b"}}))["spec"];
        assert_eq!(spec["clusterIP"], "10.43.1.1");
        assert_eq!(spec["clusterIPs"], json!(["10.43.1.1"]));
        assert_eq!((&spec["ipFamilies"], &spec["ipFamilyPolicy"]), (&json!(["IPv4"]), &json!("SingleStack")));
        assert_eq!(spec["ports"][0].get("nodePort"), None);
    }

    #[test]
    fn headless_and_external_ones_get_none() {
        let spec = &made(json!({"clusterIP": "None", "selector": {"a": "b"}}))["spec"];
        assert_eq!((&spec["clusterIPs"], &spec["ipFamilies"]), (&json!(["None"]), &json!(["IPv4"])));
        let spec = &made(json!({"clusterIP": "None"}))["spec"];
        assert_eq!(
            (&spec["ipFamilies"], &spec["ipFamilyPolicy"]),
            (&json!(["IPv4", "IPv6"]), &json!("RequireDualStack"))
        );
        let spec = &made(json!({"type": "ExternalName", "externalName": "x.y"}))["spec"];
        assert_eq!((spec.get("clusterIP"), spec.get("ipFamilies")), (None, None));
    }

    #[test]
    fn node_ports_are_shared_between_protocols() {
        let ports =
            json!([{"port": 53, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}, {"port": 80, "protocol": "TCP"}]);
        let service = made(json!({"type": "NodePort", "ports": ports, "selector": {"a": "b"}}));
        let numbers: Vec<_> =
            service["spec"]["ports"].as_array().unwrap().iter().map(|p| p["nodePort"].as_u64().unwrap()).collect();
        assert_eq!(numbers[0], numbers[1]);
        assert_ne!(numbers[0], numbers[2]);
        assert_eq!(claims(&service).ports.len(), 2);
    }

    #[test]
    fn an_update_keeps_what_it_does_not_mention() {
        let old = made(json!({"type": "NodePort", "selector": {"a": "b"}}));
        let mut new =
            json!({"spec": {"type": "NodePort", "selector": {"a": "c"}, "ports": [{"port": 80, "protocol": "TCP"}]}});
        normalize(&mut new, Some(&old));
        assert_eq!(new["spec"]["clusterIPs"], old["spec"]["clusterIPs"]);
        assert_eq!(new["spec"]["ports"], old["spec"]["ports"]);
        let mut plain = old.clone();
        plain["spec"]["type"] = "ClusterIP".into();
        normalize(&mut plain, Some(&old));
        assert_eq!(plain["spec"]["ports"][0].get("nodePort"), None);
        let mut external = old.clone();
        external["spec"]["type"] = "ExternalName".into();
        normalize(&mut external, Some(&old));
        assert_eq!(external["spec"].get("clusterIP"), None);
    }

    #[test]
    fn what_is_taken_is_refused_with_its_field() {
        let mut pools = pools();
        pools.hold("x/y", claims(&made(json!({"type": "NodePort", "clusterIP": "10.43.0.9", "selector": {"a": "b"}}))));
        let mut service = json!({"spec": {"type": "ClusterIP", "clusterIP": "10.43.0.9", "selector": {"a": "b"}}});
        normalize(&mut service, None);
        let errors = allocate(&mut service, None, "a/b", &pools, &mut || 1).unwrap_err();
        assert_eq!(
            errors[0].to_string(),
            r#"spec.clusterIPs: Invalid value: ["10.43.0.9"]: failed to allocate IP 10.43.0.9: provided IP is already allocated"#
        );
    }
}
