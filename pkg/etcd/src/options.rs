//! What the endpoint is told.
use std::sync::Arc;
use store::Backend;

/// How to serve etcd's API.
pub struct Options {
    pub backend: Arc<dyn Backend>,
    /// Already bound, so that a taken port is said at start.
    pub listener: std::net::TcpListener,
    /// None: plain text, for loopback addresses alone. Which certificates clients need is part of it.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    pub identity: Identity,
    pub limits: Limits,
}

/// How this server shows itself among etcd's members.
#[derive(Clone, Debug)]
pub struct Identity {
    pub cluster_id: u64,
    pub member_id: u64,
    pub name: String,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
}

/// What one request may ask; the defaults are etcd's.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// etcd's `--max-request-bytes`.
    pub request_bytes: usize,
    /// etcd's `--max-txn-ops`.
    pub txn_ops: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { request_bytes: 1536 << 10, txn_ops: 128 }
    }
}
