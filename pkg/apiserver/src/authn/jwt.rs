//! JSON Web Tokens signed with ES256 (RFC 7515, RFC 7518): the one format of service account tokens here.
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, KeyPair, UnparsedPublicKey};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use serde_json::{Value, json};
use sha2::Digest;

/// DER of a SubjectPublicKeyInfo of P-256 up to the point: two object identifiers and a bit string's head
/// (RFC 5480).
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// An uncompressed point: 4, x, y.
const POINT_BYTES: usize = 65;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the key is not a P-256 key in PEM: {0}")]
    Key(String),
    #[error("not three base64url parts of JSON")]
    Malformed,
    #[error("algorithm {0:?} is not ES256")]
    Algorithm(String),
    #[error("no known key made the signature")]
    Signature,
}

/// What signs.
pub struct Signer {
    key: EcdsaKeyPair,
    random: SystemRandom,
    public: PublicKey,
}

/// What verifies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    point: [u8; POINT_BYTES],
    /// base64url of the SHA-256 of the key's DER, as upstream names its keys.
    id: String,
}

impl Signer {
    /// Reads a PKCS#8 key in PEM.
    ///
    /// # Errors
    /// [`Error::Key`].
    pub fn from_pem(pem: &[u8]) -> Result<Self, Error> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|error| Error::Key(format!("{error:?}")))?;
        let random = SystemRandom::new();
        let algorithm = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        let key = EcdsaKeyPair::from_pkcs8(algorithm, der.secret_pkcs8_der(), &random)
            .map_err(|error| Error::Key(error.to_string()))?;
        let public = PublicKey::from_point(key.public_key().as_ref())?;
        Ok(Self { key, random, public })
    }

    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The token of these claims.
    pub fn sign(&self, claims: &Value) -> String {
        let header = json!({"alg": "ES256", "kid": self.public.id});
        let mut token = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
        let signature = self.key.sign(&self.random, token.as_bytes()).expect("the system's random source works");
        token.push('.');
        BASE64.encode_string(signature, &mut token);
        token
    }
}

impl PublicKey {
    fn from_point(point: &[u8]) -> Result<Self, Error> {
        let point: [u8; POINT_BYTES] = point.try_into().map_err(|_| Error::Key("it has another length".into()))?;
        let der = [&SPKI_PREFIX[..], &point].concat();
        Ok(Self { point, id: BASE64.encode(sha2::Sha256::digest(der)) })
    }

    /// Reads `PUBLIC KEY` blocks in PEM.
    ///
    /// # Errors
    /// [`Error::Key`].
    pub fn from_pem(pem: &[u8]) -> Result<Self, Error> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|error| Error::Key(format!("{error:?}")))?;
        let point = der.strip_prefix(&SPKI_PREFIX[..]).ok_or_else(|| Error::Key("it is on another curve".into()))?;
        Self::from_point(point)
    }

    /// The key as RFC 7517 writes it.
    pub fn jwk(&self) -> Value {
        let (x, y) = self.point[1..].split_at(32);
        json!({"use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": "ES256",
            "x": BASE64.encode(x), "y": BASE64.encode(y)})
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, &self.point).verify(message, signature).is_ok()
    }
}

/// Checks the signature and returns the claims, about which nothing is checked yet.
///
/// # Errors
/// All but [`Error::Key`].
pub fn verify(token: &str, keys: &[PublicKey]) -> Result<Value, Error> {
    let (message, signature) = token.rsplit_once('.').ok_or(Error::Malformed)?;
    let (header, claims) = message.split_once('.').ok_or(Error::Malformed)?;
    let bytes = |part: &str| BASE64.decode(part).map_err(|_| Error::Malformed);
    let tree = |part: &str| serde_json::from_slice::<Value>(&bytes(part)?).map_err(|_| Error::Malformed);
    let header = tree(header)?;
    if header["alg"] != "ES256" {
        return Err(Error::Algorithm(header["alg"].as_str().unwrap_or_default().into()));
    }
    let signature = bytes(signature)?;
    let mut candidates = keys.iter().filter(|key| header["kid"].as_str().is_none_or(|kid| kid == key.id));
    if candidates.any(|key| key.verifies(message.as_bytes(), &signature)) {
        tree(claims)
    } else {
        Err(Error::Signature)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A fresh key in PEM.
    pub(crate) fn key() -> String {
        let algorithm = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        let der = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).unwrap();
        let body = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n")
    }

    #[test]
    fn what_is_signed_verifies_and_nothing_else() {
        let signer = Signer::from_pem(key().as_bytes()).unwrap();
        let other = Signer::from_pem(key().as_bytes()).unwrap();
        let claims = json!({"sub": "x", "exp": 1});
        let token = signer.sign(&claims);
        let keys = [other.public().clone(), signer.public().clone()];
        assert_eq!(verify(&token, &keys).unwrap(), claims);
        assert!(matches!(verify(&token, &keys[..1]), Err(Error::Signature)));
        let (message, signature) = token.rsplit_once('.').unwrap();
        let (header, _) = message.split_once('.').unwrap();
        let forged = format!("{header}.{}.{signature}", BASE64.encode(r#"{"sub":"root"}"#));
        assert!(matches!(verify(&forged, &keys), Err(Error::Signature)));
        let none = format!("{}.{}.", BASE64.encode(r#"{"alg":"none"}"#), BASE64.encode("{}"));
        assert!(matches!(verify(&none, &keys), Err(Error::Algorithm(_))));
        for text in ["", "a.b", "a.b.c", "..", "é.é.é"] {
            assert!(verify(text, &keys).is_err());
        }
    }

    #[test]
    fn public_keys_are_read_from_pem() {
        let signer = Signer::from_pem(key().as_bytes()).unwrap();
        let der = [&SPKI_PREFIX[..], &signer.public().point].concat();
        let body = base64::engine::general_purpose::STANDARD.encode(der);
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n");
        assert_eq!(&PublicKey::from_pem(pem.as_bytes()).unwrap(), signer.public());
        assert!(PublicKey::from_pem(b"nothing").is_err());
    }
}
