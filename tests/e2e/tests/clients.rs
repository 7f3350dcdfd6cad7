//! Unmodified clients and their mistakes: kube-rs and plain HTTP against a real server.
mod kubelets;

use anyhow::Context;
use e2e::Cluster;
use futures::{StreamExt, TryStreamExt, try_join};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, AttachParams, DeleteParams, LogParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, conditions, wait::await_condition, watcher};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SOON: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn clients_and_their_mistakes() -> anyhow::Result<()> {
    let cluster = Cluster::start(3)?;
    let client = cluster.client().await?;
    try_join!(
        async { pods(&client).await.context("a pod by kube-rs") },
        async { informer(&client).await.context("an informer") },
        async { conflicts(&client).await.context("conflicts") },
        async { bad_bodies(&client).await.context("bad bodies") },
        async { strangers(&cluster).await.context("strangers") },
        async { kubelets::certificates(&cluster, &client).await.context("kubelets' certificates") },
        async { an_absent_image(&client).await.context("an absent image") },
    )?;
    Ok(())
}

fn demo(name: &str, image: &str) -> anyhow::Result<Pod> {
    Ok(serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "main", "image": image}]},
    }))?)
}

async fn pods(client: &kube::Client) -> anyhow::Result<()> {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    pods.create(&PostParams::default(), &demo("web", "eyot.dev/demo:1")?).await?;
    tokio::time::timeout(SOON, await_condition(pods.clone(), "web", conditions::is_pod_running())).await??;

    let mut process = pods
        .exec("web", ["sh", "-c", "read line; echo got $line; exit 3"], &AttachParams::default().stdin(true))
        .await?;
    process.stdin().context("no stdin")?.write_all(b"this\n").await?;
    let mut output = String::new();
    process.stdout().context("no stdout")?.read_to_string(&mut output).await?;
    let status = process.take_status().context("no status")?.await.context("no status came")?;
    assert_eq!((output.as_str(), status.reason.as_deref()), ("got this\n", Some("NonZeroExitCode")), "{status:?}");

    let mut forwarder = pods.portforward("web", &[8080]).await?;
    let mut stream = forwarder.take_stream(8080).context("no stream")?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    assert!(answer.ends_with("\r\n\r\nweb\n"), "{answer:?}");

    let follow = LogParams { follow: true, ..LogParams::default() };
    let mut lines = Box::pin(pods.log_stream("web", &follow).await?);
    pods.delete("web", &DeleteParams::default()).await?;
    let mut rest = String::new();
    tokio::time::timeout(SOON, futures::AsyncReadExt::read_to_string(&mut lines, &mut rest))
        .await
        .context("the log goes on")??;
    Ok(())
}

/// A watcher sees each object's last state, in order, while it changes.
async fn informer(client: &kube::Client) -> anyhow::Result<()> {
    const OBJECTS: usize = 20;
    const ROUNDS: usize = 10;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-public");
    let selected = watcher::Config::default().labels("test=informer");
    let mut changes = watcher(maps.clone(), selected).applied_objects().boxed();
    let write = async {
        for round in 1..=ROUNDS {
            for object in 0..OBJECTS {
                let name = format!("informed-{object}");
                let body = json!({
                    "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"test": "informer"}},
                    "data": {"round": round.to_string()},
                });
                maps.patch(&name, &PatchParams::apply("test"), &Patch::Apply(body)).await?;
            }
        }
        anyhow::Ok(())
    };
    let read = async {
        let mut seen = BTreeMap::new();
        while seen.len() < OBJECTS || seen.values().any(|round| *round < ROUNDS) {
            let map = changes.try_next().await?.context("the watch ended")?;
            let round: usize = map.data.unwrap_or_default()["round"].parse()?;
            let before = seen.insert(map.metadata.name, round).unwrap_or(0);
            assert!(before <= round, "{before} came before {round}");
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(SOON, async { try_join!(write, read) }).await.context("not all changes came")??;
    Ok(())
}

async fn conflicts(client: &kube::Client) -> anyhow::Result<()> {
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let mut map = ConfigMap::default();
    map.metadata.name = Some("fought-over".into());
    let mut first = maps.create(&PostParams::default(), &map).await?;
    first.data = Some([("a".into(), "1".into())].into());
    maps.replace("fought-over", &PostParams::default(), &first).await?;
    let stale = maps
        .replace("fought-over", &PostParams::default(), &first)
        .await
        .err()
        .context("a stale write went through")?;
    assert_eq!(refusal(&stale), (409, "Conflict"), "{stale}");
    let taken = maps.create(&PostParams::default(), &map).await.err().context("created twice")?;
    assert_eq!(refusal(&taken), (409, "AlreadyExists"), "{taken}");
    let of = |color| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "fought-over"}, "data": {"color": color}});
    maps.patch("fought-over", &PatchParams::apply("me"), &Patch::Apply(of("red"))).await?;
    let owned = maps.patch("fought-over", &PatchParams::apply("you"), &Patch::Apply(of("blue"))).await;
    assert_eq!(refusal(&owned.err().context("no conflict")?), (409, "Conflict"));
    maps.patch("fought-over", &PatchParams::apply("you").force(), &Patch::Apply(of("blue"))).await?;
    Ok(())
}

fn refusal(error: &kube::Error) -> (u16, &str) {
    match error {
        kube::Error::Api(status) => (status.code, &status.reason),
        _ => (0, ""),
    }
}

/// Each is refused with Kubernetes' own Status, and the server goes on.
async fn bad_bodies(client: &kube::Client) -> anyhow::Result<()> {
    let path = "/api/v1/namespaces/default/configmaps";
    let huge = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "huge"}, "data": {"a": "x".repeat(4 << 20)}});
    let large = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "large"}, "data": {"a": "x".repeat(2 << 20)}});
    let typed = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "typed"}, "data": {"a": 7}});
    let unknown = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "unknown"}, "dato": {}});
    let unnamed = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}});
    let other = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "other"}});
    for (what, body, code, says) in [
        ("cut off", "{\"apiVersion\": \"v1\",".to_owned(), 400, ""),
        ("not JSON", "hello".to_owned(), 400, ""),
        ("empty", String::new(), 400, ""),
        ("huge", huge.to_string(), 413, "Request entity too large: limit is 3145728"),
        ("large", large.to_string(), 422, "Too long: may not be more than 1048576 bytes"),
        ("typed", typed.to_string(), 400, "ConfigMap in version \"v1\" cannot be handled as a ConfigMap"),
        ("unknown", unknown.to_string(), 400, "strict decoding error: unknown field \"dato\""),
        ("unnamed", unnamed.to_string(), 422, "name or generateName is required"),
        ("other", other.to_string(), 400, "Secret in version \"v1\" cannot be handled as a ConfigMap"),
    ] {
        let uri = format!("{path}?fieldValidation=Strict");
        let request = http_post(&uri, body)?;
        let error = client.request::<Value>(request).await.err().with_context(|| format!("{what}: it was accepted"))?;
        let kube::Error::Api(status) = &error else { anyhow::bail!("{what}: {error}") };
        assert!(status.code == code && status.message.contains(says), "{what}: {status:?}");
    }
    Ok(())
}

fn http_post(uri: &str, body: String) -> anyhow::Result<http::Request<Vec<u8>>> {
    Ok(http::Request::post(uri).header("content-type", "application/json").body(body.into_bytes())?)
}

/// No token, a wrong token, a certificate of nobody, one that has expired.
async fn strangers(cluster: &Cluster) -> anyhow::Result<()> {
    let config = kube::config::Kubeconfig::read_from(cluster.kubeconfig())?;
    let asked = |change: fn(&mut kube::config::AuthInfo)| {
        let mut config = config.clone();
        let auth = config.auth_infos[0].auth_info.get_or_insert_default();
        (auth.client_certificate_data, auth.client_key_data) = (None, None);
        change(auth);
        async move {
            let config = kube::Config::from_custom_kubeconfig(config, &Default::default()).await?;
            let maps: Api<ConfigMap> = Api::default_namespaced(kube::Client::try_from(config)?);
            anyhow::Ok(maps.get("kube-root-ca.crt").await.err().context("a stranger was let in")?)
        }
    };
    assert_eq!(refusal(&asked(|_| ()).await?), (403, "Forbidden"));
    assert_eq!(refusal(&asked(|auth| auth.token = Some("wrong".to_owned().into())).await?), (401, "Unauthorized"));
    Ok(())
}

/// A pod whose image is nowhere says so, and doesn't keep others from running.
async fn an_absent_image(client: &kube::Client) -> anyhow::Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), "kube-public");
    let mut pod = demo("absent", "eyot.invalid/absent:1")?;
    pod.spec.get_or_insert_default().containers[0].image_pull_policy = Some("IfNotPresent".into());
    pods.create(&PostParams::default(), &pod).await?;
    let says_so = |pod: Option<&Pod>| {
        let waiting =
            pod.and_then(|pod| pod.status.as_ref()?.container_statuses.as_ref()?[0].state.as_ref()?.waiting.clone());
        waiting.is_some_and(|waiting| matches!(waiting.reason.as_deref(), Some("ErrImagePull" | "ImagePullBackOff")))
    };
    tokio::time::timeout(SOON, await_condition(pods.clone(), "absent", says_so)).await.context("no reason shown")??;
    pods.delete("absent", &DeleteParams::default()).await?;
    Ok(())
}
