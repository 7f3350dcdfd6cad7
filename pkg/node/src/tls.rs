//! rustls configurations out of PEM.
use crate::pki::Pair;
use crate::trust::Trust;
use arc_swap::ArcSwap;
use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
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

/// A server that asks for, but does not insist on, a client certificate that holds: who shows none must have a token.
pub fn server(trust: Arc<Trust>, pair: &Pair) -> Result<ServerConfig> {
    let mut config = ServerConfig::builder()
        .with_client_cert_verifier(trust)
        .with_single_cert(certificates(&pair.chain_pem)?, key(&pair.key_pem)?)?;
    // A session that is resumed is not judged again.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// A client of members, as they are at each handshake.
pub fn client_of_members(trust: Arc<Trust>, pair: &Pair) -> Result<ClientConfig> {
    let builder = ClientConfig::builder().dangerous().with_custom_certificate_verifier(trust);
    let mut config = builder.with_client_auth_cert(certificates(&pair.chain_pem)?, key(&pair.key_pem)?)?;
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
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
    shown(builder, pair)
}

/// Who it is to servers: `pair`, or nobody.
fn shown(builder: ConfigBuilder<ClientConfig, WantsClientCert>, pair: Option<&Pair>) -> Result<ClientConfig> {
    Ok(match pair {
        Some(pair) => builder.with_client_auth_cert(certificates(&pair.chain_pem)?, key(&pair.key_pem)?)?,
        None => builder.with_no_client_auth(),
    })
}

/// A name that every server's certificate carries, and no node's.
pub const API_SERVER: &str = "kubernetes.default.svc";

/// A client of the cluster's servers, whatever addresses they are reached at: each proves to be one by [`API_SERVER`].
pub fn client_of_servers(trust: Arc<Trust>, pair: Option<&Pair>) -> Result<ClientConfig> {
    let verifier = Arc::new(ApiServer(trust));
    let builder = ClientConfig::builder().dangerous().with_custom_certificate_verifier(verifier);
    let mut config = shown(builder, pair)?;
    // A session that is resumed is not judged again.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// Verifies as usual, with one name for all.
#[derive(Debug)]
struct ApiServer(Arc<Trust>);

impl ServerCertVerifier for ApiServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let name = ServerName::try_from(API_SERVER).map_err(|error| rustls::Error::General(error.to_string()))?;
        self.0.verify_server_cert(end_entity, intermediates, &name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls12_signature(&*self.0, message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls13_signature(&*self.0, message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// The serving side's certificate, which a renewal replaces while it serves.
#[derive(Debug)]
pub struct Serving(ArcSwap<CertifiedKey>);

impl Serving {
    pub fn new(pair: &Pair) -> Result<Self> {
        Ok(Self(ArcSwap::from_pointee(certified(pair)?)))
    }

    /// Handshakes from now on show this one.
    pub fn replace(&self, pair: &Pair) -> Result<()> {
        self.0.store(Arc::new(certified(pair)?));
        Ok(())
    }
}

fn certified(pair: &Pair) -> Result<CertifiedKey> {
    let provider = rustls::crypto::ring::default_provider();
    Ok(CertifiedKey::from_der(certificates(&pair.chain_pem)?, key(&pair.key_pem)?, &provider)?)
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// As [`server`], with a certificate that is renewed while it serves.
pub fn renewable(trust: Arc<Trust>, serving: Arc<Serving>) -> ServerConfig {
    let mut config = ServerConfig::builder().with_client_cert_verifier(trust).with_cert_resolver(serving);
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}
