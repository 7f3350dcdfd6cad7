//! gRPC probes: `grpc.health.v1.Health/Check` without TLS, as the kubelet asks (`k8s.io/kubernetes/pkg/probe/grpc`).
use crate::cri::health::HealthCheckRequest;
use crate::cri::health::health_check_response::ServingStatus;
use crate::cri::health::health_client::HealthClient;
use std::time::Duration;
use tonic::transport::Endpoint;

/// Asks whether `service` (empty: the server as a whole) serves.
///
/// # Errors
/// What the probe's event says.
pub async fn grpc_probe(host: &str, port: u16, service: &str, within: Duration) -> Result<(), String> {
    let address = format!("{host}:{port}");
    let wrong = |what: String| format!("timeout: failed to connect service {address:?} within {within:?}: {what}");
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| error.to_string())?;
    let endpoint = endpoint.connect_timeout(within).timeout(within);
    let endpoint = endpoint.user_agent("kube-probe/1.36").map_err(|error| error.to_string())?;
    let channel = endpoint.connect().await.map_err(|error| wrong(super::probe::cause(&error)))?;
    let ask = HealthCheckRequest { service: service.to_owned() };
    let answer = HealthClient::new(channel).check(ask).await;
    let answer = answer.map_err(|status| format!("error: health rpc failed: {}", status.message()))?.into_inner();
    match answer.status() {
        ServingStatus::Serving => Ok(()),
        other => Err(format!("service unhealthy (responded with {:?})", other.as_str_name())),
    }
}
