//! A site with servers, nodes and real containers is cut off, walks through the README's tour, loses its power, starts cold and
//! comes back; nothing is lost, nothing runs twice, and clients changed servers meanwhile.
//!
//! `EYOT_CUT_SECONDS` is how long the cut lasts at least (20): from 300 on, what was there before is taken over meanwhile.
use anyhow::ensure;
use e2e::agents::Agent;
use e2e::sites::{PATIENCE, Sites};
use e2e::{sleeping, way};
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::api::Api;
use kube::runtime::{WatchStreamExt, reflector, watcher};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// The site that is cut off.
const ISLAND: usize = 2;
const SITES: usize = 3;
/// Pods of each Deployment that is there before.
const PODS: usize = 2;
/// By them processes of such a Deployment are known, one a pod: this and the site's number.
const SLEEP_S: u32 = 2_718_280;
/// Between two tours of a long cut.
const REST: Duration = Duration::from_secs(20);

fn cut_lasts() -> Duration {
    let seconds = std::env::var("EYOT_CUT_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(20))
}

/// Says what has come true, and when.
struct Diary(Instant);

impl Diary {
    fn note(&self, what: &str) {
        println!("{:6.1} s  {what}", self.0.elapsed().as_secs_f64());
    }
}

fn work(at: usize) -> String {
    format!("work-{}", Sites::letter(at))
}

fn processes(at: usize) -> Vec<String> {
    sleeping(SLEEP_S + at as u32)
}

/// uids of a Deployment's pods that are Ready, as a server tells.
fn ready(sites: &Sites, at: usize, app: &str) -> BTreeSet<String> {
    let ready = "jsonpath={range .items[*]}{.metadata.uid} {.status.conditions[?(@.type=='Ready')].status}{'\\n'}{end}";
    let told = sites.kubectl(at, &["get", "pods", "-l", &format!("app={app}"), "-o", ready]).unwrap_or_default();
    told.lines().filter_map(|line| line.strip_suffix(" True")).map(str::to_owned).collect()
}

fn node_is_ready(sites: &Sites, at: usize, node: &str) -> bool {
    let status = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
    sites.kubectl(at, &["get", "node", node, "-o", status]).is_ok_and(|status| status == "True")
}

/// The README's tour at one site, in short: each step in the server's own time.
fn tour(sites: &Sites, at: usize) -> anyhow::Result<()> {
    let does = |args: &[&str]| sites.kubectl(at, args);
    let pods =
        |count: usize| sites.until(&format!("{count} pods are ready"), || ready(sites, at, "hello").len() == count);
    does(&["create", "deployment", "hello", "--image=eyot.dev/demo:1", "--replicas=2"])?;
    does(&["expose", "deployment", "hello", "--port=80", "--target-port=8080"])?;
    does(&["run", "client", "--image=eyot.dev/demo:1"])?;
    pods(2)?;
    let fetch = ["exec", "client", "--", "wget", "-qO-", "http://hello.default.svc.cluster.local"];
    sites.until("the Service answers by its name", || does(&fetch).is_ok_and(|said| said.starts_with("hello-")))?;
    does(&["scale", "deployment", "hello", "--replicas=5"])?;
    pods(5)?;
    does(&["scale", "deployment", "hello", "--replicas=2"])?;
    sites.until("what is too much goes", || {
        does(&["get", "pods", "-l", "app=hello", "-o", "name"]).is_ok_and(|pods| pods.lines().count() == 2)
    })?;
    assert_eq!(does(&["exec", "deploy/hello", "--", "sh", "-c", "echo inside"])?, "inside\n");
    does(&["create", "job", "count", "--image=eyot.dev/demo:1", "--", "sh", "-c", "echo 1; echo 2; echo 3"])?;
    sites.until("the job is done", || {
        does(&["get", "job", "count", "-o", "jsonpath={.status.succeeded}"]).is_ok_and(|done| done == "1")
    })?;
    assert_eq!(does(&["logs", "job/count"])?, "1\n2\n3\n");
    does(&["delete", "job/count", "service/hello", "deployment/hello", "pod/client", "--grace-period=1"])?;
    sites.until("all of it is gone", || {
        does(&["get", "pods", "-l", "app!=x", "-o", "name"])
            .is_ok_and(|left| !left.contains("hello") && !left.contains("client"))
    })
}

/// A Deployment a site, whose pods run on the site's node.
fn begin(sites: &Sites, agents: &mut [Agent], diary: &Diary) -> anyhow::Result<Vec<BTreeSet<String>>> {
    for (at, agent) in agents.iter_mut().enumerate() {
        agent.boot()?;
        sites.until("the node is Ready", || node_is_ready(sites, at, &agent.name()))?;
        let sleep = (SLEEP_S + at as u32).to_string();
        let replicas = format!("--replicas={PODS}");
        let create = ["create", "deployment", &work(at), "--image=eyot.dev/demo:1", &replicas, "--", "sleep", &sleep];
        sites.kubectl(at, &create)?;
    }
    for at in 0..SITES {
        for told in 0..SITES {
            sites.until("its pods are ready everywhere", || ready(sites, told, &work(at)).len() == PODS)?;
        }
        assert_eq!(processes(at).len(), PODS);
    }
    diary.note("three sites with nodes run what they were told");
    Ok((0..SITES).map(|at| ready(sites, at, &work(at))).collect())
}

/// Server, node, runtime and containers of the cut site are gone at once; only disks stay. All of it starts while it is cut off.
fn lose_power(sites: &mut Sites, agent: &mut Agent, diary: &Diary) -> anyhow::Result<()> {
    // Those that run elsewhere by now are replacements of a takeover.
    let (pods, elsewhere) = (ready(sites, ISLAND, &work(ISLAND)), processes(ISLAND).len() - PODS);
    sites.kill(ISLAND)?;
    agent.lose_power()?;
    assert!(processes(ISLAND).len() >= elsewhere && processes(ISLAND).len() < elsewhere + PODS);
    let begun = Instant::now();
    agent.boot()?;
    sites.boot(ISLAND)?;
    diary.note(&format!("the cut site's API answers {:.1} s after its cold boot", begun.elapsed().as_secs_f64()));
    sites.until("its pods run again", || {
        processes(ISLAND).len() >= PODS && ready(sites, ISLAND, &work(ISLAND)).is_superset(&pods)
    })?;
    diary.note(&format!("its pods run again after {:.1} s", begun.elapsed().as_secs_f64()));
    Ok(())
}

/// What both sides write while they are parted.
fn write(sites: &Sites, round: usize) -> anyhow::Result<()> {
    for at in [0, ISLAND] {
        for n in 0..5 {
            let name = format!("from-{}-{round}-{n}", Sites::letter(at));
            sites.kubectl(at, &["create", "configmap", &name, "--from-literal=x=1"])?;
        }
    }
    Ok(())
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !holds().await {
        ensure!(begun.elapsed() < PATIENCE, "it did not come true that {what}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_island_goes_on_as_a_whole_cluster_and_comes_back() -> anyhow::Result<()> {
    let diary = Diary(Instant::now());
    let mut sites = Sites::start(9, SITES)?;
    let mut agents = (0..SITES).map(|at| Agent::at_site(&sites, at)).collect::<Result<Vec<_>, _>>()?;
    let before = begin(&sites, &mut agents, &diary)?;
    // A client that speaks to the site which will be cut off, and to another one then.
    let servers = [sites.outside(ISLAND)?, sites.outside(0)?];
    let through: Api<ConfigMap> = Api::default_namespaced(sites.client(ISLAND, way::open(servers).await?).await?);
    let (reader, writer) = reflector::store();
    let events = reflector(writer, watcher(through, watcher::Config::default()).default_backoff());
    // Errors are what a lost server leaves; the watcher goes on by itself.
    let following = tokio::spawn(events.for_each(|_| std::future::ready(())));
    reader.wait_until_ready().await?;

    sites.cut(ISLAND, true)?;
    let cut = Instant::now();
    diary.note("one is cut off");
    write(&sites, 0)?;
    sites.kubectl(0, &["scale", "deployment", &work(0), "--replicas=3"])?;
    tour(&sites, ISLAND)?;
    diary.note("it walked through the tour");
    sites.until("the mainland scales", || ready(&sites, 1, &work(0)).len() == 3)?;
    lose_power(&mut sites, &mut agents[ISLAND], &diary)?;
    let mut round = 1;
    write(&sites, round)?;
    while cut.elapsed() < cut_lasts() {
        tour(&sites, ISLAND)?;
        round += 1;
        write(&sites, round)?;
        tokio::time::sleep(REST.min(cut_lasts().saturating_sub(cut.elapsed()))).await;
    }
    diary.note(&format!("{round} rounds of work; {} processes of the island's pods run", processes(ISLAND).len()));

    sites.cut(ISLAND, false)?;
    let healed = Instant::now();
    sites.agree(&["get", "configmaps", "-o", "name"])?;
    diary.note(&format!("each has what the other wrote {:.1} s after the cut", healed.elapsed().as_secs_f64()));
    let pods = [3, PODS, PODS];
    for (at, count) in pods.iter().enumerate() {
        for told in 0..SITES {
            sites.until("all count the same pods", || {
                let there = ["get", "pods", "-l", &format!("app={}", work(at)), "-o", "name"];
                let there = sites.kubectl(told, &there).map_or(0, |pods| pods.lines().count());
                there == *count && ready(&sites, told, &work(at)).len() == *count
            })?;
        }
        sites.until("each pod runs once", || processes(at).len() == *count)?;
        assert!(ready(&sites, 0, &work(at)).is_superset(&before[at]), "those that were there before");
    }
    sites.agree(&["get", "--raw", "/v1-eyot/digest"])?;
    diary.note(&format!(
        "all stores are equal and each pod runs once {:.1} s after the cut",
        healed.elapsed().as_secs_f64()
    ));
    let truth: BTreeSet<String> = sites
        .kubectl(0, &["get", "configmaps", "-o", "jsonpath={.items[*].metadata.uid}"])?
        .split(' ')
        .map(str::to_owned)
        .collect();
    assert!(truth.len() >= 10 * (round + 1), "{} objects of {} rounds", truth.len(), round + 1);
    until("the client has all that there is", async || {
        reader.state().iter().filter_map(|map| map.uid()).collect::<BTreeSet<_>>() == truth
    })
    .await?;
    following.abort();
    // Whoever is asked reaches the pods of each site.
    for at in 0..SITES {
        for told in 0..SITES {
            let run = ["exec", &format!("deploy/{}", work(at)), "--", "echo", "inside"];
            sites.until("a command runs in it", || sites.kubectl(told, &run).is_ok_and(|said| said == "inside\n"))?;
        }
    }
    diary.note("done");
    Ok(())
}
