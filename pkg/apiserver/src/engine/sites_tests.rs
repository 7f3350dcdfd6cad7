//! Homes of objects, as requests see them.
use super::testing::{Bench, info};
use super::{Request, Serve};
use crate::{Body, HomeProxy, Sites, Unreachable, User, Verb, Watermarks};
use api::home::{Link, Ownership, Taken};
use http::Response;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use store::Revision;
use tokio::sync::watch;

fn bench(view: Ownership) -> Bench {
    Bench::at(Sites { ownership: watch::channel(view).1, ..Sites::default() })
}

/// Site `south` of a cluster that `north` founded.
fn south() -> Bench {
    bench(Ownership::of("south", "north").with("north", Link::Up))
}

fn map(name: &str, annotations: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default", "annotations": annotations}})
}

async fn with_namespace(bench: Bench) -> Bench {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}, "status": {"phase": "Active"}});
    bench.store("/registry/namespaces/default", namespace).await;
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "default"}});
    bench.store("/registry/serviceaccounts/default/default", account).await;
    bench
}

async fn create(bench: &Bench, resource: &str, object: Value) -> Value {
    let (code, created) = bench.json(info(Verb::Create, resource, "default", ""), object).await;
    assert_eq!(code, 201, "{created}");
    created
}

const HOME: &str = "eyot.dev/home";

#[tokio::test]
async fn a_server_alone_marks_nothing() {
    let bench = with_namespace(Bench::new()).await;
    let created = create(&bench, "configmaps", map("a", Value::Null)).await;
    assert_eq!(created["metadata"].get("annotations"), None);
}

#[tokio::test]
async fn new_objects_belong_where_they_are_created_unless_they_say_otherwise() {
    let bench = with_namespace(south()).await;
    let created = create(&bench, "configmaps", map("a", Value::Null)).await;
    assert_eq!(created["metadata"]["annotations"][HOME], "south");
    let given = create(&bench, "configmaps", map("b", json!({HOME: "north"}))).await;
    assert_eq!(given["metadata"]["annotations"][HOME], "north");
    let (code, status) =
        bench.json(info(Verb::Create, "configmaps", "default", ""), map("c", json!({HOME: "The North"}))).await;
    assert_eq!(code, 422, "{status}");
    let (code, status) =
        bench.json(info(Verb::Create, "configmaps", "default", ""), map("d", json!({HOME: "nroth"}))).await;
    assert_eq!(code, 422);
    assert!(status["message"].as_str().unwrap().contains("no such site; there are: north, south"), "{status}");
}

#[tokio::test]
async fn a_replaced_object_keeps_its_home_and_only_its_home_hands_it_over() {
    let bench = with_namespace(south()).await;
    create(&bench, "configmaps", map("a", Value::Null)).await;
    let (_, kept) = bench.json(info(Verb::Update, "configmaps", "default", "a"), map("a", json!({"x": "y"}))).await;
    assert_eq!(kept["metadata"]["annotations"], json!({HOME: "south", "x": "y"}));
    let (code, moved) =
        bench.json(info(Verb::Update, "configmaps", "default", "a"), map("a", json!({HOME: "north"}))).await;
    assert_eq!((code, &moved["metadata"]["annotations"][HOME]), (200, &json!("north")));
    let (code, status) =
        bench.json(info(Verb::Update, "configmaps", "default", "a"), map("a", json!({HOME: "south"}))).await;
    assert_eq!(code, 403);
    assert!(status["message"].as_str().unwrap().contains("its home is site north, which alone may hand it over"));
}

#[tokio::test]
async fn what_names_no_home_is_the_founders() {
    let bench = with_namespace(south()).await;
    bench.store("/registry/configmaps/default/old", map("old", Value::Null)).await;
    let (code, _) =
        bench.json(info(Verb::Update, "configmaps", "default", "old"), map("old", json!({HOME: "south"}))).await;
    assert_eq!(code, 403);
}

#[tokio::test]
async fn who_took_over_may_move_what_it_took() {
    let taken = Some(Taken { by: "south".into(), epoch: 1 });
    let view = Ownership::of("south", "north").with("north", Link::Down { for_s: 900, taken });
    let bench = with_namespace(bench(view)).await;
    bench.store("/registry/configmaps/default/old", map("old", Value::Null)).await;
    let (code, moved) =
        bench.json(info(Verb::Update, "configmaps", "default", "old"), map("old", json!({HOME: "south"}))).await;
    assert_eq!((code, &moved["metadata"]["annotations"][HOME]), (200, &json!("south")));
}

#[tokio::test]
async fn a_pod_that_was_handed_to_a_site_out_of_contact_may_be_taken_back() {
    let handed = json!({HOME: "north", "eyot.dev/handovers": "1"});
    let code = async |link: Link, annotations: &Value, node: Option<&str>, to: &str| {
        let view = Ownership::of("south", "north").with("north", link).with("west", Link::Up);
        let bench = with_namespace(bench(view)).await;
        let mut pod = pod("p");
        pod["metadata"]["annotations"] = annotations.clone();
        pod["spec"]["nodeName"] = json!(node);
        let mut moved = create(&bench, "pods", pod).await;
        moved["metadata"]["annotations"][HOME] = to.into();
        bench.json(info(Verb::Update, "pods", "default", "p"), moved).await.0
    };
    let down = || Link::Down { for_s: 20, taken: None };
    assert_eq!(code(down(), &handed, None, "south").await, 200);
    assert_eq!(code(down(), &handed, None, "west").await, 403, "to nobody else");
    assert_eq!(code(Link::Up, &handed, None, "south").await, 403, "it is there");
    assert_eq!(code(down(), &handed, Some("far"), "south").await, 403, "it has a node");
    assert_eq!(code(down(), &json!({HOME: "north"}), None, "south").await, 403, "it was never here");
    let stays = json!({HOME: "north", "eyot.dev/handovers": "1", "eyot.dev/stay": "true"});
    assert_eq!(code(down(), &stays, None, "south").await, 403, "it must not run twice");
}

#[tokio::test]
async fn nodes_are_labelled_with_the_site_they_join() {
    let bench = south();
    let node = |labels: Value| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "labels": labels}});
    let (_, joined) = bench.json(info(Verb::Create, "nodes", "", ""), node(json!({}))).await;
    let said = |node: &Value, key: &str| node["metadata"]["labels"][key].as_str().map(str::to_owned);
    assert_eq!(joined["metadata"]["annotations"][HOME], "south");
    assert_eq!(said(&joined, "eyot.dev/site").as_deref(), Some("south"));
    assert_eq!(said(&joined, "topology.kubernetes.io/zone").as_deref(), Some("south"));
    let other = south();
    let labels = json!({"eyot.dev/site": "north", "topology.kubernetes.io/zone": "z1"});
    let (_, joined) = other.json(info(Verb::Create, "nodes", "", ""), node(labels)).await;
    assert_eq!(joined["metadata"]["annotations"][HOME], "north", "an agent of north that speaks to south for now");
    assert_eq!(said(&joined, "topology.kubernetes.io/zone").as_deref(), Some("z1"));
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

async fn bind(bench: &Bench, pod: &str, node: &str) -> u16 {
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod}, "target": {"kind": "Node", "name": node}});
    let mut request = info(Verb::Create, "pods", "default", pod);
    request.subresource = "binding".into();
    bench.json(request, binding).await.0
}

#[tokio::test]
async fn a_bound_pod_belongs_to_its_nodes_site_in_the_same_write() {
    let bench = with_namespace(south()).await;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "far", "annotations": {HOME: "north"}}});
    bench.store("/registry/minions/far", node).await;
    create(&bench, "pods", pod("p")).await;
    let revision_before = store::Backend::current_revision(&*bench.memory);
    assert_eq!(bind(&bench, "p", "far").await, 201);
    let (_, bound) = bench.json(info(Verb::Get, "pods", "default", "p"), Value::Null).await;
    assert_eq!((&bound["spec"]["nodeName"], &bound["metadata"]["annotations"][HOME]), (&json!("far"), &json!("north")));
    assert!(bound["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap() > revision_before.get());
    let mut homeward = bound.clone();
    homeward["metadata"]["annotations"][HOME] = "south".into();
    let (code, _) = bench.json(info(Verb::Update, "pods", "default", "p"), homeward).await;
    assert_eq!(code, 403);
}

#[tokio::test]
async fn a_pod_is_bound_at_its_home_alone_even_in_a_takeover() {
    let taken = Some(Taken { by: "south".into(), epoch: 1 });
    let view = Ownership::of("south", "north").with("north", Link::Down { for_s: 900, taken });
    let bench = with_namespace(bench(view)).await;
    bench.store("/registry/pods/default/theirs", pod("theirs")).await;
    assert_eq!(bind(&bench, "theirs", "near").await, 409);
}

#[tokio::test]
async fn parts_inherit_their_owners_home_and_pods_do_not() {
    let bench = with_namespace(south()).await;
    let owner = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "default", "uid": "u"}});
    bench.store("/registry/deployments/default/web", owner).await;
    let owners =
        json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "u", "controller": true}]);
    let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {"name": "web-1", "namespace": "default", "ownerReferences": owners},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let mut request = info(Verb::Create, "replicasets", "default", "");
    request.group = "apps".into();
    let (code, created) = bench.json(request, set).await;
    assert_eq!((code, &created["metadata"]["annotations"][HOME]), (201, &json!("north")));
    let mut child = pod("p");
    child["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1", "uid": "v", "controller": true}]);
    assert_eq!(create(&bench, "pods", child).await["metadata"]["annotations"][HOME], "south");
}

#[tokio::test]
async fn events_have_no_home() {
    let bench = with_namespace(south()).await;
    let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "namespace": "default"},
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}, "reason": "R", "type": "Normal"});
    assert_eq!(create(&bench, "events", event).await["metadata"].get("annotations"), None);
}

/// Another site's server, as the links between servers will show it.
#[derive(Default)]
struct Fake {
    asked: parking_lot::Mutex<Vec<String>>,
    silent: bool,
}

#[async_trait::async_trait]
impl HomeProxy for Fake {
    async fn forward(&self, site: &str, request: Request) -> Result<Response<Body>, Unreachable> {
        let request = request.to_http();
        self.asked.lock().push(format!("{site}: {} {}", request.method(), request.uri()));
        match self.silent {
            true => Err(Unreachable { site: site.into(), reason: "no answer".into() }),
            false => Ok(Response::new(crate::body::full("{\"from\": \"home\"}"))),
        }
    }
}

fn with_proxy(view: Ownership, silent: bool) -> (Bench, Arc<Fake>) {
    let fake = Arc::new(Fake { silent, ..Fake::default() });
    let ownership = watch::channel(view).1;
    (Bench::at(Sites { ownership, proxy: Some(fake.clone()), ..Sites::default() }), fake)
}

fn up() -> Ownership {
    Ownership::of("south", "north").with("north", Link::Up)
}

fn lease(verb: Verb, name: &str) -> crate::RequestInfo {
    let mut request = info(verb, "leases", "default", name);
    request.group = "coordination.k8s.io".into();
    request
}

#[tokio::test]
async fn objects_of_home_consistency_are_read_and_written_at_home() {
    let (bench, fake) = with_proxy(up(), false);
    let bench = with_namespace(bench).await;
    let strict = map("strict", json!({"eyot.dev/consistency": "home"}));
    bench.store("/registry/configmaps/default/strict", strict.clone()).await;
    bench.store("/registry/configmaps/default/plain", map("plain", Value::Null)).await;
    let (_, answer) = bench.json(info(Verb::Update, "configmaps", "default", "strict"), strict.clone()).await;
    assert_eq!(answer, json!({"from": "home"}));
    bench.json(info(Verb::Get, "configmaps", "default", "strict"), Value::Null).await;
    let asked = [
        "north: PUT /api/v1/namespaces/default/configmaps/strict",
        "north: GET /api/v1/namespaces/default/configmaps/strict",
    ];
    assert_eq!(*fake.asked.lock(), asked);
    let (code, _) = bench.json(info(Verb::Update, "configmaps", "default", "plain"), map("plain", Value::Null)).await;
    assert_eq!((code, fake.asked.lock().len()), (200, 2), "others are written here");
}

#[tokio::test]
async fn while_home_is_away_its_objects_are_read_only() {
    for (view, silent) in [(up().with("north", Link::Down { for_s: 1, taken: None }), false), (up(), true)] {
        let (bench, _) = with_proxy(view, silent);
        let bench = with_namespace(bench).await;
        let strict = map("strict", json!({"eyot.dev/consistency": "home"}));
        bench.store("/registry/configmaps/default/strict", strict.clone()).await;
        let request = info(Verb::Update, "configmaps", "default", "strict");
        let response = bench.send(request, strict.to_string(), http::HeaderMap::new()).await;
        assert_eq!((response.status().as_u16(), response.headers()["retry-after"].to_str().unwrap()), (503, "10"));
        let (_, status) = super::testing::read(response).await;
        let message = status["message"].as_str().unwrap();
        assert!(
            message
                .starts_with("configmaps \"strict\" is written at its home alone, site north, which is out of reach"),
            "{message}"
        );
        let (code, _) = bench.json(info(Verb::Get, "configmaps", "default", "strict"), Value::Null).await;
        assert_eq!(code, 200);
    }
}

#[tokio::test]
async fn without_a_way_to_other_sites_their_objects_are_read_only_too() {
    let bench = with_namespace(bench(up())).await;
    let strict = map("strict", json!({"eyot.dev/consistency": "home"}));
    bench.store("/registry/configmaps/default/strict", strict.clone()).await;
    let (code, _) = bench.json(info(Verb::Get, "configmaps", "default", "strict"), Value::Null).await;
    assert_eq!(code, 200);
    let (code, _) = bench.json(info(Verb::Update, "configmaps", "default", "strict"), strict).await;
    assert_eq!(code, 503);
}

#[tokio::test]
async fn a_namespace_may_ask_for_home_consistency_of_all_in_it() {
    let (bench, fake) = with_proxy(up(), false);
    let bench = with_namespace(bench).await;
    let annotations = json!({"eyot.dev/consistency": "home"});
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default", "annotations": annotations}, "status": {"phase": "Active"}});
    bench.store("/registry/namespaces/default", namespace).await;
    bench.json(info(Verb::Create, "configmaps", "default", ""), map("new", Value::Null)).await;
    assert_eq!(*fake.asked.lock(), ["north: POST /api/v1/namespaces/default/configmaps"]);
}

#[tokio::test]
async fn leases_are_elected_at_home_but_nodes_renew_theirs_anywhere() {
    let (bench, fake) = with_proxy(up(), false);
    let bench = with_namespace(bench).await;
    let object = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "leader", "namespace": "default"}});
    bench.json(lease(Verb::Create, ""), object.clone()).await;
    assert_eq!(fake.asked.lock().len(), 1, "it is made where its namespace belongs, so that it is made once");
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-node-lease"}, "status": {"phase": "Active"}});
    bench.store("/registry/namespaces/kube-node-lease", namespace).await;
    let mut of_node = lease(Verb::Create, "");
    of_node.namespace = "kube-node-lease".into();
    let mut node_lease = object;
    node_lease["metadata"] = json!({"name": "n", "namespace": "kube-node-lease"});
    let (code, made) = bench.json(of_node, node_lease).await;
    assert_eq!((code, made["metadata"].get("annotations"), fake.asked.lock().len()), (201, None, 1));
}

#[tokio::test]
async fn what_was_handed_on_is_answered_here() {
    let (bench, fake) = with_proxy(up(), false);
    let bench = with_namespace(bench).await;
    let strict = map("strict", json!({"eyot.dev/consistency": "home"}));
    bench.store("/registry/configmaps/default/strict", strict.clone()).await;
    let request = Request {
        info: info(Verb::Update, "configmaps", "default", "strict"),
        user: User { name: "tester".into(), ..User::default() },
        headers: http::HeaderMap::new(),
        body: strict.to_string().into(),
        escalation: None,
        forwarded: true,
    };
    assert_eq!(bench.engine.serve(request).await.status(), 200);
    assert!(fake.asked.lock().is_empty());
}

/// Server 1 is waited for until this is true, and 2 left.
struct Told(AtomicBool);

impl Watermarks for Told {
    fn passed(&self, revision: Revision) -> Option<bool> {
        (revision.server() == 1).then(|| self.0.load(Ordering::SeqCst))
    }
}

#[tokio::test(start_paused = true)]
async fn what_another_server_had_is_not_found_only_when_all_that_it_had_is_here() {
    let told = Arc::new(Told(AtomicBool::new(false)));
    let bench = with_namespace(Bench::at(Sites { watermarks: Some(told.clone()), ..Sites::default() })).await;
    let get = async |server: u16| {
        // Its clock is ahead of this one's.
        let query = vec![("resourceVersion".to_owned(), Revision::new(1 << 20, server).to_string())];
        bench.json(crate::RequestInfo { query, ..info(Verb::Get, "pods", "default", "p") }, Value::Null).await
    };
    let (code, status) = get(1).await;
    assert_eq!((code, &status["details"]["causes"][0]["reason"]), (504, &json!("ResourceVersionTooLarge")));
    assert_eq!(get(2).await.0, 504, "as for any revision that has not been reached");
    told.0.store(true, Ordering::SeqCst);
    assert_eq!(get(1).await.0, 404);
}
