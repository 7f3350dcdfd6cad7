//! The front over a real store: in process, and over TLS with kubectl where there is one.
mod server;

use bytes::Bytes;
use eyot_apiserver::User;
use eyot_apiserver::request::MASTERS;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use server::Server;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tower::ServiceExt;

async fn call(server: &Server, user: &User, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
    let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
    let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    let request = request.body(Full::new(body)).unwrap();
    let response = server.handle.service(user.clone()).oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    (parts.status, serde_json::from_slice(&bytes).unwrap_or_default())
}

async fn get(server: &Server, user: &User, path: &str) -> (StatusCode, Value) {
    call(server, user, Method::GET, path, Value::Null).await
}

fn admin() -> User {
    User::new("admin", &[MASTERS])
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_birth_are_made_once() {
    let dir = tempfile::tempdir().unwrap();
    let paths = [
        "/api/v1/namespaces/kube-system",
        "/api/v1/namespaces/default/services/kubernetes",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles/admin",
        "/apis/scheduling.k8s.io/v1/priorityclasses/system-node-critical",
    ];
    let server = Server::start(dir.path()).await;
    let mut first = Vec::new();
    for path in paths {
        let (code, object) = get(&server, &admin(), path).await;
        assert_eq!(code, StatusCode::OK, "{path}: {object}");
        first.push(object["metadata"].clone());
    }
    server.stop().await;
    let server = Server::start(dir.path()).await;
    for (path, before) in paths.iter().zip(first) {
        let (_, object) = get(&server, &admin(), path).await;
        assert_eq!(object["metadata"]["uid"], before["uid"], "{path}");
    }
    let (_, role) = get(&server, &admin(), paths[2]).await;
    assert!(!role["rules"].as_array().unwrap().is_empty(), "an aggregated role has its parts' rules");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn components_are_judged_like_everybody() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let bob = User::new("bob", &[]);
    let (code, status) = get(&server, &bob, "/api/v1/namespaces/default/configmaps").await;
    assert_eq!(code, StatusCode::FORBIDDEN);
    let message = r#"configmaps is forbidden: User "bob" cannot list resource "configmaps" in API group "" in the namespace "default""#;
    assert_eq!(status["message"], message);
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "bob"}]});
    let path = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    assert_eq!(call(&server, &admin(), Method::POST, path, binding).await.0, StatusCode::CREATED);
    // The index follows the store a moment later, as upstream's informers do.
    for _ in 0..100 {
        if get(&server, &bob, "/api/v1/namespaces/default/configmaps").await.0 == StatusCode::OK {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(get(&server, &bob, "/api/v1/namespaces/default/configmaps").await.0, StatusCode::OK);
    assert_eq!(get(&server, &bob, "/api/v1/namespaces/kube-system/configmaps").await.0, StatusCode::FORBIDDEN);
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "mine",
        "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
        "rules": [{"verbs": ["get"], "apiGroups": ["example.com"], "resources": ["things"]}]});
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    assert_eq!(call(&server, &admin(), Method::POST, roles, role).await.0, StatusCode::CREATED);
    for _ in 0..100 {
        let (_, view) = get(&server, &admin(), &format!("{roles}/view")).await;
        if view["rules"].as_array().unwrap().iter().any(|rule| rule["apiGroups"] == json!(["example.com"])) {
            server.stop().await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the role did not become a part of view");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_live_as_long_as_their_account() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "bot"}});
    assert_eq!(call(&server, &admin(), Method::POST, accounts, account).await.0, StatusCode::CREATED);
    let ask = json!({"spec": {"expirationSeconds": 600}});
    let (code, answer) = call(&server, &admin(), Method::POST, &format!("{accounts}/bot/token"), ask).await;
    assert_eq!(code, StatusCode::CREATED, "{answer}");
    let review = json!({"spec": {"token": answer["status"]["token"]}});
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let (_, held) = call(&server, &admin(), Method::POST, reviews, review.clone()).await;
    assert_eq!(held["status"]["user"]["username"], "system:serviceaccount:default:bot", "{held}");
    let mut elsewhere = review.clone();
    elsewhere["spec"]["audiences"] = json!(["vault"]);
    let (_, other) = call(&server, &admin(), Method::POST, reviews, elsewhere).await;
    assert_eq!(other["status"]["error"], "invalid bearer token");
    call(&server, &admin(), Method::DELETE, &format!("{accounts}/bot"), Value::Null).await;
    let (_, gone) = call(&server, &admin(), Method::POST, reviews, review).await;
    assert_ne!(gone["status"]["authenticated"], true, "{gone}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_and_wrong_methods_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let large = json!({"data": {"a": "x".repeat(4_000_000)}});
    let (code, status) = call(&server, &admin(), Method::POST, maps, large).await;
    assert_eq!((code, &status["reason"]), (StatusCode::PAYLOAD_TOO_LARGE, &json!("RequestEntityTooLarge")));
    assert_eq!(call(&server, &admin(), Method::PUT, maps, json!({})).await.0, StatusCode::METHOD_NOT_ALLOWED);
    let (code, plain) = get(&server, &admin(), "/apis/nothing/v1/things").await;
    assert_eq!((code, plain), (StatusCode::NOT_FOUND, Value::Null), "a group that nobody serves has no Status");
    let (code, status) = get(&server, &admin(), "/api/v9/pods").await;
    assert_eq!((code, &status["reason"]), (StatusCode::NOT_FOUND, &json!("NotFound")));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_end_with_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let request = Request::get("/api/v1/namespaces?watch=true").body(Full::new(Bytes::new())).unwrap();
    let response = server.handle.service(admin()).oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body();
    let first = body.frame().await.expect("there are namespaces").unwrap().into_data().unwrap();
    assert!(!first.is_empty());
    let reading = tokio::spawn(body.collect());
    assert!(server.stop().await < Duration::from_secs(5));
    let read = tokio::time::timeout(Duration::from_secs(5), reading).await.expect("the watch ends").unwrap();
    assert!(read.is_ok(), "it ends in good order: {read:?}");
}

fn kubectl() -> Option<String> {
    let program = std::env::var("EYOT_TEST_KUBECTL").unwrap_or_else(|_| "kubectl".into());
    let works = Command::new(&program).args(["version", "--client"]).output().is_ok_and(|out| out.status.success());
    if !works {
        eprintln!("skipped: no {program} on this machine");
    }
    works.then_some(program)
}

/// Standard output and error together.
async fn run(program: &str, kubeconfig: &Path, args: &[&str]) -> String {
    let mut command = Command::new(program);
    command.arg("--kubeconfig").arg(kubeconfig).arg("--cache-dir").arg(kubeconfig.with_extension("cache")).args(args);
    let out = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_finds_its_way() {
    let Some(kubectl) = kubectl() else { return };
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let admin = server.kubeconfig("admin", &server.client("admin", MASTERS, false));
    let nobody = server.kubeconfig("nobody", &server.client("nobody", "none", false));
    let late = server.kubeconfig("late", &server.client("late", MASTERS, true));
    let table = [
        (&admin, vec!["get", "namespaces", "-o", "name"], "namespace/kube-system"),
        (&admin, vec!["create", "configmap", "a", "--from-literal=k=v"], "configmap/a created"),
        (&admin, vec!["get", "configmap", "a", "-o", "jsonpath={.data.k}"], "v"),
        (&admin, vec!["api-resources"], "deployments"),
        (&admin, vec!["explain", "pod.spec.hostNetwork"], "hostNetwork"),
        (&admin, vec!["auth", "can-i", "delete", "pods"], "yes"),
        (&admin, vec!["auth", "can-i", "delete", "pods", "--as", "bob"], "no"),
        (
            &nobody,
            vec!["get", "pods"],
            r#"User "nobody" cannot list resource "pods" in API group "" in the namespace "default""#,
        ),
        (&nobody, vec!["auth", "can-i", "get", "pods"], "no"),
        (&late, vec!["get", "pods"], "expired"),
    ];
    for (kubeconfig, args, want) in table {
        let got = run(&kubectl, kubeconfig, &args).await;
        assert!(got.contains(want), "kubectl {args:?} said {got:?}, not {want:?}");
    }
    assert!(server.stop().await < Duration::from_secs(5));
}
