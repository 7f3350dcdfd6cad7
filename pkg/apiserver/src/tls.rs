//! The TLS side of the listener: our certificate, client certificates where shown, HTTP/2 and HTTP/1.1.
use crate::options::Tls;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::sync::Arc;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("client CA certificates: {0}")]
    Roots(String),
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
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(Error::Versions)?;
    let builder = if tls.client_roots.is_empty() {
        builder.with_no_client_auth()
    } else {
        let mut roots = RootCertStore::empty();
        for root in tls.client_roots {
            roots.add(root).map_err(|error| Error::Roots(error.to_string()))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .allow_unauthenticated()
            .build()
            .map_err(|error| Error::Roots(error.to_string()))?;
        builder.with_client_cert_verifier(verifier)
    };
    let mut config = builder.with_single_cert(tls.cert_chain, tls.key).map_err(Error::Serving)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
