//! As much of an API server as an agent talks to: objects in memory, patches merged, changes watched.
use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::broadcast;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// The API; cloning shares it.
#[derive(Clone)]
pub struct Api {
    objects: Arc<Mutex<BTreeMap<String, Value>>>,
    changes: broadcast::Sender<(String, Value)>,
    silent: Arc<AtomicBool>,
}

impl Api {
    pub fn new() -> Self {
        Self { objects: Arc::default(), changes: broadcast::Sender::new(1024), silent: Arc::default() }
    }

    pub fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        client::in_process(service)
    }

    /// From now on nobody gets an answer, as when the network is cut.
    pub fn fall_silent(&self) {
        self.silent.store(true, Ordering::Relaxed);
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        self.objects.lock().get(path).cloned()
    }

    /// Makes or changes an object and tells watchers.
    pub fn put(&self, path: &str, mut object: Value) -> Value {
        let mut objects = self.objects.lock();
        let kind = if objects.contains_key(path) { "MODIFIED" } else { "ADDED" };
        let version = objects.values().filter_map(|o| o["metadata"]["resourceVersion"].as_str()?.parse().ok()).max();
        object["metadata"]["resourceVersion"] = (version.unwrap_or(0u64) + 1).to_string().into();
        objects.insert(path.to_owned(), object.clone());
        let _ = self.changes.send((path.to_owned(), json!({"type": kind, "object": object})));
        object
    }

    pub fn remove(&self, path: &str) {
        if let Some(object) = self.objects.lock().remove(path) {
            let _ = self.changes.send((path.to_owned(), json!({"type": "DELETED", "object": object})));
        }
    }

    async fn answer(&self, request: Request<Body>) -> Answer {
        if self.silent.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let path = request.uri().path().trim_end_matches("/status").to_owned();
        let query = request.uri().query().unwrap_or_default().to_owned();
        let method = request.method().clone();
        let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        match method {
            Method::GET if query.contains("watch=true") => self.watch(&path),
            Method::GET if is_collection(&path) => self.list(&path),
            Method::POST => {
                let name = body["metadata"]["name"].as_str().unwrap_or_default();
                reply(StatusCode::CREATED, &self.put(&format!("{path}/{name}"), body.clone()))
            }
            _ => match (self.get(&path), method) {
                (None, _) => {
                    let status = json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound", "message": "not found"});
                    reply(StatusCode::NOT_FOUND, &status)
                }
                (Some(mut object), Method::PATCH) => {
                    merge(&mut object, body);
                    reply(StatusCode::OK, &self.put(&path, object))
                }
                (Some(object), Method::DELETE) => {
                    self.remove(&path);
                    reply(StatusCode::OK, &object)
                }
                (Some(object), _) => reply(StatusCode::OK, &object),
            },
        }
    }

    fn list(&self, path: &str) -> Answer {
        let items: Vec<Value> =
            self.objects.lock().iter().filter(|(p, _)| below(p, path)).map(|(_, o)| o.clone()).collect();
        reply(StatusCode::OK, &json!({"metadata": {"resourceVersion": "1"}, "items": items}))
    }

    fn watch(&self, path: &str) -> Answer {
        let path = path.to_owned();
        let changes = futures::stream::unfold(self.changes.subscribe(), async |mut changes| {
            Some((changes.recv().await.ok()?, changes))
        });
        let frames = changes.filter_map(move |(at, change)| {
            let line = below(&at, &path).then(|| Ok::<_, Infallible>(Frame::data(Bytes::from(format!("{change}\n")))));
            std::future::ready(line)
        });
        Response::new(StreamBody::new(frames).boxed_unsync())
    }
}

/// Whether an object's path belongs to a collection, of one namespace or of all.
fn below(path: &str, collection: &str) -> bool {
    let plain = |path: &str| {
        let parts: Vec<&str> = path.split('/').collect();
        match parts.iter().position(|part| *part == "namespaces") {
            Some(at) if parts.len() > at + 2 => [&parts[..at], &parts[at + 2..]].concat().join("/"),
            _ => parts.join("/"),
        }
    };
    plain(path).rsplit_once('/').is_some_and(|(parent, _)| parent == plain(collection))
}

fn is_collection(path: &str) -> bool {
    ["pods", "services", "configmaps"].iter().any(|kind| path.ends_with(kind))
}

fn reply(status: StatusCode, value: &Value) -> Answer {
    let body = http_body_util::Full::new(Bytes::from(value.to_string()));
    let mut answer = Response::new(body.boxed_unsync());
    *answer.status_mut() = status;
    answer
}

fn merge(into: &mut Value, patch: Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, patch) => *into = patch,
    }
}
