//! The measurements, in a namespace of their own that is deleted afterwards.
use crate::{Args, Figures, memory, percentiles, pods, replicas};
use anyhow::Result;
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use serde_json::{Value, json};
use std::future::Future;
use std::time::{Duration, Instant};

/// Bytes of an object's payload.
const PAYLOAD: usize = 900;
/// Changes that the watchers follow.
const CHANGES: usize = 20;
/// Requests in flight while objects are only prepared.
pub(crate) const PREPARE: usize = 32;
/// Objects a page, as kubectl asks for.
const PAGE: u32 = 500;
/// A watcher that has not seen the last change by then was not kept up to date.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn object<K: serde::de::DeserializeOwned>(value: Value) -> Result<K> {
    Ok(serde_json::from_value(value)?)
}

fn config(name: &str, n: usize) -> Result<ConfigMap> {
    object(json!({"metadata": {"name": name}, "data": {"n": n.to_string(), "payload": "x".repeat(PAYLOAD)}}))
}

/// All measurements of one API.
pub async fn api(client: &kube::Client, args: &Args, pids: Option<&str>) -> Result<Figures> {
    let name = format!("bench-{}", std::process::id());
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.create(&PostParams::default(), &object(json!({"metadata": {"name": name}}))?).await?;
    let figures = within(client, &name, args, pids).await;
    namespaces.delete(&name, &DeleteParams::default()).await?;
    figures
}

async fn within(client: &kube::Client, namespace: &str, args: &Args, pids: Option<&str>) -> Result<Figures> {
    let mut figures = Figures::new();
    // First: later measurements leave room behind that would be filled.
    if let (Some(pids), count @ 1..) = (pids, args.memory_pods) {
        memory::measure(&mut figures, client, namespace, pids, count).await?;
    }
    figures.extend(all(client, namespace, args).await?);
    if args.nodes > 0 {
        crate::schedule::run(&mut figures, client, namespace, args.nodes, args.scheduled).await?;
    }
    Ok(figures)
}

async fn all(client: &kube::Client, namespace: &str, args: &Args) -> Result<Figures> {
    let mut figures = Figures::new();
    if let Some(replicas) = args.replicas {
        replicas::measure(&mut figures, client, namespace, replicas).await?;
        return Ok(figures);
    }
    let configs: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    for clients in [1, 64] {
        let count = if clients == 1 { args.objects / 4 } else { args.objects };
        let name = |n: usize| format!("c{clients}-{n}");
        let (post, patch) = (PostParams::default(), PatchParams::default());
        let create = |n| {
            let (configs, post) = (&configs, &post);
            async move {
                configs.create(post, &config(&name(n), n)?).await?;
                Ok(())
            }
        };
        load(&mut figures, "create", clients, count, create).await?;
        let get = |n| {
            let configs = &configs;
            async move {
                configs.get(&name(n)).await?;
                Ok(())
            }
        };
        load(&mut figures, "get", clients, count, get).await?;
        let change = |n| {
            let (configs, patch) = (&configs, &patch);
            async move {
                configs.patch(&name(n), patch, &Patch::Merge(json!({"data": {"n": "p"}}))).await?;
                Ok(())
            }
        };
        load(&mut figures, "patch", clients, count, change).await?;
        let delete = |n| {
            let configs = &configs;
            async move {
                configs.delete(&name(n), &DeleteParams::default()).await?;
                Ok(())
            }
        };
        // As when a controller or `kubectl get -w` looks on.
        let watching = configs.watch(&WatchParams::default(), "0").await?;
        let drained = tokio::spawn(watching.for_each(|_| async {}));
        load(&mut figures, "delete", clients, count, delete).await?;
        drained.abort();
    }
    collection(&mut figures, &configs, args.objects).await?;
    list(&mut figures, client, namespace, args.pods).await?;
    watch(&mut figures, &configs, args.watchers).await?;
    if let Some(image) = &args.image {
        pods::measure(&mut figures, client, namespace, image).await?;
    }
    Ok(figures)
}

/// Calls `request` `count` times from `clients` at once; notes the rate and the latencies.
async fn load<F>(
    figures: &mut Figures,
    what: &str,
    clients: usize,
    count: usize,
    request: impl Fn(usize) -> F,
) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let start = Instant::now();
    let timed = |n| {
        let run = request(n);
        async move {
            let start = Instant::now();
            run.await.map(|()| start.elapsed())
        }
    };
    let times: Vec<Result<Duration>> = stream::iter(0..count).map(timed).buffer_unordered(clients).collect().await;
    let times: Vec<Duration> = times.into_iter().collect::<Result<_>>()?;
    figures.insert(format!("{what} {clients} clients /s"), count as f64 / start.elapsed().as_secs_f64());
    percentiles(figures, &format!("{what} {clients} clients"), times);
    Ok(())
}

/// A whole collection in pages, and its end in one request.
async fn collection(figures: &mut Figures, configs: &Api<ConfigMap>, count: usize) -> Result<()> {
    let post = PostParams::default();
    let create = |n: usize| {
        let (configs, post) = (configs, &post);
        async move {
            configs.create(post, &config(&format!("d{n}"), n)?).await?;
            anyhow::Ok(())
        }
    };
    let made: Vec<Result<()>> = stream::iter(0..count).map(create).buffer_unordered(PREPARE).collect().await;
    made.into_iter().collect::<Result<Vec<()>>>()?;
    let start = Instant::now();
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let items = configs.list(&page).await?;
        // A change between pages makes every further page one of the past.
        configs.patch("d0", &PatchParams::default(), &Patch::Merge(json!({"data": {"n": "page"}}))).await?;
        match items.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = ListParams::default().limit(PAGE).continue_token(&token),
            None => break,
        }
    }
    figures.insert(format!("list {count} by {PAGE} ms"), start.elapsed().as_secs_f64() * 1000.0);
    let start = Instant::now();
    configs.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
    figures.insert(format!("delete collection of {count} ms"), start.elapsed().as_secs_f64() * 1000.0);
    Ok(())
}

/// Lists many pods that no scheduler takes.
async fn list(figures: &mut Figures, client: &kube::Client, namespace: &str, count: usize) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let post = PostParams::default();
    let create = |n: usize| {
        let (pods, post) = (&pods, &post);
        async move {
            let spec = json!({"schedulerName": "nobody", "containers": [{"name": "c", "image": "none"}]});
            let pod = object(json!({"metadata": {"name": format!("p{n}")}, "spec": spec}))?;
            pods.create(post, &pod).await?;
            anyhow::Ok(())
        }
    };
    let made: Vec<Result<()>> = stream::iter(0..count).map(create).buffer_unordered(PREPARE).collect().await;
    made.into_iter().collect::<Result<Vec<()>>>()?;
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    let mut times = Vec::new();
    for _ in 0..5 {
        let start = Instant::now();
        let request = kube::core::Request::new(path.clone()).list(&ListParams::default())?;
        // The text alone: what the client makes of it is not the server's time.
        let size = client.request_text(request).await?.len();
        times.push(start.elapsed());
        figures.insert(format!("list {count} pods MiB"), size as f64 / f64::from(1 << 20));
    }
    times.sort();
    figures.insert(format!("list {count} pods ms"), times[2].as_secs_f64() * 1000.0);
    Ok(())
}

/// Many watchers of one changing object: how long until the last has seen the last change.
async fn watch(figures: &mut Figures, configs: &Api<ConfigMap>, watchers: usize) -> Result<()> {
    let made = configs.create(&PostParams::default(), &config("watched", 0)?).await?;
    let version = made.metadata.resource_version.unwrap_or_default();
    let one = || async {
        let params = WatchParams::default().fields("metadata.name=watched");
        let mut events = configs.watch(&params, &version).await?.boxed();
        let mut seen = 0;
        while seen < CHANGES {
            match events.next().await {
                Some(Ok(WatchEvent::Modified(_))) => seen += 1,
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => anyhow::bail!("a watch ended early"),
            }
        }
        anyhow::Ok(())
    };
    let start = Instant::now();
    let all = futures::future::join_all((0..watchers).map(|_| tokio::time::timeout(PATIENCE, one())));
    let change = async {
        for n in 1..=CHANGES {
            configs
                .patch("watched", &PatchParams::default(), &Patch::Merge(json!({"data": {"n": n.to_string()}})))
                .await?;
        }
        anyhow::Ok(())
    };
    let (seen, changed) = tokio::join!(all, change);
    changed?;
    let kept = seen.iter().filter(|seen| matches!(seen, Ok(Ok(())))).count();
    figures.insert(format!("{watchers} watchers kept up"), kept as f64);
    figures.insert(format!("{watchers} watchers, {CHANGES} changes ms"), start.elapsed().as_secs_f64() * 1000.0);
    Ok(())
}
