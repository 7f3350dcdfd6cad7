//! Removing what a node leaves on its host: containers, mounts, links, tables. The data directory stays.
use std::path::Path;

/// Ends the runtime of an instance with all its containers, then removes its groups, logs and network.
///
/// # Errors
/// What could not be removed; running it again goes on from there.
pub async fn run(data_dir: &Path, instance: &str) -> anyhow::Result<()> {
    let options = agent::runtime::Options::new(instance, data_dir);
    tokio::task::spawn_blocking(move || agent::runtime::stop(&options)).await??;
    agent::cleanup(instance)?;
    net::cleanup(instance, data_dir).await?;
    Ok(())
}
