//! `eyot status`: what runs, as seen from outside.
use crate::agent::status as agent;
use crate::lock;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// How long the API may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where to look.
#[derive(Debug)]
pub struct Place {
    pub data_dir: PathBuf,
    pub kubeconfig: PathBuf,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    process: Option<Process>,
    /// The API's version, or why it did not answer.
    api: Option<Result<String, String>>,
    nodes: Vec<(String, bool, String)>,
    /// Name, site and link of every server, where there are several.
    servers: Vec<(String, String, String)>,
    /// What all that servers share comes to, where there are several.
    digest: Option<Digest>,
    pods_by_phase: BTreeMap<String, usize>,
}

/// As `/v1-eyot/digest` tells it.
#[derive(Debug, serde::Deserialize)]
struct Digest {
    hash: String,
    keys: usize,
}

#[derive(Debug)]
struct Process {
    pid: u32,
    memory_mib: u64,
    threads: u64,
}

impl Report {
    /// Whether the process runs, the API answers and every node is ready.
    pub fn healthy(&self) -> bool {
        let nodes = self.nodes.iter().all(|(_, ready, _)| *ready);
        self.process.is_some() && matches!(self.api, Some(Ok(_))) && nodes
    }

    fn count(&mut self, pods: impl IntoIterator<Item = Pod>) {
        for pod in pods {
            let phase = pod.status.and_then(|status| status.phase).unwrap_or_else(|| "Unknown".into());
            *self.pods_by_phase.entry(phase).or_default() += 1;
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.process {
            Some(p) => writeln!(f, "process  pid {}, {} MiB, {} threads", p.pid, p.memory_mib, p.threads)?,
            None => writeln!(f, "process  not running")?,
        }
        match &self.api {
            Some(Ok(version)) => writeln!(f, "api      {version}")?,
            Some(Err(why)) => writeln!(f, "api      does not answer: {why}")?,
            None => {}
        }
        for (name, ready, why) in &self.nodes {
            writeln!(f, "node     {name} {}", if *ready { "Ready" } else { why })?;
        }
        for (name, site, link) in &self.servers {
            let at = if site.is_empty() { String::new() } else { format!(" at {site}") };
            writeln!(f, "server   {name}{at}: {link}")?;
        }
        if let Some(Digest { hash, keys }) = &self.digest {
            writeln!(f, "store    {keys} keys, digest {hash}: servers that have converged tell the same")?;
        }
        if !self.pods_by_phase.is_empty() {
            let phases: Vec<_> = self.pods_by_phase.iter().map(|(phase, n)| format!("{n} {phase}")).collect();
            writeln!(f, "pods     {}", phases.join(", "))?;
        }
        Ok(())
    }
}

/// Looks at the process, then asks the API.
pub async fn report(place: &Place) -> Report {
    if agent::is_here(&place.data_dir) {
        return of_agent(place).await;
    }
    let mut report =
        Report { process: lock::holder(&place.data_dir.join("server")).and_then(process), ..Report::default() };
    let asked = tokio::time::timeout(PATIENCE, ask(place, &mut report)).await;
    report.api = Some(asked.unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs()))));
    report
}

/// A node without a server: its own view, over the servers that it knows.
async fn of_agent(place: &Place) -> Report {
    let process = lock::holder(&place.data_dir.join("agent")).and_then(process);
    let looked = tokio::time::timeout(PATIENCE, agent::look(&place.data_dir)).await;
    let Ok((found, failed)) = looked else {
        let why = format!("no answer within {} s", PATIENCE.as_secs());
        return Report { process, api: Some(Err(why)), ..Report::default() };
    };
    let servers = found.servers.into_iter().map(|(name, site, address, distance)| {
        let way = match distance {
            Ok(took) => format!("{address}, {:.1} ms away", took.as_secs_f64() * 1000.0),
            Err(why) => format!("{address} does not answer: {why}"),
        };
        (if name.is_empty() { "as given".into() } else { name }, site, way)
    });
    let mut report = Report {
        process,
        api: Some(failed.map_or(Ok(found.version), Err)),
        nodes: found.node.iter().map(readiness).collect(),
        servers: servers.collect(),
        ..Report::default()
    };
    report.count(found.pods);
    report
}

fn process(pid: u32) -> Option<Process> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let number = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some(Process { pid, memory_mib: number("VmRSS:")? / 1024, threads: number("Threads:")? })
}

async fn ask(place: &Place, report: &mut Report) -> Result<String, String> {
    let client = client(place).await?;
    let version = client.apiserver_version().await.map_err(|error| error.to_string())?;
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await.map_err(|e| e.to_string())?;
    report.nodes = nodes.iter().map(readiness).collect();
    // A server that is still starting has no such kind.
    if let Ok(servers) = crate::peers::servers(client.clone()).list(&ListParams::default()).await
        && servers.items.len() > 1
    {
        report.servers = servers.iter().map(link).collect();
        let request = http::Request::get(crate::peers::DIGEST).body(Vec::new()).map_err(|e| e.to_string())?;
        report.digest = client.request(request).await.ok();
    }
    let pods = Api::<Pod>::all(client).list(&ListParams::default()).await.map_err(|e| e.to_string())?;
    report.count(pods);
    Ok(version.git_version)
}

/// A client as the kubeconfig says.
pub(crate) async fn client(place: &Place) -> Result<kube::Client, String> {
    let at = |error: &dyn fmt::Display| format!("{}: {error}", place.kubeconfig.display());
    let file = kube::config::Kubeconfig::read_from(&place.kubeconfig).map_err(|error| at(&error))?;
    let mut config =
        kube::Config::from_custom_kubeconfig(file, &Default::default()).await.map_err(|error| at(&error))?;
    // It is this host's own server.
    config.proxy_url = None;
    kube::Client::try_from(config).map_err(|error| at(&error))
}

fn link(server: &kube::api::DynamicObject) -> (String, String, String) {
    let text =
        |pointer: &str| server.data.pointer(pointer).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
    let (link, lag) = (text("/status/link"), text("/status/lag"));
    let link = match (link.as_str(), lag.as_str()) {
        ("Self", _) => "this one".into(),
        (away @ ("Lost" | "Absent"), lag) if !lag.is_empty() => format!("{away}, not heard for {lag}"),
        ("", _) => "not linked yet".into(),
        _ => link,
    };
    (server.name_any(), text("/spec/site"), link)
}

fn readiness(node: &Node) -> (String, bool, String) {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready");
    let why = ready.and_then(|condition| condition.message.clone()).unwrap_or_else(|| "has not reported yet".into());
    (node.name_any(), ready.is_some_and(|condition| condition.status == "True"), format!("NotReady: {why}"))
}
