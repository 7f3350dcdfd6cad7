//! Whose certificates hold. A leaf must lead to the cluster's root, and its signer must be the intermediate CA of a server
//! that is a member now: removing a server's object takes back all that it ever signed. A node without a server holds those for
//! members that its server told it of; kubectl trusts the root alone.
use crate::tls;
use apiserver::guard::Guarded;
use parking_lot::RwLock;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio_rustls::server::TlsStream;

/// Judges certificates of clients and of servers. All that is made from one changes with it.
pub struct Trust {
    root: Judges,
    own: Option<CertificateDer<'static>>,
    /// None: nobody has told of them yet, and the root alone counts.
    members: RwLock<Option<Members>>,
    changed: watch::Sender<u64>,
    strangers: Notify,
}

/// Both verifiers over the same anchors.
struct Judges {
    clients: Arc<dyn ClientCertVerifier>,
    servers: Arc<WebPkiServerVerifier>,
}

struct Members {
    authorities: BTreeSet<Vec<u8>>,
    judges: Arc<Judges>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members = self.members.read().as_ref().map(|members| members.authorities.len());
        f.debug_struct("Trust").field("members", &members).finish_non_exhaustive()
    }
}

impl Judges {
    fn over(anchors: RootCertStore) -> tls::Result<Self> {
        let anchors = Arc::new(anchors);
        Ok(Self {
            clients: WebPkiClientVerifier::builder(anchors.clone()).allow_unauthenticated().build()?,
            servers: WebPkiServerVerifier::builder(anchors).build()?,
        })
    }
}

impl Trust {
    /// This server's own certificates hold at once. `own_pem` begins with the certificate of its intermediate CA.
    ///
    /// # Errors
    /// Certificates that can't be read.
    pub fn new(root_pem: &str, own_pem: &str) -> tls::Result<Self> {
        let own = tls::certificates(own_pem)?.into_iter().next().ok_or(rustls::Error::NoCertificatesPresented)?;
        let members = RwLock::new(Some(members([own.clone()])?));
        let root = Judges::over(tls::roots(root_pem)?)?;
        Ok(Self { root, own: Some(own), members, changed: watch::Sender::new(0), strangers: Notify::new() })
    }

    /// What leads to the root holds, until the first [`Self::set`].
    ///
    /// # Errors
    /// A root that can't be read.
    pub fn of_root(root_pem: &str) -> tls::Result<Self> {
        let root = Judges::over(tls::roots(root_pem)?)?;
        Ok(Self {
            root,
            own: None,
            members: RwLock::default(),
            changed: watch::Sender::new(0),
            strangers: Notify::new(),
        })
    }

    /// From now on these intermediate CAs hold, in PEM, and this server's own. What can't be read is left out and told.
    pub fn set<'a>(&self, authorities: impl IntoIterator<Item = &'a str>) {
        let mut all: Vec<_> = self.own.iter().cloned().collect();
        for pem in authorities {
            match tls::certificates(pem) {
                // What follows the first are those between it and the root.
                Ok(chain) => all.extend(chain.into_iter().next()),
                Err(error) => tracing::warn!(%error, "the certificate of a server's CA can't be read"),
            }
        }
        let wanted: BTreeSet<Vec<u8>> = all.iter().map(|certificate| certificate.to_vec()).collect();
        if self.members.read().as_ref().is_some_and(|members| members.authorities == wanted) {
            return;
        }
        match members(all) {
            Ok(members) => *self.members.write() = Some(members),
            Err(error) => return tracing::warn!(%error, "the certificates of servers' CAs can't be used"),
        }
        self.changed.send_modify(|count| *count += 1);
    }

    /// Wakes when some that held may hold no longer.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Returns when somebody has come whose certificate leads to the root and to no member.
    pub async fn stranger(&self) {
        self.strangers.notified().await;
    }

    /// A client's connection, which ends when its certificate holds no longer.
    pub fn guard(self: &Arc<Self>, stream: TlsStream<TcpStream>) -> Box<dyn agent::Stream> {
        let chain: Vec<_> = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
        let chain: Vec<_> = chain.into_iter().map(CertificateDer::into_owned).collect();
        match chain.is_empty() {
            true => Box::new(stream),
            false => Box::new(Guarded::new(stream, self.clone().distrusted(chain))),
        }
    }

    /// Waits until a chain that held does so no longer.
    async fn distrusted(self: Arc<Self>, chain: Vec<CertificateDer<'static>>) -> Error {
        let mut changes = self.changes();
        loop {
            if let Err(error) = self.verify_client_cert(&chain[0], &chain[1..], UnixTime::now()) {
                return error;
            }
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    fn known<T>(&self, judged: Result<T, Error>) -> Result<T, Error> {
        judged.inspect_err(|_| self.strangers.notify_one())
    }

    fn members(&self) -> Option<Arc<Judges>> {
        self.members.read().as_ref().map(|members| members.judges.clone())
    }
}

fn members(all: impl IntoIterator<Item = CertificateDer<'static>>) -> tls::Result<Members> {
    let (mut anchors, mut authorities) = (RootCertStore::empty(), BTreeSet::new());
    for certificate in all {
        if authorities.insert(certificate.to_vec()) {
            anchors.add(certificate)?;
        }
    }
    Ok(Members { authorities, judges: Arc::new(Judges::over(anchors)?) })
}

impl ClientCertVerifier for Trust {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.root.clients.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let held = self.root.clients.verify_client_cert(leaf, between, now)?;
        match self.members() {
            Some(members) => self.known(members.clients.verify_client_cert(leaf, &[], now)),
            None => Ok(held),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.root.clients.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.root.clients.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.root.clients.supported_verify_schemes()
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let held = self.root.servers.verify_server_cert(leaf, between, name, ocsp, now)?;
        match self.members() {
            Some(members) => self.known(members.servers.verify_server_cert(leaf, &[], name, ocsp, now)),
            None => Ok(held),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.root.servers.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.root.servers.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.root.servers.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Authority, Subject, install, prepare};

    /// A server that `by` admits, and its directory.
    fn admitted(by: &Authority, name: &str) -> (tempfile::TempDir, Authority) {
        let dir = tempfile::tempdir().unwrap();
        let keys = prepare(dir.path(), by.root_pem()).unwrap();
        install(dir.path(), &by.admit(&keys.authority_request, name).unwrap()).unwrap();
        let authority = Authority::open(dir.path()).unwrap();
        (dir, authority)
    }

    fn holds(trust: &Trust, by: &Authority) -> bool {
        let subject = Subject { dns_names: vec!["it".into()], ..Subject::user("it", &[]) };
        let pair = by.sign(&subject).unwrap();
        let chain = tls::certificates(&pair.chain_pem).unwrap();
        let client = trust.verify_client_cert(&chain[0], &chain[1..], UnixTime::now()).is_ok();
        let name = ServerName::try_from("it").unwrap();
        let server = trust.verify_server_cert(&chain[0], &chain[1..], &name, &[], UnixTime::now()).is_ok();
        assert_eq!(client, server, "both ways the same");
        client
    }

    #[test]
    fn what_a_member_signed_holds_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let founder = Authority::open(dir.path()).unwrap();
        let (_b, b) = admitted(&founder, "b");
        let (_c, c) = admitted(&b, "c");
        let trust = Trust::new(founder.root_pem(), founder.intermediate_pem()).unwrap();
        let mut changes = trust.changes();
        assert!(holds(&trust, &founder) && !holds(&trust, &b) && !holds(&trust, &c));
        trust.set([b.intermediate_pem(), c.intermediate_pem()]);
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        assert!(holds(&trust, &b) && holds(&trust, &c));
        trust.set([c.intermediate_pem(), b.intermediate_pem()]);
        assert!(!changes.has_changed().unwrap(), "the same ones");
        trust.set([c.intermediate_pem(), "nonsense"]);
        assert!(changes.has_changed().unwrap());
        assert!(holds(&trust, &founder) && !holds(&trust, &b));
        assert!(holds(&trust, &c), "whom the removed one admitted stays until it is removed itself");
    }

    #[tokio::test]
    async fn who_was_let_in_is_judged_again_when_members_change() {
        use futures::FutureExt;
        let dir = tempfile::tempdir().unwrap();
        let founder = Authority::open(dir.path()).unwrap();
        let (_b, b) = admitted(&founder, "b");
        let trust = Arc::new(Trust::of_root(founder.root_pem()).unwrap());
        let chain = |by: &Authority| tls::certificates(&by.sign(&Subject::user("it", &[])).unwrap().chain_pem).unwrap();
        let mut first = Box::pin(trust.clone().distrusted(chain(&founder)));
        let mut second = Box::pin(trust.clone().distrusted(chain(&b)));
        assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
        trust.set([founder.intermediate_pem()]);
        assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_some());
    }

    #[test]
    fn who_was_told_of_no_members_trusts_the_root_alone() {
        let dir = tempfile::tempdir().unwrap();
        let founder = Authority::open(dir.path()).unwrap();
        let (_b, b) = admitted(&founder, "b");
        let trust = Trust::of_root(founder.root_pem()).unwrap();
        assert!(holds(&trust, &founder) && holds(&trust, &b));
        trust.set([founder.intermediate_pem()]);
        assert!(holds(&trust, &founder) && !holds(&trust, &b));
        trust.set([]);
        assert!(!holds(&trust, &b), "nobody can make it forget");
    }

    #[test]
    fn another_clusters_member_is_none_of_ours() {
        let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (ours, theirs) = (Authority::open(ours.path()).unwrap(), Authority::open(theirs.path()).unwrap());
        let trust = Trust::new(ours.root_pem(), ours.intermediate_pem()).unwrap();
        trust.set([theirs.intermediate_pem()]);
        assert!(!holds(&trust, &theirs), "it does not lead to our root");
    }
}
