//! Certificates: one root CA for the cluster, an intermediate and a service-account key for this server, and the
//! leaves that it signs. Leaves last a year and are renewed at start when less than 120 days remain.
//!
//! Clients and nodes trust the root alone, so every leaf is handed out with the intermediates behind it; servers trust what
//! members signed ([`crate::trust`]).
use crate::files;
use k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const CA_LIFE: Duration = DAY.saturating_mul(3650);
const LEAF_LIFE: Duration = DAY.saturating_mul(365);
/// Who admits whom makes a chain of CAs; it is no longer than that below the root. Common verifiers take six.
const ADMISSIONS_DEEP: u8 = 4;
/// The group that authorization never refuses.
const MASTERS: &str = "system:masters";
/// A leaf with less life than this is renewed at start.
const RENEW_WITHIN: Duration = DAY.saturating_mul(120);
/// Certificates begin this long ago, for peers whose clocks are behind.
const BACKDATE: Duration = Duration::from_secs(60 * 60);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    File(#[from] files::Error),
    #[error("{path}: no usable certificate or key: {source}")]
    Unusable { path: PathBuf, source: rcgen::Error },
    #[error("a certificate of the organizations {0:?} is not signed: there may be one, and not system:masters")]
    Organizations(Vec<String>),
    #[error("this server can't admit others: it stands too far from the first server; join through one nearer to it")]
    TooFar,
    #[error("making the certificate of {subject}: {source}")]
    Making { subject: String, source: rcgen::Error },
}

pub type Result<T> = std::result::Result<T, Error>;

/// A certificate chain (leaf first) and its key, as PEM.
#[derive(Clone)]
pub struct Pair {
    pub chain_pem: String,
    pub key_pem: String,
}

/// What etcd's endpoint serves with, and whose certificates it asks for.
pub struct EtcdCertificates {
    pub ca_pem: String,
    pub serving: Pair,
}

/// Whom a leaf speaks for.
#[derive(Clone, Debug, Default)]
pub struct Subject {
    pub common_name: String,
    /// Groups.
    pub organizations: Vec<String>,
    pub dns_names: Vec<String>,
    pub addresses: Vec<IpAddr>,
}

impl Subject {
    /// A client: a user in groups.
    pub fn user(name: &str, groups: &[&str]) -> Self {
        Self {
            common_name: name.into(),
            organizations: groups.iter().map(ToString::to_string).collect(),
            ..Self::default()
        }
    }
}

/// This server's authority, loaded from or made in `<data-dir>/server/tls`.
pub struct Authority {
    dir: PathBuf,
    root_pem: String,
    /// Its certificate, and those between it and the root.
    intermediate_pem: String,
    intermediate_key: KeyPair,
    service_account_key_pem: String,
}

impl Authority {
    /// Loads what is there and makes what is missing.
    pub fn open(dir: &Path) -> Result<Self> {
        files::private_dir(dir)?;
        let (root_pem, (intermediate_pem, intermediate_key)) = match joined(dir)? {
            Some(joined) => joined,
            None => {
                let (root_pem, root_key) = ensure_root(dir)?;
                let intermediate = ensure_intermediate(dir, &root_pem, &root_key)?;
                (root_pem, intermediate)
            }
        };
        let service_account_key_pem = ensure_key(&dir.join("service-account.key"))?.serialize_pem();
        Ok(Self { dir: dir.to_owned(), root_pem, intermediate_pem, intermediate_key, service_account_key_pem })
    }

    /// The certificate that everybody pins.
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// PKCS#8, P-256: signs service-account tokens.
    pub fn service_account_key_pem(&self) -> &str {
        &self.service_account_key_pem
    }

    /// The public key of the service-account tokens that this server issues, in PEM.
    pub fn service_account_public_pem(&self) -> Result<String> {
        let unusable = |source| Error::Unusable { path: self.dir.join("service-account.key"), source };
        Ok(KeyPair::from_pem(&self.service_account_key_pem).map_err(unusable)?.public_key_pem())
    }

    /// The certificate of this server's intermediate CA, and those between it and the root.
    pub fn intermediate_pem(&self) -> &str {
        &self.intermediate_pem
    }

    /// The certificates of a joining server's intermediate CA and of those between it and the root: signed by the root's key
    /// where that is, else by this server's own CA. No key ever travels.
    pub fn admit(&self, request_pem: &str, name: &str) -> Result<String> {
        let making = |source| Error::Making { subject: format!("the CA of server {name}"), source };
        let request = CertificateSigningRequestParams::from_pem(request_pem).map_err(making)?;
        let root_key = self.dir.join("root-ca.key");
        let root_key = if root_key.exists() { Some(ensure_key(&root_key)?) } else { None };
        let (issuer_pem, key, between) = match &root_key {
            Some(key) => (&self.root_pem, key, ""),
            None => (&self.intermediate_pem, &self.intermediate_key, &*self.intermediate_pem),
        };
        let depth = path_length(issuer_pem).checked_sub(1).ok_or(Error::TooFar)?;
        let issuer = Issuer::from_ca_cert_pem(issuer_pem, key).map_err(making)?;
        // Of the request its key counts alone.
        let params = ca_params(&format!("eyot-server-ca-{name}"), depth);
        Ok(params.signed_by(&request.public_key, &issuer).map_err(making)?.pem() + between)
    }

    /// The CA of requests that the aggregation layer hands on, in PEM, and a fresh certificate of it. It is apart from
    /// the cluster's root: extension API servers believe its holder whatever user it names.
    pub fn front_proxy(&self, name: &str) -> Result<(String, Pair)> {
        let (ca_pem, ca_key) = ensure_self_signed(&self.dir, "front-proxy-ca", 0)?;
        let making = |source| Error::Making { subject: name.to_owned(), source };
        let issuer = Issuer::from_ca_cert_pem(&ca_pem, &ca_key).map_err(making)?;
        let key = KeyPair::generate().map_err(making)?;
        let leaf = leaf_params(&Subject::user(name, &[])).and_then(|params| params.signed_by(&key, &issuer));
        let pair = Pair { chain_pem: leaf.map_err(making)?.pem(), key_pem: key.serialize_pem() };
        Ok((ca_pem, pair))
    }

    /// The kept leaf of this name if it still fits its subject and has enough life, else a new one.
    pub fn leaf(&self, name: &str, subject: &Subject) -> Result<Pair> {
        kept_leaf(&self.dir, name, subject, &self.intermediate_pem, || self.sign(subject))
    }

    /// Who may speak etcd's API with this server. A CA of its own says: whoever holds one of its certificates reads and
    /// writes the whole store, past all that the API judges.
    pub fn etcd(&self, serving: &Subject) -> Result<EtcdCertificates> {
        let (ca_pem, ca_key) = ensure_self_signed(&self.dir, "etcd-ca", 0)?;
        let leaf = |name: &str, subject: &Subject| {
            let making = |source| Error::Making { subject: subject.common_name.clone(), source };
            kept_leaf(&self.dir, name, subject, &ca_pem, || {
                let issuer = Issuer::from_ca_cert_pem(&ca_pem, &ca_key).map_err(making)?;
                let key = KeyPair::generate().map_err(making)?;
                let leaf = leaf_params(subject).and_then(|params| params.signed_by(&key, &issuer)).map_err(making)?;
                Ok(Pair { chain_pem: leaf.pem() + &ca_pem, key_pem: key.serialize_pem() })
            })
        };
        let serving = leaf("serving-etcd", serving)?;
        // Kept for whoever administrates this server: etcdctl, or a kube-apiserver on the same host.
        leaf("client-etcd", &Subject::user("etcd-client", &[]))?;
        Ok(EtcdCertificates { ca_pem, serving })
    }

    /// A new key and a leaf for it, kept nowhere.
    pub fn sign(&self, subject: &Subject) -> Result<Pair> {
        let making = |source| Error::Making { subject: subject.common_name.clone(), source };
        let key = KeyPair::generate().map_err(making)?;
        let chain_pem = self.sign_key(subject, &key)?;
        Ok(Pair { chain_pem, key_pem: key.serialize_pem() })
    }

    /// A certificate for an approved CertificateSigningRequest, with the intermediate behind it.
    pub fn sign_request(&self, spec: &CertificateSigningRequestSpec, seconds: i64) -> Result<String> {
        let pem = String::from_utf8_lossy(&spec.request.0);
        let making = |source| Error::Making { subject: "a signing request".into(), source };
        let mut request = CertificateSigningRequestParams::from_pem(&pem).map_err(making)?;
        let organizations = organizations(&pem);
        // The library keeps one organisation alone, and the group that nobody refuses is not given away.
        if organizations.len() > 1 || organizations.iter().any(|group| group == MASTERS) {
            return Err(Error::Organizations(organizations));
        }
        let params = &mut request.params;
        params.is_ca = IsCa::ExplicitNoCa;
        (params.key_usages, params.extended_key_usages) = usages(spec.usages.as_deref().unwrap_or_default());
        params.use_authority_key_identifier_extension = true;
        live(params, Duration::from_secs(seconds.unsigned_abs()));
        let issuer = Issuer::from_ca_cert_pem(&self.intermediate_pem, &self.intermediate_key).map_err(making)?;
        Ok(request.signed_by(&issuer).map_err(making)?.pem() + &self.intermediate_pem)
    }

    /// A certificate of this subject for the key of a signing request, of which nothing else counts.
    pub fn certify(&self, subject: &Subject, request_pem: &str) -> Result<String> {
        let making = |source| Error::Making { subject: subject.common_name.clone(), source };
        let request = CertificateSigningRequestParams::from_pem(request_pem).map_err(making)?;
        self.sign_key(subject, &request.public_key)
    }

    fn sign_key(&self, subject: &Subject, key: &impl rcgen::PublicKeyData) -> Result<String> {
        let making = |source| Error::Making { subject: subject.common_name.clone(), source };
        let issuer = Issuer::from_ca_cert_pem(&self.intermediate_pem, &self.intermediate_key).map_err(making)?;
        let leaf = leaf_params(subject).and_then(|params| params.signed_by(key, &issuer)).map_err(making)?;
        Ok(leaf.pem() + &self.intermediate_pem)
    }
}

/// The leaf that is kept under this name if it still fits, has enough life and comes from the issuer; else what `sign`
/// makes, kept from now on.
fn kept_leaf(
    dir: &Path,
    name: &str,
    subject: &Subject,
    issuer_pem: &str,
    sign: impl FnOnce() -> Result<Pair>,
) -> Result<Pair> {
    let (certificate, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
    if let (Some(chain_pem), Some(key_pem)) = (files::read_if_there(&certificate)?, files::read_if_there(&key)?)
        && fits(&chain_pem, subject)
        && chain_pem.ends_with(issuer_pem)
    {
        return Ok(Pair { chain_pem, key_pem });
    }
    let pair = sign()?;
    files::write(&key, pair.key_pem.as_bytes(), 0o600)?;
    files::write(&certificate, pair.chain_pem.as_bytes(), 0o600)?;
    Ok(pair)
}

/// What a server that is going to join shows of the keys that it made.
pub struct Keys {
    /// A signing request of its intermediate CA, in PEM.
    pub authority_request: String,
    /// The public key of its service-account tokens, in PEM.
    pub service_account_key: String,
}

/// Makes the keys of a server that is going to join the cluster of this root.
pub fn prepare(dir: &Path, root_pem: &str) -> Result<Keys> {
    files::private_dir(dir)?;
    files::write(&dir.join("root-ca.crt"), root_pem.as_bytes(), 0o600)?;
    let authority_request = request(&dir.join("server-ca.key"))?;
    let service_account_key = ensure_key(&dir.join("service-account.key"))?.public_key_pem();
    Ok(Keys { authority_request, service_account_key })
}

/// A signing request in PEM, by the key that is kept at `path` or made now.
pub fn request(path: &Path) -> Result<String> {
    let making = |source| Error::Making { subject: "a request to join".into(), source };
    let key = ensure_key(path)?;
    let request = CertificateParams::new(Vec::new()).and_then(|params| params.serialize_request(&key));
    request.and_then(|request| request.pem()).map_err(making)
}

/// Whether a chain's first certificate is to be renewed: it has little life left, or none of it can be read.
pub fn is_due(chain_pem: &str) -> bool {
    left_s(chain_pem) <= RENEW_WITHIN.as_secs() as i64
}

/// Whether a chain's first certificate holds no longer, or none of it can be read.
pub fn has_ended(chain_pem: &str) -> bool {
    left_s(chain_pem) <= 0
}

/// What is left of the life of a chain's first certificate; none if it can't be read.
fn left_s(chain_pem: &str) -> i64 {
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(chain_pem.as_bytes()) else { return 0 };
    let Ok(certificate) = pem.parse_x509() else { return 0 };
    certificate.validity().time_to_expiration().map_or(0, |left| left.whole_seconds())
}

/// Keeps the certificate that a joining server got for its intermediate CA.
pub fn install(dir: &Path, intermediate_pem: &str) -> Result<()> {
    Ok(files::write(&dir.join("server-ca.crt"), intermediate_pem.as_bytes(), 0o600)?)
}

type Certified = (String, KeyPair);

/// The root certificate, and the intermediate with its key, of a server that has joined: it never had the root's key.
fn joined(dir: &Path) -> Result<Option<(String, Certified)>> {
    if dir.join("root-ca.key").exists() {
        return Ok(None);
    }
    let read = |name: &str| files::read_if_there(&dir.join(name));
    let (Some(root_pem), Some(intermediate_pem)) = (read("root-ca.crt")?, read("server-ca.crt")?) else {
        return Ok(None);
    };
    Ok(Some((root_pem, (intermediate_pem, ensure_key(&dir.join("server-ca.key"))?))))
}

fn ensure_root(dir: &Path) -> Result<(String, KeyPair)> {
    ensure_self_signed(dir, "root-ca", ADMISSIONS_DEEP)
}

/// The self-signed CA of this name, kept in the directory.
fn ensure_self_signed(dir: &Path, kind: &str, path_length: u8) -> Result<(String, KeyPair)> {
    let path = dir.join(format!("{kind}.crt"));
    let key = ensure_key(&dir.join(format!("{kind}.key")))?;
    if let Some(pem) = files::read_if_there(&path)? {
        return Ok((pem, key));
    }
    let name = format!("eyot-{kind}@{}", unix(SystemTime::now()));
    let making = |source| Error::Making { subject: name.clone(), source };
    let pem = ca_params(&name, path_length).self_signed(&key).map_err(making)?.pem();
    files::write(&path, pem.as_bytes(), 0o600)?;
    Ok((pem, key))
}

fn ensure_intermediate(dir: &Path, root_pem: &str, root_key: &KeyPair) -> Result<(String, KeyPair)> {
    let path = dir.join("server-ca.crt");
    let key = ensure_key(&dir.join("server-ca.key"))?;
    if let Some(pem) = files::read_if_there(&path)? {
        return Ok((pem, key));
    }
    let name = format!("eyot-server-ca@{}", unix(SystemTime::now()));
    let making = |source| Error::Making { subject: name.clone(), source };
    let issuer = Issuer::from_ca_cert_pem(root_pem, root_key).map_err(making)?;
    let pem = ca_params(&name, 0).signed_by(&key, &issuer).map_err(making)?.pem();
    files::write(&path, pem.as_bytes(), 0o600)?;
    Ok((pem, key))
}

fn ensure_key(path: &Path) -> Result<KeyPair> {
    let unusable = |source| Error::Unusable { path: path.to_owned(), source };
    if let Some(pem) = files::read_if_there(path)? {
        return KeyPair::from_pem(&pem).map_err(unusable);
    }
    let key = KeyPair::generate().map_err(unusable)?;
    files::write(path, key.serialize_pem().as_bytes(), 0o600)?;
    Ok(key)
}

fn ca_params(name: &str, path_length: u8) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    live(&mut params, CA_LIFE);
    params
}

fn leaf_params(subject: &Subject) -> std::result::Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(subject.dns_names.clone())?;
    params.subject_alt_names.extend(subject.addresses.iter().map(|address| rcgen::SanType::IpAddress(*address)));
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, &*subject.common_name);
    for organization in &subject.organizations {
        params.distinguished_name.push(DnType::OrganizationName, &**organization);
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if !subject.dns_names.is_empty() || !subject.addresses.is_empty() {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    params.use_authority_key_identifier_extension = true;
    live(&mut params, LEAF_LIFE);
    Ok(params)
}

/// The organisations that a signing request names.
fn organizations(request_pem: &str) -> Vec<String> {
    use x509_parser::prelude::FromDer;
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(request_pem.as_bytes()) else { return Vec::new() };
    let parsed = x509_parser::certification_request::X509CertificationRequest::from_der(&pem.contents);
    let Ok((_, request)) = parsed else { return Vec::new() };
    let subject = &request.certification_request_info.subject;
    subject.iter_organization().map(|name| name.as_str().unwrap_or_default().to_owned()).collect()
}

/// Kubernetes' names of usages as X.509's (`certificates/v1 KeyUsage`).
fn usages(names: &[String]) -> (Vec<KeyUsagePurpose>, Vec<ExtendedKeyUsagePurpose>) {
    let (mut key, mut extended) = (Vec::new(), Vec::new());
    for name in names {
        match name.as_str() {
            "signing" | "digital signature" => key.push(KeyUsagePurpose::DigitalSignature),
            "content commitment" => key.push(KeyUsagePurpose::ContentCommitment),
            "key encipherment" => key.push(KeyUsagePurpose::KeyEncipherment),
            "key agreement" => key.push(KeyUsagePurpose::KeyAgreement),
            "data encipherment" => key.push(KeyUsagePurpose::DataEncipherment),
            "any" => extended.push(ExtendedKeyUsagePurpose::Any),
            "server auth" => extended.push(ExtendedKeyUsagePurpose::ServerAuth),
            "client auth" => extended.push(ExtendedKeyUsagePurpose::ClientAuth),
            "code signing" => extended.push(ExtendedKeyUsagePurpose::CodeSigning),
            "email protection" | "s/mime" => extended.push(ExtendedKeyUsagePurpose::EmailProtection),
            "timestamping" => extended.push(ExtendedKeyUsagePurpose::TimeStamping),
            "ocsp signing" => extended.push(ExtendedKeyUsagePurpose::OcspSigning),
            // Signing certificates is not given away; the rest has no purpose that the library knows.
            _ => {}
        }
    }
    key.dedup();
    (key, extended)
}

fn live(params: &mut CertificateParams, life: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + life).into();
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Whether the first certificate of the chain is of this subject, carries all its names and lives long enough.
fn fits(chain_pem: &str, subject: &Subject) -> bool {
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(chain_pem.as_bytes()) else { return false };
    let Ok(certificate) = pem.parse_x509() else { return false };
    let remaining = certificate.validity().time_to_expiration().map_or(0, |left| left.whole_seconds());
    let same_subject =
        name(&certificate, true) == [subject.common_name.clone()] && name(&certificate, false) == subject.organizations;
    remaining > RENEW_WITHIN.as_secs() as i64
        && same_subject
        && alternative_names(&certificate) == wanted_names(subject)
}

/// How many CAs there may be below the first certificate of a PEM text.
fn path_length(pem: &str) -> u8 {
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(pem.as_bytes()) else { return 0 };
    let Ok(certificate) = pem.parse_x509() else { return 0 };
    let constraints = certificate.basic_constraints().ok().flatten().and_then(|found| found.value.path_len_constraint);
    constraints.and_then(|length| u8::try_from(length).ok()).unwrap_or(0)
}

fn name(certificate: &x509_parser::certificate::X509Certificate<'_>, common: bool) -> Vec<String> {
    let subject = certificate.subject();
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| attribute.as_str().map(str::to_owned).ok();
    match common {
        true => subject.iter_common_name().filter_map(text).collect(),
        false => subject.iter_organization().filter_map(text).collect(),
    }
}

fn alternative_names(certificate: &x509_parser::certificate::X509Certificate<'_>) -> Vec<String> {
    use x509_parser::extensions::GeneralName;
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let names = extension.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
        },
        _ => None,
    });
    sorted(names.collect())
}

fn wanted_names(subject: &Subject) -> Vec<String> {
    sorted(subject.dns_names.iter().cloned().chain(subject.addresses.iter().map(ToString::to_string)).collect())
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn serving(dns: &str) -> Subject {
        Subject {
            common_name: "eyot".into(),
            dns_names: vec![dns.into()],
            addresses: vec![[127, 0, 0, 1].into(), "::1".parse().unwrap()],
            ..Subject::default()
        }
    }

    #[test]
    fn what_was_made_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let first = Authority::open(dir.path()).unwrap();
        let leaf = first.leaf("serving", &serving("localhost")).unwrap();
        let second = Authority::open(dir.path()).unwrap();
        assert_eq!(first.root_pem(), second.root_pem());
        assert_eq!(first.service_account_key_pem(), second.service_account_key_pem());
        assert_eq!(leaf.chain_pem, second.leaf("serving", &serving("localhost")).unwrap().chain_pem);
    }

    #[test]
    fn members_admit_members_as_deep_as_chains_may_be() {
        let dir = tempfile::tempdir().unwrap();
        let mut authority = Authority::open(dir.path()).unwrap();
        let roots = Arc::new(crate::tls::roots(authority.root_pem()).unwrap());
        let verifier = rustls::server::WebPkiClientVerifier::builder(roots).build().unwrap();
        for depth in 0..ADMISSIONS_DEEP {
            let dir = tempfile::tempdir().unwrap();
            let keys = prepare(dir.path(), authority.root_pem()).unwrap();
            install(dir.path(), &authority.admit(&keys.authority_request, "it").unwrap()).unwrap();
            authority = Authority::open(dir.path()).unwrap();
            let chain = crate::tls::certificates(&authority.sign(&Subject::user("x", &[])).unwrap().chain_pem).unwrap();
            assert_eq!(chain.len(), usize::from(depth) + 2);
            verifier.verify_client_cert(&chain[0], &chain[1..], rustls::pki_types::UnixTime::now()).unwrap();
        }
        let keys = prepare(tempfile::tempdir().unwrap().path(), authority.root_pem()).unwrap();
        assert!(matches!(authority.admit(&keys.authority_request, "one more"), Err(Error::TooFar)));
    }

    #[test]
    fn a_new_name_gets_a_new_leaf() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path()).unwrap();
        let old = authority.leaf("serving", &serving("localhost")).unwrap();
        let new = authority.leaf("serving", &serving("shop.example")).unwrap();
        assert_ne!(old.chain_pem, new.chain_pem);
    }

    #[test]
    fn requests_are_signed_for_their_own_key() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path()).unwrap();
        let spec = |groups: &[&str]| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.distinguished_name.push(DnType::CommonName, "bob");
            for group in groups {
                params.distinguished_name.push(DnType::OrganizationName, *group);
            }
            let request = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
            CertificateSigningRequestSpec {
                request: k8s_openapi::ByteString(request.into_bytes()),
                usages: Some(vec!["digital signature".into(), "client auth".into()]),
                ..Default::default()
            }
        };
        let pem = authority.sign_request(&spec(&["developers"]), 3600).unwrap();
        let chain = crate::tls::certificates(&pem).unwrap();
        let roots = crate::tls::roots(authority.root_pem()).unwrap();
        let verifier = rustls::server::WebPkiClientVerifier::builder(roots.into()).build().unwrap();
        verifier.verify_client_cert(&chain[0], &chain[1..], rustls::pki_types::UnixTime::now()).unwrap();
        let (_, certificate) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
        assert_eq!(
            (name(&certificate, true), name(&certificate, false)),
            (vec!["bob".into()], vec!["developers".into()])
        );
        assert!(!certificate.is_ca() && certificate.validity().time_to_expiration().unwrap().whole_seconds() <= 3600);
        assert!(matches!(authority.sign_request(&spec(&[MASTERS]), 3600), Err(Error::Organizations(_))));
    }

    #[test]
    fn the_front_proxys_trust_is_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path()).unwrap();
        let (ca, pair) = authority.front_proxy("system:auth-proxy").unwrap();
        assert_eq!(ca, authority.front_proxy("system:auth-proxy").unwrap().0, "the CA is kept");
        let chain = crate::tls::certificates(&pair.chain_pem).unwrap();
        let verify = |root: &str| {
            let roots = crate::tls::roots(root).unwrap();
            let verifier = rustls::server::WebPkiClientVerifier::builder(roots.into()).build().unwrap();
            verifier.verify_client_cert(&chain[0], &[], rustls::pki_types::UnixTime::now()).is_ok()
        };
        assert!(verify(&ca) && !verify(authority.root_pem()));
    }

    #[test]
    fn the_chain_leads_to_the_root_in_rustls() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path()).unwrap();
        let pair = authority.sign(&Subject::user("admin", &["system:masters"])).unwrap();
        let tls = crate::tls::client(authority.root_pem(), Some(&pair)).unwrap();
        assert!(tls.client_auth_cert_resolver.has_certs());
        let chain = crate::tls::certificates(&pair.chain_pem).unwrap();
        let roots = crate::tls::roots(authority.root_pem()).unwrap();
        let verifier = rustls::server::WebPkiClientVerifier::builder(roots.into()).build().unwrap();
        let now = rustls::pki_types::UnixTime::now();
        verifier.verify_client_cert(&chain[0], &chain[1..], now).unwrap();
    }
}
