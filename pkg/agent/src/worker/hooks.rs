//! Lifecycle hooks: what postStart and preStop may do.
use crate::context::Context;
use crate::pod::probe::{exec_probe, http_probe, port};
use k8s_openapi::api::core::v1::{Container, LifecycleHandler};
use std::time::Duration;

/// Bound of a postStart hook; Kubernetes sets none, an actor does not wait for ever.
pub const POST_START_TIMEOUT: Duration = Duration::from_secs(600);

/// Runs a hook to its end or its time's.
pub async fn run(
    context: &Context,
    hook: &LifecycleHandler,
    container: &Container,
    id: &str,
    ip: &str,
    within: Duration,
) -> Result<(), String> {
    let work = async {
        if let Some(exec) = &hook.exec {
            return exec_probe(&context.cri, id, exec.command.clone().unwrap_or_default(), within).await;
        }
        if let Some(sleep) = &hook.sleep {
            tokio::time::sleep(Duration::from_secs(sleep.seconds.max(0).unsigned_abs())).await;
            return Ok(());
        }
        if let Some(get) = &hook.http_get {
            let port = port(&get.port, container).ok_or("the hook's port is not one of the container's")?;
            let host = get.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(ip);
            let headers = get.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect();
            let tls = get.scheme.as_deref() == Some("HTTPS");
            return http_probe(host, port, &rooted(get.path.as_deref().unwrap_or_default()), headers, tls).await;
        }
        if let Some(tcp) = &hook.tcp_socket {
            let port = port(&tcp.port, container).ok_or("the hook's port is not one of the container's")?;
            let host = tcp.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(ip);
            let connected = tokio::net::TcpStream::connect((host, port)).await;
            return connected.map(drop).map_err(|error| format!("{host}:{port}: {error}"));
        }
        Err("the hook has no handler that this node knows".to_owned())
    };
    let out_of_time = || Err(format!("the hook did not end within {} s", within.as_secs()));
    tokio::time::timeout(within, work).await.unwrap_or_else(|_| out_of_time())
}

fn rooted(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}
