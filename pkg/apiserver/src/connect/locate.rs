//! Where a connection goes: which node a pod is on, which container is meant, which address a service has.
use super::agent::AgentAddress;
use crate::front::Front;
use api::Status;
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};

/// The agent's port where the node does not say.
const AGENT_PORT: u16 = 10250;

/// A container on a node.
pub struct Target {
    pub namespace: String,
    pub pod: String,
    pub container: String,
    /// Where the agent listens; none: the pod is on no node yet.
    pub agent: Option<AgentAddress>,
}

impl Front {
    /// Reads a stored object of the core group.
    pub(super) async fn stored(
        &self,
        resource: &str,
        stem: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Value, Status> {
        let slash = if namespace.is_empty() { "" } else { "/" };
        let key = format!("/registry/{stem}/{namespace}{slash}{name}");
        let entry = self.backend.get(key.as_bytes(), None).await.map_err(Status::internal)?;
        let entry = entry.ok_or_else(|| Status::not_found("", resource, name))?;
        serde_json::from_slice(&entry.value).map_err(Status::internal)
    }

    /// A pod's container; `wanted` empty: the only one.
    pub(super) async fn container(&self, namespace: &str, name: &str, wanted: &str) -> Result<Target, Status> {
        let pod = self.stored("pods", "pods", namespace, name).await?;
        let container = choose_container(&pod, name, wanted)?;
        let agent = self.agent_of_pod(&pod).await?;
        Ok(Target { namespace: namespace.into(), pod: name.into(), container, agent })
    }

    /// Where the agent of a pod's node listens; none: the pod is on no node yet.
    pub(super) async fn agent_of_pod(&self, pod: &Value) -> Result<Option<AgentAddress>, Status> {
        match pod["spec"]["nodeName"].as_str().unwrap_or_default() {
            "" => Ok(None),
            node => self.agent_of_node(node).await.map(Some),
        }
    }

    pub(super) async fn agent_of_node(&self, name: &str) -> Result<AgentAddress, Status> {
        let node = self.stored("nodes", "minions", "", name).await?;
        let address = agent_address(&node).ok_or_else(|| {
            Status::internal(format!("no preferred addresses found; known addresses: {}", node["status"]["addresses"]))
        })?;
        Ok(AgentAddress { node: name.to_owned(), address })
    }
}

/// The first address of the preferred types, which must be one of numbers: names of nodes resolve nowhere here.
fn agent_address(node: &Value) -> Option<SocketAddr> {
    let status = &node["status"];
    let addresses = status["addresses"].as_array()?;
    let of_type = |wanted: &str| addresses.iter().find(|address| address["type"] == wanted)?["address"].as_str();
    let ip = ["InternalIP", "ExternalIP", "Hostname"].iter().find_map(|ty| of_type(ty)?.parse::<IpAddr>().ok())?;
    let port = status["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().filter(|port| *port > 0);
    Some(SocketAddr::new(ip, port.and_then(|port| u16::try_from(port).ok()).unwrap_or(AGENT_PORT)))
}

/// `validateContainer` of `pkg/registry/core/pod`.
fn choose_container(pod: &Value, name: &str, wanted: &str) -> Result<String, Status> {
    let names = |list: &str| -> Vec<String> {
        let items = pod["spec"][list].as_array().map(Vec::as_slice).unwrap_or_default();
        items.iter().filter_map(|container| container["name"].as_str().map(str::to_owned)).collect()
    };
    let all = [names("initContainers"), names("containers"), names("ephemeralContainers")].concat();
    if !wanted.is_empty() {
        return if all.iter().any(|name| name == wanted) {
            Ok(wanted.into())
        } else {
            Err(Status::bad_request(format!("container {wanted} is not valid for pod {name}")))
        };
    }
    match names("containers").as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Status::bad_request(format!("a container name must be specified for pod {name}"))),
        _ => Err(Status::bad_request(format!(
            "a container name must be specified for pod {name}, choose one of: [{}]",
            all.join(" ")
        ))),
    }
}

/// `[SCHEME:]NAME[:PORT]`, as names of proxied pods, services and nodes may be written.
pub fn split_name(id: &str) -> Option<(&str, &str, &str)> {
    let parts: Vec<&str> = id.split(':').collect();
    match parts[..] {
        [name] => Some(("http", name, "")),
        [name, port] => Some(("http", name, port)),
        [scheme @ ("http" | "https" | ""), name, port] => {
            Some((if scheme.is_empty() { "http" } else { scheme }, name, port))
        }
        _ => None,
    }
    .filter(|(_, name, _)| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_agent_is_at_the_nodes_internal_address() {
        let mut node = json!({"status": {"addresses": [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "192.0.2.1"}]}});
        assert_eq!(agent_address(&node), Some("192.0.2.1:10250".parse().unwrap()));
        node["status"]["daemonEndpoints"] = json!({"kubeletEndpoint": {"Port": 10350}});
        assert_eq!(agent_address(&node), Some("192.0.2.1:10350".parse().unwrap()));
        assert_eq!(agent_address(&json!({})), None);
    }

    #[test]
    fn containers_are_chosen_as_upstream_does() {
        let one = json!({"spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]}});
        let two = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}});
        assert_eq!(choose_container(&one, "p", "").unwrap(), "a");
        assert_eq!(choose_container(&one, "p", "i").unwrap(), "i");
        assert_eq!(choose_container(&one, "p", "x").unwrap_err().message, "container x is not valid for pod p");
        let message = "a container name must be specified for pod p, choose one of: [i a b]";
        assert_eq!(choose_container(&two, "p", "").unwrap_err().message, message);
    }

    #[test]
    fn names_may_carry_scheme_and_port() {
        assert_eq!(split_name("a"), Some(("http", "a", "")));
        assert_eq!(split_name("a:80"), Some(("http", "a", "80")));
        assert_eq!(split_name("https:a:"), Some(("https", "a", "")));
        assert_eq!(split_name("ftp:a:1"), None);
        assert_eq!(split_name(":1"), None);
    }
}
