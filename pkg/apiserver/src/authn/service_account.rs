//! Service account tokens: their claims, made by TokenRequest and checked against the objects they are bound to
//! (`pkg/serviceaccount/claims.go`).
use super::Identity;
use super::jwt::{self, PublicKey, Signer};
use crate::request::{AUTHENTICATED, User};
use arc_swap::ArcSwap;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use store::Backend;

/// What a user's extra calls the token, its pod and its node.
const EXTRA: &str = "authentication.kubernetes.io/";
/// Seconds by which clocks may differ.
const LEEWAY_SECONDS: i64 = 10;
/// Pods that are being deleted keep their tokens this long beyond their grace, so that they can end orderly.
const DELETED_LEEWAY_SECONDS: i64 = 60;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Jwt(#[from] jwt::Error),
    #[error("issuer {0:?} is not this cluster")]
    Issuer(String),
    #[error("it is not for any of the audiences {0:?}")]
    Audience(Vec<String>),
    #[error("it expired at {0}")]
    Expired(i64),
    #[error("it is not valid before {0}")]
    Early(i64),
    #[error("claim {0} is missing")]
    Claim(&'static str),
    #[error("{resource} {namespace}/{name} is gone or another one now")]
    Gone { resource: &'static str, namespace: String, name: String },
    #[error("looking up what it is bound to: {0}")]
    Store(#[from] store::Error),
}

/// Keys, issuer and the objects that tokens are bound to.
pub struct ServiceAccounts {
    signer: Signer,
    /// The signer's own first.
    keys: ArcSwap<Vec<PublicKey>>,
    issuer: String,
    audiences: Vec<String>,
    backend: Arc<dyn Backend>,
}

/// What a token is made for.
#[derive(Clone, Debug, Default)]
pub struct Grant {
    pub namespace: String,
    pub account: Bound,
    pub pod: Option<Bound>,
    pub node: Option<Bound>,
    pub secret: Option<Bound>,
    pub audiences: Vec<String>,
    pub seconds: i64,
}

/// An object by name and uid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    pub name: String,
    pub uid: String,
}

impl Bound {
    fn claim(&self) -> Value {
        json!({"name": self.name, "uid": self.uid})
    }

    fn read(claim: &Value) -> Option<Self> {
        Some(Self { name: claim["name"].as_str()?.into(), uid: claim["uid"].as_str()?.into() })
    }
}

impl ServiceAccounts {
    /// Where the objects are that tokens stand for.
    pub(super) fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// `verifying` are further public keys whose tokens are accepted; the signer's own always are.
    pub fn new(
        signer: Signer,
        verifying: Vec<PublicKey>,
        issuer: String,
        audiences: Vec<String>,
        backend: Arc<dyn Backend>,
    ) -> Self {
        let audiences = if audiences.is_empty() { vec![issuer.clone()] } else { audiences };
        let accounts = Self { signer, keys: ArcSwap::default(), issuer, audiences, backend };
        accounts.set_verifying(verifying);
        accounts
    }

    /// Takes other keys than before besides the signer's own.
    pub fn set_verifying(&self, mut verifying: Vec<PublicKey>) {
        verifying.retain(|key| key != self.signer.public());
        verifying.insert(0, self.signer.public().clone());
        self.keys.store(Arc::new(verifying));
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The audiences of the API itself.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// `/openid/v1/jwks`.
    pub fn jwks(&self) -> Value {
        json!({"keys": self.keys.load().iter().map(PublicKey::jwk).collect::<Vec<_>>()})
    }

    /// Makes a token; returns it with its expiry in Unix seconds.
    pub fn issue(&self, grant: &Grant, id: uuid::Uuid, now: i64) -> (String, i64) {
        let expires = now + grant.seconds;
        let mut bound = json!({"namespace": grant.namespace, "serviceaccount": grant.account.claim()});
        for (claim, object) in [("pod", &grant.pod), ("node", &grant.node), ("secret", &grant.secret)] {
            if let Some(object) = object {
                bound[claim] = object.claim();
            }
        }
        let audiences = if grant.audiences.is_empty() { &self.audiences } else { &grant.audiences };
        let claims = json!({
            "aud": audiences, "exp": expires, "iat": now, "nbf": now, "iss": self.issuer, "jti": id.to_string(),
            "kubernetes.io": bound, "sub": user_name(&grant.namespace, &grant.account.name),
        });
        (self.signer.sign(&claims), expires)
    }

    /// The user of a token for one of `audiences` (empty: the API's own), at `now` in Unix seconds.
    ///
    /// # Errors
    /// All of [`Error`]; callers answer 401 and log it.
    pub async fn authenticate(&self, token: &str, audiences: &[String], now: i64) -> Result<Identity, Error> {
        let claims = jwt::verify(token, &self.keys.load())?;
        let audiences = self.check_claims(&claims, audiences, now)?;
        let bound = &claims["kubernetes.io"];
        let namespace = bound["namespace"].as_str().ok_or(Error::Claim("kubernetes.io.namespace"))?;
        let account = Bound::read(&bound["serviceaccount"]).ok_or(Error::Claim("kubernetes.io.serviceaccount"))?;
        self.must_live("serviceaccounts", namespace, &account, now).await?;
        let mut extra = BTreeMap::new();
        if let Some(id) = claims["jti"].as_str() {
            extra.insert(format!("{EXTRA}credential-id"), vec![format!("JTI={id}")]);
        }
        for (claim, resource) in [("pod", "pods"), ("secret", "secrets"), ("node", "minions")] {
            let Some(object) = Bound::read(&bound[claim]) else { continue };
            // A pod's token also names its node; the node is looked at only where the token is bound to it alone.
            if claim != "node" || bound["pod"].is_null() {
                let scope = if claim == "node" { "" } else { namespace };
                self.must_live(resource, scope, &object, now).await?;
            }
            if claim != "secret" {
                extra.insert(format!("{EXTRA}{claim}-name"), vec![object.name]);
                extra.insert(format!("{EXTRA}{claim}-uid"), vec![object.uid]);
            }
        }
        Ok(Identity { user: user(namespace, &account, extra), audiences })
    }

    /// Issuer, audience and times; returns the audiences that the token and the request share.
    fn check_claims(&self, claims: &Value, audiences: &[String], now: i64) -> Result<Vec<String>, Error> {
        let issuer = claims["iss"].as_str().ok_or(Error::Claim("iss"))?;
        if issuer != self.issuer {
            return Err(Error::Issuer(issuer.into()));
        }
        let expires = claims["exp"].as_i64().ok_or(Error::Claim("exp"))?;
        if now > expires + LEEWAY_SECONDS {
            return Err(Error::Expired(expires));
        }
        let from = claims["nbf"].as_i64().unwrap_or(0);
        if now + LEEWAY_SECONDS < from {
            return Err(Error::Early(from));
        }
        let wanted = if audiences.is_empty() { &self.audiences } else { audiences };
        let held = &claims["aud"];
        let holds = |audience: &&String| {
            held.as_str() == Some(audience) || held.as_array().is_some_and(|list| list.iter().any(|a| a == *audience))
        };
        let shared: Vec<String> = wanted.iter().filter(holds).cloned().collect();
        if shared.is_empty() { Err(Error::Audience(wanted.to_vec())) } else { Ok(shared) }
    }

    /// The object must be stored with this uid, and not be deleted for longer than the leeway.
    async fn must_live(&self, resource: &'static str, namespace: &str, object: &Bound, now: i64) -> Result<(), Error> {
        let gone = || Error::Gone { resource, namespace: namespace.into(), name: object.name.clone() };
        let slash = if namespace.is_empty() { "" } else { "/" };
        let key = format!("/registry/{resource}/{namespace}{slash}{}", object.name);
        let entry = self.backend.get(key.as_bytes(), None).await?.ok_or_else(gone)?;
        let stored: Value = serde_json::from_slice(&entry.value).map_err(|_| gone())?;
        let metadata = &stored["metadata"];
        let deleted = metadata["deletionTimestamp"].as_str().and_then(|at| at.parse::<jiff::Timestamp>().ok());
        let too_late = deleted.is_some_and(|at| now > at.as_second() + DELETED_LEEWAY_SECONDS);
        if metadata["uid"] != *object.uid || too_late { Err(gone()) } else { Ok(()) }
    }
}

/// `system:serviceaccount:NAMESPACE:NAME`.
pub fn user_name(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

fn user(namespace: &str, account: &Bound, extra: BTreeMap<String, Vec<String>>) -> User {
    let groups =
        vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}"), AUTHENTICATED.into()];
    User { name: user_name(namespace, &account.name), uid: account.uid.clone(), groups, extra }
}
