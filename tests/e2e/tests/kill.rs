//! `kill -9` of the server under load, again and again: nothing acknowledged is lost, containers go on running and the
//! controllers resume where they were.
use e2e::Cluster;
use futures::future::join_all;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::watch;

const WRITERS: usize = 8;
const KILLS: usize = 5;
/// Restart, some load, and the next kill.
const BETWEEN: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost() -> anyhow::Result<()> {
    let cluster = Cluster::start(2)?;
    cluster.kubectl(&["create", "deployment", "hello", "--image=eyot.dev/demo:1", "--replicas=5"])?;
    cluster.kubectl(&["rollout", "status", "deployment", "hello", "--timeout=60s"])?;
    let before = containers(&cluster)?;
    assert_eq!(before.len(), 5);

    let maps: Api<ConfigMap> = Api::namespaced(cluster.client().await?, "default");
    let (stop, stopped) = watch::channel(false);
    let writers: Vec<_> =
        (0..WRITERS).map(|writer| tokio::spawn(create_until(maps.clone(), writer, stopped.clone()))).collect();
    let counter = tokio::spawn(count_until(maps.clone(), stopped.clone()));
    cluster.kubectl(&["scale", "deployment", "hello", "--replicas=12"])?;
    let counting = ["create", "job", "count", "--image=eyot.dev/demo:1", "--", "sleep", "5"];
    cluster.kubectl(&counting)?;
    for _ in 0..KILLS {
        cluster.kill()?;
        tokio::time::sleep(BETWEEN).await;
    }
    stop.send(true)?;
    let acknowledged = join_all(writers).await.into_iter().collect::<Result<Vec<_>, _>>()?.concat();
    let counted = counter.await?;
    cluster.wait_until_ready()?;

    let there: BTreeSet<String> =
        maps.list(&ListParams::default()).await?.into_iter().filter_map(|map| map.metadata.name).collect();
    let lost: Vec<_> = acknowledged.iter().filter(|name| !there.contains(*name)).collect();
    println!("{} creates and {counted} updates acknowledged across {KILLS} kills", acknowledged.len());
    assert!(acknowledged.len() > WRITERS * KILLS && lost.is_empty(), "{lost:?} of {}", acknowledged.len());
    let at: u64 = maps.get("counter").await?.data.unwrap_or_default()["value"].parse()?;
    assert!(counted > 0 && at >= counted, "acknowledged {counted}, there is {at}");

    cluster.kubectl(&["rollout", "status", "deployment", "hello", "--timeout=90s"])?;
    cluster.kubectl(&["wait", "job/count", "--for=condition=complete", "--timeout=90s"])?;
    let after = containers(&cluster)?;
    assert_eq!(after.len(), 12, "{after:?}");
    assert!(before.iter().all(|(pod, container)| after.get(pod) == Some(container)), "{before:?} became {after:?}");
    Ok(())
}

/// Creates ConfigMaps and gives the names of those that were acknowledged.
async fn create_until(maps: Api<ConfigMap>, writer: usize, stopped: watch::Receiver<bool>) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for number in 0.. {
        if *stopped.borrow() {
            break;
        }
        let name = format!("w{writer}-{number}");
        let mut map = ConfigMap { data: Some([("text".into(), "x".repeat(1000))].into()), ..ConfigMap::default() };
        map.metadata.name = Some(name.clone());
        match maps.create(&PostParams::default(), &map).await {
            Ok(_) => acknowledged.push(name),
            // The server is being killed: this one may be there or not.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    acknowledged
}

/// Counts up in one object; gives the last number that was acknowledged.
async fn count_until(maps: Api<ConfigMap>, stopped: watch::Receiver<bool>) -> u64 {
    let (mut acknowledged, params) = (0, PatchParams::apply("counter").force());
    for number in 1_u64.. {
        if *stopped.borrow() {
            break;
        }
        let object = serde_json::json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "counter"}, "data": {"value": number.to_string()},
        });
        match maps.patch("counter", &params, &Patch::Apply(object)).await {
            Ok(_) => acknowledged = number,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    acknowledged
}

/// The containers of the `hello` pods by the pod's name.
fn containers(cluster: &Cluster) -> anyhow::Result<BTreeMap<String, String>> {
    let columns = "jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[0].containerID}{\"\\n\"}{end}";
    let text = cluster.kubectl(&["get", "pods", "-l", "app=hello", "-o", columns])?;
    Ok(text.lines().filter_map(|line| line.split_once(' ')).map(|(pod, id)| (pod.to_owned(), id.to_owned())).collect())
}
