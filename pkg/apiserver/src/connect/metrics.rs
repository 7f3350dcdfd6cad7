//! `metrics.k8s.io/v1beta1`: what nodes and pods use now, asked of the agents (`k8s.io/metrics`); nothing is stored.
use crate::body::{self, Body};
use crate::front::{Answer, Front, method_not_allowed};
use crate::request::{RequestInfo, Verb};
use api::Status;
use api::selector::LabelSelector;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// The group and its version.
pub const GROUP: &str = "metrics.k8s.io";
pub const VERSION: &str = "v1beta1";

/// An agent that takes longer is left out.
const ANSWER: Duration = Duration::from_secs(5);
/// Agents asked at once.
const AT_ONCE: usize = 32;
/// A summary of thousands of containers.
const SUMMARY_BYTES: usize = 32 << 20;
/// What rates are taken over at least; the agents' own interval.
const WINDOW: &str = "15s";

/// Whether this module serves the resource.
pub fn serves(info: &RequestInfo) -> bool {
    info.group == GROUP && info.version == VERSION && matches!(&*info.resource, "nodes" | "pods")
}

pub async fn serve(front: &Arc<Front>, info: &RequestInfo) -> Answer {
    if !matches!(info.verb, Verb::Get | Verb::List) {
        return Err(method_not_allowed());
    }
    let selector = LabelSelector::parse(info.param("labelSelector").unwrap_or_default());
    let selector = selector.map_err(|error| Status::bad_request(error.to_string()))?;
    let nodes = front.nodes().await?;
    let slash = if info.namespace.is_empty() { "" } else { "/" };
    let pods = format!("/registry/pods/{}{slash}", info.namespace);
    let of_pods = info.resource == "pods";
    let objects = if of_pods { front.all(pods).await? } else { nodes.clone() };
    let wanted = |object: &&Value| {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        (info.name.is_empty() || info.name == name) && selector.matches(&object["metadata"]["labels"])
    };
    let objects: Vec<&Value> = objects.iter().filter(wanted).collect();
    let summaries = front.summaries(&nodes, info, &objects).await;
    let mut items: Vec<Value> = objects
        .iter()
        .filter_map(|object| if of_pods { pod(object, &summaries) } else { node(object, &summaries) })
        .collect();
    let (kind, version) = (if of_pods { "PodMetrics" } else { "NodeMetrics" }, format!("{GROUP}/{VERSION}"));
    let answer = match info.name.is_empty() {
        true => json!({"kind": format!("{kind}List"), "apiVersion": version, "metadata": {}, "items": items}),
        false => {
            let resource = if of_pods { "pods" } else { "nodes" };
            let mut item = items.pop().ok_or_else(|| Status::not_found(GROUP, resource, &info.name))?;
            item["kind"] = kind.into();
            item["apiVersion"] = version.into();
            item
        }
    };
    Ok(body::content(StatusCode::OK, "application/json", answer.to_string()))
}

impl Front {
    async fn nodes(&self) -> Result<Vec<Value>, Status> {
        self.all("/registry/minions/".into()).await
    }

    async fn all(&self, prefix: String) -> Result<Vec<Value>, Status> {
        let range = store::Range::prefix(prefix);
        let page = self.backend.list(&range, None, 0).await.map_err(Status::internal)?;
        Ok(page.entries.iter().filter_map(|entry| serde_json::from_slice(&entry.value).ok()).collect())
    }

    /// The summaries of the nodes that the answer needs; nodes that do not answer are left out.
    async fn summaries(&self, nodes: &[Value], info: &RequestInfo, objects: &[&Value]) -> Vec<Value> {
        let needed = |node: &&Value| {
            let name = &node["metadata"]["name"];
            let named = if info.resource == "nodes" { "metadata" } else { "spec" };
            let field = if info.resource == "nodes" { "name" } else { "nodeName" };
            objects.iter().any(|object| object[named][field] == *name)
        };
        let names = nodes.iter().filter(needed).filter_map(|node| node["metadata"]["name"].as_str());
        let asks: Vec<BoxFuture<'_, Option<Value>>> = names.map(|name| self.summary_in_time(name).boxed()).collect();
        let mut answers = futures::stream::iter(asks).buffer_unordered(AT_ONCE);
        let mut summaries = Vec::new();
        while let Some(answer) = answers.next().await {
            summaries.extend(answer);
        }
        summaries
    }

    async fn summary_in_time(&self, node: &str) -> Option<Value> {
        let answer = tokio::time::timeout(ANSWER, self.summary(node)).await.ok()?;
        answer.inspect_err(|status| tracing::debug!(node, message = status.message, "no metrics")).ok()
    }

    async fn summary(&self, node: &str) -> Result<Value, Status> {
        let agent = self.agent_of_node(node).await?;
        let ask: Request<Body> = Request::get("/stats/summary").body(body::full("")).map_err(Status::internal)?;
        let answer = self.agents.send(&agent, ask).await?;
        if !answer.status().is_success() {
            return Err(Status::internal(format!("{node} answered {}", answer.status())));
        }
        let bytes = Limited::new(answer.into_body(), SUMMARY_BYTES).collect().await.map_err(Status::internal)?;
        serde_json::from_slice(&bytes.to_bytes()).map_err(Status::internal)
    }
}

fn node(node: &Value, summaries: &[Value]) -> Option<Value> {
    let name = &node["metadata"]["name"];
    let used = &summaries.iter().find(|summary| summary["node"]["nodeName"] == *name)?["node"];
    let mut out = head(node, used);
    out["usage"] = usage(used)?;
    Some(out)
}

fn pod(pod: &Value, summaries: &[Value]) -> Option<Value> {
    // A mirror pod is not what runs: its annotation says what does.
    let runs = pod["metadata"]["annotations"].get("kubernetes.io/config.mirror");
    let uid = runs.unwrap_or(&pod["metadata"]["uid"]);
    let all = summaries.iter().flat_map(|summary| summary["pods"].as_array().into_iter().flatten());
    let used = all.into_iter().find(|used| used["podRef"]["uid"] == *uid)?;
    let containers: Option<Vec<Value>> = used["containers"]
        .as_array()?
        .iter()
        .map(|container| Some(json!({"name": container["name"], "usage": usage(container)?})))
        .collect();
    let mut out = head(pod, used);
    out["containers"] = containers?.into();
    Some(out)
}

fn head(object: &Value, used: &Value) -> Value {
    let time = &used["cpu"]["time"];
    let mut metadata = json!({"name": object["metadata"]["name"], "creationTimestamp": time});
    for field in ["namespace", "labels"] {
        if let Some(value) = object["metadata"].get(field) {
            metadata[field] = value.clone();
        }
    }
    json!({"metadata": metadata, "timestamp": time, "window": WINDOW})
}

/// `None` until a rate is known: the first seconds of a container tell nothing.
fn usage(used: &Value) -> Option<Value> {
    let nano_cores = used["cpu"]["usageNanoCores"].as_u64()?;
    let kib = used["memory"]["workingSetBytes"].as_u64()? >> 10;
    Some(json!({"cpu": format!("{nano_cores}n"), "memory": format!("{kib}Ki")}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_quantities() {
        let used = json!({"name": "a", "cpu": {"time": "t", "usageNanoCores": 5}, "memory": {"workingSetBytes": 4096}});
        let summary = json!({"node": {"nodeName": "n", "cpu": used["cpu"], "memory": used["memory"]},
            "pods": [{"podRef": {"uid": "u"}, "cpu": {"time": "t"}, "containers": [used]}]});
        let object = json!({"metadata": {"name": "n", "uid": "u", "namespace": "x", "labels": {"a": "b"}}});
        let usage = json!({"cpu": "5n", "memory": "4Ki"});
        assert_eq!(node(&object, std::slice::from_ref(&summary)).unwrap()["usage"], usage);
        let annotations = json!({"kubernetes.io/config.mirror": "u"});
        let mirror = json!({"metadata": {"name": "n", "uid": "m", "annotations": annotations}});
        assert!(pod(&mirror, std::slice::from_ref(&summary)).is_some(), "a static pod's");
        let got = pod(&object, &[summary]).unwrap();
        assert_eq!(got["containers"], json!([{"name": "a", "usage": usage}]));
        assert_eq!((&got["metadata"]["labels"]["a"], &got["window"]), (&json!("b"), &json!(WINDOW)));
        assert_eq!(node(&json!({"metadata": {"name": "other"}}), &[]), None);
    }
}
