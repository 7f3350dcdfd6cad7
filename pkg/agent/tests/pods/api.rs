//! As much of an API server as an agent talks to: objects in memory, patches merged, changes watched.
use bytes::Bytes;
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
use tokio::sync::watch;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// The API; cloning shares it.
#[derive(Clone)]
pub struct Api {
    state: Arc<Mutex<State>>,
    /// How many changes there were.
    changed: watch::Sender<usize>,
    silent: Arc<AtomicBool>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    /// Every change with its object's path; the nth is version n.
    changes: Vec<(String, Value)>,
}

impl Api {
    pub fn new() -> Self {
        Self { state: Arc::default(), changed: watch::Sender::new(0), silent: Arc::default() }
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
        self.state.lock().objects.get(path).cloned()
    }

    /// All that an object has been, oldest first.
    pub fn history(&self, path: &str) -> Vec<Value> {
        let state = self.state.lock();
        let ours = state.changes.iter().filter(|(at, _)| at == path);
        ours.map(|(_, change)| change["object"].clone()).collect()
    }

    /// Makes or changes an object and tells watchers.
    pub fn put(&self, path: &str, object: Value) -> Value {
        self.change(&mut self.state.lock(), path, object)
    }

    /// Changes an object that is there, whatever others write meanwhile.
    pub fn edit(&self, path: &str, edit: impl FnOnce(&mut Value)) -> Option<Value> {
        let mut state = self.state.lock();
        let mut object = state.objects.get(path)?.clone();
        edit(&mut object);
        Some(self.change(&mut state, path, object))
    }

    pub fn remove(&self, path: &str) -> Option<Value> {
        let mut state = self.state.lock();
        let object = state.objects.remove(path)?;
        self.tell(&mut state, path, "DELETED", object.clone());
        Some(object)
    }

    fn change(&self, state: &mut State, path: &str, mut object: Value) -> Value {
        object["metadata"]["resourceVersion"] = (state.changes.len() + 1).to_string().into();
        let known = state.objects.insert(path.to_owned(), object.clone()).is_some();
        self.tell(state, path, if known { "MODIFIED" } else { "ADDED" }, object.clone());
        object
    }

    fn tell(&self, state: &mut State, path: &str, kind: &str, object: Value) {
        state.changes.push((path.to_owned(), json!({"type": kind, "object": object})));
        self.changed.send_replace(state.changes.len());
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
            Method::GET if query.contains("watch=true") => self.watch(&path, &query),
            Method::GET if is_collection(&path) => self.list(&path),
            Method::POST => self.create(&path, body),
            method => {
                let object = match method {
                    Method::PATCH => self.edit(&path, |object| merge(object, body)),
                    Method::DELETE => self.remove(&path),
                    _ => self.get(&path),
                };
                let missing = json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound", "message": "not found"});
                let status = if object.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
                reply(status, &object.unwrap_or(missing))
            }
        }
    }

    /// Makes an object that isn't there yet, with a uid of its own.
    fn create(&self, collection: &str, mut object: Value) -> Answer {
        let path = format!("{collection}/{}", object["metadata"]["name"].as_str().unwrap_or_default());
        let mut state = self.state.lock();
        if state.objects.contains_key(&path) {
            let taken = json!({"kind": "Status", "status": "Failure", "code": 409, "reason": "AlreadyExists", "message": "it exists"});
            return reply(StatusCode::CONFLICT, &taken);
        }
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = format!("made-{}", state.changes.len()).into();
        }
        reply(StatusCode::CREATED, &self.change(&mut state, &path, object))
    }

    fn list(&self, path: &str) -> Answer {
        let state = self.state.lock();
        let items: Vec<&Value> = state.objects.iter().filter(|(p, _)| below(p, path)).map(|(_, o)| o).collect();
        let version = state.changes.len().to_string();
        reply(StatusCode::OK, &json!({"metadata": {"resourceVersion": version}, "items": items}))
    }

    /// All changes after the version that was listed.
    fn watch(&self, path: &str, query: &str) -> Answer {
        let from = query.split('&').find_map(|part| part.strip_prefix("resourceVersion="));
        let from: usize = from.and_then(|from| from.parse().ok()).unwrap_or_default();
        let (state, path) = (Arc::clone(&self.state), path.to_owned());
        let changes = futures::stream::unfold((from, self.changed.subscribe()), move |(from, mut changed)| {
            let (state, path) = (Arc::clone(&state), path.clone());
            async move {
                let until = *changed.wait_for(|until| *until > from).await.ok()?;
                let lines: String = {
                    let state = state.lock();
                    let ours = state.changes[from..until].iter().filter(|(at, _)| below(at, &path));
                    ours.map(|(_, change)| format!("{change}\n")).collect()
                };
                Some((Ok::<_, Infallible>(Frame::data(Bytes::from(lines))), (until, changed)))
            }
        });
        Response::new(StreamBody::new(changes).boxed_unsync())
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
    ["pods", "services", "configmaps", "nodes"].iter().any(|kind| path.ends_with(kind))
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
