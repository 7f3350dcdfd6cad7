//! Requests and what comes back, through [`super::Serve`] over the store's double.
use super::testing::{Bench, event, info};
use crate::Verb;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use store::Backend;

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default", "labels": {"n": name}}})
}

async fn with_maps(names: &[&str]) -> Bench {
    let bench = Bench::new();
    for name in names {
        bench.store(&format!("/registry/configmaps/default/{name}"), config_map(name)).await;
    }
    bench
}

fn query(mut info: crate::RequestInfo, query: &[(&str, &str)]) -> crate::RequestInfo {
    info.query = query.iter().map(|&(k, v)| (k.into(), v.into())).collect();
    info
}

#[tokio::test]
async fn get_says_the_version() {
    let bench = with_maps(&["a"]).await;
    let (code, object) = bench.json(info(Verb::Get, "configmaps", "default", "a"), Value::Null).await;
    assert_eq!(code, 200);
    assert_eq!(object["metadata"]["name"], "a");
    assert!(object["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap() > 0);
    let (code, status) = bench.json(info(Verb::Get, "configmaps", "default", "b"), Value::Null).await;
    assert_eq!((code, &status["message"]), (404, &json!("configmaps \"b\" not found")));
}

#[tokio::test]
async fn pages_show_one_moment() {
    let bench = with_maps(&["a", "b", "c"]).await;
    let list = || info(Verb::List, "configmaps", "default", "");
    let (_, first) = bench.json(query(list(), &[("limit", "2")]), Value::Null).await;
    assert_eq!(first["metadata"]["remainingItemCount"], 1);
    let token = first["metadata"]["continue"].as_str().unwrap();
    bench.store("/registry/configmaps/default/d", config_map("d")).await;
    let (_, second) = bench.json(query(list(), &[("limit", "2"), ("continue", token)]), Value::Null).await;
    assert_eq!(second["items"].as_array().unwrap().len(), 1);
    assert_eq!(second["items"][0]["metadata"]["name"], "c");
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert_eq!(second["metadata"].get("continue"), None);
    let (_, all) = bench.json(list(), Value::Null).await;
    assert_eq!(all["items"].as_array().unwrap().len(), 4);
    assert_eq!((&all["kind"], &all["apiVersion"]), (&json!("ConfigMapList"), &json!("v1")));
}

#[tokio::test]
async fn parts_of_the_server_are_listed_and_pods_bound_by_collection() {
    let bench = Bench::new();
    let (code, list) = bench.json(info(Verb::List, "componentstatuses", "", ""), Value::Null).await;
    assert_eq!((code, &list["kind"], list["items"].as_array().unwrap().len()), (200, &json!("ComponentStatusList"), 3));
    let (code, one) = bench.json(info(Verb::Get, "componentstatuses", "", "etcd-0"), Value::Null).await;
    assert_eq!((code, &one["conditions"][0]["type"]), (200, &json!("Healthy")));
    assert_eq!(bench.json(info(Verb::Get, "componentstatuses", "", "x"), Value::Null).await.0, 404);
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default"}, "spec": {}});
    bench.store("/registry/pods/default/p", pod).await;
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    let (code, status) = bench.json(info(Verb::Create, "bindings", "default", ""), binding).await;
    assert_eq!(code, 201, "{status}");
    let (_, pod) = bench.json(info(Verb::Get, "pods", "default", "p"), Value::Null).await;
    assert_eq!(pod["spec"]["nodeName"], "n");
}

#[tokio::test]
async fn an_expired_token_offers_to_go_on() {
    let bench = with_maps(&["a", "b", "c"]).await;
    let list = || info(Verb::List, "configmaps", "default", "");
    let (_, first) = bench.json(query(list(), &[("limit", "2")]), Value::Null).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    bench.store("/registry/configmaps/default/d", config_map("d")).await;
    bench.memory.compact(bench.memory.current_revision()).await.unwrap();
    let (code, gone) = bench.json(query(list(), &[("continue", token)]), Value::Null).await;
    assert_eq!((code, &gone["reason"]), (410, &json!("Expired")));
    let token = gone["metadata"]["continue"].as_str().unwrap();
    let (_, rest) = bench.json(query(list(), &[("continue", token)]), Value::Null).await;
    assert_eq!(rest["items"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn selectors_filter_and_limits_count_matches() {
    let bench = with_maps(&["a", "b", "c"]).await;
    let list = || info(Verb::List, "configmaps", "", "");
    let names =
        |v: &Value| v["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].clone()).collect::<Vec<_>>();
    let (_, some) = bench.json(query(list(), &[("labelSelector", "n in (a,c)")]), Value::Null).await;
    assert_eq!(names(&some), ["a", "c"]);
    let (_, one) = bench.json(query(list(), &[("labelSelector", "n!=a"), ("limit", "1")]), Value::Null).await;
    assert_eq!(names(&one), ["b"]);
    assert!(one["metadata"].get("continue").is_some() && one["metadata"].get("remainingItemCount").is_none());
    let (_, one) = bench.json(query(list(), &[("fieldSelector", "metadata.name=c")]), Value::Null).await;
    assert_eq!(names(&one), ["c"]);
}

#[tokio::test]
async fn both_event_groups_select_by_their_own_names() {
    let bench = Bench::new();
    let event = |name: &str, controller: &str| {
        json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": name, "namespace": "default"},
            "involvedObject": {"kind": "Pod"}, "reportingComponent": controller})
    };
    bench.store("/registry/events/default/a", event("a", "one")).await;
    bench.store("/registry/events/default/b", event("b", "two")).await;
    for (group, selector) in [
        ("", "reportingComponent=two"),
        ("events.k8s.io", "reportingController=two"),
        ("events.k8s.io", "regarding.kind=Pod,reportingController!=one"),
    ] {
        let list = crate::RequestInfo { group: group.into(), ..info(Verb::List, "events", "default", "") };
        let (_, list) = bench.json(query(list, &[("fieldSelector", selector)]), Value::Null).await;
        let names: Vec<_> = list["items"].as_array().unwrap().iter().map(|event| &event["metadata"]["name"]).collect();
        assert_eq!(names, ["b"], "{group} {selector}");
    }
}

#[tokio::test]
async fn versions_of_the_future_and_of_others_are_told_apart() {
    let bench = with_maps(&["a"]).await;
    let list = |rv: u64| query(info(Verb::List, "configmaps", "default", ""), &[("resourceVersion", &rv.to_string())]);
    let (code, status) = bench.json(list(u64::MAX >> 1), Value::Null).await;
    assert_eq!((code, &status["details"]["causes"][0]["reason"]), (504, &json!("ResourceVersionTooLarge")));
    let (code, _) = bench.json(list(store::Revision::new(5, 9).get()), Value::Null).await;
    assert_eq!(code, 410);
}

#[tokio::test]
async fn a_watch_sees_what_starts_and_ceases_to_match() {
    let bench = with_maps(&["a", "b"]).await;
    let watch = query(info(Verb::Watch, "configmaps", "default", ""), &[("labelSelector", "n=a")]);
    let mut body = bench.send(watch, "", Default::default()).await.into_body();
    let first = event(&mut body).await;
    assert_eq!((&first["type"], &first["object"]["metadata"]["name"]), (&json!("ADDED"), &json!("a")));
    let mut changed = config_map("a");
    changed["metadata"]["labels"]["n"] = "z".into();
    let revision = bench.store("/registry/configmaps/default/a", changed).await;
    let gone = event(&mut body).await;
    assert_eq!(gone["type"], "DELETED");
    assert_eq!(gone["object"]["metadata"]["labels"]["n"], "a");
    assert_eq!(gone["object"]["metadata"]["resourceVersion"], revision.to_string());
    let mut other = config_map("b");
    other["metadata"]["labels"]["n"] = "a".into();
    bench.store("/registry/configmaps/default/b", other).await;
    assert_eq!(event(&mut body).await["type"], "ADDED");
}

#[tokio::test]
async fn a_collection_goes_under_a_watch_each_object_once() {
    const COUNT: usize = 200;
    let names: Vec<String> = (0..COUNT).map(|n| format!("m{n:03}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let bench = with_maps(&names).await;
    let from = bench.memory.current_revision().to_string();
    let watch = query(info(Verb::Watch, "configmaps", "default", ""), &[("resourceVersion", &from)]);
    let body = bench.send(watch, "", Default::default()).await.into_body();
    let (code, list) = bench.json(info(Verb::DeleteCollection, "configmaps", "default", ""), Value::Null).await;
    assert_eq!((code, list["items"].as_array().unwrap().len()), (200, COUNT));
    let mut text = Vec::new();
    let mut body = body.into_data_stream();
    while text.iter().filter(|byte| **byte == b'\n').count() < COUNT {
        text.extend_from_slice(&futures::StreamExt::next(&mut body).await.unwrap().unwrap());
    }
    let events = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let mut gone: Vec<String> = events
        .map(|line| serde_json::from_slice::<Value>(line).unwrap())
        .inspect(|event| assert_eq!(event["type"], "DELETED"))
        .map(|event| event["object"]["metadata"]["name"].as_str().unwrap().to_owned())
        .collect();
    gone.sort();
    assert_eq!(gone, names);
}

#[tokio::test]
async fn a_streamed_list_ends_with_its_bookmark() {
    let bench = with_maps(&["a"]).await;
    let parameters =
        [("sendInitialEvents", "true"), ("resourceVersionMatch", "NotOlderThan"), ("allowWatchBookmarks", "true")];
    let watch = query(info(Verb::Watch, "configmaps", "", ""), &parameters);
    let mut body = bench.send(watch, "", Default::default()).await.into_body();
    use http_body_util::BodyExt;
    let bytes = body.frame().await.unwrap().unwrap().into_data().unwrap();
    let lines: Vec<Value> = serde_json::Deserializer::from_slice(&bytes).into_iter().map(Result::unwrap).collect();
    assert_eq!(lines[0]["type"], "ADDED");
    assert_eq!(lines[1]["type"], "BOOKMARK");
    assert_eq!(lines[1]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
}

#[tokio::test]
async fn a_watch_from_a_compacted_revision_is_told_so() {
    let bench = with_maps(&["a", "b"]).await;
    let old = bench.memory.current_revision();
    bench.store("/registry/configmaps/default/c", config_map("c")).await;
    bench.memory.compact(bench.memory.current_revision()).await.unwrap();
    let watch = query(info(Verb::Watch, "configmaps", "", ""), &[("resourceVersion", &old.to_string())]);
    let (code, event) = super::testing::read(bench.send(watch, "", Default::default()).await).await;
    assert_eq!((code, &event["type"], &event["object"]["code"]), (200, &json!("ERROR"), &json!(410)));
}

fn named(verb: Verb, name: &str) -> crate::RequestInfo {
    info(verb, "configmaps", "default", name)
}

async fn bench() -> Bench {
    let bench = Bench::new();
    bench.store("/registry/namespaces/default", json!({"metadata": {"name": "default"}})).await;
    bench.store("/registry/serviceaccounts/default/default", json!({"metadata": {"name": "default"}})).await;
    bench
}

#[tokio::test]
async fn an_object_lives() {
    let bench = bench().await;
    let (code, made) = bench.json(named(Verb::Create, ""), config_map("a")).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["metadata"]["creationTimestamp"], "2026-01-02T03:04:05Z");
    let (code, again) = bench.json(named(Verb::Create, ""), config_map("a")).await;
    assert_eq!((code, &again["message"]), (409, &json!("configmaps \"a\" already exists")));

    let mut changed = made.clone();
    changed["data"] = json!({"k": "v"});
    let (code, updated) = bench.json(named(Verb::Update, "a"), changed.clone()).await;
    assert_eq!((code, &updated["data"]["k"]), (200, &json!("v")));
    assert_ne!(updated["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    let (code, stale) = bench.json(named(Verb::Update, "a"), changed).await;
    assert_eq!((code, &stale["reason"]), (409, &json!("Conflict")));
    let (_, same) = bench.json(named(Verb::Update, "a"), updated.clone()).await;
    assert_eq!(same["metadata"]["resourceVersion"], updated["metadata"]["resourceVersion"]);

    let (code, gone) = bench.json(named(Verb::Delete, "a"), Value::Null).await;
    assert_eq!((code, &gone["status"], &gone["details"]["uid"]), (200, &json!("Success"), &made["metadata"]["uid"]));
    assert_eq!(bench.json(named(Verb::Get, "a"), Value::Null).await.0, 404);
}

#[tokio::test]
async fn names_are_generated_and_namespaces_must_exist() {
    let bench = bench().await;
    let mut map = config_map("");
    map["metadata"] = json!({"generateName": "x-"});
    let (code, made) = bench.json(named(Verb::Create, ""), map.clone()).await;
    let name = made["metadata"]["name"].as_str().unwrap();
    assert_eq!((code, name.len(), &name[..2]), (201, 7, "x-"));
    let (code, status) = bench.json(info(Verb::Create, "configmaps", "nowhere", ""), map).await;
    assert_eq!((code, &status["message"]), (404, &json!("namespaces \"nowhere\" not found")));
    let (code, status) = bench.json(named(Verb::Create, ""), json!({"metadata": {}})).await;
    assert_eq!(code, 422);
    assert!(status["message"].as_str().unwrap().contains("name or generateName is required"), "{status}");
}

#[tokio::test]
async fn a_new_object_that_names_a_version_is_refused_last() {
    let bench = bench().await;
    let mut map = config_map("a");
    map["metadata"]["resourceVersion"] = "7".into();
    let (code, shown) = bench.json(query(named(Verb::Create, ""), &[("dryRun", "All")]), map.clone()).await;
    assert_eq!((code, &shown["metadata"]["resourceVersion"]), (201, &json!("7")));
    let (code, status) = bench.json(named(Verb::Create, ""), map.clone()).await;
    let why = "resourceVersion should not be set on objects to be created";
    assert_eq!((code, &status["message"]), (500, &json!(why)));
    map["data"] = json!({"not/a/key": ""});
    assert_eq!(bench.json(named(Verb::Create, ""), map.clone()).await.0, 422);
    map["data"] = json!({});
    map["metadata"]["resourceVersion"] = "0".into();
    let (code, made) = bench.json(named(Verb::Create, ""), map).await;
    assert_eq!(code, 201, "{made}");
    assert_ne!(made["metadata"]["resourceVersion"], "0");
}

#[tokio::test]
async fn a_dry_run_leaves_nothing() {
    let bench = bench().await;
    let (code, made) = bench.json(query(named(Verb::Create, ""), &[("dryRun", "All")]), config_map("a")).await;
    assert_eq!((code, &made["metadata"]["name"]), (201, &json!("a")));
    assert_eq!(bench.json(named(Verb::Get, "a"), Value::Null).await.0, 404);
}

#[tokio::test]
async fn finalizers_hold_and_their_end_removes() {
    let bench = bench().await;
    let mut held = config_map("a");
    held["metadata"]["finalizers"] = json!(["x.y/z"]);
    bench.json(named(Verb::Create, ""), held).await;
    let (_, marked) = bench.json(named(Verb::Delete, "a"), Value::Null).await;
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
    let mut free = marked.clone();
    free["metadata"].as_object_mut().unwrap().remove("finalizers");
    let (code, _) = bench.json(named(Verb::Update, "a"), free).await;
    assert_eq!(code, 200);
    assert_eq!(bench.json(named(Verb::Get, "a"), Value::Null).await.0, 404);
}

#[tokio::test]
async fn patches_of_each_kind() {
    use bytes::Bytes;
    let bench = bench().await;
    bench.json(named(Verb::Create, ""), config_map("a")).await;
    let send = async |kind: &str, body: &str, query_: &[(&str, &str)], name: &str| {
        let mut headers = http::HeaderMap::new();
        headers.insert("content-type", kind.parse().unwrap());
        super::testing::read(
            bench.send(query(named(Verb::Patch, name), query_), Bytes::from(body.to_owned()), headers).await,
        )
        .await
    };
    let (code, new) = send("application/merge-patch+json", r#"{"data":{"a":"1"}}"#, &[], "a").await;
    assert_eq!((code, &new["data"]["a"]), (200, &json!("1")), "{new}");
    let (code, new) =
        send("application/json-patch+json", r#"[{"op":"add","path":"/data/b","value":"2"}]"#, &[], "a").await;
    assert_eq!((code, &new["data"]["b"]), (200, &json!("2")), "{new}");
    let apply = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: z}\ndata: {c: \"3\"}\n";
    let (code, status) = send("application/apply-patch+yaml", apply, &[], "z").await;
    assert_eq!((code, &status["reason"]), (422, &json!("Invalid")), "{status}");
    let (code, new) = send("application/apply-patch+yaml", apply, &[("fieldManager", "m")], "z").await;
    assert_eq!((code, &new["data"]["c"]), (201, &json!("3")), "{new}");
    let stale = r#"{"metadata":{"resourceVersion":"2"}}"#;
    assert_eq!(send("application/merge-patch+json", stale, &[], "a").await.0, 409);
    assert_eq!(send("text/plain", "", &[], "a").await.0, 415);
}

#[tokio::test]
async fn the_status_has_its_own_way_in() {
    let bench = bench().await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}, "status": {"phase": "Running"}});
    let (code, made) = bench.json(info(Verb::Create, "pods", "default", ""), pod).await;
    assert_eq!(
        (code, &made["status"]["phase"], &made["metadata"]["generation"]),
        (201, &json!("Pending"), &json!(1)),
        "{made}"
    );
    let mut running = made.clone();
    running["status"]["phase"] = "Running".into();
    running["spec"]["nodeName"] = "elsewhere".into();
    let mut status = info(Verb::Update, "pods", "default", "p");
    status.subresource = "status".into();
    let (code, new) = bench.json(status, running).await;
    assert_eq!((code, &new["status"]["phase"], &new["spec"].get("nodeName")), (200, &json!("Running"), &None), "{new}");
}

#[tokio::test]
async fn services_share_one_range() {
    let bench = bench().await;
    let service = |name: &str, ip: &str| json!({"metadata": {"name": name}, "spec": {"type": "ClusterIP", "clusterIP": ip, "selector": {"a": "b"}, "ports": [{"port": 80, "protocol": "TCP"}]}});
    let create = || info(Verb::Create, "services", "default", "");
    let (code, made) = bench.json(create(), service("a", "10.43.0.10")).await;
    assert_eq!((code, &made["spec"]["clusterIPs"]), (201, &json!(["10.43.0.10"])), "{made}");
    let (code, taken) = bench.json(create(), service("b", "10.43.0.10")).await;
    assert_eq!((code, &taken["reason"]), (422, &json!("Invalid")));
    let (code, _) = bench.json(info(Verb::Delete, "services", "default", "a"), Value::Null).await;
    assert_eq!(code, 200);
    let (code, again) = bench.json(create(), service("b", "10.43.0.10")).await;
    assert_eq!(code, 201, "{again}");
}

#[tokio::test]
async fn a_pod_is_admitted_bound_and_scaled_things_scale() {
    let bench = bench().await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let (code, made) = bench.json(info(Verb::Create, "pods", "default", ""), pod.clone()).await;
    assert_eq!(
        (code, &made["spec"]["serviceAccountName"], &made["spec"]["priority"]),
        (201, &json!("default"), &json!(0))
    );
    let mut bind = info(Verb::Create, "pods", "default", "p");
    bind.subresource = "binding".into();
    let binding = json!({"kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    assert_eq!(bench.json(bind.clone(), binding.clone()).await.0, 201);
    assert_eq!(bench.json(bind, binding).await.0, 409);
    let (_, bound) = bench.json(info(Verb::Get, "pods", "default", "p"), Value::Null).await;
    assert_eq!(
        (&bound["spec"]["nodeName"], &bound["status"]["conditions"][0]["type"]),
        (&json!("n1"), &json!("PodScheduled"))
    );

    let mut other = pod;
    other["spec"]["serviceAccountName"] = "nobody".into();
    let (code, refused) = bench.json(info(Verb::Create, "pods", "default", ""), other).await;
    assert_eq!(code, 403, "{refused}");

    bench.store("/registry/deployments/default/d", json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "default", "uid": "u"}, "spec": {"replicas": 1}})).await;
    let mut scale = info(Verb::Update, "deployments", "default", "d");
    (scale.group, scale.subresource) = ("apps".into(), "scale".into());
    let (code, scaled) =
        bench.json(scale, json!({"kind": "Scale", "metadata": {"name": "d"}, "spec": {"replicas": 3}})).await;
    assert_eq!((code, &scaled["spec"]["replicas"], &scaled["kind"]), (200, &json!(3), &json!("Scale")), "{scaled}");
}

#[tokio::test]
async fn a_definition_is_served_and_cleared_away() {
    let bench = bench().await;
    let shutdown = tokio_util::sync::CancellationToken::new();
    let (engine, ends) = (bench.engine.clone(), shutdown.clone());
    let running = tokio::spawn(async move { engine.run(ends).await });
    let definitions = |verb, name: &str| {
        let mut info = info(verb, "customresourcedefinitions", "", name);
        info.group = "apiextensions.k8s.io".into();
        info
    };
    let (code, made) = bench.json(definitions(Verb::Create, ""), crate::registry::custom::tests::definition()).await;
    assert_eq!(code, 201, "{made}");
    let established = async |bench: &Bench| {
        let (_, now) = bench.json(definitions(Verb::Get, "things.example.com"), Value::Null).await;
        crate::registry::custom::names::condition_is(&now, "Established")
    };
    while !established(&bench).await {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let things = |verb, name: &str| {
        let mut info = info(verb, "things", "default", name);
        info.group = "example.com".into();
        info
    };
    let thing = json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "a"}, "spec": {"name": "abc", "mode": "a"}});
    let (code, made) = bench.json(things(Verb::Create, ""), thing.clone()).await;
    assert_eq!((code, &made["spec"]["size"], &made["metadata"]["generation"]), (201, &json!(2), &json!(1)), "{made}");
    let mut wrong = thing;
    wrong["metadata"]["name"] = "b".into();
    wrong["spec"]["size"] = "many".into();
    let (code, refused) = bench.json(things(Verb::Create, ""), wrong).await;
    assert_eq!((code, &refused["details"]["causes"][0]["field"]), (422, &json!("spec.size")), "{refused}");
    let before = json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "old", "namespace": "default"},
        "spec": {"name": "abc"}});
    bench.store("/registry/example.com/things/default/old", before).await;
    let (_, old) = bench.json(things(Verb::Get, "old"), Value::Null).await;
    assert_eq!(old["spec"]["size"], 2, "defaults that came later are read: {old}");
    let (_, listed) = bench.json(things(Verb::List, ""), Value::Null).await;
    assert!(listed["items"].as_array().unwrap().iter().all(|item| item["spec"]["size"] == 2), "{listed}");

    // A field that goes from the schema goes from what is read, and from what is stored with the next write.
    let (_, mut shrunk) = bench.json(definitions(Verb::Get, "things.example.com"), Value::Null).await;
    let version = &mut shrunk["spec"]["versions"][0];
    version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"].as_object_mut().unwrap().remove("mode");
    version["deprecated"] = true.into();
    let (code, shrunk) = bench.json(definitions(Verb::Update, "things.example.com"), shrunk).await;
    assert_eq!(code, 200, "{shrunk}");
    let read = loop {
        let (_, read) = bench.json(things(Verb::Get, "a"), Value::Null).await;
        if read["spec"].get("mode").is_none() {
            break read;
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    };
    let stored = async |bench: &Bench| {
        let key = b"/registry/example.com/things/default/a";
        String::from_utf8(store::Backend::get(&*bench.memory, key, None).await.unwrap().unwrap().value.to_vec())
            .unwrap()
    };
    assert!(stored(&bench).await.contains(r#""mode":"a""#));
    let (code, written) = bench.json(things(Verb::Update, "a"), read.clone()).await;
    assert_eq!((code, &written["spec"]), (200, &read["spec"]));
    assert_ne!(written["metadata"]["resourceVersion"], read["metadata"]["resourceVersion"]);
    assert!(!stored(&bench).await.contains(r#""mode":"a""#));
    let (_, again) = bench.json(things(Verb::Update, "a"), written.clone()).await;
    assert_eq!(again["metadata"]["resourceVersion"], written["metadata"]["resourceVersion"]);
    let told = bench.send(things(Verb::Get, "a"), "", http::HeaderMap::new()).await;
    assert_eq!(told.headers()[http::header::WARNING], "299 - \"example.com/v1 Thing is deprecated\"");

    assert_eq!(listed["metadata"]["continue"], "");
    let (_, now) = bench.json(definitions(Verb::Get, "things.example.com"), Value::Null).await;
    let owners = now["metadata"]["managedFields"].as_array().unwrap();
    assert!(owners.iter().any(|o| o["manager"] == "kube-apiserver" && o["subresource"] == "status"), "{owners:?}");

    let (code, going) = bench.json(definitions(Verb::Delete, "things.example.com"), Value::Null).await;
    assert_eq!((code, &going["metadata"]["generation"]), (200, &now["metadata"]["generation"]));
    assert_eq!(going["metadata"].get("deletionGracePeriodSeconds"), None);
    while bench.json(definitions(Verb::Get, "things.example.com"), Value::Null).await.0 != 404 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    while bench.json(things(Verb::Get, "a"), Value::Null).await.1["message"]
        != "the server could not find the requested resource"
    {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    shutdown.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn watches_end_with_the_server() {
    use http_body_util::BodyExt;
    let bench = with_maps(&["a"]).await;
    let mut body = bench.send(info(Verb::Watch, "configmaps", "", ""), "", Default::default()).await.into_body();
    assert_eq!(event(&mut body).await["type"], "ADDED");
    let shutdown = tokio_util::sync::CancellationToken::new();
    shutdown.cancel();
    bench.engine.run(shutdown).await;
    assert!(body.frame().await.is_none());
}

fn create(resource: &str) -> crate::RequestInfo {
    info(Verb::Create, resource, "default", "")
}

fn patch_headers(media: &str) -> http::HeaderMap {
    let mut headers = http::HeaderMap::new();
    headers.insert(http::header::CONTENT_TYPE, media.parse().unwrap());
    headers
}

#[tokio::test]
async fn what_the_server_resets_is_nobodys() {
    let bench = Bench::new();
    bench.store("/registry/namespaces/default", json!({"metadata": {"name": "default"}})).await;
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    let claim = json!({"metadata": {"name": "c"}, "spec": spec, "status": {"phase": "Bound"}});
    let (code, made) = bench.json(create("persistentvolumeclaims"), claim).await;
    assert_eq!((code, &made["status"]["phase"]), (201, &json!("Pending")), "{made}");
    let owned = &made["metadata"]["managedFields"][0]["fieldsV1"];
    assert!(owned["f:spec"].is_object() && owned.get("f:status").is_none(), "{owned}");
}

#[tokio::test]
async fn empty_lists_come_back_as_upstreams_store_gives_them() {
    let bench = Bench::new();
    bench.store("/registry/namespaces/default", json!({"metadata": {"name": "default"}})).await;
    let map = json!({"metadata": {"name": "m", "labels": {}}, "data": {}});
    let (code, made) = bench.json(create("configmaps"), map).await;
    assert_eq!((code, made.get("data"), made["metadata"].get("labels")), (201, None, None));
    let endpoints = json!({"metadata": {"name": "e"}, "addressType": "IPv4", "endpoints": []});
    let slices = crate::RequestInfo { group: "discovery.k8s.io".into(), ..create("endpointslices") };
    let (code, made) = bench.json(slices, endpoints).await;
    assert_eq!((code, made.get("endpoints")), (201, Some(&Value::Null)), "{made}");
}

#[tokio::test]
async fn a_patch_that_makes_no_object_is_told_with_what_it_made() {
    let bench = with_maps(&["a"]).await;
    let body = json!({"data": "x"}).to_string();
    let headers = patch_headers("application/merge-patch+json");
    let response = bench.send(info(Verb::Patch, "configmaps", "default", "a"), body, headers).await;
    let (code, status) = super::testing::read(response).await;
    let message = status["message"].as_str().unwrap();
    assert_eq!(code, 422, "{message}");
    assert!(message.starts_with(" \"\" is invalid: patch: Invalid value: \"{"), "{message}");
    assert!(message.ends_with("Go struct field ConfigMap.data of type map[string]string"), "{message}");
}

#[tokio::test]
async fn a_manager_that_applies_nothing_more_owns_nothing_more() {
    let bench = Bench::new();
    bench.store("/registry/namespaces/default", json!({"metadata": {"name": "default"}})).await;
    let apply = |data: Value| {
        let at = query(info(Verb::Patch, "configmaps", "default", "a"), &[("fieldManager", "bob")]);
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data});
        bench.send(at, body.to_string(), patch_headers("application/apply-patch+yaml"))
    };
    let (code, made) = super::testing::read(apply(json!({"x": "1"})).await).await;
    assert_eq!((code, &made["metadata"]["managedFields"][0]["manager"]), (201, &json!("bob")));
    let (code, left) = super::testing::read(apply(Value::Null).await).await;
    assert_eq!((code, left["metadata"].get("managedFields"), left.get("data")), (200, None, None), "{left}");
}

#[tokio::test]
async fn a_body_of_another_kind_or_none_is_told_as_upstream_tells_it() {
    let bench = Bench::new();
    let say = |body: &'static str| bench.send(create("configmaps"), body, http::HeaderMap::new());
    for (body, text) in [
        (r#"{"kind":"Thing","apiVersion":"v1"}"#, "no kind \"Thing\" is registered for version \"v1\" in scheme"),
        (r#"{"apiVersion":"v9"}"#, "no kind \"ConfigMap\" is registered for version \"v9\" in scheme"),
        (r#"{"a":1,}"#, "invalid character '}' looking for beginning of object key string ({\"a\":1,})"),
        ("[]", "json: cannot unmarshal array into Go value of type struct { APIVersion string"),
    ] {
        let (code, status) = super::testing::read(say(body).await).await;
        assert!(code == 400 && status["message"].as_str().unwrap().contains(text), "{status}");
    }
}

#[tokio::test]
async fn tables_say_null_where_there_is_nothing() {
    let bench = with_maps(&["a"]).await;
    let mut headers = http::HeaderMap::new();
    headers.insert(http::header::ACCEPT, "application/json;as=Table;v=v1;g=meta.k8s.io".parse().unwrap());
    let list = |parameters: &[(&str, &str)]| query(info(Verb::List, "configmaps", "default", ""), parameters);
    let (_, none) =
        super::testing::read(bench.send(list(&[("labelSelector", "n=x")]), "", headers.clone()).await).await;
    assert_eq!(none["rows"], json!([]));
    let plain = info(Verb::List, "limitranges", "default", "");
    let (_, none) = super::testing::read(bench.send(plain, "", headers.clone()).await).await;
    assert_eq!(none["rows"], Value::Null, "of a kind without columns of its own");
    let (_, bare) = super::testing::read(bench.send(list(&[("includeObject", "None")]), "", headers).await).await;
    assert_eq!(bare["rows"][0].get("object"), Some(&Value::Null));
}

#[tokio::test]
async fn endpoints_go_out_of_use() {
    let bench = Bench::new();
    let list = info(Verb::List, "endpoints", "default", "");
    let response = bench.send(list, "", http::HeaderMap::new()).await;
    let warning = response.headers()[http::header::WARNING].to_str().unwrap();
    assert!(warning.contains("v1 Endpoints is deprecated in v1.33+"), "{warning}");
}

#[tokio::test]
async fn every_method_of_a_proxy_is_admitted() {
    use super::Serve;
    let bench = Bench::new();
    let user = crate::User::new("somebody", &[]);
    for verb in [Verb::Get, Verb::Create, Verb::Update, Verb::Patch, Verb::Delete, Verb::Options] {
        let mut proxied = info(verb, "pods", "default", "a");
        proxied.subresource = "proxy".into();
        bench.engine.admit_connection(&proxied, &user).await.unwrap_or_else(|status| panic!("{verb:?}: {status:?}"));
    }
}
