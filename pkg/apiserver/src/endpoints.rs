//! Where a Service is reached from this server: at a ready endpoint, which spares a way through the dataplane and
//! works where there is none.
use rand::seq::IndexedRandom;
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};
use store::{Backend, Range};

/// What can be connected to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Address {
    Socket(SocketAddr),
    /// An `ExternalName`, with a port.
    Name(String, u16),
}

/// A ready endpoint of the service's `port`, at random.
///
/// # Errors
/// Why there is none.
pub(crate) async fn service(backend: &dyn Backend, namespace: &str, name: &str, port: u16) -> Result<Address, String> {
    let key = format!("/registry/services/specs/{namespace}/{name}");
    let entry = backend.get(key.as_bytes(), None).await.map_err(|error| error.to_string())?;
    let entry = entry.ok_or_else(|| format!("service {name:?} not found"))?;
    let service: Value = serde_json::from_slice(&entry.value).map_err(|error| error.to_string())?;
    if service["spec"]["type"] == "ExternalName" {
        let external = service["spec"]["externalName"].as_str().unwrap_or_default();
        return Ok(Address::Name(external.to_owned(), port));
    }
    let mut ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let found = ports.find(|p| p["port"] == port);
    let found = found.ok_or_else(|| format!("no service port {port} found for service {name:?}"))?;
    let prefix = format!("/registry/endpointslices/{namespace}/");
    let page = backend.list(&Range::prefix(prefix), None, 0).await.map_err(|error| error.to_string())?;
    let slices = page.entries.iter().filter(|entry| {
        entry.summary.labels.iter().any(|(key, value)| &**key == "kubernetes.io/service-name" && **value == *name)
    });
    let slices = slices.filter_map(|entry| serde_json::from_slice::<Value>(&entry.value).ok());
    let port_name = found["name"].as_str().unwrap_or_default();
    let ready: Vec<SocketAddr> = slices.flat_map(|slice| ready(&slice, port_name)).collect();
    let chosen = ready.choose(&mut rand::rng()).copied();
    chosen.map(Address::Socket).ok_or_else(|| format!("no endpoints available for service {name:?}"))
}

fn ready(slice: &Value, port_name: &str) -> Vec<SocketAddr> {
    let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
    let port = list(&slice["ports"]).into_iter().find(|p| p["name"].as_str().unwrap_or_default() == port_name);
    let port = port.and_then(|p| p["port"].as_u64()).and_then(|port| u16::try_from(port).ok());
    let Some(port) = port else { return Vec::new() };
    let endpoints = list(&slice["endpoints"]).into_iter().filter(|e| e["conditions"]["ready"] != false);
    let texts = endpoints.flat_map(|endpoint| list(&endpoint["addresses"]));
    texts.filter_map(|t| t.as_str()?.parse::<IpAddr>().ok()).map(|ip| SocketAddr::new(ip, port)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::Bench;
    use serde_json::json;

    #[tokio::test]
    async fn a_service_is_where_its_ready_endpoints_are() {
        let bench = Bench::new();
        let find = |port| service(&*bench.memory, "n", "s", port);
        assert_eq!(find(443).await.unwrap_err(), "service \"s\" not found");
        let spec = json!({"spec": {"ports": [{"name": "web", "port": 443}]}});
        bench.store("/registry/services/specs/n/s", spec).await;
        assert!(find(80).await.unwrap_err().starts_with("no service port 80"));
        assert!(find(443).await.unwrap_err().starts_with("no endpoints available"));
        let slice = json!({
            "metadata": {"labels": {"kubernetes.io/service-name": "s"}}, "ports": [{"name": "web", "port": 8443}],
            "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": false}}, {"addresses": ["10.0.0.2"]}],
        });
        bench.store("/registry/endpointslices/n/s-1", slice).await;
        assert_eq!(find(443).await.unwrap(), Address::Socket("10.0.0.2:8443".parse().unwrap()));
        bench
            .store("/registry/services/specs/n/s", json!({"spec": {"type": "ExternalName", "externalName": "x"}}))
            .await;
        assert_eq!(find(443).await.unwrap(), Address::Name("x".into(), 443));
    }
}
