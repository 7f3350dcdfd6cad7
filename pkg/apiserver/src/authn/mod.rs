//! Who is asking? A client certificate, a bearer token (static, of a service account, or a new node's), else nobody
//! known.
//!
//! Place in the flow: `front -> [authn] -> authz -> engine`.

mod bootstrap_token;
pub mod impersonate;
pub mod jwt;
pub mod service_account;
mod x509;

pub use service_account::ServiceAccounts;
pub use x509::user as certificate_user;

use crate::request::{AUTHENTICATED, User};
use arc_swap::ArcSwap;
use http::{HeaderMap, header};
use rustls::pki_types::CertificateDer;
use std::collections::HashMap;
use std::sync::Arc;

/// Bearer tokens that never expire, with whom they stand for. Cheap to clone: whoever has one changes what all see.
#[derive(Clone, Default)]
pub struct Tokens(Arc<ArcSwap<ByDigest>>);

/// By SHA-256 of the token, so that looking one up tells nothing by its duration.
type ByDigest = HashMap<[u8; 32], User>;

impl Tokens {
    /// Of two that are the same the later counts.
    pub fn new<T: AsRef<str>>(tokens: impl IntoIterator<Item = (T, User)>) -> Self {
        let all = Self::default();
        all.set(tokens);
        all
    }

    /// From now on these hold, and no others.
    pub fn set<T: AsRef<str>>(&self, tokens: impl IntoIterator<Item = (T, User)>) {
        let hashed = tokens.into_iter().map(|(token, mut user)| {
            if !user.in_group(AUTHENTICATED) {
                user.groups.push(AUTHENTICATED.into());
            }
            (digest(token.as_ref()), user)
        });
        self.0.store(Arc::new(hashed.collect()));
    }

    fn user(&self, token: &str) -> Option<User> {
        self.0.load().get(&digest(token)).cloned()
    }
}

/// The authenticators, in the order in which they are asked.
pub struct Authenticator {
    tokens: Tokens,
    service_accounts: ServiceAccounts,
}

/// What a token stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub user: User,
    /// The audiences of the request that the token is good for.
    pub audiences: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Credentials were shown and do not hold: 401, with nothing said of why.
    #[error("the bearer token does not hold: {0}")]
    Token(#[from] service_account::Error),
    #[error("looking up the bearer token: {0}")]
    Store(#[from] store::Error),
    #[error("the bearer token is none that is known")]
    Unknown,
    #[error("the client certificate can't be read: {0}")]
    Certificate(String),
}

impl Authenticator {
    pub fn new(tokens: Tokens, service_accounts: ServiceAccounts) -> Self {
        Self { tokens, service_accounts }
    }

    pub fn service_accounts(&self) -> &ServiceAccounts {
        &self.service_accounts
    }

    /// The user of a request at `now` (Unix seconds). `peer` is the certificate that the TLS handshake verified.
    ///
    /// # Errors
    /// Credentials that do not hold.
    pub async fn authenticate(
        &self,
        peer: Option<&CertificateDer<'_>>,
        headers: &HeaderMap,
        now: i64,
    ) -> Result<User, Error> {
        if let Some(certificate) = peer {
            return x509::user(certificate);
        }
        match bearer(headers) {
            Some(token) => Ok(self.token(token, &[], now).await?.user),
            None => Ok(User::anonymous()),
        }
    }

    /// The user of a bearer token for one of `audiences` (empty: the API's own).
    ///
    /// # Errors
    /// A token that does not hold.
    pub async fn token(&self, token: &str, audiences: &[String], now: i64) -> Result<Identity, Error> {
        if let Some(user) = self.tokens.user(token) {
            return Ok(Identity { user, audiences: Vec::new() });
        }
        if bootstrap_token::parse(token).is_some() {
            let user = bootstrap_token::authenticate(self.service_accounts.backend(), token, now).await?;
            return user.map(|user| Identity { user, audiences: Vec::new() }).ok_or(Error::Unknown);
        }
        if token.bytes().filter(|&b| b == b'.').count() != 2 {
            return Err(Error::Unknown);
        }
        Ok(self.service_accounts.authenticate(token, audiences, now).await?)
    }
}

fn digest(token: &str) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(token.as_bytes()).into()
}

/// What WebSocket clients that can't set headers put before a base64url token in `Sec-WebSocket-Protocol`.
const WEBSOCKET_BEARER: &str = "base64url.bearer.authorization.k8s.io.";

/// The token of an `Authorization: Bearer` header.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Moves a token from the WebSocket protocol header to `Authorization`, where all else expects it.
pub fn unwrap_websocket_token(headers: &mut HeaderMap) {
    use base64::Engine;
    let Some(protocols) = headers.get(header::SEC_WEBSOCKET_PROTOCOL).and_then(|value| value.to_str().ok()) else {
        return;
    };
    let (tokens, rest): (Vec<&str>, Vec<&str>) =
        protocols.split(',').map(str::trim).partition(|protocol| protocol.starts_with(WEBSOCKET_BEARER));
    let Some(encoded) = tokens.first().and_then(|token| token.strip_prefix(WEBSOCKET_BEARER)) else { return };
    let decoded = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(encoded).ok();
    let value = decoded.and_then(|token| header::HeaderValue::try_from([b"Bearer ", &token[..]].concat()).ok());
    if let (Some(mut value), Ok(protocols)) = (value, header::HeaderValue::from_str(&rest.join(", "))) {
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocols);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_hold_until_others_are_set() {
        let user = |name: &str| User { name: name.into(), ..User::default() };
        let tokens = Tokens::new([("one", user("a")), ("two", user("b")), ("two", user("c"))]);
        let seen = tokens.clone();
        assert_eq!(seen.user("one").unwrap().groups, [AUTHENTICATED]);
        assert_eq!(seen.user("two").unwrap().name, "c", "the later counts");
        tokens.set([("three", user("a"))]);
        assert_eq!(seen.user("three").unwrap().name, "a");
        assert!(seen.user("one").is_none() && seen.user("").is_none());
    }

    #[test]
    fn bearer_tokens_are_found() {
        let mut headers = HeaderMap::new();
        assert_eq!(bearer(&headers), None);
        headers.insert(header::AUTHORIZATION, "bearer  abc".parse().unwrap());
        assert_eq!(bearer(&headers), Some("abc"));
        headers.insert(header::AUTHORIZATION, "Basic abc".parse().unwrap());
        assert_eq!(bearer(&headers), None);
    }

    #[test]
    fn websocket_clients_may_send_the_token_as_a_protocol() {
        let mut headers = HeaderMap::new();
        let protocols = "base64url.bearer.authorization.k8s.io.c2VjcmV0, v5.channel.k8s.io";
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocols.parse().unwrap());
        unwrap_websocket_token(&mut headers);
        assert_eq!(bearer(&headers), Some("secret"));
        assert_eq!(headers[header::SEC_WEBSOCKET_PROTOCOL], "v5.channel.k8s.io");
    }
}
