//! Measures any Kubernetes API through its kubeconfig, several side by side, and prints one table with ratios.
//!
//! `eyot-bench --target eyot=/etc/eyot/kubeconfig --target upstream=admin.kubeconfig --pids eyot=123 --json out.json`
//! Where two can't run at the same time, the second run takes the first one's figures with `--beside`.
mod measure;
mod memory;
mod pods;
mod replicas;
mod schedule;
mod simulated;

use anyhow::{Context, Result};
use clap::Parser;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Parser)]
struct Args {
    /// `name=kubeconfig`; the first is what the others are compared with.
    #[arg(long, required = true, value_parser = pair)]
    target: Vec<(String, String)>,
    /// `name=pid,pid`: processes whose resident memory counts as the target's.
    #[arg(long, value_parser = pair)]
    pids: Vec<(String, String)>,
    /// Seconds of rest before anything else, to measure memory and CPU of `--pids` when idle.
    #[arg(long)]
    idle: Option<u64>,
    /// Image on the node that runs until ended: also measures pods.
    #[arg(long)]
    image: Option<String>,
    /// Scales a Deployment to this many pods on nodes that are only objects, instead of the other measurements.
    #[arg(long)]
    replicas: Option<usize>,
    /// `name=value`: a figure of the first target, measured elsewhere.
    #[arg(long, value_parser = pair)]
    figure: Vec<(String, String)>,
    /// Figures of an earlier run to show beside these, as `--json` wrote them.
    #[arg(long)]
    beside: Option<PathBuf>,
    /// Objects per measurement and client count.
    #[arg(long, default_value_t = 2000)]
    objects: usize,
    /// Pods in the large list.
    #[arg(long, default_value_t = 10_000)]
    pods: usize,
    #[arg(long, default_value_t = 1000)]
    watchers: usize,
    /// Pods that the memory a pod costs is measured with; needs `--pids`. 0 leaves that out.
    #[arg(long, default_value_t = 0)]
    memory_pods: usize,
    /// Nodes that pods are scheduled on, without anybody behind them; 0 leaves scheduling out.
    #[arg(long, default_value_t = 0)]
    nodes: usize,
    /// Pods that are scheduled.
    #[arg(long, default_value_t = 5000)]
    scheduled: usize,
    /// Where the figures go as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("name=value is expected")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Figures by name; the name ends in the unit.
pub type Figures = BTreeMap<String, f64>;

async fn client(path: &str) -> Result<kube::Client> {
    let config = Kubeconfig::read_from(path).with_context(|| path.to_owned())?;
    let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

/// Median and 99th percentile, in milliseconds.
fn percentiles(figures: &mut Figures, what: &str, mut times: Vec<Duration>) {
    times.sort();
    for percent in [50, 99] {
        let at = times.get((times.len() * percent / 100).min(times.len().saturating_sub(1)));
        let ms = at.map_or(0.0, |time| time.as_secs_f64() * 1000.0);
        figures.insert(format!("{what} p{percent} ms"), ms);
    }
}

/// Resident memory of processes, in MiB.
fn resident_mib(pids: &str) -> Result<f64> {
    let mut kib = 0.0;
    for pid in pids.split(',') {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("pid {pid}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        kib += line.trim().trim_end_matches(" kB").parse::<f64>()?;
    }
    Ok(kib / 1024.0)
}

/// Processor time of processes so far, in seconds (proc(5): fields 14 and 15 of stat, in ticks of 10 ms).
fn processor_seconds(pids: &str) -> Result<f64> {
    let mut ticks = 0.0;
    for pid in pids.split(',') {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("pid {pid}"))?;
        let fields = stat.rsplit_once(')').context("no name in stat")?.1;
        ticks += fields.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>();
    }
    Ok(ticks / 100.0)
}

async fn idle(figures: &mut Figures, pids: &str, seconds: u64) -> Result<()> {
    let before = processor_seconds(pids)?;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let used = processor_seconds(pids)? - before;
    figures.insert("idle CPU % of a core".into(), 100.0 * used / seconds as f64);
    figures.insert("idle memory MiB".into(), resident_mib(pids)?);
    Ok(())
}

fn print(all: &[(String, Figures)]) {
    let Some((_, first)) = all.first() else { return };
    let names: Vec<String> = all.iter().map(|(name, _)| format!("{name:>18}")).collect();
    println!("{:<34} {}", "", names.join(" "));
    for (figure, base) in first {
        let others = all.iter().skip(1).filter_map(|(_, figures)| figures.get(figure));
        let others: Vec<String> = others.map(|other| format!("{other:>10.2} ({:.2}x)", base / other)).collect();
        println!("{figure:<34} {base:>18.2} {}", others.join(" "));
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    rustls::crypto::ring::default_provider().install_default().ok();
    let mut all = Vec::new();
    for (name, kubeconfig) in &args.target {
        eprintln!("measuring {name}");
        let pids = args.pids.iter().find(|(of, _)| of == name).map(|(_, pids)| pids.as_str());
        let mut figures = Figures::new();
        if let (Some(pids), Some(seconds)) = (pids, args.idle) {
            idle(&mut figures, pids, seconds).await?;
        }
        figures.extend(measure::api(&client(kubeconfig).await?, &args, pids).await?);
        if let Some(pids) = pids {
            figures.insert("memory after the run MiB".into(), resident_mib(pids)?);
        }
        all.push((name.clone(), figures));
    }
    if let Some((_, figures)) = all.first_mut() {
        for (figure, value) in &args.figure {
            figures.insert(figure.clone(), value.parse().with_context(|| figure.clone())?);
        }
    }
    if let Some(path) = &args.beside {
        let earlier: BTreeMap<String, Figures> = serde_json::from_slice(&std::fs::read(path)?)?;
        all.extend(earlier);
    }
    print(&all);
    if let Some(path) = &args.json {
        let figures: BTreeMap<_, _> = all.iter().map(|(name, figures)| (name, figures)).collect();
        std::fs::write(path, serde_json::to_vec_pretty(&json!(figures))?)?;
    }
    Ok(())
}
