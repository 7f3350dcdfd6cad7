//! What the front is built from. Everything comes ready made from the composition; nothing is read from the
//! environment or from files here.
use crate::authn::Tokens;
use crate::body::{Body, RequestBody};
use crate::connect::Tunnels;
use crate::engine::Serve;
use crate::registry::Registry;
use crate::request::User;
use api::Status;
use http::{Request, Response};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::sync::Arc;
use store::Backend;
use tokio::sync::watch;

/// The issuer of service account tokens, and the audience of the API itself.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

pub struct Options {
    /// Bound already, so that the composition decides what is in use and says so.
    pub listener: TcpListener,
    pub backend: Arc<dyn Backend>,
    pub engine: Arc<dyn Serve>,
    pub registry: Arc<Registry>,
    pub tls: Tls,
    /// Bearer tokens that never expire, with whom they stand for (the join tokens).
    pub tokens: Tokens,
    pub service_accounts: TokenKeys,
    pub cluster: Cluster,
    /// How the front reaches agents on 10250: their CA, and the certificate that it shows them.
    pub kubelet_client: Arc<rustls::ClientConfig>,
    /// Ways to agents; none: straight to their addresses.
    pub tunnels: Option<Arc<dyn Tunnels>>,
    /// How extension API servers know that a request was handed on by this one.
    pub front_proxy: FrontProxy,
    /// The root CA in PEM, as `/cacerts` answers it and pods get it.
    pub root_ca_pem: String,
    /// Serves what is below [`EXTENSION`].
    pub extension: Option<Arc<dyn Extension>>,
}

/// What servers of a cluster ask one another, and the binary its own server.
pub const EXTENSION: &str = "/v1-eyot/";

/// Paths that the composition serves itself.
#[async_trait::async_trait]
pub trait Extension: Send + Sync {
    /// Answers a request of an authenticated user. Whether they may is the extension's to judge: no role names these
    /// paths.
    ///
    /// # Errors
    /// What Kubernetes' clients understand.
    async fn serve(&self, user: &User, request: Request<RequestBody>) -> Result<Response<Body>, Status>;
}

/// The serving side of TLS.
pub struct Tls {
    /// Leaf first.
    pub cert_chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
    /// Judges client certificates. Showing none is allowed; showing a bad one ends the handshake.
    pub clients: Arc<dyn ClientCertVerifier>,
    /// Wakes when certificates that held may hold no longer: those of open connections are judged again.
    pub distrust: watch::Receiver<u64>,
    /// Who signs client certificates, in PEM, published in `kube-system/extension-apiserver-authentication`.
    pub client_roots_pem: String,
}

/// The client certificate of requests that the aggregation layer hands on, and who signed it: a CA of its own, so
/// that it can speak for any user to extension API servers and to nobody else.
pub struct FrontProxy {
    pub ca_pem: String,
    /// The certificate's common name.
    pub name: String,
    /// Leaf first.
    pub cert_chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

/// Keys of service account tokens.
pub struct TokenKeys {
    /// EC P-256, PKCS#8, PEM.
    pub signing_key_pem: String,
    /// Further `PUBLIC KEY` blocks in PEM whose tokens hold here (other servers' keys).
    pub verifying_keys_pem: Vec<String>,
    /// [`ISSUER`] unless the cluster domain differs.
    pub issuer: String,
    /// Empty: the issuer alone.
    pub audiences: Vec<String>,
}

/// What objects made at birth say of the cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Seeds the uids of bootstrap objects, so that two servers of one cluster make the same ones.
    pub id: uuid::Uuid,
    /// The first address of the service range, that of `default/kubernetes`.
    pub api_service_ip: Ipv4Addr,
    pub dns_ip: Ipv4Addr,
    /// Where Services get their addresses from, as `10.43.0.0/16`.
    pub service_cidr: String,
    /// Where pods and other nodes reach this server.
    pub advertise: SocketAddrV4,
}
