//! Extension API servers as the front knows them at one moment.
use super::availability::{Available, Reference};
use crate::connect::unverified::AnyCertificate;
use crate::endpoints::Endpoint;
use crate::options::FrontProxy;
use base64::Engine;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The certificate that extension servers see.
pub(crate) struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// Why an APIService can't be reached over TLS.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("spec.caBundle: {0}")]
    Bundle(String),
    #[error("{0} is no name that a certificate can have")]
    Name(String),
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

impl Identity {
    pub fn new(front_proxy: &FrontProxy) -> Self {
        Self { chain: front_proxy.cert_chain.clone(), key: front_proxy.key.clone_key() }
    }

    /// How the server of an APIService is spoken to: its `caBundle` alone is trusted, unless it asks for no
    /// verification at all.
    pub fn client(&self, service: &Value, reference: &Reference) -> Result<Tls, Error> {
        let host = reference.host();
        let name = ServerName::try_from(host.clone()).map_err(|_| Error::Name(host))?;
        let builder = ClientConfig::builder();
        let builder = if service["spec"]["insecureSkipTLSVerify"] == true {
            builder.dangerous().with_custom_certificate_verifier(AnyCertificate::new())
        } else {
            builder.with_root_certificates(roots(service["spec"]["caBundle"].as_str().unwrap_or_default())?)
        };
        let mut config = builder.with_client_auth_cert(self.chain.clone(), self.key.clone_key())?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Tls { config: Arc::new(config), name })
    }
}

/// Base64 of PEM.
fn roots(bundle: &str) -> Result<RootCertStore, Error> {
    let bad = |error: &dyn std::fmt::Display| Error::Bundle(error.to_string());
    let pem = base64::engine::general_purpose::STANDARD.decode(bundle).map_err(|error| bad(&error))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots.add(certificate.map_err(|error| bad(&error))?)?;
    }
    Ok(roots)
}

/// Settings of TLS and the name that is expected.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    pub config: Arc<ClientConfig>,
    pub name: ServerName<'static>,
}

/// A group and version that another server serves.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    pub group: String,
    pub version: String,
    pub group_priority: i64,
    pub version_priority: i64,
    pub reference: Reference,
    pub available: Available,
    pub tls: Option<Tls>,
    pub addresses: Vec<Endpoint>,
    /// Its `APIResourceList`, as it last said.
    pub resources: Arc<Value>,
    /// `serverRelativeURL` of its OpenAPI v3 document.
    pub openapi: Option<String>,
}

/// All of them by group and version.
#[derive(Default)]
pub(crate) struct Remotes {
    all: BTreeMap<(String, String), Arc<Remote>>,
}

impl Remotes {
    pub fn new(remotes: impl IntoIterator<Item = Remote>) -> Self {
        let keyed =
            remotes.into_iter().map(|remote| ((remote.group.clone(), remote.version.clone()), Arc::new(remote)));
        Self { all: keyed.collect() }
    }

    pub fn get(&self, group: &str, version: &str) -> Option<&Arc<Remote>> {
        if self.all.is_empty() {
            return None;
        }
        self.all.get(&(group.to_owned(), version.to_owned()))
    }

    /// Who serves a path that is no resource: the discovery of a version, or its OpenAPI document.
    pub fn at(&self, path: &str) -> Option<&Arc<Remote>> {
        let path = path.trim_matches('/');
        let path = path.strip_prefix("openapi/v3/").unwrap_or(path);
        let (group, version) = path.strip_prefix("apis/")?.split_once('/')?;
        self.get(group, version)
    }

    pub fn serves(&self, group: &str) -> bool {
        self.all.keys().any(|(of, _)| of == group)
    }

    pub fn all(&self) -> impl Iterator<Item = &Arc<Remote>> {
        self.all.values()
    }
}
