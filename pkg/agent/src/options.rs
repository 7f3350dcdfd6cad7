//! What the agent is told by whoever composes the process.
use crate::{GracePeriod, Thresholds};
use client::Informers;
use k8s_openapi::api::core::v1::Taint;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// Everything that one node's agent needs.
pub struct Options {
    /// Acts as `system:node:<node_name>`.
    pub client: kube::Client,
    /// Reflectors of Pods and Services.
    pub informers: Informers,
    /// Whether the pods' reflector may be narrowed to this node: in an agent's own process, not in a server's.
    pub narrow_reflectors: bool,
    pub node_name: String,
    pub node_ip: IpAddr,
    /// The agent's own directory, such as `/var/lib/eyot/agent`.
    pub data_dir: PathBuf,
    /// Where container logs go; `None`: `/var/log/pods` of the instance "eyot", else `<data_dir>/log/pods`.
    pub log_dir: Option<PathBuf>,
    /// Host-wide names derive from it.
    pub instance: String,
    /// The CRI socket.
    pub cri_socket: PathBuf,
    /// containerd's own event service answers on the same socket.
    pub containerd_events: bool,
    pub cluster_dns: String,
    pub cluster_domain: String,
    /// The host's resolver configuration, for `dnsPolicy: Default`.
    pub resolv_conf: PathBuf,
    /// TLS of port 10250: asks for client certificates of the cluster's CA but doesn't insist.
    pub serving_tls: Arc<rustls::ServerConfig>,
    /// What ends connections to that port whose certificates hold no longer, upgraded ones too; none: nothing does.
    pub guard: Option<Guard>,
    /// Where the kubelet's API is served.
    pub listen: std::net::SocketAddr,
    /// More labels for the Node, such as its roles.
    pub labels: BTreeMap<String, String>,
    /// Taints that the Node is born with.
    pub taints: Vec<Taint>,
    pub max_pods: u32,
    /// When the node is short of memory or disk, so that pods go.
    pub thresholds: Thresholds,
    /// Time for pods by priority when the node shuts down ([`crate::Handle::shut_down_node`]); none: they are not ended.
    pub shutdown_grace_periods: Vec<GracePeriod>,
    /// The version that the Node reports, such as `v1.36.3`.
    pub kubelet_version: String,
}

/// A connection as the kubelet's API needs it.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Turns a connection whose handshake was well into one that ends when it would be so no longer.
pub type Guard = Arc<dyn Fn(TlsStream<TcpStream>) -> Box<dyn Stream> + Send + Sync>;

/// The instance that has the host's well-known places.
pub(crate) const DEFAULT_INSTANCE: &str = "eyot";
/// Where Kubernetes' tools look for container logs.
pub(crate) const DEFAULT_LOG_DIR: &str = "/var/log/pods";

/// Kubernetes' default for pods a node.
pub const DEFAULT_MAX_PODS: u32 = 110;
/// The kubelet's port.
pub const DEFAULT_PORT: u16 = 10250;

impl Options {
    /// Where static pods are described, a file each.
    pub(crate) fn manifest_dir(&self) -> PathBuf {
        self.data_dir.join("pod-manifests")
    }

    pub(crate) fn log_dir(&self) -> PathBuf {
        match &self.log_dir {
            Some(dir) => dir.clone(),
            None if self.instance == DEFAULT_INSTANCE => PathBuf::from(DEFAULT_LOG_DIR),
            None => self.data_dir.join("log/pods"),
        }
    }
}
