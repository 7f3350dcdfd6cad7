//! Where a Service is reached from this server: at a ready endpoint, which spares a way through the dataplane and
//! works where there is none. What a node that can't be dialled runs is reached over that node's link.
use crate::connect::{Stream, Tunnels};
use rand::seq::IndexedRandom;
use serde_json::Value;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use store::{Backend, Range};
use tokio::net::TcpStream;

/// What can be connected to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Address {
    Endpoint(Endpoint),
    /// An `ExternalName`, with a port.
    Name(String, u16),
}

/// Where somebody listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// The node that it is on, where that is known.
    pub node: Option<String>,
    pub address: SocketAddr,
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self { node: None, address }
    }
}

/// What it takes to reach a Service.
#[derive(Clone)]
pub struct Reach {
    pub backend: Arc<dyn Backend>,
    /// None: everything is dialled straight.
    pub tunnels: Option<Arc<dyn Tunnels>>,
}

/// A connection to an endpoint.
///
/// # Errors
/// There is no way.
pub(crate) async fn dial(tunnels: Option<&Arc<dyn Tunnels>>, to: &Endpoint) -> io::Result<Box<dyn Stream>> {
    match (tunnels, &to.node) {
        (Some(tunnels), Some(node)) => tunnels.dial(node, to.address).await,
        _ => straight(to.address).await,
    }
}

pub(crate) async fn straight(address: SocketAddr) -> io::Result<Box<dyn Stream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(Box::new(stream))
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
    let ready: Vec<Endpoint> = slices.flat_map(|slice| ready(&slice, port_name, |_| true)).collect();
    let chosen = ready.choose(&mut rand::rng()).cloned();
    chosen.map(Address::Endpoint).ok_or_else(|| format!("no endpoints available for service {name:?}"))
}

/// A slice's ready endpoints that are wanted, at the port of this name.
pub(crate) fn ready(slice: &Value, port_name: &str, wanted: impl Fn(&Value) -> bool) -> Vec<Endpoint> {
    let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
    let port = list(&slice["ports"]).into_iter().find(|p| p["name"].as_str().unwrap_or_default() == port_name);
    let port = port.and_then(|p| p["port"].as_u64()).and_then(|port| u16::try_from(port).ok());
    let Some(port) = port else { return Vec::new() };
    let endpoints = list(&slice["endpoints"]).into_iter().filter(|e| e["conditions"]["ready"] != false);
    let addresses = endpoints.filter(wanted).flat_map(|endpoint| {
        let node = endpoint["nodeName"].as_str().map(str::to_owned);
        list(&endpoint["addresses"]).into_iter().map(move |address| (node.clone(), address))
    });
    let parsed = addresses.filter_map(|(node, text)| Some((node, text.as_str()?.parse::<IpAddr>().ok()?)));
    parsed.map(|(node, ip)| Endpoint { node, address: SocketAddr::new(ip, port) }).collect()
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
            "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": false}}, {"addresses": ["10.0.0.2"], "nodeName": "n"}],
        });
        bench.store("/registry/endpointslices/n/s-1", slice).await;
        let there = Endpoint { node: Some("n".into()), address: "10.0.0.2:8443".parse().unwrap() };
        assert_eq!(find(443).await.unwrap(), Address::Endpoint(there));
        bench
            .store("/registry/services/specs/n/s", json!({"spec": {"type": "ExternalName", "externalName": "x"}}))
            .await;
        assert_eq!(find(443).await.unwrap(), Address::Name("x".into(), 443));
    }
}
