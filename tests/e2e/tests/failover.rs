//! kube-rs' reflectors while the server that they speak to is killed and they move to another of the cluster, and back.
use anyhow::ensure;
use e2e::sites::Sites;
use e2e::way;
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, reflector, watcher};
use parking_lot::Mutex;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

const OBJECTS: usize = 40;
fn step(map: &ConfigMap) -> Option<usize> {
    map.data.as_ref()?.get("step")?.parse().ok()
}

/// What is there, by uid.
fn shown<'a>(all: impl IntoIterator<Item = &'a ConfigMap>) -> BTreeMap<String, usize> {
    all.into_iter().filter_map(|map| Some((map.uid()?, step(map)?))).collect()
}

/// Makes and changes objects of this round, changes some of the round before, and removes others.
async fn work(maps: &Api<ConfigMap>, round: usize) -> anyhow::Result<()> {
    let set = async |name: &str, step: usize| {
        let patch = Patch::Merge(json!({"data": {"step": step.to_string()}}));
        maps.patch(name, &PatchParams::default(), &patch).await.map(drop)
    };
    for n in 0..OBJECTS {
        let (name, old) = (format!("o-{round}-{n}"), format!("o-{}-{n}", round.wrapping_sub(1)));
        let new = serde_json::from_value(json!({"metadata": {"name": name}, "data": {"step": "1"}}))?;
        maps.create(&PostParams::default(), &new).await?;
        for step in 2..4 {
            set(&name, step).await?;
        }
        match n % 3 {
            0 => drop(maps.delete(&name, &DeleteParams::default()).await?),
            1 if round > 0 => set(&old, 4).await?,
            2 if round > 0 => drop(maps.delete(&old, &DeleteParams::default()).await?),
            _ => {}
        }
    }
    Ok(())
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !holds().await {
        ensure!(begun.elapsed() < e2e::sites::PATIENCE, "it did not come true that {what}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn reflectors_move_between_servers_and_miss_nothing() -> anyhow::Result<()> {
    let mut sites = Sites::start(7, 2)?;
    let servers = [sites.outside(0)?, sites.outside(1)?];
    let direct: Vec<Api<ConfigMap>> = {
        let clients = [sites.client(0, servers[0]).await?, sites.client(1, servers[1]).await?];
        clients.into_iter().map(Api::default_namespaced).collect()
    };
    let through: Api<ConfigMap> = Api::default_namespaced(sites.client(0, way::open(servers).await?).await?);
    let (reader, writer) = reflector::store();
    let events = reflector(writer, watcher(through, watcher::Config::default()).default_backoff()).touched_objects();
    let told = Arc::new(Mutex::new((BTreeMap::<String, usize>::new(), Vec::new())));
    let seen = told.clone();
    let following = tokio::spawn(events.for_each(move |event| {
        // Errors are what a killed server leaves; the watcher goes on by itself.
        if let Some((uid, step)) = event.ok().and_then(|map| Some((map.uid()?, step(&map)?))) {
            let (steps, wrong) = &mut *seen.lock();
            let before = steps.insert(uid.clone(), step);
            wrong.extend(before.filter(|before| *before > step).map(|before| (uid, before, step)));
        }
        std::future::ready(())
    }));
    reader.wait_until_ready().await?;
    let list = async |at: usize| direct[at].list(&ListParams::default()).await.map(|list| shown(&list.items));

    work(&direct[1], 0).await?;
    sites.kill(0)?;
    work(&direct[1], 1).await?;
    sites.boot(0)?;
    until("both servers have the same", async || match (list(0).await, list(1).await) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    })
    .await?;
    sites.kill(1)?;
    work(&direct[0], 2).await?;
    let truth = list(0).await?;
    until("the reflector has what there is", async || shown(reader.state().iter().map(|map| &**map)) == truth).await?;
    following.abort();
    let (steps, wrong) = &*told.lock();
    assert!(wrong.is_empty(), "told backwards: {wrong:?}");
    assert!(truth.iter().all(|(uid, step)| steps.get(uid) == Some(step)), "what is there was told");
    Ok(())
}
