//! Runs the controllers alone, against the cluster of $KUBECONFIG and as its administrator: to watch one at work, or
//! to compare with another implementation.
use client::kube;
use eyot_controllers::{Options, Service};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_writer(std::io::stderr).init();
    let client = kube::Client::try_default().await?;
    let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
    let informers = client::Informers::new(client.clone(), tasks.clone(), shutdown.clone());
    let options = Options {
        client_for: Arc::new(move |_| client.clone()),
        informers,
        cluster_cidr: "10.42.0.0/16".to_owned(),
        node_cidr_mask: 24,
        root_ca_pem: "an example, not a certificate".to_owned(),
        service_lb: true,
        reserved_ports: Vec::new(),
        ownership: client::home::alone(),
        tombstones: None,
        share: client::home::everything(),
    };
    let stop = shutdown.clone();
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        stop.cancel();
    });
    Ok(Service::new(options).run(shutdown).await?)
}
