//! rustls configurations out of PEM.
use crate::pki::Pair;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::sync::Arc;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("reading PEM: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    #[error("TLS set-up: {0}")]
    Rustls(#[from] rustls::Error),
    #[error("TLS set-up: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

pub type Result<T> = std::result::Result<T, Error>;

/// The certificates of a PEM text, in order.
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    Ok(CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<std::result::Result<_, _>>()?)
}

/// The private key of a PEM text.
pub fn key(pem: &str) -> Result<PrivateKeyDer<'static>> {
    Ok(PrivateKeyDer::from_pem_slice(pem.as_bytes())?)
}

/// A store that trusts these certificates.
pub fn roots(pem: &str) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(pem)? {
        store.add(certificate)?;
    }
    Ok(store)
}

/// A server that asks for, but does not insist on, a client certificate of the cluster's root: who shows none
/// must have a token.
pub fn server(root_pem: &str, pair: &Pair) -> Result<ServerConfig> {
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots(root_pem)?)).allow_unauthenticated().build()?;
    Ok(ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&pair.chain_pem)?, key(&pair.key_pem)?)?)
}

/// A server for those alone who show a certificate of this CA.
pub fn mutual(ca_pem: &str, pair: &Pair) -> Result<ServerConfig> {
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots(ca_pem)?)).build()?;
    Ok(ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&pair.chain_pem)?, key(&pair.key_pem)?)?)
}

/// A client that trusts the cluster's root alone.
pub fn client(root_pem: &str, pair: Option<&Pair>) -> Result<ClientConfig> {
    let builder = ClientConfig::builder().with_root_certificates(roots(root_pem)?);
    Ok(match pair {
        Some(pair) => builder.with_client_auth_cert(certificates(&pair.chain_pem)?, key(&pair.key_pem)?)?,
        None => builder.with_no_client_auth(),
    })
}
