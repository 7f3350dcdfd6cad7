//! The TLS side of the listener: our certificate, client certificates where shown, HTTP/2 and HTTP/1.1.
use crate::options::Tls;
use rustls::ServerConfig;
use std::sync::Arc;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("serving certificate and key: {0}")]
    Serving(#[source] rustls::Error),
    #[error("TLS versions: {0}")]
    Versions(#[source] rustls::Error),
}

/// A configuration for the acceptor.
///
/// # Errors
/// Certificates or keys that can't be used.
pub fn server_config(tls: Tls) -> Result<Arc<ServerConfig>, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(Error::Versions)?;
    let builder = builder.with_client_cert_verifier(tls.clients);
    let mut config = builder.with_single_cert(tls.cert_chain, tls.key).map_err(Error::Serving)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
