//! Measures any Kubernetes API through its kubeconfig, several side by side, and prints one table with ratios.
//!
//! `eyot-bench --target eyot=/etc/eyot/kubeconfig --target upstream=admin.kubeconfig --pids eyot=123 --json out.json`
mod measure;

use anyhow::{Context, Result};
use clap::Parser;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(Parser)]
struct Args {
    /// `name=kubeconfig`; the first is what the others are compared with.
    #[arg(long, required = true, value_parser = pair)]
    target: Vec<(String, String)>,
    /// `name=pid,pid`: processes whose resident memory counts as the target's.
    #[arg(long, value_parser = pair)]
    pids: Vec<(String, String)>,
    /// Objects per measurement and client count.
    #[arg(long, default_value_t = 2000)]
    objects: usize,
    /// Pods in the large list.
    #[arg(long, default_value_t = 10_000)]
    pods: usize,
    #[arg(long, default_value_t = 1000)]
    watchers: usize,
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

fn print(all: &[(String, Figures)]) {
    let Some((_, first)) = all.first() else { return };
    let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    println!("{:<34} {}", "", names.join("  "));
    for (figure, base) in first {
        let others = all.iter().skip(1).filter_map(|(_, figures)| figures.get(figure));
        let others: Vec<String> = others.map(|other| format!("{other:>10.2} ({:.2}x)", base / other)).collect();
        println!("{figure:<34} {base:>10.2} {}", others.join(" "));
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    rustls::crypto::ring::default_provider().install_default().ok();
    let mut all = Vec::new();
    for (name, kubeconfig) in &args.target {
        eprintln!("measuring {name}");
        let mut figures = measure::api(&client(kubeconfig).await?, &args).await?;
        if let Some((_, pids)) = args.pids.iter().find(|(of, _)| of == name) {
            figures.insert("memory after the run MiB".into(), resident_mib(pids)?);
        }
        all.push((name.clone(), figures));
    }
    print(&all);
    if let Some(path) = &args.json {
        let figures: BTreeMap<_, _> = all.iter().map(|(name, figures)| (name, figures)).collect();
        std::fs::write(path, serde_json::to_vec_pretty(&json!(figures))?)?;
    }
    Ok(())
}
