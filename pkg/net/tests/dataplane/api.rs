//! A stand-in for the API: lists and watches of whatever it is told to hold.
use bytes::Bytes;
use futures::StreamExt;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::Frame;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::broadcast;

type Body = BoxBody<Bytes, Infallible>;

/// Objects by collection's path and name, and what happens to them.
#[derive(Clone)]
pub struct Api {
    objects: Arc<Mutex<BTreeMap<(String, String), Value>>>,
    events: broadcast::Sender<(String, Value)>,
    revision: Arc<Mutex<u64>>,
}

impl Api {
    pub fn new() -> Self {
        Self { objects: Arc::default(), events: broadcast::Sender::new(10_000), revision: Arc::new(Mutex::new(1)) }
    }

    /// Adds or replaces an object of the collection at `path`.
    pub fn put(&self, path: &str, mut object: Value) {
        let revision = {
            let mut revision = self.revision.lock();
            *revision += 1;
            *revision
        };
        object["metadata"]["resourceVersion"] = json!(revision.to_string());
        let name = object["metadata"]["name"].as_str().expect("name").to_owned();
        let old = self.objects.lock().insert((path.to_owned(), name), object.clone());
        let kind = if old.is_some() { "MODIFIED" } else { "ADDED" };
        let _ = self.events.send((path.to_owned(), json!({"type": kind, "object": object})));
    }

    /// Takes an object away.
    pub fn delete(&self, path: &str, name: &str) {
        let mut revision = self.revision.lock();
        *revision += 1;
        let mut object = self.objects.lock().remove(&(path.to_owned(), name.to_owned())).expect("it is there");
        object["metadata"]["resourceVersion"] = json!(revision.to_string());
        let _ = self.events.send((path.to_owned(), json!({"type": "DELETED", "object": object})));
    }

    pub fn client(&self) -> kube::Client {
        let api = self.clone();
        let answer = move |request: Request<kube::client::Body>| {
            let response = api.answer(&request);
            async move { Ok::<_, Infallible>(response) }
        };
        client::in_process(tower::service_fn(answer))
    }

    fn answer(&self, request: &Request<kube::client::Body>) -> Response<Body> {
        let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or_default());
        let body = if query.contains("watch=true") { self.watch(path) } else { self.list(&path) };
        Response::new(body)
    }

    fn list(&self, path: &str) -> Body {
        let objects = self.objects.lock();
        let items: Vec<_> = objects.iter().filter(|((of, _), _)| of == path).map(|(_, object)| object).collect();
        let list = json!({"metadata": {"resourceVersion": self.revision.lock().to_string()}, "items": items});
        Full::new(Bytes::from(list.to_string())).boxed()
    }

    fn watch(&self, path: String) -> Body {
        let events = futures::stream::unfold(self.events.subscribe(), |mut events| async {
            let event = events.recv().await.ok()?;
            Some((event, events))
        });
        let ours = events.filter(move |(of, _)| std::future::ready(*of == path));
        BodyExt::boxed(StreamBody::new(ours.map(|(_, event)| Ok(Frame::data(Bytes::from(format!("{event}\n")))))))
    }
}
