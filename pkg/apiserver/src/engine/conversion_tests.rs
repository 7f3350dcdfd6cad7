//! Custom resources that a webhook converts, over TLS, through every verb.
use super::testing::{Bench, event, info};
use crate::registry::{Served, custom};
use crate::webhook::testing::Server;
use crate::{RequestInfo, Verb};
use serde_json::{Value, json};
use std::sync::Arc;

/// v1 has `hostPort`, v2 `host` and `port`.
fn respond(path: &str, request: &Value) -> Value {
    if path == "/broken" {
        return json!({"result": {"status": "Failed", "message": "can't"}});
    }
    let wanted = request["desiredAPIVersion"].clone();
    let convert = |object: &Value| {
        let mut new = object.clone();
        let fields = new.as_object_mut().unwrap();
        if wanted == "example.com/v2" {
            let both = fields.remove("hostPort").unwrap();
            let (host, port) = both.as_str().unwrap().split_once(':').unwrap();
            fields.insert("host".into(), host.into());
            fields.insert("port".into(), port.into());
            fields.insert("junk".into(), true.into());
        } else {
            let mut take = |name: &str| fields.remove(name).and_then(|v| v.as_str().map(str::to_owned)).unwrap();
            let both = format!("{}:{}", take("host"), take("port"));
            fields.insert("hostPort".into(), both.into());
        }
        fields.insert("apiVersion".into(), wanted.clone());
        fields["metadata"]["annotations"] = json!({"converted": "yes"});
        new
    };
    let objects: Vec<Value> = request["objects"].as_array().unwrap().iter().map(convert).collect();
    json!({"result": {"status": "Success"}, "convertedObjects": objects})
}

fn definition(server: &Server, path: &str, storage: &str) -> Value {
    let version = |name: &str, fields: &[&str]| {
        let properties: serde_json::Map<String, Value> =
            fields.iter().map(|field| ((*field).to_owned(), json!({"type": "string"}))).collect();
        let selectable: Vec<Value> = fields.iter().map(|field| json!({"jsonPath": format!(".{field}")})).collect();
        json!({
            "name": name, "served": true, "storage": name == storage, "selectableFields": selectable,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}},
        })
    };
    json!({
        "metadata": {"name": "things.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"},
            "versions": [version("v1", &["hostPort"]), version("v2", &["host", "port"])],
            "conversion": {"strategy": "Webhook", "webhook": {
                "conversionReviewVersions": ["v2", "v1"],
                "clientConfig": {
                    "url": format!("https://localhost:{}{path}", server.port), "caBundle": server.ca_bundle,
                },
            }},
        },
    })
}

fn publish(bench: &Bench, definition: &Value) {
    let registry = bench.engine.registry();
    let mut served = Served::clone(&registry.served());
    for resource in custom::resources(definition, store::Revision::ZERO) {
        served.insert(resource.gvr.clone(), Arc::new(resource));
    }
    registry.publish(served);
}

async fn bench(server: &Server) -> Bench {
    let bench = Bench::new();
    bench.store("/registry/namespaces/n", json!({"metadata": {"name": "n"}})).await;
    publish(&bench, &definition(server, "/convert", "v1"));
    bench
}

fn things(verb: Verb, version: &str, name: &str) -> RequestInfo {
    let mut info = info(verb, "things", "n", name);
    (info.group, info.version) = ("example.com".into(), version.into());
    info
}

fn selecting(verb: Verb, version: &str, fields: &str) -> RequestInfo {
    let mut info = things(verb, version, "");
    info.query = vec![("fieldSelector".into(), fields.into())];
    info
}

fn new(name: &str, host: &str) -> Value {
    json!({"apiVersion": "example.com/v2", "kind": "Thing", "metadata": {"name": name}, "host": host, "port": "80"})
}

async fn stored(bench: &Bench, name: &str) -> Value {
    let key = format!("/registry/example.com/things/n/{name}");
    let entry = store::Backend::get(&*bench.memory, key.as_bytes(), None).await.unwrap().unwrap();
    serde_json::from_slice(&entry.value).unwrap()
}

#[tokio::test]
async fn objects_are_stored_in_one_version_and_served_in_any() {
    let server = Server::start(respond).await;
    let bench = bench(&server).await;
    let (code, made) = bench.json(things(Verb::Create, "v2", ""), new("a", "h")).await;
    assert_eq!((code, &made["host"], made.get("hostPort")), (201, &json!("h"), None), "{made}");
    assert!(made["metadata"]["resourceVersion"].is_string() && made.get("junk").is_none(), "{made}");
    assert_eq!(
        (&stored(&bench, "a").await["hostPort"], &stored(&bench, "a").await["apiVersion"]),
        (&json!("h:80"), &json!("example.com/v1"))
    );
    let (_, first) = bench.json(things(Verb::Get, "v1", "a"), Value::Null).await;
    assert_eq!((&first["hostPort"], &first["metadata"]["annotations"]["converted"]), (&json!("h:80"), &json!("yes")));
    let mut changed = made.clone();
    changed["port"] = "81".into();
    let (code, changed) = bench.json(things(Verb::Update, "v2", "a"), changed).await;
    assert_eq!((code, &changed["port"], &stored(&bench, "a").await["hostPort"]), (200, &json!("81"), &json!("h:81")));
    assert_eq!(changed["metadata"]["uid"], made["metadata"]["uid"]);
    let (code, gone) = bench.json(things(Verb::Delete, "v2", "a"), Value::Null).await;
    assert_eq!((code, &gone["status"]), (200, &json!("Success")), "{gone}");
}

#[tokio::test]
async fn a_mixed_list_is_asked_for_at_once_and_an_old_object_migrates() {
    let server = Server::start(respond).await;
    let bench = bench(&server).await;
    for name in ["a", "b"] {
        assert_eq!(bench.json(things(Verb::Create, "v2", ""), new(name, "h")).await.0, 201);
    }
    publish(&bench, &definition(&server, "/convert", "v2"));
    assert_eq!(bench.json(things(Verb::Create, "v2", ""), new("c", "h")).await.0, 201);
    server.seen.lock().clear();
    let (_, list) = bench.json(things(Verb::List, "v2", ""), Value::Null).await;
    let hosts: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|item| &item["host"]).collect();
    assert_eq!(hosts, ["h", "h", "h"]);
    let asked: Vec<usize> = server.seen.lock().iter().map(|r| r["objects"].as_array().unwrap().len()).collect();
    assert_eq!(asked, [2], "the third was in the version already");
    let (_, same) = bench.json(things(Verb::Get, "v2", "a"), Value::Null).await;
    assert_eq!(bench.json(things(Verb::Update, "v2", "a"), same).await.0, 200);
    assert_eq!(stored(&bench, "a").await["apiVersion"], "example.com/v2");
}

#[tokio::test]
async fn selectors_see_the_fields_of_the_version_that_is_asked_for() {
    let server = Server::start(respond).await;
    let bench = bench(&server).await;
    let watch = bench.send(selecting(Verb::Watch, "v2", "host=one"), "", Default::default()).await;
    let mut watch = watch.into_body();
    for (name, host) in [("a", "one"), ("b", "two")] {
        assert_eq!(bench.json(things(Verb::Create, "v2", ""), new(name, host)).await.0, 201);
    }
    let names = |list: &Value| {
        list["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].clone()).collect::<Vec<_>>()
    };
    let (_, list) = bench.json(selecting(Verb::List, "v2", "host=one"), Value::Null).await;
    assert_eq!(names(&list), ["a"]);
    let (_, list) = bench.json(selecting(Verb::List, "v1", "hostPort=two:80"), Value::Null).await;
    assert_eq!(names(&list), ["b"]);
    let (code, status) = bench.json(selecting(Verb::List, "v1", "host=one"), Value::Null).await;
    assert_eq!((code, &status["message"]), (400, &json!("field label not supported: host")));
    let added = event(&mut watch).await;
    assert_eq!((&added["type"], &added["object"]["host"]), (&json!("ADDED"), &json!("one")));
    let (code, _) = bench.json(selecting(Verb::DeleteCollection, "v2", "host=one"), Value::Null).await;
    assert_eq!((code, &event(&mut watch).await["type"]), (200, &json!("DELETED")));
    let (_, list) = bench.json(things(Verb::List, "v1", ""), Value::Null).await;
    assert_eq!(names(&list), ["b"]);
}

#[tokio::test]
async fn what_a_webhook_does_not_convert_is_an_error() {
    let server = Server::start(respond).await;
    let bench = bench(&server).await;
    publish(&bench, &definition(&server, "/broken", "v1"));
    let (code, status) = bench.json(things(Verb::Create, "v2", ""), new("a", "h")).await;
    let message = json!("conversion webhook for example.com/v2, Kind=Thing failed: can't");
    assert_eq!((code, &status["message"]), (500, &message));
}
