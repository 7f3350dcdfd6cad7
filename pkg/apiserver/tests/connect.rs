//! kubectl through the API into a container, over WebSocket (translated) and over SPDY (passed through).
mod agent;
mod server;

use bytes::Bytes;
use eyot_apiserver::User;
use eyot_apiserver::request::MASTERS;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use server::Server;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tower::ServiceExt;

async fn send(server: &Server, method: Method, path: &str, media_type: &str, body: Value) {
    let request = Request::builder().method(method).uri(path).header("content-type", media_type);
    let request = request.body(Full::new(Bytes::from(body.to_string()))).unwrap();
    let response = server.handle.service(User::new("admin", &[MASTERS])).oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let text = body.collect().await.unwrap().to_bytes();
    assert!(parts.status.is_success(), "{path}: {}", String::from_utf8_lossy(&text));
}

/// A node whose agent listens on this port, and a pod on it.
async fn populate(server: &Server, agent: u16) {
    let json = "application/json";
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}});
    send(server, Method::POST, "/api/v1/nodes", json, node).await;
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": agent}}}});
    send(server, Method::PATCH, "/api/v1/nodes/n/status", "application/merge-patch+json", status).await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    send(server, Method::POST, "/api/v1/namespaces/default/serviceaccounts", json, account).await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}, {"name": "d", "image": "i"}]}});
    send(server, Method::POST, "/api/v1/namespaces/default/pods", json, pod).await;
}

async fn run(program: &str, kubeconfig: &Path, websockets: bool, args: &[&str], stdin: Vec<u8>) -> Output {
    let mut command = Command::new(program);
    command.arg("--kubeconfig").arg(kubeconfig).arg("--cache-dir").arg(kubeconfig.with_extension("cache")).args(args);
    command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets.to_string());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let run = move || {
        let mut child = command.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let feeding = std::thread::spawn(move || {
            // A program that ends early closes its input; what it said is looked at below.
            let _ = input.write_all(&stdin);
        });
        let out = child.wait_with_output().unwrap();
        feeding.join().unwrap();
        out
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_talks_to_a_container() {
    let kubectl = std::env::var("EYOT_TEST_KUBECTL").unwrap_or_else(|_| "kubectl".into());
    if !Command::new(&kubectl).args(["version", "--client"]).output().is_ok_and(|out| out.status.success()) {
        eprintln!("skipped: no {kubectl} on this machine");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let of_agent = server.client("n", "agents", false);
    populate(&server, agent::start(&of_agent.certificate, &of_agent.key).await).await;
    let kubeconfig = server.kubeconfig("admin", &server.client("admin", MASTERS, false));

    let logs = run(&kubectl, &kubeconfig, true, &["logs", "p", "-c", "c", "--tail=3"], vec![]).await;
    let text = String::from_utf8_lossy(&logs.stdout);
    assert!(text.starts_with("/containerLogs/default/p/c ") && text.contains("tailLines=3"), "{logs:?}");

    // More than all buffers on the way hold, so that both directions must flow at once.
    let input: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    for websockets in [true, false] {
        let out =
            run(&kubectl, &kubeconfig, websockets, &["exec", "-i", "p", "-c", "c", "--", "cat"], input.clone()).await;
        let errors = String::from_utf8_lossy(&out.stderr);
        assert!(out.stdout == input, "{} bytes came back; {errors}", out.stdout.len());
        assert!(errors.contains("bye"), "{errors}");
        assert_eq!(out.status.code(), Some(7), "the container's own exit code; {errors}");
        let wrong = run(&kubectl, &kubeconfig, websockets, &["exec", "p", "-c", "d", "--", "true"], vec![]).await;
        assert!(String::from_utf8_lossy(&wrong.stderr).contains("container not found"), "{wrong:?}");
    }
    server.stop().await;
}
