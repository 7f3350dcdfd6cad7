//! A container's environment: pure, from the spec and what it refers to.
use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvVarSource, ObjectFieldSelector, Pod, ResourceFieldSelector, Secret, Service,
};
use std::collections::BTreeMap;

/// What a container's environment may refer to.
#[derive(Default)]
pub struct Sources {
    pub config_maps: BTreeMap<String, ConfigMap>,
    pub secrets: BTreeMap<String, Secret>,
    pub services: Vec<Service>,
    pub node_name: String,
    pub host_ip: String,
    pub pod_ips: Vec<String>,
    /// Allocatable of the node in thousandths of a core and bytes: the limit of a container that has none.
    pub node_cpu_milli: i64,
    pub node_memory_bytes: i64,
}

/// The variables in order, or the text of a `CreateContainerConfigError`.
pub fn environment(pod: &Pod, container: &Container, sources: &Sources) -> Result<Vec<(String, String)>, String> {
    let mut all: Vec<(String, String)> = Vec::new();
    let links = pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
    let mut known: BTreeMap<String, String> = service_variables(pod, sources, links).into_iter().collect();
    known.iter().for_each(|(name, value)| all.push((name.clone(), value.clone())));
    let mut set = |name: String, value: String, known: &mut BTreeMap<String, String>| {
        known.insert(name.clone(), value.clone());
        all.retain(|(other, _)| *other != name);
        all.push((name, value));
    };
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        for (name, value) in env_from(from, sources)? {
            set(format!("{prefix}{name}"), value, &mut known);
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (_, Some(source)) => resolve(pod, container, source, sources)?,
            (Some(value), None) => Some(expand(value, &known)),
            (None, None) => Some(String::new()),
        };
        if let Some(value) = value {
            set(variable.name.clone(), value, &mut known);
        }
    }
    Ok(all)
}

fn env_from(
    from: &k8s_openapi::api::core::v1::EnvFromSource,
    sources: &Sources,
) -> Result<Vec<(String, String)>, String> {
    if let Some(source) = &from.config_map_ref {
        let Some(map) = sources.config_maps.get(&source.name) else {
            return missing("configmap", &source.name, source.optional);
        };
        return Ok(map.data.clone().unwrap_or_default().into_iter().collect());
    }
    if let Some(source) = &from.secret_ref {
        let Some(secret) = sources.secrets.get(&source.name) else {
            return missing("secret", &source.name, source.optional);
        };
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        return Ok(secret.data.clone().unwrap_or_default().into_iter().map(|(k, v)| (k, text(v.0))).collect());
    }
    Ok(Vec::new())
}

fn missing<T: Default>(kind: &str, name: &str, optional: Option<bool>) -> Result<T, String> {
    if optional == Some(true) { Ok(T::default()) } else { Err(format!("{kind} \"{name}\" not found")) }
}

/// None: the variable stays unset.
fn resolve(
    pod: &Pod,
    container: &Container,
    source: &EnvVarSource,
    sources: &Sources,
) -> Result<Option<String>, String> {
    if let Some(field) = &source.field_ref {
        return field_value(pod, field, sources).map(Some);
    }
    if let Some(resource) = &source.resource_field_ref {
        return resource_value(pod, container, resource, sources).map(Some);
    }
    if let Some(key) = &source.config_map_key_ref {
        let Some(map) = sources.config_maps.get(&key.name) else {
            return missing("configmap", &key.name, key.optional);
        };
        let value = map.data.as_ref().and_then(|data| data.get(&key.key)).cloned();
        return found(value, &key.key, "ConfigMap", pod, &key.name, key.optional);
    }
    if let Some(key) = &source.secret_key_ref {
        let Some(secret) = sources.secrets.get(&key.name) else {
            return missing("secret", &key.name, key.optional);
        };
        let value = secret.data.as_ref().and_then(|data| data.get(&key.key));
        let value = value.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned());
        return found(value, &key.key, "Secret", pod, &key.name, key.optional);
    }
    Err("the variable's source is none that this node knows".into())
}

fn found(
    value: Option<String>,
    key: &str,
    kind: &str,
    pod: &Pod,
    name: &str,
    optional: Option<bool>,
) -> Result<Option<String>, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    match value {
        None if optional != Some(true) => Err(format!("couldn't find key {key} in {kind} {namespace}/{name}")),
        value => Ok(value),
    }
}

/// The downward API's fields.
pub fn field_value(pod: &Pod, field: &ObjectFieldSelector, sources: &Sources) -> Result<String, String> {
    let metadata = &pod.metadata;
    let spec = pod.spec.as_ref();
    let text = |value: Option<&String>| value.cloned().unwrap_or_default();
    if let Some((map, key)) = field.field_path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        let map = match map {
            "metadata.labels" => &metadata.labels,
            "metadata.annotations" => &metadata.annotations,
            _ => return Err(format!("unsupported field path {}", field.field_path)),
        };
        return Ok(text(map.as_ref().and_then(|map| map.get(key))));
    }
    Ok(match field.field_path.as_str() {
        "metadata.name" => text(metadata.name.as_ref()),
        "metadata.namespace" => text(metadata.namespace.as_ref()),
        "metadata.uid" => text(metadata.uid.as_ref()),
        "metadata.labels" => lines(metadata.labels.as_ref()),
        "metadata.annotations" => lines(metadata.annotations.as_ref()),
        "spec.nodeName" => sources.node_name.clone(),
        "spec.serviceAccountName" => text(spec.and_then(|spec| spec.service_account_name.as_ref())),
        "status.hostIP" | "status.hostIPs" => sources.host_ip.clone(),
        "status.podIP" => text(sources.pod_ips.first()),
        "status.podIPs" => sources.pod_ips.join(","),
        path => return Err(format!("unsupported field path {path}")),
    })
}

/// `key="value"` a line, sorted, as the downward API writes maps.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}")).collect::<Vec<_>>().join("\n")
}

/// A request or limit in units of its divisor, rounded up.
pub fn resource_value(
    pod: &Pod,
    container: &Container,
    field: &ResourceFieldSelector,
    sources: &Sources,
) -> Result<String, String> {
    let named = field.container_name.as_deref().filter(|name| !name.is_empty());
    let spec = pod.spec.as_ref().ok_or("the pod has no spec")?;
    let all = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let container = named.and_then(|name| all().find(|c| c.name == name)).unwrap_or(container);
    let (kind, name) =
        field.resource.split_once('.').ok_or_else(|| format!("unsupported resource {}", field.resource))?;
    let amount = super::resources::amount(container, name, kind == "limits");
    let allocatable = if name == "cpu" { sources.node_cpu_milli } else { sources.node_memory_bytes };
    let amount = amount.unwrap_or(if kind == "limits" && name != "ephemeral-storage" { allocatable } else { 0 });
    let divisor = field.divisor.as_ref().and_then(|divisor| Quantity::parse(&divisor.0).ok());
    let divisor = divisor.filter(|divisor| !divisor.is_zero());
    // Thousandths of a core are counted against thousandths.
    let unit = match (&divisor, name) {
        (Some(divisor), "cpu") => divisor.milli_value(),
        (None, "cpu") => 1000,
        (Some(divisor), _) => divisor.value(),
        (None, _) => 1,
    };
    Ok(amount.div_euclid(unit.max(1)).saturating_add(i64::from(amount.rem_euclid(unit.max(1)) > 0)).to_string())
}

/// `$(NAME)` becomes the variable's value; `$$(NAME)` stays text; an unknown name stays as it is.
pub fn expand(text: &str, known: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match known.get(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out + rest
}

/// The variables that name Services (`k8s.io/kubernetes/pkg/kubelet/envvars`): always the API's own, and those of
/// the pod's namespace where links are wanted.
fn service_variables(pod: &Pod, sources: &Sources, links: bool) -> Vec<(String, String)> {
    let namespace = pod.metadata.namespace.as_deref();
    let mut out = Vec::new();
    for service in &sources.services {
        let metadata = &service.metadata;
        let master = metadata.namespace.as_deref() == Some("default") && metadata.name.as_deref() == Some("kubernetes");
        if master || (links && metadata.namespace.as_deref() == namespace) {
            out.extend(variables_of(service));
        }
    }
    out
}

fn variables_of(service: &Service) -> Vec<(String, String)> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else { return Vec::new() };
    let prefix = service.metadata.name.as_deref().unwrap_or_default().to_uppercase().replace('-', "_");
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first() else { return Vec::new() };
    let mut out = vec![
        (format!("{prefix}_SERVICE_HOST"), ip.to_owned()),
        (format!("{prefix}_SERVICE_PORT"), first.port.to_string()),
    ];
    for port in ports.iter() {
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            let name = name.to_uppercase().replace('-', "_");
            out.push((format!("{prefix}_SERVICE_PORT_{name}"), port.port.to_string()));
        }
    }
    for (index, port) in ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{ip}:{}", protocol.to_lowercase(), port.port);
        let base = format!("{prefix}_PORT_{}_{protocol}", port.port);
        if index == 0 {
            out.push((format!("{prefix}_PORT"), url.clone()));
        }
        out.push((base.clone(), url));
        out.push((format!("{base}_PROTO"), protocol.to_lowercase()));
        out.push((format!("{base}_PORT"), port.port.to_string()));
        out.push((format!("{base}_ADDR"), ip.to_owned()));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn references_are_expanded_and_escapes_kept() {
        let known = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        assert_eq!(expand("$(A)-$$(A)-$(B)-$A-$", &known), "1-$(A)-$(B)-$A-$");
    }

    #[test]
    fn variables_come_from_everywhere() {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "labels": {"x": "y"}},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1500m"}},
                "envFrom": [{"prefix": "P_", "configMapRef": {"name": "m"}}],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)2"},
                    {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['x']"}}},
                    {"name": "C", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                    {"name": "O", "valueFrom": {"configMapKeyRef": {"name": "no", "key": "k", "optional": true}}}]}]}}))
            .unwrap();
        let map: ConfigMap = serde_json::from_value(json!({"data": {"k": "v"}})).unwrap();
        let service: Service =
            serde_json::from_value(json!({"metadata": {"name": "kubernetes", "namespace": "default"},
            "spec": {"clusterIP": "10.43.0.1", "ports": [{"name": "https", "port": 443, "protocol": "TCP"}]}}))
            .unwrap();
        let sources =
            Sources { config_maps: BTreeMap::from([("m".into(), map)]), services: vec![service], ..Sources::default() };
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let got: BTreeMap<_, _> = environment(&pod, container, &sources).unwrap().into_iter().collect();
        for (name, value) in [
            ("P_k", "v"),
            ("B", "12"),
            ("N", "p"),
            ("X", "y"),
            ("C", "2"),
            ("KUBERNETES_SERVICE_HOST", "10.43.0.1"),
            ("KUBERNETES_SERVICE_PORT_HTTPS", "443"),
            ("KUBERNETES_PORT_443_TCP", "tcp://10.43.0.1:443"),
        ] {
            assert_eq!(got.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(!got.contains_key("O"));
        let wrong = Sources::default();
        assert_eq!(environment(&pod, container, &wrong).unwrap_err(), "configmap \"m\" not found");
    }
}
