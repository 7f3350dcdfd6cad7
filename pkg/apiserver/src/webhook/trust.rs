//! Which servers a webhook's client believes: those with a certificate of the bundle's authorities, and those whose
//! own certificate is in the bundle. Operators often sign a certificate with itself and give that as `caBundle`;
//! webpki refuses an authority's certificate at the end of a chain, Go's verifier (upstream's) does not.
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::sync::Arc;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Authorities as ever, and certificates that are trusted as they are.
#[derive(Debug)]
pub struct Trust {
    by_authority: Arc<WebPkiServerVerifier>,
    itself: Vec<CertificateDer<'static>>,
}

impl Trust {
    /// `bundle` is trusted both ways.
    ///
    /// # Errors
    /// No usable authorities.
    pub fn new(
        roots: RootCertStore,
        bundle: Vec<CertificateDer<'static>>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, rustls::client::VerifierBuilderError> {
        let by_authority = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
        Ok(Self { by_authority, itself: bundle })
    }

    /// A certificate of the bundle still has to be for this name, and for now.
    fn check_itself(leaf: &CertificateDer<'_>, name: &ServerName<'_>, now: UnixTime) -> Result<(), Error> {
        rustls::client::verify_server_name(&ParsedCertificate::try_from(leaf)?, name)?;
        let (_, parsed) =
            X509Certificate::from_der(leaf).map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let (validity, now) = (parsed.validity(), i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        if now < validity.not_before.timestamp() {
            return Err(CertificateError::NotValidYet.into());
        }
        if now > validity.not_after.timestamp() {
            return Err(CertificateError::Expired.into());
        }
        Ok(())
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.by_authority.verify_server_cert(leaf, intermediates, name, ocsp, now) {
            Err(_) if self.itself.iter().any(|trusted| trusted == leaf) => {
                Self::check_itself(leaf, name, now).map(|()| ServerCertVerified::assertion())
            }
            judged => judged,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_authority.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_authority.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_authority.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    /// A certificate that is its own authority, for `hook.ns.svc`.
    fn own_authority() -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["hook.ns.svc".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn judge(trusted: &CertificateDer<'static>, leaf: &CertificateDer<'static>, name: &str, at: u64) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add(trusted.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let trust = Trust::new(roots, vec![trusted.clone()], &provider).unwrap();
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(at));
        trust.verify_server_cert(leaf, &[], &ServerName::try_from(name.to_owned()).unwrap(), &[], now).is_ok()
    }

    #[test]
    fn a_certificate_of_the_bundle_is_believed_for_its_name_and_time() {
        const NOW: u64 = 1_800_000_000;
        let (own, other) = (own_authority(), own_authority());
        assert!(judge(&own, &own, "hook.ns.svc", NOW));
        assert!(!judge(&own, &own, "other.ns.svc", NOW));
        assert!(!judge(&own, &other, "hook.ns.svc", NOW));
        assert!(!judge(&own, &own, "hook.ns.svc", 1), "it was not valid in 1970");
    }
}
