//! Two sites with everything that acts on one store: what replication without delay would show. Who writes what is
//! recorded.
#[allow(dead_code, reason = "shared with tests that need more of it")]
mod server;

use api::home::{Link, Ownership, Taken};
use client::Informers;
use eyot_apiserver::{InProcess, Sites, User};
use futures::future::BoxFuture;
use http::{Request, Response};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt};
use parking_lot::Mutex;
use serde_json::{Value, json};
use server::Server;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

/// Nothing here takes long but on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);
const HOME: &str = "eyot.dev/home";

/// `site: METHOD path` of every write of a component.
type Log = Arc<Mutex<Vec<String>>>;

#[derive(Clone)]
struct Recorder {
    inner: InProcess,
    site: &'static str,
    log: Log,
}

impl Service<Request<kube::client::Body>> for Recorder {
    type Response = Response<eyot_apiserver::Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<kube::client::Body>) -> Self::Future {
        if request.method() != http::Method::GET {
            self.log.lock().push(format!("{}: {} {}", self.site, request.method(), request.uri().path()));
        }
        self.inner.call(request)
    }
}

struct Site {
    name: &'static str,
    /// The administrator's.
    client: Client,
    view: watch::Sender<Ownership>,
    server: Server,
}

struct World {
    north: Site,
    south: Site,
    log: Log,
    first: Server,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    _dir: tempfile::TempDir,
}

impl World {
    /// `north` founded the cluster; each site has one node with room for `pods`.
    async fn new(pods: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let first = Server::start(dir.path()).await;
        let (log, shutdown, tasks) = (Log::default(), CancellationToken::new(), TaskTracker::new());
        let mut sites = Vec::new();
        for (name, other) in [("north", "south"), ("south", "north")] {
            let (view, ownership) = watch::channel(Ownership::of(name, "north").with(other, Link::Up));
            let server = first.beside(Sites { ownership: ownership.clone(), ..Sites::default() }).await;
            let client = client::in_process(server.handle.service(User::new("admin", &["system:masters"])));
            start(name, &server, ownership, &log, &tasks, &shutdown);
            let node = json!({"metadata": {"name": format!("{name}-1")}});
            let nodes: Api<Node> = Api::all(client.clone());
            nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
            let ready = json!({"type": "Ready", "status": "True", "lastHeartbeatTime": jiff::Timestamp::now()});
            let allocatable = json!({"cpu": "16", "memory": "16Gi", "pods": pods.to_string()});
            let status =
                json!({"status": {"conditions": [ready], "allocatable": allocatable, "capacity": allocatable}});
            let patch = Patch::Merge(&status);
            nodes.patch_status(&format!("{name}-1"), &PatchParams::default(), &patch).await.unwrap();
            tasks.spawn(agent(client.clone(), format!("{name}-1"), shutdown.clone()));
            sites.push(Site { name, client, view, server });
        }
        let [north, south] = <[Site; 2]>::try_from(sites).ok().unwrap();
        Self { north, south, log, first, shutdown, tasks, _dir: dir }
    }

    async fn end(self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.north.server.leave().await;
        self.south.server.leave().await;
        self.first.stop().await;
    }

    /// The sites that wrote to paths with this in them.
    fn writers(&self, part: &str) -> BTreeSet<String> {
        let log = self.log.lock();
        let about = log.iter().filter(|line| line.contains(part) && !line.contains("/events"));
        about.map(|line| line.split(':').next().unwrap_or_default().to_owned()).collect()
    }
}

/// Controllers and scheduler of one site.
fn start(
    name: &'static str,
    server: &Server,
    ownership: watch::Receiver<Ownership>,
    log: &Log,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) {
    let (handle, log) = (server.handle.clone(), log.clone());
    let client = move |user: &str| {
        let inner = handle.service(User::new(user, &["system:serviceaccounts", "system:serviceaccounts:kube-system"]));
        client::in_process(Recorder { inner, site: name, log: log.clone() })
    };
    let cache = client::in_process(server.handle.service(User::new("cache", &["system:masters"])));
    let informers = Informers::new(cache, tasks.clone(), shutdown.clone());
    let options = scheduler::Options {
        client: client("system:kube-scheduler"),
        informers: informers.clone(),
        name: "default-scheduler".into(),
        ownership: ownership.clone(),
    };
    tasks.spawn(scheduler::Service::new(options).run(shutdown.clone()));
    let options = controllers::Options {
        client_for: Arc::new(move |name| client(&format!("system:serviceaccount:kube-system:{name}"))),
        informers,
        cluster_cidr: "10.42.0.0/16".into(),
        node_cidr_mask: 24,
        root_ca_pem: String::new(),
        service_lb: false,
        reserved_ports: Vec::new(),
        ownership,
        tombstones: None,
        share: client::home::everything(),
    };
    let shutdown = shutdown.clone();
    tasks.spawn(async move { controllers::Service::new(options).run(shutdown).await.unwrap() });
}

/// What an agent tells of its pods, without the pods.
async fn agent(client: Client, node: String, shutdown: CancellationToken) {
    let (all, mut address): (Api<Pod>, u8) = (Api::all(client.clone()), 0);
    let base = if node.starts_with("north") { "10.42.0" } else { "10.42.1" };
    let mine = ListParams::default().fields(&format!("spec.nodeName={node}"));
    let look = async {
        loop {
            for pod in all.list(&mine).await.map(|list| list.items).unwrap_or_default() {
                let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap());
                let running = pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running");
                if pod.metadata.deletion_timestamp.is_some() {
                    _ = api.delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await;
                } else if !running {
                    address += 1;
                    let ip = format!("{base}.{address}");
                    let ready =
                        json!({"type": "Ready", "status": "True", "lastTransitionTime": jiff::Timestamp::now()});
                    let status = json!({"status": {"phase": "Running", "conditions": [ready], "podIP": ip, "podIPs": [{"ip": ip}]}});
                    _ = api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(&status)).await;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    shutdown.run_until_cancelled(look).await;
}

async fn create(client: &Client, api_version: &str, kind: &str, mut object: Value) {
    (object["apiVersion"], object["kind"]) = (api_version.into(), kind.into());
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let object: DynamicObject = serde_json::from_value(object).unwrap();
    let api: Api<DynamicObject> = match kind {
        "Namespace" => Api::all_with(client.clone(), &resource),
        _ => Api::namespaced_with(client.clone(), "default", &resource),
    };
    api.create(&PostParams::default(), &object).await.unwrap();
}

fn template(app: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "100m"}}}]}})
}

fn workload(name: &str, replicas: u32) -> Value {
    json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"replicas": replicas,
        "selector": {"matchLabels": {"app": name}}, "template": template(name)}})
}

/// The pods of an app: node, home and uid each; when all of them run.
async fn pods(client: &Client, app: &str) -> Vec<(String, String, String)> {
    let api: Api<Pod> = Api::namespaced(client.clone(), "default");
    let list = api.list(&ListParams::default().labels(&format!("app={app}"))).await.unwrap();
    let living = list.items.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    let all = living.map(|pod| {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
        (node, pod.annotations().get(HOME).cloned().unwrap_or_default(), pod.uid().unwrap())
    });
    all.collect()
}

/// Waits until the pods of an app are on these nodes, so many each.
async fn settled(client: &Client, app: &str, wanted: &[(&str, usize)]) -> Vec<(String, String, String)> {
    let began = std::time::Instant::now();
    loop {
        let found = pods(client, app).await;
        let on = |node: &str| found.iter().filter(|(on, ..)| on == node).count();
        let total: usize = wanted.iter().map(|(_, count)| count).sum();
        if found.len() == total && wanted.iter().all(|(node, count)| on(node) == *count) {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "{app} has {found:?} instead of {wanted:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = std::time::Instant::now();
    while !holds().await {
        assert!(began.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn only(site: &str) -> BTreeSet<String> {
    BTreeSet::from([site.to_owned()])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_links_up_each_object_has_one_site_that_acts() {
    let world = World::new(110).await;
    create(&world.north.client, "apps/v1", "Deployment", workload("northern", 3)).await;
    create(&world.south.client, "apps/v1", "Deployment", workload("southern", 2)).await;
    let mut daemon = workload("daemon", 0);
    daemon["spec"].as_object_mut().unwrap().remove("replicas");
    create(&world.south.client, "apps/v1", "DaemonSet", daemon).await;
    let service =
        json!({"metadata": {"name": "daemon"}, "spec": {"selector": {"app": "daemon"}, "ports": [{"port": 80}]}});
    create(&world.south.client, "v1", "Service", service).await;
    settled(&world.north.client, "northern", &[("north-1", 3)]).await;
    settled(&world.south.client, "southern", &[("south-1", 2)]).await;
    for (node, home, _) in settled(&world.north.client, "daemon", &[("north-1", 1), ("south-1", 1)]).await {
        assert_eq!(node, format!("{home}-1"), "a pod's home is its node's");
    }
    let slices: Api<EndpointSlice> = Api::namespaced(world.north.client.clone(), "default");
    let of_service = ListParams::default().labels("kubernetes.io/service-name=daemon");
    eventually("each site has a slice with its pod", async || {
        let found = slices.list(&of_service).await.unwrap().items;
        let full = found.iter().filter(|slice| slice.endpoints.iter().flatten().count() == 1);
        let sites: BTreeSet<_> = full.filter_map(|slice| slice.labels().get("eyot.dev/site").cloned()).collect();
        sites == BTreeSet::from(["north".to_owned(), "south".to_owned()])
    })
    .await;
    for (part, site) in [("northern", "north"), ("southern", "south"), ("daemonsets/daemon", "south")] {
        assert_eq!(world.writers(part), only(site), "{part}: {:#?}", world.log.lock());
    }
    for site in [&world.north, &world.south] {
        assert_eq!(world.writers(&format!("nodes/{}-1", site.name)), only(site.name));
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_at_home_is_handed_to_where_there_is_room() {
    let world = World::new(2).await;
    create(&world.north.client, "apps/v1", "Deployment", workload("web", 3)).await;
    let placed = settled(&world.north.client, "web", &[("north-1", 2), ("south-1", 1)]).await;
    for (node, home, _) in placed {
        assert_eq!(node, format!("{home}-1"));
    }
    let events: Api<Event> = Api::namespaced(world.north.client.clone(), "default");
    eventually("an Event says why", async || {
        let found = events.list(&ListParams::default()).await.unwrap().items;
        found.iter().any(|event| {
            let why = event.message.as_deref().unwrap_or_default();
            event.reason.as_deref() == Some("ScheduledElsewhere")
                && why.starts_with(
                    "Handed to site south, which has the most room: 0/2 nodes are available: 1 Too many pods",
                )
        })
    })
    .await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn takeover_replaces_and_healing_removes_the_replacements() {
    let world = World::new(110).await;
    create(&world.north.client, "apps/v1", "Deployment", workload("web", 3)).await;
    create(&world.north.client, "apps/v1", "StatefulSet", workload("db", 1)).await;
    let before = settled(&world.north.client, "web", &[("north-1", 3)]).await;
    let db = settled(&world.north.client, "db", &[("north-1", 1)]).await;
    world.log.lock().clear();
    let lost = |for_s, by: Option<&str>| Link::Down { for_s, taken: by.map(|by| Taken { by: by.into(), epoch: 1 }) };
    // One store can't hide from north what south does meanwhile; so north does nothing.
    world.north.view.send_modify(|view| view.passive = true);
    world.south.view.send_modify(|view| *view = view.clone().with("north", lost(300, Some("south"))));
    let during = settled(&world.south.client, "web", &[("north-1", 3), ("south-1", 3)]).await;
    assert!(before.iter().all(|pod| during.contains(pod)), "nothing of the lost site was touched");
    assert!(during.iter().all(|(node, home, _)| *node == format!("{home}-1")));
    let taken_away = |line: &&String| line.contains("DELETE") || line.contains("/eviction");
    assert_eq!(world.log.lock().iter().find(taken_away), None);
    assert_eq!(pods(&world.south.client, "db").await, db, "a StatefulSet stays");

    for site in [&world.north, &world.south] {
        let other = if site.name == "north" { "south" } else { "north" };
        site.view.send_modify(|view| *view = Ownership { passive: false, ..view.clone() }.with(other, Link::Up));
    }
    let mut after = settled(&world.north.client, "web", &[("north-1", 3)]).await;
    let mut wanted = before;
    after.sort();
    wanted.sort();
    assert_eq!(after, wanted, "the pods that never stopped are those that stay");
    assert_eq!(pods(&world.south.client, "db").await, db);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_handed_over_takes_its_parts_along() {
    let world = World::new(110).await;
    create(&world.north.client, "apps/v1", "Deployment", workload("web", 2)).await;
    settled(&world.north.client, "web", &[("north-1", 2)]).await;
    let api: Api<Deployment> = Api::namespaced(world.north.client.clone(), "default");
    let there = json!({"metadata": {"annotations": {(HOME): "south"}}});
    api.patch("web", &PatchParams::default(), &Patch::Merge(&there)).await.unwrap();
    let sets: Api<ReplicaSet> = Api::namespaced(world.north.client.clone(), "default");
    eventually("its ReplicaSet follows", async || {
        let found = sets.list(&ListParams::default()).await.unwrap().items;
        found.iter().all(|set| set.annotations().get(HOME).is_some_and(|home| home == "south"))
    })
    .await;
    world.log.lock().clear();
    let more = json!({"spec": {"replicas": 4}});
    let south: Api<Deployment> = Api::namespaced(world.south.client.clone(), "default");
    south.patch("web", &PatchParams::default(), &Patch::Merge(&more)).await.unwrap();
    settled(&world.south.client, "web", &[("north-1", 2), ("south-1", 2)]).await;
    assert_eq!(world.writers("/web"), only("south"), "{:#?}", world.log.lock());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_is_emptied_by_all_sites_and_let_go_by_its_home() {
    let world = World::new(110).await;
    create(&world.north.client, "v1", "Namespace", json!({"metadata": {"name": "doomed"}})).await;
    for site in [&world.north, &world.south] {
        let api: Api<k8s_openapi::api::core::v1::ConfigMap> = Api::namespaced(site.client.clone(), "doomed");
        let map = json!({"metadata": {"name": format!("of-{}", site.name)}});
        api.create(&PostParams::default(), &serde_json::from_value(map).unwrap()).await.unwrap();
    }
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(world.south.client.clone());
    namespaces.delete("doomed", &DeleteParams::default()).await.unwrap();
    eventually("the namespace goes", async || namespaces.get_opt("doomed").await.unwrap().is_none()).await;
    assert_eq!(world.writers("doomed/configmaps/of-north"), only("north"));
    assert_eq!(world.writers("doomed/configmaps/of-south"), only("south"));
    assert_eq!(world.writers("doomed/finalize"), only("north"));
    world.end().await;
}
