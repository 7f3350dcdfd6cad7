//! Client certificates: the common name is the user, the organisations are the groups.
use super::Error;
use crate::request::{AUTHENTICATED, User};
use rustls::pki_types::CertificateDer;
use sha2::Digest;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The key of the credential's fingerprint in a user's extra.
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// Reads the user of a certificate whose chain is verified already.
///
/// # Errors
/// [`Error::Certificate`] when it can't be parsed or has no common name.
pub fn user(certificate: &CertificateDer<'_>) -> Result<User, Error> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| Error::Certificate(error.to_string()))?;
    let subject = parsed.subject();
    let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| value.as_str().ok().map(str::to_owned);
    let name = subject.iter_common_name().next().and_then(text).filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| Error::Certificate("it has no common name".into()))?;
    let mut groups: Vec<String> = subject.iter_organization().filter_map(text).collect();
    groups.push(AUTHENTICATED.into());
    let fingerprint = format!("X509SHA256={}", hex(&sha2::Sha256::digest(certificate)));
    let extra = [(CREDENTIAL_ID.to_owned(), vec![fingerprint])].into();
    Ok(User { name, groups, extra, ..User::default() })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
