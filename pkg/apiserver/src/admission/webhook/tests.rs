//! Webhooks that are really called, over TLS, by an engine on the store's double.
use crate::Verb;
use crate::connect::{Stream, Tunnels};
use crate::engine::testing::{Bench, info};
use crate::webhook::testing::Server;
use base64::Engine;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;

/// A path's `response`, without the uid.
fn respond(path: &str, request: &Value) -> Value {
    let patch = |patch: Value| {
        let patch = base64::engine::general_purpose::STANDARD.encode(patch.to_string());
        json!({"allowed": true, "patchType": "JSONPatch", "patch": patch})
    };
    let has = |key: &str| request["object"]["data"].get(key).is_some();
    match path {
        "/first" if has("second") && !has("again") => {
            patch(json!([{"op": "add", "path": "/data/again", "value": "yes"}]))
        }
        "/second" => patch(json!([{"op": "add", "path": "/data/second", "value": "yes"}])),
        "/deny" => json!({"allowed": false, "status": {"message": "not here", "code": 403, "reason": "Forbidden"}}),
        "/warn" => json!({"allowed": true, "warnings": ["mind the gap"]}),
        _ => json!({"allowed": true}),
    }
}

trait Hooks {
    fn hook(&self, name: &str, path: &str, change: Value) -> Value;
}

impl Hooks for Server {
    fn hook(&self, name: &str, path: &str, change: Value) -> Value {
        let rule = json!({"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]});
        let mut hook = json!({
            "name": name, "rules": [rule], "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "failurePolicy": "Fail", "timeoutSeconds": 5,
            "clientConfig": {"url": format!("https://localhost:{}{path}", self.port), "caBundle": self.ca_bundle},
        });
        hook.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        hook
    }
}

async fn bench() -> Bench {
    begun(Bench::new()).await
}

async fn begun(bench: Bench) -> Bench {
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns", "labels": {"team": "a"}}});
    bench.store("/registry/namespaces/ns", namespace).await;
    bench
}

async fn configure(bench: &Bench, sort: &str, name: &str, hooks: Vec<Value>) {
    let object = json!({"metadata": {"name": name}, "webhooks": hooks});
    bench.store(&format!("/registry/{sort}webhookconfigurations/{name}"), object).await;
}

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}})
}

async fn create(bench: &Bench, name: &str) -> (u16, Value) {
    bench.json(info(Verb::Create, "configmaps", "ns", ""), map(name)).await
}

#[tokio::test]
async fn webhooks_mutate_in_order_and_once_more_where_they_want() {
    let (server, bench) = (Server::start(respond).await, bench().await);
    let first = server.hook("first.x.y", "/first", json!({"reinvocationPolicy": "IfNeeded"}));
    configure(&bench, "mutating", "a", vec![first]).await;
    configure(&bench, "mutating", "b", vec![server.hook("second.x.y", "/second", json!({}))]).await;
    let (code, object) = create(&bench, "m").await;
    assert_eq!((code, &object["data"]), (201, &json!({"a": "b", "second": "yes", "again": "yes"})), "{object}");
    let seen = server.seen.lock().clone();
    assert_eq!(seen.len(), 3, "the first one twice, the second once");
    assert_eq!(
        (&seen[0]["operation"], &seen[0]["name"], &seen[0]["namespace"]),
        (&json!("CREATE"), &json!("m"), &json!("ns"))
    );
    assert_eq!((&seen[0]["userInfo"]["username"], &seen[0]["oldObject"]), (&json!("tester"), &Value::Null));
    assert_eq!(seen[0]["object"]["metadata"].get("uid"), None, "the object has no identity yet");
}

#[tokio::test]
async fn a_refusal_is_the_webhooks_own() {
    let (server, bench) = (Server::start(respond).await, bench().await);
    configure(&bench, "validating", "a", vec![server.hook("no.x.y", "/deny", json!({}))]).await;
    let (code, status) = create(&bench, "m").await;
    let message = json!("admission webhook \"no.x.y\" denied the request: not here");
    assert_eq!((code, &status["message"]), (403, &message));
    let only = json!({"namespaceSelector": {"matchLabels": {"team": "other"}}});
    configure(&bench, "validating", "a", vec![server.hook("no.x.y", "/deny", only)]).await;
    assert_eq!(create(&bench, "m").await.0, 201, "a changed configuration holds at once");
    configure(&bench, "validating", "a", vec![server.hook("no.x.y", "/deny", json!({}))]).await;
    let (code, _) = bench.json(info(Verb::Delete, "configmaps", "ns", "m"), Value::Null).await;
    assert_eq!(code, 403);
    let deleted = server.seen.lock().last().unwrap().clone();
    assert_eq!((&deleted["object"], &deleted["oldObject"]["data"]["a"]), (&Value::Null, &json!("b")));
    assert!(deleted["oldObject"]["metadata"]["resourceVersion"].is_string());
}

#[tokio::test]
async fn who_can_not_be_asked_is_a_matter_of_policy() {
    let (server, bench) = (Server::start(respond).await, bench().await);
    let slow = |policy: &str| server.hook("slow.x.y", "/slow", json!({"timeoutSeconds": 1, "failurePolicy": policy}));
    configure(&bench, "validating", "a", vec![slow("Fail")]).await;
    let (code, status) = create(&bench, "m").await;
    let message = status["message"].as_str().unwrap();
    assert!(code == 500 && message.contains("/slow?timeout=1s\": context deadline exceeded"), "{message}");
    configure(&bench, "validating", "a", vec![slow("Ignore")]).await;
    assert_eq!(create(&bench, "m").await.0, 201);
    let stranger = server.hook(
        "s.x.y",
        "/ok",
        json!({"clientConfig": {
        "url": format!("https://localhost:{}/ok", server.port)}}),
    );
    configure(&bench, "validating", "a", vec![stranger]).await;
    let (code, status) = create(&bench, "n").await;
    let message = status["message"].as_str().unwrap();
    assert!(code == 500 && message.contains("certificate signed by unknown authority"), "{message}");
}

#[tokio::test]
async fn a_service_is_called_at_its_endpoint_and_dry_runs_have_no_side_effects() {
    let (server, bench) = (Server::start(respond).await, bench().await);
    let service = json!({"service": {"namespace": "ns", "name": "hook", "port": 443, "path": "/warn"}, "caBundle": server.ca_bundle});
    let hook = server.hook("w.x.y", "", json!({"clientConfig": service, "sideEffects": "Some"}));
    configure(&bench, "validating", "a", vec![hook]).await;
    let (code, status) = create(&bench, "m").await;
    assert!(code == 500 && status["message"].as_str().unwrap().contains("service \"hook\" not found"), "{status}");
    bench.store("/registry/services/specs/ns/hook", json!({"spec": {"ports": [{"port": 443}]}})).await;
    let slice = json!({
        "metadata": {"labels": {"kubernetes.io/service-name": "hook"}}, "ports": [{"port": server.port}],
        "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}],
    });
    bench.store("/registry/endpointslices/ns/hook-1", slice).await;
    let response =
        bench.send(info(Verb::Create, "configmaps", "ns", ""), map("m").to_string(), Default::default()).await;
    assert_eq!(response.status(), 201);
    assert_eq!(response.headers()["warning"], "299 - \"mind the gap\"");
    let mut dry = info(Verb::Create, "configmaps", "ns", "");
    dry.query = vec![("dryRun".into(), "All".into())];
    let (code, status) = bench.json(dry, map("n")).await;
    assert_eq!((code, &status["message"]), (400, &json!("admission webhook \"w.x.y\" does not support dry run")));
}

/// A node that can't be dialled, with a pod at an address that leads nowhere from here.
struct Behind {
    pod: SocketAddr,
    is: SocketAddr,
}

#[async_trait::async_trait]
impl Tunnels for Behind {
    async fn dial(&self, node: &str, address: SocketAddr) -> std::io::Result<Box<dyn Stream>> {
        assert_eq!((node, address), ("edge", self.pod));
        Ok(Box::new(tokio::net::TcpStream::connect(self.is).await?))
    }
}

#[tokio::test]
async fn a_webhook_on_a_node_that_cant_be_dialled_is_called_over_its_link() {
    let server = Server::start(respond).await;
    let pod: SocketAddr = "192.0.2.1:8443".parse().unwrap();
    let behind = Behind { pod, is: format!("127.0.0.1:{}", server.port).parse().unwrap() };
    let bench = begun(Bench::with(crate::Sites::default(), Some(Arc::new(behind)))).await;
    let service = json!({"service": {"namespace": "ns", "name": "hook", "port": 443, "path": "/deny"}, "caBundle": server.ca_bundle});
    configure(&bench, "validating", "a", vec![server.hook("w.x.y", "", json!({"clientConfig": service}))]).await;
    bench.store("/registry/services/specs/ns/hook", json!({"spec": {"ports": [{"port": 443}]}})).await;
    let slice = json!({
        "metadata": {"labels": {"kubernetes.io/service-name": "hook"}}, "ports": [{"port": pod.port()}],
        "endpoints": [{"addresses": [pod.ip().to_string()], "nodeName": "edge"}],
    });
    bench.store("/registry/endpointslices/ns/hook-1", slice).await;
    let (code, status) = create(&bench, "n").await;
    assert!(code == 403 && status["message"].as_str().unwrap().contains("not here"), "{status}");
}
